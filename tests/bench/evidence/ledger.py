"""The CSV files of the evidence: one row a run, appended when it is done, with the sitting that made it.

    # Peers on the same work: ...                               what the table is about
    # sitting 1: 2026-11-30, Linux ..., 2 cores, python 3.11.7, torch 2.14.1, timm 1.0.31, pgnas 0.1.0 at 7bdf401
    sitting,family,arm,seed,test_error,...
    1,resnet,plain,0,12.61,...

A table is filled over several sittings, on one machine or another: a sitting adds a comment line that says where and
when, and its rows carry its number. What has a row is not run again.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SITTING = "sitting"
Row = dict[str, str]
"""Column -> what the file says."""


class Ledger:
    """One CSV file.

    Args:
        name: of the file in RESULTS, without ".csv".
        about: one line: what the table compares, on what.
        columns: without the sitting's.
        key: the columns that say which run a row is of.
        folder: another than RESULTS, for trials.
    """

    def __init__(
        self, name: str, about: str, columns: Sequence[str], key: Sequence[str], folder: Path = RESULTS
    ) -> None:
        self.path, self.about, self.columns, self.key = folder / f"{name}.csv", about, tuple(columns), tuple(key)
        self._lock, self._sitting = threading.Lock(), 0

    def rows(self) -> list[Row]:
        """All rows, in the order in which they were made.

        Raises:
            ValueError: the file has other columns than this version writes, or two rows of one run.
        """
        if not self.path.is_file():
            return []
        with open(self.path, newline="") as file:
            reader = csv.DictReader(line for line in file if not line.startswith("#"))
            if tuple(reader.fieldnames or ()) != (SITTING, *self.columns):
                raise ValueError(f"{self.path} has the columns {reader.fieldnames}, expected {self.columns}")
            rows = list(reader)
        keys = [self._key(row) for row in rows]
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self.path} has two rows of one run: {next(k for k in keys if keys.count(k) > 1)}")
        return rows

    def sittings(self) -> list[str]:
        """The comment lines of all sittings: "sitting 1: ...", in order."""
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        return [line.removeprefix("# ") for line in lines if line.startswith(f"# {SITTING} ")]

    def has(self, **key: object) -> bool:
        """Whether there is a row of that run."""
        return self._key(key) in {self._key(row) for row in self.rows()}

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers are written as they are given, None as an empty cell.

        Raises:
            ValueError: it has other columns, or there is a row of that run.
        """
        if set(row) != set(self.columns):
            raise ValueError(
                f"a row of {self.path.name} has the columns {sorted(row)}, expected {sorted(self.columns)}"
            )
        with self._lock:
            if self.has(**{name: row[name] for name in self.key}):
                raise ValueError(f"{self.path} has a row of {self._key(row)} already")
            new = not self.path.is_file()
            if not self._sitting:
                self._sitting = len(self.sittings()) + 1
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a") as file:
                    file.write(f"# {self.about}\n" if new else "")
                    file.write(f"# {SITTING} {self._sitting}: {machine()}\n")
            with open(self.path, "a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow((SITTING, *self.columns))
                writer.writerow((self._sitting, *("" if row[c] is None else row[c] for c in self.columns)))

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)


def machine() -> str:
    """Date, system, cores and versions, in one line."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
    return (
        f"{datetime.date.today().isoformat()}, {platform.platform()}, {os.cpu_count()} cores, "
        f"python {platform.python_version()}, {versions}, pgnas {metadata.version('pgnas')} at {_commit()}"
    )


def _commit() -> str:
    """The commit that runs, with "+" where files differ from it; "an unknown commit" outside a clone."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
