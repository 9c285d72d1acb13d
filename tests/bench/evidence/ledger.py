"""The CSV files of the evidence: one row a run, appended when it is done, with the sitting that made it.

    # Peers on the same work: ...                               what the table is about
    # sitting 1: 2026-11-30, Linux ..., 2 cores, python 3.11.7, torch 2.14.1, timm 1.0.31, pgnas 0.1.0 at 7bdf401
    sitting,family,arm,seed,test_error,...
    1,resnet,plain,0,12.61,...

A table is filled over several sittings, on one machine or another: a sitting adds a comment line that says where and
when, and its rows carry its number. What has a row is not run again. Several processes may fill one table.
"""

from __future__ import annotations

import csv
import datetime
import fcntl
import io
import os
import platform
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SITTING = "sitting"
PACKAGES = ("torch", "timm", "torch-pruning", "onnxruntime")
"""Whose versions are kept, where they are installed."""
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
        self._machine = machine()  # now: a checkout may change before the first row

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
            OSError: it cannot be written.
        """
        if set(row) != set(self.columns):
            raise ValueError(
                f"a row of {self.path.name} has the columns {sorted(row)}, expected {sorted(self.columns)}"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._alone():
            if self.has(**{name: row[name] for name in self.key}):
                raise ValueError(f"{self.path} has a row of {self._key(row)} already")
            new, text = not self.path.is_file(), io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if new:
                text.write(f"# {self.about}\n")
            sitting = self._sitting or len(self.sittings()) + 1
            if not self._sitting:
                text.write(f"# {SITTING} {sitting}: {self._machine}\n")
            if new:
                writer.writerow((SITTING, *self.columns))
            writer.writerow((sitting, *("" if row[c] is None else row[c] for c in self.columns)))
            with open(self.path, "a", newline="") as file:  # at once: others read it without the lock
                file.write(text.getvalue())
            self._sitting = sitting

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process adds to a file of the folder."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)


def machine() -> str:
    """Date, system, cores and versions, in one line."""
    installed = {found.name.lower(): found.version for found in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    return (
        f"{datetime.date.today().isoformat()}, {platform.platform()}, {os.cpu_count()} cores{_processor()}, "
        f"python {platform.python_version()}, {versions}, pgnas {metadata.version('pgnas')} at {_commit()}"
    )


def _processor() -> str:
    """ " of NAME", where the system says it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((f" of {line.partition(':')[2].strip()}" for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The commit that runs, with "+" where files other than results differ; "an unknown commit" outside a clone."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)*.md", ":(exclude)results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
