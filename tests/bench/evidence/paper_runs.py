"""The runs behind the paper's tables in miniature: made by `pgnas` commands, each stage once, and read as rows."""

from __future__ import annotations

import argparse
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import run_steps
from paper_arms import ARMS, AUGMENTATION, BASE, NETWORK, Arm
from run_steps import Commands, ranking_of, stages

from pgnas_cli import RunDirectory
from pgnas_cli.ranking.candidates import read_candidates
from pgnas_cli.report.structure import drop_probabilities, network_of

SETTINGS = ("epochs", "limit_train", "selection", "candidates", "finetune", "many", "both", "device")
"""What all runs of a folder have in common."""
COLUMNS = (
    "arm", "seed", "epochs", "train_images", "selection_images", "test_images", "candidates",
    "test_error", "selection_error", "mean_selection_error", "std_selection_error",
    "params", "supernet_params", "macs", "mean_params",
    "dropped_channels", "dropped_operations", "operations", "mean_p", "operations_above_0.95",
    "finetune_epochs", "finetuned_selection_error", "finetuned_test_error",
    "train_seconds", "rank_seconds",
)  # fmt: skip
"""Of a table of arms. Errors are in percent, shares between 0 and 1; the winner's where nothing else is said."""
KEY = ("arm", "seed")
IN_THIS_PROCESS = threading.Lock()
"""For networks that are built here: tracing one changes torch's modules for all threads while it lasts."""
DIGITS = 4
"""Of what is written, behind the point."""


