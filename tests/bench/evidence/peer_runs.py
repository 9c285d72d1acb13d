"""The arms of peers.py that `pgnas` makes by its commands: inflate, train, sample, rank, and the row of a run.

What an arm is allowed stands at the top of peers.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from commands import Commands

Row = dict[str, Any]
COLUMNS = (
    "family", "arm", "seed", "params", "macs", "test_error", "test_low", "test_high", "test_images", "selection_error",
    "training_images", "training_macs", "candidates", "ranking_images", "train_seconds", "rank_seconds",
    "supernet_params", "epochs",
)  # fmt: skip
"""Errors in percent, with the 95 % Wilson interval; epochs: what the table was asked for, not what an arm had."""
PASSES = 3
"""A training step costs three forward passes: forward, and the gradients of maps and of weights."""
IMAGE, SELECTION, BATCH, RECALIBRATE = 14, 10_000, 128, 512
SEARCH_SHARE = 0.2
"""Share of the epochs before the default recipe commits; the arms that prune have a dense phase as long."""


class Family(NamedTuple):
    supernet: str
    plain: str
    target: int
    """Parameters of the plain network."""


FAMILIES = {
    "shakeshake": Family("shakeshake26_2x16d", "shakeshake26_2x6d", 105_774),
    "resnet": Family("resnet20_24w", "resnet20_10w", 106_880),
}


class Arm(NamedTuple):
    """An arm made by commands.

    Args:
        what: half a line for the table.
        network: "supernet" or "plain".
        train: options of `pgnas train`; TARGET stands for the plain network's parameters.
        sample: options of `pgnas sample`; CANDIDATES stands for their number.
        rank: options of `pgnas rank`.
    """

    what: str
    network: str
    train: tuple[str, ...]
    sample: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()


TARGET, CANDIDATES = "TARGET", "CANDIDATES"
ONE = ("-n", "1", "--strategy", "uniform")
MANY = ("-n", CANDIDATES)
BEST = ("--recalibrate", str(RECALIBRATE))
PAPER = (
    "--recipe", "paper/cifar10-m", "--lr", "0.1", "--set", "schedule.warmup_epochs=1", "--set", "data.auto_augment=",
    "--set", "data.cutout=0", "--set", "objective.branch_noise=false",
)  # fmt: skip
"""The published objective and gates' optimiser, at the rate, schedule and augmentation of all arms."""
ARMS = {
    "plain": Arm("plain network, the same epochs", "plain", ("--fixed-drop", "0"), ONE),
    "default": Arm("PGNAS, default recipe", "supernet", ("--target-params", TARGET)),
    "full": Arm("full supernet, trained without drops", "supernet", ("--fixed-drop", "0"), ONE),
    "plain-equal": Arm("plain network, the default's training MACs", "plain", ("--fixed-drop", "0"), ONE),
    "uniform": Arm(
        "uniform sampling", "supernet", ("--fixed-drop", TARGET), (*MANY, "--strategy", "uniform"), BEST
    ),
    "posterior": Arm(
        "PGNAS, sampled", "supernet", ("--recipe", "posterior", "--target-params", TARGET), MANY, BEST
    ),
    "paper": Arm("PGNAS, published recipe", "supernet", PAPER, MANY, BEST),
    "paper-target": Arm(
        "PGNAS, published recipe with a target", "supernet", (*PAPER, "--target-params", TARGET), MANY, BEST
    ),
}  # fmt: skip


