"""A target in latency through a whole training: held at the end, by a table that the run keeps and resuming reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli import inflate, restore
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, read_jsonl
from pgnas_cli.supernet.latency import expected_latency
from pgnas_cli.training import loop
from pgnas_cli.training.latency_table import TABLE, read_table
from pgnas_cli.training.loop import train, trained_supernet
from pgnas_cli.training.progress import TrainProgress

pytestmark = pytest.mark.slow

EPOCHS = 3


class StoppedError(Exception):
    """Ends a training in the middle."""


def stop(progress: TrainProgress) -> None:
    if progress.epoch == EPOCHS - 1:
        raise StoppedError


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: held at 0.7 of its latency, and below 0.9 of its parameters, for two epochs of three."""
    net = inflate("shakeshake26_2x8d", in_chans=1, img_size=8, seed=0)
    options = {"explicit": ["in_chans", "img_size"]}
    run = restore.create_run(net, tmp_path_factory.mktemp("latency") / "run", options=options)
    changes: dict[str, Any] = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320}
    changes |= {"schedule.epochs": EPOCHS, "budget.target_latency": "0.7x", "budget.target_params": "0.9x"}
    with pytest.raises(StoppedError):
        train(run, override(load_recipe("posterior"), changes), device="cpu", report=stop)
    return run


@pytest.fixture
def finished(stopped: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """The same gone on with to its end, where measuring again would fail."""
    run = RunDirectory(shutil.copytree(stopped.path, tmp_path / "run"))
    monkeypatch.setattr(loop, "measure_table", lambda *_, **__: pytest.fail("measured again"))
    train(run, device="cpu", resume=True)
    return run


def test_the_expectation_ends_within_two_percent_of_the_target(stopped, finished) -> None:
    net, record = trained_supernet(finished), finished.require("train")
    path = finished.train_path / TABLE
    assert path.read_bytes() == (stopped.train_path / TABLE).read_bytes()
    table = read_table(path, net)
    assert record["target_latency"] == pytest.approx(0.7 * table.full_seconds)
    assert record["expected_latency"] == pytest.approx(record["target_latency"], rel=0.02)
    assert float(expected_latency(net, table).detach()) == pytest.approx(record["expected_latency"], rel=1e-6)
    assert record["expected_params"] < record["target_params"] == 0.9 * record["params"]
    assert record["sampled"]["latency"]["sd"] > 0
    rows = read_jsonl(finished.train_path / "log.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["target_latency"] == record["target_latency"]
    assert rows[-1]["target_params"] == record["target_params"]
    assert rows[-1]["expected_latency"] == pytest.approx(record["expected_latency"], rel=1e-6)


def test_resuming_computes_with_the_table_that_is_there(stopped: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(stopped.path, tmp_path / "run"))
    path = run.train_path / TABLE
    document = json.loads(path.read_text())
    for entry in ([document["whole"]], document["calibration"]):
        for pair in entry:
            pair["seconds"] *= 100
    path.write_text(json.dumps(document))
    record = train(run, device="cpu", resume=True)
    assert record["target_latency"] == pytest.approx(0.7 * document["whole"]["seconds"])
    assert record["expected_latency"] == pytest.approx(record["target_latency"], rel=0.02)
