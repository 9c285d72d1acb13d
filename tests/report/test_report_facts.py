"""What a report reads of a run, and what it says of files that are damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_runs import LEADERBOARD, LOG, RANKING, WINNER, write_run, write_training

from pgnas_cli.errors import RunError
from pgnas_cli.report.facts import Facts
from pgnas_cli.run import STAGES, read_json, write_json, write_jsonl


def test_everything_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_run(run.baseline_path("plain"), "train")
    facts = Facts.read(run)
    assert facts.ranking == RANKING
    assert (facts.log, facts.leaderboard) == (tuple(LOG), tuple(LEADERBOARD))
    assert facts.winner is not None
    assert facts.winner["id"] == WINNER
    assert facts.recipe is not None
    assert facts.recipe.budget.target_params == "0.5x"
    assert [facts.baselines[name].stage("sample") for name in facts.baselines] == [None]


@pytest.mark.parametrize("last", STAGES)
def test_stages_that_have_not_run_are_none(tmp_path: Path, last: str) -> None:
    facts = Facts.read(write_run(tmp_path / "run", last))
    done = [name for name in STAGES if facts.stage(name) is not None]
    assert done == list(STAGES[: STAGES.index(last) + 1])
    assert (facts.ranking is None) == ("rank" not in done)
    assert (facts.recipe is None) == (last == "inflate")


def test_of_a_training_that_goes_on_whole_epochs_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "inflate")
    write_training(run, epochs=1)
    with open(run.train_path / "log.jsonl", "a") as log:
        log.write('{"epoch": 2, "lo')
    facts = Facts.read(run)
    assert (facts.training, [row["epoch"] for row in facts.log]) == (True, [1])
    for name in ("log.jsonl", "posterior.jsonl"):  # before the first epoch
        (run.train_path / name).unlink()
    assert (Facts.read(run).log, Facts.read(run).posterior) == ((), ())


def set_key(path: Path, key: str, value: Any) -> None:
    document = read_json(path)
    *parents, last = key.split(".")
    inner = document
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("file", "key", "value", "says", "hint"),
    [
        ("rank/ranking.json", "test_accuracy.value", None, "'test_accuracy.value' is missing", "pgnas rank --run"),
        ("rank/ranking.json", "winner", 3, "'winner' should be str", "--force"),
        ("rank/ranking.json", "margin", float("nan"), "the number NaN is not finite", "--force"),
        ("rank/ranking.json", "looks", [3], "'looks[0]' should be dict", "--force"),
        ("run.json", "stages.train.data.sha256.test", None, "stages.train.data.sha256.test", "pgnas train --run"),
        ("run.json", "stages.sample.diversity", [], "'stages.sample.diversity' should be dict", "pgnas sample --run"),
        ("run.json", "versions", None, "'versions' is missing", "pgnas inflate"),
    ],
)  # fmt: skip
def test_a_damaged_key_is_named(tmp_path: Path, file: str, key: str, value: Any, says: str, hint: str) -> None:
    run = write_run(tmp_path / "a run")
    set_key(run.path / file, key, value)
    with pytest.raises(RunError) as error:
        Facts.read(run)
    assert str(run.path / file) in str(error.value)
    assert says in str(error.value)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("file", "rows", "says"),
    [
        ("train/log.jsonl", [{**LOG[0], "loss": "low"}], "'loss' should be float"),
        ("train/log.jsonl", [{**LOG[0], "warnings": [{"kind": "frozen"}]}], "'warnings[0].gate' is missing"),
        ("train/posterior.jsonl", [{"epoch": 1, "p": {"a": [0.1, "x"]}}], "epoch 1 has something else than numbers"),
        ("train/posterior.jsonl", [{"epoch": 1, "p": {"a": [0]}}, {"epoch": 2, "p": {"a": [0, 1]}}], "other layers"),
        ("rank/leaderboard.jsonl", [{"id": "x"}], "is missing"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, file: str, rows: list[dict[str, Any]], says: str) -> None:
    run = write_run(tmp_path / "run")
    write_jsonl(run.path / file, rows)
    with pytest.raises(RunError) as error:
        Facts.read(run)
    assert str(error.value).startswith(str(run.path / file))
    assert says in str(error.value)


@pytest.mark.parametrize("file", ["train/log.jsonl", "train/recipe.toml", "rank/ranking.json", "candidates.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    run = write_run(tmp_path / "run")
    (run.path / file).unlink()
    with pytest.raises(RunError, match=file):
        Facts.read(run)


def test_a_damaged_baseline_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    inner = write_run(run.baseline_path("plain"))
    write_json(inner.rank_path / "ranking.json", {})
    with pytest.raises(RunError, match=r"baselines/plain/rank/ranking\.json"):
        Facts.read(run)


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    source = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; from pgnas_cli.run import RunDirectory;"
        "from pgnas_cli.report.facts import Facts; print(Facts.read(RunDirectory(Path(sys.argv[1]))).name)"
    )
    done = subprocess.run([sys.executable, "-c", source, str(run.path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("run\n", "")
