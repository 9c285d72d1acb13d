"""Runs `pgnas` in processes forked from one that has imported torch and timm, which takes a new program seconds.

Otherwise each is the installed program: a process of its own, with its environment, folder, files for what it prints,
signals and exit code. What a command does before its first import, or to `sys.path`, needs a new program.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["timm", "typer", "rich.progress", "rich.table"])


def context() -> ForkServerContext:
    """Whose processes know torch and timm, and have one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # a process with other threads is none to fork from
        forkserver.ensure_running()
    return _CONTEXT


@contextmanager
def started(
    arguments: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], out: Path, err: Path
) -> Iterator[BaseProcess]:
    """A process that runs `pgnas arguments`, its stdout and stderr in these files; killed if it has not ended."""
    words = [str(argument) for argument in arguments]
    process = context().Process(target=_program, args=(words, str(cwd), dict(env), str(out), str(err)))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(60)
        process.close()


def run(
    arguments: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], outputs: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`pgnas arguments` to its end; `outputs` is a folder for what it prints."""
    out, err = (outputs / name for name in ("stdout", "stderr"))
    with started(arguments, cwd=cwd, env=env, out=out, err=err) as process:
        process.join(timeout)
        assert process.exitcode is not None, f"{arguments} did not end in {timeout} seconds"
        return subprocess.CompletedProcess(list(arguments), process.exitcode, out.read_text(), err.read_text())


def _program(arguments: list[str], cwd: str, env: dict[str, str], *outputs: str) -> None:
    """What the forked process does."""
    for number, path in enumerate(outputs, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as at the start of a program: seekable or a terminal as the file is
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["pgnas", *arguments]
    from pgnas_cli.__main__ import main

    sys.exit(main())
