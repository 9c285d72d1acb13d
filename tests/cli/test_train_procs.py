"""`pgnas train --procs 2`: stopped by a signal, and gone on with by one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from pgnas_cli import inflate, restore
from pgnas_cli.run import RunDirectory, read_jsonl

PROGRAM = Path(sysconfig.get_path("scripts"), "pgnas")
TRAIN = ("--data", "digits", "--limit-train", "320", "--batch-size", "32", "--target-params", "0.5x", "--device", "cpu")

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    return restore.create_run(net, tmp_path / "run", options={"explicit": ["in_chans", "img_size"]})


def test_a_signal_saves_ends_every_process_and_one_process_goes_on(run, forked, environment) -> None:
    command = [PROGRAM, "train", "--run", run.path, *TRAIN, "--epochs", "6", "--procs", "2", "--json"]
    with subprocess.Popen(
        command, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not (run.train_path / "log.jsonl").is_file():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert out == ""
    lines = [line for line in said.splitlines() if line.startswith(("error:", "hint:"))]
    assert lines[0].startswith("error: stopped after step ")
    assert lines[0].endswith(" of 60: a checkpoint was saved")
    assert lines[1:] == [f"hint: pgnas train --resume --run {run.path} goes on"]
    assert "Traceback" not in said
    deadline = time.monotonic() + 10  # the interpreter's own helper processes end after it
    while time.monotonic() < deadline and _group_is_alive(process.pid):
        time.sleep(0.1)
    assert not _group_is_alive(process.pid)

    resumed = forked("train", "--run", str(run.path), "--resume", "--json", env={"OMP_NUM_THREADS": "1"})
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads(resumed.stdout)
    assert (record["epochs"], record["steps"], record["processes"]) == (6, 60, 1)
    assert [row["epoch"] for row in read_jsonl(run.train_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
