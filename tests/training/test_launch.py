"""The launcher: whose error is shown, how signals end the processes, and that none is left behind."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_workers

from pgnas_cli.errors import DataError, PgnasError, RunError, Stopped
from pgnas_cli.training.launch import StopSignal, _first_failure, _write_failure, launch

DEADLINE = 60.0


def ignore(channel: str, message: Any) -> None:
    """What the master says."""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pids(folder: Path) -> list[int]:
    return [int(path.read_text() or 0) for path in folder.glob("*.pid")]


# ---- signals, in this process ----


@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["INT", "TERM"]
)
def test_the_first_signal_is_noted_and_the_second_acts(signum: signal.Signals, raised: type[BaseException]) -> None:
    before = signal.getsignal(signum)
    if signum == signal.SIGTERM:  # as pgnas has it; the default would end the tests
        before = lambda *_: sys.exit(143)  # noqa: E731 - one of two handlers
    outside = signal.signal(signum, before)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signum)
            assert stop.signum == signum
            with pytest.raises(raised):
                signal.raise_signal(signum)
        assert signal.getsignal(signum) is before
    finally:
        signal.signal(signum, outside)


def test_in_a_launched_process_no_signal_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGNAS_LAUNCHED", "1")
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stop.signum == signal.SIGTERM


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with StopSignal() as stop:
            seen.extend([signal.getsignal(signal.SIGINT), stop.signum])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before, None]


def test_a_loader_process_can_be_ended() -> None:
    fork = multiprocessing.get_context("fork")
    running = fork.Event()

    def load() -> None:
        running.set()
        time.sleep(DEADLINE)

    with StopSignal():
        loader = fork.Process(target=load, daemon=True)
        loader.start()
        assert running.wait(DEADLINE)  # a signal that comes while it is forked is lost to Python
        loader.terminate()
        loader.join(5)
        ended = not loader.is_alive()
        loader.kill()
    assert ended


# ---- the first failure ----


def failed(**exit_codes: int) -> Any:
    """What torch's launcher raises: the processes whose end it saw first."""
    failures = {int(name[1:]): SimpleNamespace(local_rank=int(name[1:]), exitcode=c) for name, c in exit_codes.items()}
    return SimpleNamespace(failures=failures, get_first_failure=lambda: next(iter(failures.items())))


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, *raised: BaseException) -> None:
    """One failure of each rank, in this order in time."""
    for rank, error in enumerate(raised):
        monkeypatch.setenv("RANK", str(rank))
        _write_failure(str(folder), error)
        path = folder / f"{rank}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "time": rank}))


CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1234")


@pytest.mark.parametrize(
    ("raised", "ends", "kind", "message"),
    [
        ([CLOSED, DataError("gone", "hint")], {"r0": 1}, DataError, "rank 1: gone"),
        ([ValueError("later"), RunError("ours")], {"r0": 1}, RunError, "rank 1: ours"),
        ([CLOSED, ValueError("bad")], {"r0": 1}, PgnasError, "rank 1: ValueError: bad"),
        ([ValueError("one"), ValueError("two")], {"r0": 1}, PgnasError, "rank 0: ValueError: one"),
        ([CLOSED], {"r1": -9}, PgnasError, "rank 1 was killed by SIGKILL"),
        ([CLOSED], {"r0": 1, "r1": -11}, PgnasError, "rank 1 was killed by SIGSEGV"),
        ([Stopped(15, "stopped", "hint"), CLOSED], {"r0": 1}, Stopped, "stopped"),
        ([], {"r1": 7}, PgnasError, "rank 1 ended with exit code 7"),
    ],
)
def test_the_cause_is_shown_and_not_what_followed_from_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: list[BaseException],
    ends: dict[str, int],
    kind: type[PgnasError],
    message: str,
) -> None:
    write(tmp_path, monkeypatch, *raised)
    error = _first_failure(str(tmp_path), failed(**ends))
    assert (type(error), str(error)) == (kind, message)
    assert error.exit_code == (143 if kind is Stopped else kind.exit_code)


def test_a_process_that_was_killed_for_memory_says_what_helps(tmp_path: Path) -> None:
    assert "--batch-size" in _first_failure(str(tmp_path), failed(r1=-9)).hint
    assert _first_failure(str(tmp_path), failed(r1=-11)).hint == ""


# ---- real processes ----


@pytest.mark.slow
def test_the_answer_is_the_masters_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    heard: list[tuple[str, Any]] = []
    found = launch(toy_workers.answers, (tmp_path,), procs=2, hear=lambda *said: heard.append(said))
    assert found == {"rank": 0, "total": 3.0}
    assert heard == [("notice", "hello")]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert "PGNAS_LAUNCHED" not in os.environ
    until(lambda: not any(map(alive, pids(tmp_path))))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "message", "hint"),
    [
        ("data", DataError, "rank 1: three images are missing", "look for them"),
        ("kill", PgnasError, "rank 1 was killed by SIGKILL", "memory"),
    ],
)
def test_a_failure_names_its_rank_and_ends_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, kind: type[PgnasError], message: str, hint: str
) -> None:
    with pytest.raises(PgnasError, match=message) as caught:
        launch(toy_workers.fails, (tmp_path, how), procs=2, hear=ignore)
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    until(lambda: not any(map(alive, pids(tmp_path))))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_where_nobody_hears_the_master_any_more_the_processes_stop(tmp_path: Path) -> None:
    def deaf(channel: str, message: Any) -> None:
        raise BrokenPipeError("nobody reads stderr")

    with pytest.raises(BrokenPipeError):
        launch(toy_workers.steps, (tmp_path,), procs=2, hear=deaf)
    assert (tmp_path / "saved").exists()
    until(lambda: not any(map(alive, pids(tmp_path))))


def start(folder: Path, worker: str = "steps") -> subprocess.Popen[str]:
    """A program that launches two processes, as the foreground job of a terminal of its own."""
    return subprocess.Popen(
        [sys.executable, toy_workers.__file__, worker, str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[str]:
    """The command lines of the processes that `pid` has spawned."""
    found = []
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [Path(f"/proc/{number}/cmdline").read_text() for number in child.read_text().split()]
    return [line for line in found if "spawn_main" in line]


@pytest.mark.slow
def test_ctrl_c_before_the_processes_have_started_prints_nothing_more(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        until(lambda: len(children(process.pid)) == 2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, "stopped before the next checkpoint\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -9)],
    ids=["Ctrl-C", "TERM", "KILL"],
)
def test_a_signal_ends_all_processes(tmp_path: Path, signum: signal.Signals, whole_group: bool, code: int) -> None:
    process = start(tmp_path)
    try:
        until(lambda: len(pids(tmp_path)) == 2 and 0 not in pids(tmp_path))
        time.sleep(0.5)
        send = os.killpg if whole_group else os.kill
        send(process.pid, signum)
        _, said = process.communicate(timeout=DEADLINE)
        assert process.returncode == code
        until(lambda: not any(map(alive, pids(tmp_path))))
    finally:
        process.kill()
    if code > 0:
        step = (tmp_path / "saved").read_text()
        assert said == f"stopped after step {step}\n"


@pytest.mark.slow
def test_a_second_ctrl_c_kills_all_processes_and_prints_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "busy")
    try:
        until(lambda: len(pids(tmp_path)) == 2 and 0 not in pids(tmp_path))
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
        assert all(map(alive, pids(tmp_path)))
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
        assert (process.returncode, said) == (130, "")
        until(lambda: not any(map(alive, pids(tmp_path))))
    finally:
        process.kill()
