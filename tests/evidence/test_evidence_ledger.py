"""ledger.py and commands.py: rows of several processes in one file, and signals at any moment."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

EVIDENCE = Path(__file__).parents[1] / "bench" / "evidence"
sys.path[:0] = [str(EVIDENCE), str(EVIDENCE.parent)]

import commands  # noqa: E402
import ledger  # noqa: E402
from ledger import Ledger  # noqa: E402

COLUMNS = ("arm", "seed", "value")
ROWS = 20


def make(folder: Path) -> Ledger:
    return Ledger("numbers", "about", COLUMNS, ("arm", "seed"), folder)


def fill(folder: Path, arm: str, ready: Any) -> None:
    mine = make(folder)
    ready.wait()
    for seed in range(ROWS):
        mine.add({"arm": arm, "seed": seed, "value": None})


def test_processes_that_begin_a_table_at_once_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    processes = [context.Process(target=fill, args=(tmp_path / "results", arm, ready)) for arm in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = make(tmp_path / "results")
    assert {(row["arm"], row["seed"]) for row in found.rows()} == {(a, str(n)) for a in "abcd" for n in range(ROWS)}
    assert [line.split(":")[0] for line in found.sittings()] == [f"sitting {n}" for n in (1, 2, 3, 4)]
    assert len({(row["arm"], row["sitting"]) for row in found.rows()}) == 4
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["numbers.csv"]


def test_a_row_is_added_once(tmp_path: Path) -> None:
    one, other = make(tmp_path), make(tmp_path)
    one.add({"arm": "a", "seed": 0, "value": 1})
    with pytest.raises(ValueError, match=r"has a row of \('a', '0'\) already"):
        other.add({"arm": "a", "seed": 0, "value": 2})
    assert other.has(arm="a", seed=0)
    assert [row["value"] for row in other.rows()] == ["1"]


def test_the_sitting_is_of_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "machine", lambda: "the first commit")
    begun = make(tmp_path)
    monkeypatch.setattr(ledger, "machine", lambda: "a later commit")
    begun.add({"arm": "a", "seed": 0, "value": 1})
    assert begun.sittings() == ["sitting 1: the first commit"]


def test_a_signal_while_a_command_starts_ends_that_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs in the thread that holds the lock."""
    pgnas, start = commands.Commands(), subprocess.Popen
    started: list[subprocess.Popen[str]] = []

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(start(*arguments, **options))
        pgnas.stop(signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(commands.subprocess, "Popen", interrupted)
    ended: list[type[BaseException]] = []

    def run() -> None:
        try:
            pgnas("train", program=("sh", "-c", "exec sleep 60"))
        except (commands.Stopped, commands.Failed) as error:
            ended.append(type(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert pgnas.signum == signal.SIGTERM
    assert started[0].returncode == -signal.SIGTERM
    assert ended == [commands.Stopped]
