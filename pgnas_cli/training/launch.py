"""Starting one process for each device of this machine, and making their end one answer or one line.

torch's elastic launcher starts the processes and forms their group; a process that torchrun started joins the group
that it finds instead (see `distributed`). What the master reports travels back through a pipe, so that callbacks run
where they came from.

The launcher runs in a thread with SIGINT and SIGTERM blocked, which the processes that it starts inherit: a signal
waits until they can handle it, and the main thread passes on what it receives itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from pgnas_cli import errors
from pgnas_cli.errors import PgnasError, Stopped
from pgnas_cli.training import distributed

Hear = Callable[[str, Any], None]
"""(channel, message): where what the master says arrives."""
_CLOSED = ("connection closed", "connection reset", "broken pipe", "connect() ", "timed out", "nccl", "gloo")
"""In the errors of processes whose neighbour has failed: never the first cause."""
_OWN_COPY = distributed.LAUNCHED
"""In the environment: the process that launched this one."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_GRACE = 30.0
"""Seconds from a signal until the processes that have not ended are killed."""


class StopSignal:
    """Inside, SIGINT and SIGTERM are noted in `signum`, so that a step can be finished and saved first.

    The second signal acts at once, as it would have outside. In a process that our launcher started it does not: Ctrl-C
    reaches it twice, from the terminal and from the launcher, which kills what has not ended in 30 seconds.
    Outside the main thread, where no handlers can be set, nothing is noted. A loader process forked inside leaves
    Ctrl-C to its parent, and ends when it is told to.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in _STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self.signum is None or os.environ.get(_OWN_COPY, str(os.getpid())) != str(os.getpid()):
            self.signum = self.signum or signum
            return
        handler = self._before[signum]
        if callable(handler):
            handler(signum, frame)
        else:
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)


def launch(worker: Callable[..., Any], args: tuple[Any, ...], *, procs: int, hear: Hear) -> Any:
    """Run `worker(*args, say)` in every process of the group; the master's result.

    Args:
        worker: a function of a module, so that other processes find it. It joins the group itself.
        args: picklable.
        procs: processes to start here; in a process that torchrun started none is, and the worker runs in it.
        hear: called here, from another thread, with what the master passes to its `say(channel, message)`.

    Raises:
        PgnasError: the first failure of any process, its rank named. Stopped: a signal ended them.
    """
    if distributed.is_launched():
        return worker(*args, hear)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="pgnas-") as folder, _environment():
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=procs, run_id=uuid4().hex, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, start_method="spawn",
            monitor_interval=0.1, logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        resource_tracker.ensure_running()  # its start unblocks signals, see _Background
        reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
        listener = _Background(lambda: _listen(reader, hear))
        group = _Background(lambda: elastic_launch(config, _entry)(worker, args, writer, folder, os.getpid())[0])
        try:
            signum = _wait(group, listener, Path(folder))
        finally:
            writer.close()
            listener.join(_GRACE)
        if listener.error is not None:
            raise listener.error
        if group.error is None:
            return group.found
        if signum is not None:
            raise _stopped(folder, signum)
        if isinstance(group.error, ChildFailedError):
            raise _first_failure(folder, group.error)
        raise group.error


class _Background(threading.Thread):
    """Runs a function with SIGINT and SIGTERM blocked; keeps what it returned or raised.

    `ended` says whether it has where signals may arrive: a `join` that one interrupts takes the thread for dead.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self.found: Any = None
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            self.found = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def _wait(group: _Background, listener: _Background, folder: Path) -> int | None:
    """Wait for the processes to end; the signal that was passed on to them, if there was one.

    They are told to stop by the first signal, or where nobody hears the master any more, and killed after `_GRACE`
    seconds or by the second signal, which is then raised.
    """
    told = set[int]()
    killed_at = math.inf
    with StopSignal() as stop:
        listener.start()
        group.start()
        try:
            while not group.ended.wait(0.1):
                signum = stop.signum or (signal.SIGTERM if listener.error else None)
                if signum is None:
                    continue
                killed_at = min(killed_at, time.monotonic() + _GRACE)
                here = _pids(folder)
                _send(here - told, signum)
                told |= here
                if time.monotonic() > killed_at:
                    _send(here, signal.SIGKILL)
        except BaseException:
            end = time.monotonic() + _GRACE
            while not group.ended.wait(0.1) and time.monotonic() < end:  # one that is starting has no name yet
                _send(_pids(folder), signal.SIGKILL)
            raise
    return stop.signum


