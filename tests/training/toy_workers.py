"""Workers for the tests of the launcher: functions of a module, so that spawned processes find them.

python toy_workers.py WORKER FOLDER: launches it in two processes; the exit code is that of the error.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAY = Callable[[str, Any], None]
STEPS = 2000  # of 10 ms each: longer than any test waits


def _joined(folder: Path) -> Any:
    from pgnas_cli.training import distributed

    world = distributed.join("cpu")
    (folder / f"{world.rank}.pid").write_text(str(os.getpid()))
    return world


def answers(folder: Path, say: SAY) -> dict[str, Any]:
    """Says one thing, and returns another."""
    from pgnas_cli.training import distributed

    world = _joined(folder)
    if world.is_master:
        say("notice", "hello")
    total = distributed.reduce_sums({"rank": float(world.rank + 1)}, world)["rank"]
    distributed.leave()
    return {"rank": world.rank, "total": total}


def fails(folder: Path, kind: str, say: SAY) -> None:
    """The last process fails; the first waits for it in a collective."""
    from pgnas_cli.errors import DataError
    from pgnas_cli.training import distributed

    world = _joined(folder)
    distributed.barrier(world)
    if world.rank == 1 and kind == "data":
        raise DataError("three images are missing", "look for them")
    if world.rank == 1 and kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier(world)


def steps(folder: Path, say: SAY) -> None:
    """Takes short steps until it is asked to stop; then the master saves."""
    from pgnas_cli.errors import Stopped
    from pgnas_cli.training import distributed
    from pgnas_cli.training.launch import StopSignal

    with StopSignal() as stop:
        world = _joined(folder)
        for step in range(STEPS):
            time.sleep(0.01)
            if world.is_master:
                say("report", step)
            signum, _ = distributed.agree(stop.signum or 0, False, world)
            if signum:
                if world.is_master:
                    (folder / "saved").write_text(str(step))
                raise Stopped(signum, f"stopped after step {step}", "go on")


def busy(folder: Path, say: SAY) -> None:
    """Is in one long step, in which nothing is looked at."""
    from pgnas_cli.training.launch import StopSignal

    with StopSignal():
        _joined(folder)
        time.sleep(STEPS)


def main(worker: str, folder: str) -> int:
    from pgnas_cli.errors import PgnasError
    from pgnas_cli.training.launch import launch

    try:
        launch(globals()[worker], (Path(folder),), procs=2, hear=lambda channel, message: None)
    except PgnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    import toy_workers  # the workers' module has to have a name that other processes know

    sys.exit(toy_workers.main(*sys.argv[1:]))
