"""Runs the installed program `pgnas`, as a user does; or the same in a process forked from one that knows torch."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

import forking
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

_WITH_A_COMMAND = """
import errno, os, sys, time
from pgnas_cli import __main__, app, errors
from pgnas_cli.commands._options import command
from pgnas_cli.console import console

def extra(word: str = "") -> None:
{body}

command(app.app, extra)
sys.exit(__main__.main())
"""


@pytest.fixture
def environment() -> dict[str, str]:
    """This process's environment without the variables that steer pgnas, and with one thread."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PGNAS_", "_PGNAS_", "TYPER_"))}
    return kept | {"OMP_NUM_THREADS": "1", "TERM": "dumb"}


@pytest.fixture
def pgnas(tmp_path: Path, environment: dict[str, str]) -> Run:
    """`pgnas("doctor", "--json", cwd=..., env={...})` -> the completed process; by default in an empty folder."""
    program = Path(sysconfig.get_path("scripts"), "pgnas")

    def run(
        *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *args],
            cwd=cwd or tmp_path,
            env=environment | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture
def forked(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Run:
    """As `pgnas`, without the seconds that a new program takes to import torch: for commands that need it."""

    def run(
        *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        outputs = tmp_path_factory.mktemp("forked")
        return forking.run(args, cwd=cwd or tmp_path, env=environment | dict(env or {}), outputs=outputs)

    return run


@pytest.fixture
def pgnas_with(tmp_path: Path, environment: dict[str, str]) -> Run:
    """`pgnas_with(body, "extra", "--json")`: the same program with one more command, `extra`, whose body is given."""

    def run(body: str, *args: str) -> subprocess.CompletedProcess[str]:
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        return subprocess.run(
            [sys.executable, "-c", _WITH_A_COMMAND.format(body=indented), *args],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