class Runs:
    """Runs in folders OUT/FAMILY-ARM-SEED, each gone on with where it is.

    Args:
        pgnas: runs the commands.
        out: the folder.
        data_dir: holds FashionMNIST/raw.
        epochs: of the table.
        candidates: of sampled arms.
        limit_train: training images, for trials; None for all.
    """

    def __init__(
        self, pgnas: Commands, out: Path, data_dir: Path, *, epochs: int, candidates: int, limit_train: int | None
    ) -> None:
        self.pgnas, self.out, self.data_dir = pgnas, out, data_dir
        self.epochs, self.candidates, self.limit_train = epochs, candidates, limit_train

    def folder(self, family: str, arm: str, seed: int) -> Path:
        return self.out / f"{family}-{arm}-{seed}"

    @property
    def search_epochs(self) -> int:
        """Epochs before the default recipe commits (`Recipe.commit_epoch`)."""
        return min(self.epochs - 1, max(1, round(SEARCH_SHARE * self.epochs)))

    def trained(self, run: Path, network: str, seed: int, epochs: int, options: tuple[object, ...]) -> None:
        """Inflate and train, from where it is."""
        if not (run / "run.json").is_file():
            shutil.rmtree(run, ignore_errors=True)  # of an interrupted inflate
            self.pgnas("inflate", network, "--in-chans", 1, "--img-size", IMAGE, "--seed", seed, "--run", run)
        if "train" not in stages(run):
            how: list[object] = ["--resume"]
            if not (run / "train" / "recipe.toml").is_file():  # nothing to go on with
                how = [*options, "--data", "torch/fashion_mnist", "--selection", SELECTION, "--batch-size", BATCH]
                how += ["--epochs", epochs, "--seed", seed, "--channels-last"]
                how += [] if self.limit_train is None else ["--limit-train", self.limit_train]
            self.pgnas("train", *how, "--data-dir", self.data_dir, "--device", "cpu", "--run", run)
        if stages(run)["train"]["epochs"] != epochs:
            raise ValueError(f"{run} was trained for {stages(run)['train']['epochs']} epochs, not {epochs}: remove it")

    def ranked(self, run: Path, seed: int, sample: tuple[object, ...], rank: tuple[object, ...]) -> None:
        """Sample and rank, from where it is."""
        if "sample" not in stages(run):
            self.pgnas("sample", *sample, "--seed", seed, "--run", run)
        if "rank" not in stages(run):
            self.pgnas("rank", *rank, "--seed", seed, "--data-dir", self.data_dir, "--device", "cpu", "--run", run)

    def row(self, family: str, arm: str, seed: int, epochs: int) -> Row:
        """Make an arm of ARMS; its row.

        Args:
            family, arm, seed: which.
            epochs: of its training.
        """
        nets, (_, network, *options), run = FAMILIES[family], ARMS[arm], self.folder(family, arm, seed)
        meant = {TARGET: nets.target, CANDIDATES: self.candidates}
        train, sample, rank = (tuple(meant.get(word, word) for word in words) for words in options)
        self.trained(run, nets.plain if network == "plain" else nets.supernet, seed, epochs, train)
        self.ranked(run, seed, sample, rank)
        trained, ranking = stages(run)["train"], ranking_of(run)
        selection, test = ranking["selection_accuracy"], ranking["test_accuracy"]
        return {
            "family": family, "arm": arm, "seed": seed, "params": ranking["params"], "macs": ranking["macs"],
            **errors(selection, test), "training_images": trained["images"],
            "training_macs": training_macs(trained, ranking["macs"]), "candidates": ranking["candidates"],
            "ranking_images": ranking["images"], "train_seconds": round(trained["seconds"], 1),
            "rank_seconds": round(ranking["seconds"], 1), "supernet_params": trained["params"], "epochs": self.epochs,
        }  # fmt: skip


def errors(selection: dict[str, float], test: dict[str, float]) -> Row:
    """Columns of two accuracies {value, low, high, n}, in percent wrong."""
    wrong = {name: round(100 * (1 - test[name]), 2) for name in ("value", "low", "high")}
    return {
        "test_error": wrong["value"], "test_low": wrong["high"], "test_high": wrong["low"], "test_images": test["n"],
        "selection_error": round(100 * (1 - selection["value"]), 2),
    }  # fmt: skip


def training_macs(trained: Row, macs: int) -> int:
    """Multiply-adds of a training: PASSES x MACs of the network x images that it saw, before and after a commit.

    Args:
        trained: record of the stage in run.json.
        macs: of the network that came out.
    """
    per_epoch, soft = trained["images"] // trained["epochs"], trained["soft"]
    dense = trained["epochs"] if soft is None else soft["epoch"]
    return int(PASSES * per_epoch * (dense * trained["macs"] + (trained["epochs"] - dense) * macs))


def stages(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())["stages"]


def ranking_of(run: Path) -> Row:
    found: Row = json.loads((run / "rank" / "ranking.json").read_text())
    return found
