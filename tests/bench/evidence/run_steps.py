"""What every run of the evidence is made of: inflate and train, from where it is; and its records."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import PGNAS, Commands

IMAGE = 14
"""Pixels per side."""


def trained(
    pgnas: Commands, run: Path, network: str, seed: int, epochs: int, options: list[object], where: list[object],
    program: Sequence[str] = (PGNAS,),
) -> None:  # fmt: skip
    """Inflate and train a run; what is done is not done again, what was interrupted goes on.

    Args:
        pgnas: runs the commands.
        run: the folder.
        network: for one channel and IMAGE pixels.
        seed, epochs: of the training.
        options: of `pgnas train`, where it does not go on with a training.
        where: options of `pgnas train` in both cases.
        program: what trains in the place of `pgnas`.

    Raises:
        ValueError: the run was trained for another number of epochs.
    """
    inflated(pgnas, run, network, seed)
    if "train" not in stages(run):
        how: list[object] = ["--resume"]
        if not (run / "train" / "recipe.toml").is_file():  # nothing to go on with
            how = [*options, "--data", "torch/fashion_mnist", "--epochs", epochs, "--seed", seed, "--channels-last"]
        pgnas("train", *how, *where, program=program)
    if (done := stages(run)["train"]["epochs"]) != epochs:
        raise ValueError(f"{run} was trained for {done} epochs, not {epochs}: remove it")


def inflated(pgnas: Commands, run: Path, network: str, seed: int) -> None:
    """Inflate a run for one channel and IMAGE pixels, once."""
    if not (run / "run.json").is_file():
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted inflate
        pgnas("inflate", network, "--in-chans", 1, "--img-size", IMAGE, "--seed", seed, "--run", run)


def stages(run: Path) -> Any:
    """Record of each stage that is done, from run.json."""
    return json.loads((run / "run.json").read_text())["stages"]


def ranking_of(run: Path) -> Any:
    """ranking.json."""
    return json.loads((run / "rank" / "ranking.json").read_text())
