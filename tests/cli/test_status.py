"""What `pgnas status` says of the warnings of the last training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli.__main__ import main
from pgnas_cli.run import RunDirectory, write_jsonl

FROZEN = {"kind": "frozen", "gate": None, "message": "7 of 9 have not moved", "hint": "a higher --gate-lr"}
LOST = {"kind": "layer_lost", "gate": "a", "message": "a is about to lose all its inputs", "hint": "a larger target"}
ROWS = [{"epoch": 1}, {"epoch": 2, "warnings": []}, {"epoch": 3, "warnings": [FROZEN, LOST]}]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An inflated run whose training has been begun."""
    run = RunDirectory.create(tmp_path / "run", "resnet18")
    run.write_manifest({"arch": "resnet18"}, {})
    run.finish("inflate", {"params": 1000, "macs": 10})
    run.train_path.mkdir()
    (run.train_path / "recipe.toml").touch()
    return run


def status(capsys: pytest.CaptureFixture[str], run: RunDirectory, *options: str) -> tuple[int, str, str]:
    code = main(["status", "--run", str(run.path), *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_warnings_are_shown_with_their_epoch_and_what_helps(run: RunDirectory, capsys) -> None:
    write_jsonl(run.train_path / "log.jsonl", ROWS)
    code, out, _ = status(capsys, run)
    title, header, _, *rows = out[out.index("warnings of") :].splitlines()
    assert (code, title, header.split()) == (0, "warnings of the training", ["epoch", "warning", "what", "helps"])
    assert [line.split(maxsplit=1)[0] for line in rows] == ["3", "3"]
    assert all(w["message"] in line and w["hint"] in line for w, line in zip((FROZEN, LOST), rows, strict=True))
    code, out, err = status(capsys, run, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["warnings"] == [{"epoch": 3, **FROZEN}, {"epoch": 3, **LOST}]


@pytest.mark.parametrize("rows", [None, [], ROWS[:2]])
def test_without_any_there_is_no_table(run: RunDirectory, capsys, rows: list[dict[str, Any]] | None) -> None:
    if rows is not None:
        write_jsonl(run.train_path / "log.jsonl", rows)
    assert json.loads(status(capsys, run, "--json")[1])["warnings"] == []
    code, out, _ = status(capsys, run)
    assert (code, "warnings" in out) == (0, False)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"epoch": 1, "warnings": 3}, "'warnings' should be list"),
        ({"epoch": 1, "warnings": [3]}, "warnings should be objects, not 3"),
        ({"epoch": 1, "warnings": [{**LOST, "message": None}]}, "'message' should be str"),
        ({"warnings": [LOST]}, "'epoch' is missing"),
    ],
)
def test_a_damaged_log_is_a_run_error(run: RunDirectory, capsys, row: dict[str, Any], says: str) -> None:
    write_jsonl(run.train_path / "log.jsonl", [row])
    code, _, err = status(capsys, run)
    assert code == 3
    assert says in err.splitlines()[-2]
    assert err.splitlines()[-1].startswith(f"hint: pgnas train --resume --run {run.path} goes on")


def test_a_last_line_that_was_cut_short_is_passed_over(run: RunDirectory, capsys) -> None:
    """A process that was killed may have left it; --resume cuts it off."""
    write_jsonl(run.train_path / "log.jsonl", [{"epoch": 1, "warnings": [LOST]}])
    with open(run.train_path / "log.jsonl", "a") as log:
        log.write('{"epoch": 2, "warn')
    code, out, _ = status(capsys, run, "--json")
    assert (code, [warning["epoch"] for warning in json.loads(out)["warnings"]]) == (0, [1])
