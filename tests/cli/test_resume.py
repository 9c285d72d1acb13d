"""Training killed in the middle, and gone on with: the same bits as training that was left alone."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import forking
import pytest
import torch

from pgnas_cli import inflate, restore
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl

EPOCHS = 3
RECIPE = ("--recipe", "posterior", "--data", "digits", "--limit-train", "480", "--batch-size", "16",
          "--target-params", "0.5x", "--epochs", str(EPOCHS))  # fmt: skip
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two would wait for each other where other processes take the cores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inflated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("inflated") / "run"
    return restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})


@pytest.fixture
def run(inflated: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(inflated.path, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(inflated: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Trained without interruption, in a process of its own as the others."""
    run = RunDirectory(shutil.copytree(inflated.path, tmp_path_factory.mktemp("whole") / "run"))
    arguments, outputs = ("train", "--run", run.path, *RECIPE, "--quiet"), run.path.parent
    done = forking.run(arguments, cwd=outputs, env={**ONE_THREAD, "PATH": "", "TERM": "dumb"}, outputs=outputs)
    assert done.returncode == 0, done.stderr
    return run


def kill_when(condition: Callable[[], bool], run: RunDirectory, environment: dict[str, str]) -> None:
    """Train, and SIGKILL the process a moment after `condition` holds."""
    folder, said = run.path.parent, run.path.parent / "said"
    arguments = ("train", "--run", run.path, *RECIPE, "--quiet")
    with forking.started(arguments, cwd=folder, env=environment | ONE_THREAD, out=folder / "out", err=said) as process:
        deadline = time.monotonic() + 240
        while not condition():
            assert process.is_alive(), said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.1)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL


def checkpoints(run: RunDirectory) -> list[str]:
    found = run.checkpoints_path.iterdir() if run.checkpoints_path.is_dir() else ()
    return sorted(path.name for path in found if path.name.isdigit())


def assert_as_if_never_stopped(run: RunDirectory, whole: RunDirectory) -> None:
    ours, theirs = (load_tensors(r.path / r.require("train")["checkpoint"], hint="")[0] for r in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("log.jsonl", "posterior.jsonl"):
        rows, wanted = (read_jsonl(r.train_path / name) for r in (run, whole))
        assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
        times = ("seconds", "images_per_second")
        assert [{k: v for k, v in row.items() if k not in times} for row in rows] == [
            {k: v for k, v in row.items() if k not in times} for row in wanted
        ]
    assert checkpoints(run) == checkpoints(whole)
    assert not list(run.checkpoints_path.glob("*.old"))


def test_killed_in_the_middle_of_an_epoch(run, whole, forked, environment) -> None:
    kill_when(lambda: len(checkpoints(run)) > 0, run, environment)
    assert run.stage("train") is None
    assert 1 <= len(read_jsonl(run.train_path / "log.jsonl")) < EPOCHS
    resumed = forked("train", "--run", str(run.path), "--resume", env=ONE_THREAD)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(rf"^resuming after epoch [12] of {EPOCHS}$", resumed.stderr, re.MULTILINE)
    assert_as_if_never_stopped(run, whole)

    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    again = forked("train", "--run", str(run.path), "--resume", env=ONE_THREAD)
    assert again.returncode == 0
    assert f"has finished its {EPOCHS} epochs: nothing to resume" in again.stderr
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_killed_before_the_first_checkpoint(run, whole, forked, environment) -> None:
    kill_when((run.train_path / "recipe.toml").is_file, run, environment)
    assert checkpoints(run) == []
    resumed = forked("train", "--run", str(run.path), "--resume", env=ONE_THREAD)
    assert resumed.returncode == 0, resumed.stderr
    assert "no checkpoint was written yet: starting from the first epoch" in resumed.stderr
    assert_as_if_never_stopped(run, whole)


def test_killed_between_the_logs_and_the_checkpoint(run, whole, forked, environment) -> None:
    """Logs that run ahead of the last checkpoint are cut back; half a checkpoint is none."""
    kill_when(lambda: len(checkpoints(run)) > 0, run, environment)
    for name in ("log.jsonl", "posterior.jsonl"):
        with open(run.train_path / name, "a") as log:
            log.write('{"epoch": 2, "step": 60}\n{"epoch": 3, "st')
    (run.checkpoints_path / ".000000060.0badcafe.tmp").mkdir()
    assert forked("train", "--run", str(run.path), "--resume", env=ONE_THREAD).returncode == 0
    assert_as_if_never_stopped(run, whole)
