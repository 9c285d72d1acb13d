"""The tables of a training: of a finished one, with the target and what is near it, and of one that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from terminals import python_in_terminal

from pgnas_cli.commands.train import EpochReporter, epoch_table, render
from pgnas_cli.console import Grid, console
from pgnas_cli.run import RunDirectory, append_jsonl
from pgnas_cli.training.progress import TrainProgress

RECORD = {
    "epochs": 40, "images": 48_000, "seconds": 12.0, "device": "cpu", "processes": 1, "params": 200_000,
    "macs": 9_000_000, "expected_params": 100_500.0, "expected_macs": 4_500_000.0, "expected_latency": 0.002002,
    "target_params": None, "target_macs": None, "target_latency": None, "selection_accuracy": 0.9,
    "p": {"mean": 0.4, "min": 0.0, "max": 1.0, "above_0.95": 0.25}, "sampled": None, "soft": None,
}  # fmt: skip


def sampled(mean: float, sd: float, unit: str = "params") -> dict[str, Any]:
    return {unit: {"mean": mean, "sd": sd, "n": 64}}


SOFT = {
    "expected_params": 100_010.0, "expected_macs": 4_600_000.0,
    "sampled": {**sampled(98_000.0, 2_345.0), **sampled(4_700_000.0, 100_000.0, "macs")},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        (
            {"target_params": 100_000.0, "sampled": sampled(101_000.0, 2_345.0)},
            ["target 100 k parameters: expected +0.50 %; 64 sampled +1.00 %: 101 k +- 2.35 k"],
        ),
        ({"target_params": 100_000.0, "sampled": {}}, ["target 100 k parameters: expected +0.50 %"]),
        (
            {
                "target_params": 100_000.0,
                "expected_params": 99_900,
                "sampled": sampled(99_900, 0.0),
                "soft": {"expected_params": 100_010.0, "sampled": sampled(98_000.0, 2_345.0)},
            },
            [
                "target 100 k parameters: committed to -0.10 %",
                "before the commit expected +0.01 %; 64 sampled -2.00 %: 98.0 k +- 2.35 k",
            ],
        ),
        (
            {
                "target_latency": 0.002,
                "soft": {"expected_latency": 0.00199, "sampled": sampled(0.00202, 0.0001, "latency")},
            },
            [
                "target 2 ms an image: committed to +0.10 %",
                "before the commit expected -0.50 %; 64 sampled +1.00 %: 2.02 ms +- 0.1 ms",
            ],
        ),
        (
            {"target_params": 100_000.0, "target_macs": 5_000_000.0, "soft": SOFT},
            [
                "target 100 k parameters: committed to +0.50 %",
                "before the commit expected +0.01 %; 64 sampled -2.00 %: 98.0 k +- 2.35 k",
                "target 5.00 M MACs: committed to -10.00 %",
                "before the commit expected -8.00 %; 64 sampled -6.00 %: 4.70 M +- 100 k",
            ],
        ),
    ],
    ids=["no target", "a posterior", "nothing to draw", "a candidate", "a candidate in time", "two targets"],
)
def test_the_target_and_what_is_near_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict, lines: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    console.configure()  # an earlier command of this process may have left --json
    render({**RECORD, **changes})
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in out if line.startswith(("target", "before"))] == lines


# ---- while it runs -----------------------------------------------------------------------------------------


def row(epoch: int, **changes: Any) -> dict[str, Any]:
    """A line of train/log.jsonl."""
    return {
        "epoch": epoch, "loss": 2.0 / epoch, "selection_accuracy": 0.1 * epoch, "expected_params": 100_000.0 - epoch,
        "expected_macs": 4_500_000.0, "p": {"mean": 0.125}, "images_per_second": 1234.0, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "columns", "cells"),
    [
        ([row(1)], "E[params]", ["100 k"]),
        ([row(1, target_params=90_000.0)], "E[params] target", ["100 k", "90.0 k"]),
        ([row(1, target_macs=4e6)], "E[macs] target", ["4.50 M", "4.00 M"]),
        ([row(1, target_latency=0.002, expected_latency=0.0025)], "E[latency] target", ["2.5 ms", "2 ms"]),
        (
            [row(1, target_params=9e4, target_macs=4e6)],
            "E[params] target_params E[macs] target_macs",
            ["100 k", "90.0 k", "4.50 M", "4.00 M"],
        ),
        # after the commit nothing is held any more
        ([row(1, target_latency=0.002, expected_latency=0.0025), row(2)], "E[latency] target", ["-", "-"]),
    ],
)
def test_the_live_table_shows_the_cost_that_is_held(rows: list[dict], columns: str, cells: list[str]) -> None:
    names, shown = epoch_table(rows)
    assert list(names) == [
        "epoch",
        "loss",
        "selection",
        *(name.replace("_", " ") for name in columns.split()),
        "mean p",
        "images/s",
    ]
    epoch = len(rows)
    first = [str(epoch), f"{2 / epoch:g}", f"{10 * epoch}.00 %"]
    assert [list(row) for row in shown[-1:]] == [[*first, *cells, "0.125", "1.23 k"]]


def test_masks_that_cannot_be_used_have_no_accuracy() -> None:
    assert epoch_table([row(1, selection_accuracy=None)])[1][0][2] == "-"


class Told:
    """A bar that keeps what it is given."""

    def __init__(self) -> None:
        self.completed: list[float | None] = []
        self.below: list[Grid | None] = []

    def update(self, advance=0, *, completed=None, metrics=None, below=None) -> None:
        self.completed.append(completed)
        self.below.append(below)


def test_the_table_is_drawn_anew_after_every_epoch(tmp_path: Path) -> None:
    run, bar = RunDirectory(tmp_path), Told()
    report = EpochReporter(bar, run)
    log = run.train_path / "log.jsonl"
    report(TrainProgress(0, 10, 1, 40, {}))
    for epoch in range(1, 9):
        append_jsonl(log, row(epoch))
        report(TrainProgress(epoch, 10, 4 * epoch + 1, 40, {}))
        report(TrainProgress(epoch, 10, 4 * epoch + 2, 40, {}))
    assert bar.completed[:4] == [0.25, 1.25, 1.5, 2.25]
    assert [below is None for below in bar.below] == [True, *[False, True] * 8]
    assert bar.below[-2] is not None
    assert [cells[0] for cells in bar.below[-2][1]] == ["3", "4", "5", "6", "7", "8"]


def test_a_training_that_is_resumed_shows_the_epochs_before(tmp_path: Path) -> None:
    run, bar = RunDirectory(tmp_path), Told()
    for epoch in (1, 2):
        append_jsonl(run.train_path / "log.jsonl", row(epoch))
    EpochReporter(bar, run)(TrainProgress(2, 10, 9, 40, {}))
    assert bar.below[0] is not None
    assert [cells[0] for cells in bar.below[0][1]] == ["1", "2"]


# ---- in a terminal -----------------------------------------------------------------------------------------

TRAINING = """
import sys, time
from pathlib import Path
from pgnas_cli.commands.train import EpochReporter
from pgnas_cli.console import console
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.progress import TrainProgress