class Runs:
    """The runs of one folder.

    Args:
        options: of the command; `out` is the folder.
        pgnas: runs the commands.
    """

    def __init__(self, options: argparse.Namespace, pgnas: Commands) -> None:
        self.options, self.pgnas = options, pgnas
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()
        options.out.mkdir(parents=True, exist_ok=True)
        settings, kept = {name: getattr(options, name) for name in SETTINGS}, options.out / "settings.json"
        if not kept.is_file():
            kept.write_text(json.dumps(settings))
        if (begun := json.loads(kept.read_text())) != settings:
            raise SystemExit(f"{options.out} was begun with {begun}, not {settings}: name another --out")

    def path(self, arm: str, seed: int) -> Path:
        """Where a run lies; a baseline lies in the base's run, so that one report shows both."""
        base = self.options.out / f"{BASE}-{seed}"
        return base / "baselines" / arm if ARMS[arm].inside else self.options.out / f"{arm}-{seed}"

    def made(self, arm: str, seed: int) -> Path:
        """Do the stages of a run that are not done; the run.

        Raises:
            Stopped: the time is up; the next call goes on.
            Failed: a command failed.
        """
        setting = ARMS[arm]
        if setting.rate_of is not None:
            return self._drawn(arm, setting, seed)
        size: list[object] = []
        if setting.size_of is not None or setting.inside:
            base = self.made(setting.size_of or BASE, seed)
            size = ["--fixed-drop", round(stages(base)["sample"]["params"]["mean"])] if setting.size_of else []
        run = self.path(arm, seed)
        with self._lock(run):
            self._trained(run, setting, seed, size)
            if "sample" not in stages(run):
                count = 1 if setting.single else self.options.candidates
                self.pgnas("sample", "-n", count, *setting.sample, "--seed", seed, "--run", run)
            self.ranked(run)
            if setting.finetuned and "finetune" not in ranking_of(run):
                self.pgnas("rank", "--finetune", self.options.finetune, *self.where(run))
        return run

    def where(self, run: Path) -> list[object]:
        """Options of the commands that read images."""
        return ["--data-dir", self.options.data_dir, "--device", self.options.device, "--run", run]

    def _trained(self, run: Path, setting: Arm, seed: int, size: list[object]) -> None:
        options = self.options
        how: list[object] = ["--recipe", "posterior", "--limit-train", options.limit_train]
        how += ["--selection", options.selection, *setting.train, *size]
        if setting.l2_share is not None:
            how += ["--set", f"objective.l2={setting.l2_share * AUGMENTATION * options.limit_train!r}"]
        run_steps.trained(self.pgnas, run, NETWORK, seed, options.epochs, how, self.where(run))

    def ranked(self, run: Path) -> None:
        """Rank a run's candidates, each on the whole selection split, unless they are ranked."""
        if "rank" not in stages(run):
            self.pgnas("rank", "--method", "exhaustive", *self.where(run))

    def sample_of_base(self, seed: int) -> Path:
        """A copy of the base's run with a larger sample, ranked; its first candidates are those of the base."""
        run = self.options.out / f"{BASE}-{seed}.many"
        with self._lock(run):
            self._copied(self.made(BASE, seed), run)
            if stages(run).get("sample", {}).get("asked") != self.options.many:
                self.pgnas("sample", "-n", self.options.many, "--seed", seed, "--force", "--run", run)
            self.ranked(run)
        return run

    def _drawn(self, arm: str, setting: Arm, seed: int) -> Path:
        """A copy of the base's run, its candidates drawn at another arm's constant rate, ranked."""
        assert setting.rate_of is not None
        rate, run = stages(self.made(setting.rate_of, seed))["train"]["fixed_drop"], self.path(arm, seed)
        with self._lock(run):
            self._copied(self.made(BASE, seed), run)
            if stages(run).get("sample", {}).get("drop_prob") != rate:
                count = self.options.candidates
                words = [*setting.sample, "--drop-prob", repr(rate), "--seed", seed, "--force"]
                self.pgnas("sample", "-n", count, *words, "--run", run)
            self.ranked(run)
        return run

    @staticmethod
    def _copied(base: Path, run: Path) -> None:
        """Copy a run without its baselines, unless that has been done."""
        if not run.is_dir():
            shutil.rmtree(copy := run.with_name(f".{run.name}.tmp"), ignore_errors=True)
            shutil.copytree(base, copy, ignore=shutil.ignore_patterns("baselines")).rename(run)

    def _lock(self, run: Path) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(run, threading.Lock())

    def row(self, arm: str, seed: int) -> dict[str, Any]:
        """A run as the row of a table of arms; the run is made if it has to be."""
        run, setting = self.made(arm, seed), ARMS[arm]
        ranking, done = ranking_of(run), stages(run)
        spread, finetuned = ranking["distribution"], ranking.get("finetune", {})
        chosen = next(found for found in read_candidates(RunDirectory(run)) if found.id == ranking["winner"])
        fixed = done["train"]["fixed_drop"] if setting.rate_of is None else done["sample"]["drop_prob"]
        row = {
            "arm": arm, "seed": seed, **self.images(run), "candidates": ranking["candidates"],
            "test_error": error(ranking["test_accuracy"]["value"]),
            "selection_error": error(ranking["selection_accuracy"]["value"]),
            "mean_selection_error": error(spread["mean"]),
            "std_selection_error": None if setting.single else 100 * spread["std"],
            "params": ranking["params"], "supernet_params": done["train"]["params"], "macs": ranking["macs"],
            "mean_params": done["sample"]["params"]["mean"],
            "dropped_channels": 1 - chosen.kept_share(), "dropped_operations": len(chosen.dropped_operations()),
            "operations": len(chosen.masks), "mean_p": done["train"]["p"]["mean"] if fixed is None else fixed,
            "operations_above_0.95": certain_operations(run) if fixed is None else None,
            "finetune_epochs": finetuned.get("epochs"),
            **{f"finetuned_{split}_error": error(finetuned[f"{split}_accuracy"]["value"]) if finetuned else None
               for split in ("selection", "test")},
            "train_seconds": done["train"]["seconds"], "rank_seconds": ranking["seconds"],
        }  # fmt: skip
        return rounded(row)

    def images(self, run: Path) -> dict[str, int]:
        """What the rows of all tables say of a training and its data."""
        trained, ranking = stages(run)["train"], ranking_of(run)
        if trained["epochs"] != self.options.epochs:
            raise ValueError(f"{run} was trained for {trained['epochs']} epochs, not {self.options.epochs}: remove it")
        return {
            "epochs": trained["epochs"], "train_images": trained["data"]["num_train"],
            "selection_images": ranking["selection_accuracy"]["n"], "test_images": ranking["test_accuracy"]["n"],
        }  # fmt: skip


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def error(accuracy: float) -> float:
    """In percent."""
    return 100 * (1 - accuracy)


def leaderboard(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rank" / "leaderboard.jsonl").read_text().splitlines()]


def channel_probabilities(run: Path) -> tuple[list[float], list[int]]:
    """(p of each group, its channels) after the training, of all layers."""
    found = RunDirectory(run)
    with IN_THIS_PROCESS:
        p, gates = drop_probabilities(found), network_of(found).gates
    return [q for name in gates for q in p[name]], [size for gate in gates.values() for size in gate.sizes]


def certain_operations(run: Path) -> int:
    """Gated operations of which every p is above 0.95: those that the paper counts as dropped."""
    return sum(min(values) > 0.95 for values in drop_probabilities(RunDirectory(run)).values())
