"""One tiny trained run with eight candidates, shared by the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgnas_cli import inflate, restore
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.loop import train


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: one epoch at half the size, eight candidates, not ranked."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("sampled") / "run"
    run = restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})
    changes = {"data.name": "digits", "data.batch_size": 32, "schedule.epochs": 1, "budget.target_params": "0.5x"}
    train(run, override(load_recipe("posterior"), changes), device="cpu")
    sample(run, n=8, seed=1)
    return run


@pytest.fixture
def run(sampled: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that the test may change."""
    return RunDirectory(shutil.copytree(sampled.path, tmp_path / "run"))
