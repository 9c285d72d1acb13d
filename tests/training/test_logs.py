"""The logs of a training: what a line holds, what TensorBoard shows of it, and how both go on after a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.run import RunDirectory, read_jsonl
from pgnas_cli.training import logs
from pgnas_cli.training.logs import Logs, scalars


def row(epoch: int, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch, "step": 10 * epoch, "loss": 2.5 / epoch, "cross_entropy": 2.0 / epoch, "kl": 0.25,
        "train_accuracy": 0.5, "selection_accuracy": None, "lr": 0.1, "images_per_second": 900.0, "seconds": 1.5,
        "expected_params": 1000, "expected_macs": 5e6, "p": {"mean": 0.2}, "warnings": [], **more,
    }  # fmt: skip


def p_row(epoch: int, p: float = 0.25) -> dict[str, Any]:
    return {"epoch": epoch, "p": {"stage1.conv1": [p, p + 0.5], "head": [p]}}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.train_path.mkdir(parents=True)
    return run


@pytest.fixture
def tensorboard(caplog: pytest.LogCaptureFixture) -> None:
    """Skips without the package; with it, keeps the reader's words on hidden events out of the output."""
    pytest.importorskip("tensorboard")
    caplog.set_level(logging.ERROR, logger="tensorboard")


def read_back(run: RunDirectory) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.train_path / "tensorboard"))
    found.Reload()
    return found


def write(run: RunDirectory, epochs: range, **options: Any) -> None:
    written = Logs(run, **options)
    for epoch in epochs:
        written.epoch(row(epoch), p_row(epoch))
    written.close()


# ---- lines ----


def test_an_epoch_is_a_line_in_both_logs_and_nothing_else(run: RunDirectory) -> None:
    write(run, range(1, 3))
    assert read_jsonl(run.train_path / "log.jsonl") == [row(1), row(2)]
    assert read_jsonl(run.train_path / "posterior.jsonl") == [p_row(1), p_row(2)]
    assert {path.name for path in run.train_path.iterdir()} == {"log.jsonl", "posterior.jsonl"}


@pytest.mark.parametrize("done", [0, 1, 3])
def test_lines_behind_the_checkpoint_are_cut_off(run: RunDirectory, done: int) -> None:
    write(run, range(1, 4))
    written = Logs(run, resume_epoch=done)
    assert [r["epoch"] for r in read_jsonl(run.train_path / "log.jsonl")] == list(range(1, done + 1))
    written.epoch(row(done + 1, loss=9.0), p_row(done + 1, 0.4))
    assert read_jsonl(run.train_path / "log.jsonl")[done:] == [row(done + 1, loss=9.0)]
    assert read_jsonl(run.train_path / "posterior.jsonl")[done:] == [p_row(done + 1, 0.4)]


@pytest.mark.parametrize("name", ["log.jsonl", "posterior.jsonl"])
def test_a_log_that_is_gone_is_not_gone_on_with(run: RunDirectory, name: str) -> None:
    write(run, range(1, 3))
    (run.train_path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing") as error:
        Logs(run, resume_epoch=1)
    assert error.value.hint == "pgnas train --force starts again"


# ---- TensorBoard ----


def test_every_number_has_a_tag_and_nothing_else_has() -> None:
    found = dict(scalars(row(2, gate_lr=0.01, auxiliary=1.0, flag=True, note="x"), p_row(2)))
    assert found == {
        "loss/loss": 1.25, "loss/cross_entropy": 1.0, "loss/kl": 0.25, "loss/auxiliary": 1.0,
        "accuracy/train_accuracy": 0.5, "rate/lr": 0.1, "rate/gate_lr": 0.01,
        "speed/images_per_second": 900.0, "speed/seconds": 1.5,
        "cost/expected_params": 1000.0, "cost/expected_macs": 5e6,
        "drop_prob/stage1.conv1": 0.5, "drop_prob/head": 0.25,
    }  # fmt: skip


@pytest.mark.usefixtures("tensorboard")
def test_the_event_file_holds_every_epoch(run: RunDirectory) -> None:
    write(run, range(1, 4), tensorboard=True)
    found = read_back(run)
    assert set(found.Tags()["scalars"]) == {tag for tag, _ in scalars(row(1), p_row(1))}
    assert [(e.step, e.value) for e in found.Scalars("cost/expected_params")] == [(n, 1000.0) for n in (1, 2, 3)]
    assert [(e.step, e.value) for e in found.Scalars("loss/loss")] == [(n, pytest.approx(2.5 / n)) for n in (1, 2, 3)]
    assert [e.value for e in found.Scalars("drop_prob/stage1.conv1")] == [0.5] * 3
    histogram = found.Histograms("drop_prob")[-1]
    assert (histogram.step, histogram.histogram_value.num) == (3, 3)
    assert (histogram.histogram_value.min, histogram.histogram_value.max) == (0.25, 0.75)


@pytest.mark.usefixtures("tensorboard")
def test_an_epoch_is_on_disk_before_the_next_begins(run: RunDirectory) -> None:
    written = Logs(run, tensorboard=True)
    written.epoch(row(1), p_row(1))
    assert [e.step for e in read_back(run).Scalars("loss/kl")] == [1]
    written.close()
    written.close()  # twice is no error


@pytest.mark.usefixtures("tensorboard")
def test_resuming_hides_what_lies_behind_the_checkpoint(run: RunDirectory) -> None:
    write(run, range(1, 4), tensorboard=True)
    written = Logs(run, tensorboard=True, resume_epoch=1)
    for epoch in (2, 3):
        written.epoch(row(epoch, kl=7.0), p_row(epoch))
    written.close()
    assert [(e.step, e.value) for e in read_back(run).Scalars("loss/kl")] == [(1, 0.25), (2, 7.0), (3, 7.0)]


@pytest.mark.usefixtures("tensorboard")
def test_a_posterior_without_gates_has_no_histogram(run: RunDirectory) -> None:
    written = Logs(run, tensorboard=True)
    written.epoch(row(1), {"epoch": 1, "p": {}})
    written.close()
    assert read_back(run).Tags()["histograms"] == []


def test_without_the_package_nothing_is_touched(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, range(1, 3))
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    for ask in (logs.require_tensorboard, lambda: Logs(run, tensorboard=True)):
        with pytest.raises(UsageError, match="needs the package tensorboard") as error:
            ask()
        assert error.value.hint == 'pip install "pgnas[tensorboard]"'
    assert len(read_jsonl(run.train_path / "log.jsonl")) == 2