console.configure(quiet="--quiet" in sys.argv)
with console.progress("train", 4, unit="epochs") as bar:
    report = EpochReporter(bar, RunDirectory(Path(sys.argv[1])))
    report(TrainProgress(2, 4, 9, 16, {"loss": 0.5}))
    time.sleep(0.5)
    report(TrainProgress(4, 4, 16, 16, {"loss": 0.25}))
"""
RANKING = """
import sys, time, types
from pgnas_cli.commands import rank
from pgnas_cli.console import console
from pgnas_cli.ranking.progress import Leader, RankProgress

def ranking(run, report, **options):
    report(RankProgress(300, 1000, 7, "abcd", 0.5, (Leader("abcd", 0.5, 40, 1234, 56789),)))
    time.sleep(0.5)
    report(RankProgress(1000, 1000, 1, "abcd", 0.75))

sys.modules["pgnas_cli.ranking.rank"] = types.SimpleNamespace(rank=ranking)
console.configure(quiet="--quiet" in sys.argv)
rank.compare(types.SimpleNamespace(require=lambda name: None))
"""
LAST = {"train": ["train", "4/4", "epochs", "loss", "0.25"],
        "rank": ["rank", "1/1", "of", "the", "images", "images", "1,000", "racing", "1", "leader", "abcd",
                 "accuracy", "75.00", "%"]}  # fmt: skip


@pytest.fixture
def logged(tmp_path: Path) -> str:
    """A run with two epochs in its log."""
    for epoch in (1, 2):
        append_jsonl(RunDirectory(tmp_path).train_path / "log.jsonl", row(epoch, target_params=90_000.0))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("columns", "header", "line"),
    [
        (100, "epoch loss selection E[params] target mean p images/s", "2 1 20.00 % 100 k 90.0 k 0.125 1.23 k"),
        (40, "epoch loss selection E[params]", "2 1 20.00 % 100 k"),
        (12, "epoch loss", "2 1"),
    ],
)
def test_training_in_a_terminal(logged: str, environment, columns: int, header: str, line: str) -> None:
    shown = python_in_terminal(TRAINING, logged, environment=environment, columns=columns)
    lines = [" ".join(line.split()) for line in shown.lines]
    assert shown.code == 0
    assert header in lines
    assert line in lines[lines.index(header) :]
    assert all(len(line) <= columns for line in shown.lines)


def test_ranking_in_a_terminal(environment) -> None:
    shown = python_in_terminal(RANKING, environment=environment)
    lines = [" ".join(line.split()) for line in shown.lines]
    assert shown.code == 0
    assert "rank candidate accuracy images seen parameters MACs" in lines
    assert "1 abcd 50.00 % 40 1.23 k 56.8 k" in lines


@pytest.mark.parametrize(("name", "source"), [("train", TRAINING), ("rank", RANKING)])
@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_there_are_lines_or_nothing(
    logged: str, environment, name: str, source: str, quiet: bool
) -> None:
    command = [sys.executable, "-c", source, logged, *(["--quiet"] if quiet else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert len(lines) == (0 if quiet else 2)
    assert quiet or lines[-1].split() == LAST[name]
    assert "\x1b" not in done.stderr
