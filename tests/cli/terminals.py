"""Runs a program in a terminal of its own, as a person at a screen does."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import forking
import pytest

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shown(NamedTuple):
    """The exit status, and what was written to the terminal: as it is, and in lines without control codes."""

    code: int
    written: str

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", self.written))]


@contextmanager
def _terminal(columns: int, lines: int) -> Iterator[tuple[int, int]]:
    """(master, slave) of a pseudo-terminal of this size; the slave is closed at the end."""
    fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        yield master, slave
    finally:
        os.close(slave)


def _colourful(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**kept, "TERM": "xterm"}


def _read_all(master: int) -> str:
    """What is written to the terminal until its last writer has closed it."""
    written = bytearray()
    with os.fdopen(master, "rb", buffering=0) as terminal:
        while True:
            try:
                read = terminal.read(65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            written += read
    return written.decode()


def in_terminal(command: list[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 40) -> Shown:
    """Run `command` with a pseudo-terminal of this size for stdin, stdout and stderr."""
    with _terminal(columns, lines) as (master, slave):
        env = _colourful(environment)
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
    written = _read_all(master)
    return Shown(process.wait(timeout=60), written)


def python_in_terminal(source: str, *arguments: str, environment: Mapping[str, str], columns: int = 100) -> Shown:
    """The same for a Python program."""
    return in_terminal([sys.executable, "-c", source, *arguments], environment, columns=columns)


def forked_in_terminal(
    arguments: list[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 40
) -> Shown:
    """`pgnas arguments`, as `forking` runs it, with a pseudo-terminal of this size for stdout and stderr."""
    with ThreadPoolExecutor(1) as pool:
        with _terminal(columns, lines) as (master, slave):
            screen, env = Path(os.ttyname(slave)), _colourful(environment)
            with forking.started(arguments, cwd=Path.cwd(), env=env, out=screen, err=screen) as process:
                written = pool.submit(_read_all, master)
                process.join(60)
                code = process.exitcode
        assert code is not None, "it did not end in 60 seconds"
        return Shown(code, written.result())
