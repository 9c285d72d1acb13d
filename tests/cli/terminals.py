"""Runs a program in a terminal of its own, as a person at a screen does."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import pytest

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shown(NamedTuple):
    """The exit status, and what was written to the terminal: as it is, and in lines without control codes."""

    code: int
    written: str

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", self.written))]


def in_terminal(command: list[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 40) -> Shown:
    """Run `command` with a pseudo-terminal of this size for stdin, stdout and stderr."""
    fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**env, "TERM": "xterm"})
    finally:
        os.close(slave)
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
    return Shown(process.wait(timeout=60), written.decode())


def python_in_terminal(source: str, *arguments: str, environment: Mapping[str, str], columns: int = 100) -> Shown:
    """The same for a Python program."""
    return in_terminal([sys.executable, "-c", source, *arguments], environment, columns=columns)