def _pids(folder: Path) -> set[int]:
    """The processes that have started; a process is its file's name."""
    return {int(path.stem) for path in folder.glob("*.pid")}


def _send(pids: set[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextlib.contextmanager
def _environment() -> Any:
    """What torch's loggers, its C++ side and Python's resource tracker say of a lost process is not for the user."""
    warnings = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker"]
    inside = {
        "TORCH_CPP_LOG_LEVEL": "FATAL",
        "PYTHONWARNINGS": ",".join(filter(None, warnings)),
        _OWN_COPY: str(os.getpid()),
    }
    before = {name: os.environ.get(name) for name in inside}
    level = logging.root.manager.disable
    os.environ.update(inside)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _listen(reader: Any, hear: Hear) -> None:
    with contextlib.suppress(EOFError):
        while True:
            heard = reader.recv()
            hear(*heard)


# ---- in the child -------------------------------------------------------------------------------------------


def _entry(worker: Callable[..., Any], args: tuple[Any, ...], writer: Any, folder: str, parent: int) -> Any:
    """What a child runs: the worker; a failure becomes a file for the parent, and the end of the process."""
    logging.disable(logging.CRITICAL)
    try:
        Path(folder, f"{os.getpid()}.pid").touch()
    except OSError:  # the parent has given up
        os._exit(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        return worker(*args, lambda channel, message: writer.send((channel, message)))
    except BaseException as error:
        _write_failure(folder, error)
        if _followed(str(error)):  # the launcher sees first what really failed, and ends this process
            time.sleep(2.0)
        os._exit(1)  # torch would print the traceback; and a process that returns waits until all have


def _end_with(parent: int, every: float = 1.0) -> None:
    """Ends this process when the one that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(every)
    os._exit(1)


def _followed(message: str) -> bool:
    """Whether an error only tells that another process is gone."""
    return any(word in message.lower() for word in _CLOSED)


def _write_failure(folder: str, error: BaseException) -> None:
    rank = int(os.environ.get("RANK", "0"))
    failure = {
        "rank": rank,
        "time": time.time(),
        "kind": type(error).__name__,
        "ours": isinstance(error, PgnasError),
        "message": str(error),
        "hint": getattr(error, "hint", ""),
        "exit_code": getattr(error, "exit_code", 1),
        "traceback": traceback.format_exc(),
    }
    temporary = Path(folder) / f".{rank}.tmp"
    temporary.write_text(json.dumps(failure))
    temporary.rename(Path(folder) / f"{rank}.json")


# ---- in the parent ------------------------------------------------------------------------------------------


def _failures(folder: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return sorted(found, key=lambda failure: failure["time"])


def _stopped(folder: str, signum: int) -> Stopped:
    said = next((f for f in _failures(folder) if f["kind"] == Stopped.__name__), None)
    if said is None:
        return Stopped(signum, "stopped before the next checkpoint", "pgnas train --resume goes on after the last one")
    return Stopped(signum, said["message"], said["hint"])


def _first_failure(folder: str, failed: Any) -> PgnasError:
    """The error that the others only followed."""
    failures = _failures(folder)
    followed = [f for f in failures if not f["ours"] and _followed(f["message"])]
    causes = [f for f in failures if f["ours"]] or [f for f in failures if f not in followed]
    killed = [(rank, failure) for rank, failure in sorted(failed.failures.items()) if failure.exitcode < 0]
    if killed and not causes:
        rank, failure = killed[0]
        name = signal.Signals(-failure.exitcode).name
        hint = "out of memory is the usual reason: a smaller --batch-size, or --accumulate 2"
        return PgnasError(f"rank {rank} was killed by {name}", hint if name == "SIGKILL" else "")
    if not (causes or failures):
        rank, failure = failed.get_first_failure()
        return PgnasError(f"rank {failure.local_rank} ended with exit code {failure.exitcode}", "run it with --debug")
    first = (causes or failures)[0]
    if first["kind"] == Stopped.__name__:
        return Stopped(first["exit_code"] - 128, first["message"], first["hint"])
    if first["ours"]:
        kind = getattr(errors, first["kind"], PgnasError)
        return _named(kind, first)
    error = PgnasError(f"rank {first['rank']}: {first['kind']}: {first['message']}", "--debug shows the traceback")
    error.__notes__ = [first["traceback"]]
    return error


def _named(kind: type[PgnasError], failure: dict[str, Any]) -> PgnasError:
    return kind(f"rank {failure['rank']}: {failure['message']}", failure["hint"])
