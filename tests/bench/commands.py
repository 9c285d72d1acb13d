"""`pgnas` commands of a bench: each a process of one thread, stopped together when the time is up."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))
LAST_LINES = 12
"""Of what a failed command said on stderr."""


class Stopped(Exception):  # noqa: N818 - no error
    """The time is up."""


class Failed(Exception):  # noqa: N818 - of a command
    """A command failed; what it was and said."""


class Commands:
    """The commands that run now.

    Args:
        threads: of each.
        plugins: a folder where they find more plugins of the zoo than those that are installed.
    """

    def __init__(self, threads: int = 1, plugins: Path | None = None) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.lock, self.stopped, self.signum = threading.RLock(), False, 0  # a handler may run while it is held
        found = filter(None, [None if plugins is None else str(plugins), os.environ.get("PYTHONPATH")])
        self.environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(found)}

    def __call__(self, name: str, *arguments: object, program: Sequence[str] = (PGNAS,)) -> None:
        """Run `pgnas NAME ...` to its end; its results stay in the run.

        Args:
            name, arguments: of the command.
            program: what is run in the place of `pgnas`.

        Raises:
            Stopped: `stop` was called before it, or ended it.
            Failed: it exited with another code than 0.
        """
        command = [*program, name, *map(str, arguments), "--quiet"]
        with self.lock:
            if self.stopped:
                raise Stopped
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip
            self.running.add(process)
            if self.stopped:  # by a signal that came while it started
                process.terminate()
        _, said = process.communicate()
        with self.lock:
            self.running.remove(process)
        if self.stopped and process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
            raise Stopped
        if process.returncode:
            lines = "\n".join(said.splitlines()[-LAST_LINES:])
            raise Failed(f"{shlex.join(command)}: exit {process.returncode}\n{lines}")

    def stop(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Start nothing more, and send SIGTERM, once, to what runs; also a handler of signals."""
        with self.lock:
            if self.stopped:
                return
            self.stopped, self.signum = True, signum
            for process in self.running:
                process.terminate()

    def stop_at_signals(self, minutes: float | None = None) -> None:
        """Call `stop` at SIGINT and SIGTERM, and after so many minutes."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.stop)
        if minutes is not None:
            timer = threading.Timer(60 * minutes, self.stop)
            timer.daemon = True
            timer.start()
