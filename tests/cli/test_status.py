"""What `pgnas status` says of a training, of its warnings, of the ranking and of the export."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from terminals import python_in_terminal

from pgnas_cli.__main__ import main
from pgnas_cli.export.artifact import PROOF
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import override, to_toml
from pgnas_cli.report.numbers import estimate
from pgnas_cli.run import RunDirectory, write_json, write_jsonl

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
        ({"epoch": 1, "warnings": [3]}, "should be dict, not 3"),
        ({"epoch": 1, "warnings": [{**LOST, "message": None}]}, "'warnings[0].message' should be str"),
        ({"warnings": [LOST]}, "'epoch' is missing"),
        ({"epoch": 1, "selection_accuracy": "good"}, "'selection_accuracy' should be float or NoneType"),
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


# ---- how a training goes -----------------------------------------------------------------------------------

EPOCHS = [
    {"epoch": 1, "selection_accuracy": 0.2, "expected_params": 900.0, "target_params": 950.0,
     "images_per_second": 50.0, "seconds": 9.0},
    {"epoch": 2, "selection_accuracy": None, "expected_params": 700.0, "target_params": 700.0,
     "images_per_second": 80.0, "seconds": 4.0},
    {"epoch": 3, "selection_accuracy": 0.6, "expected_params": 510.0, "target_params": 500.0,
     "images_per_second": 80.0, "seconds": 6.0},
    {"epoch": 4, "selection_accuracy": 0.5, "expected_params": 505.0, "target_params": 500.0,
     "images_per_second": 1500.0, "seconds": 5.0},
]  # fmt: skip
P = {"a": [0.01, 0.5], "b": [0.99, 0.2]}
ENTROPY = (0.080793 + 1 + 0.080793 + 0.721928) / 4


def begun(run: RunDirectory, epochs: int = 4, **recipe: Any) -> None:
    """Write what a training of eight epochs leaves after some of them."""
    changed = override(Recipe(), {"schedule.epochs": 8, "budget.target_params": "0.5x", **recipe})
    (run.train_path / "recipe.toml").write_text(to_toml(changed, ""))
    write_jsonl(run.train_path / "log.jsonl", EPOCHS[:epochs])
    write_jsonl(run.train_path / "posterior.jsonl", [{"epoch": row["epoch"], "p": P} for row in EPOCHS[:epochs]])


def age(run: RunDirectory, seconds: float) -> None:
    """Make every file of the training so old."""
    for path in run.train_path.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def training(capsys, run: RunDirectory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(capsys, run, "--json")[1])["training"]
    return found


def section(out: str, title: str) -> dict[str, str]:
    """The rows under a title, by their names; the spaces between words made one."""
    lines = out.splitlines()
    lines = lines[lines.index(title) + 2 :]
    rows = [re.split(r"(?<=\S)  +|^  +", line, maxsplit=1) for line in lines[: (*lines, "").index("")]]
    return {name: " ".join(value.split()) for name, value in rows}


def test_the_facts_of_a_training_that_is_under_way(run: RunDirectory, capsys) -> None:
    begun(run)
    found = training(capsys, run)
    assert 0 <= found.pop("age") < 30
    assert found.pop("posterior") == pytest.approx({
        "groups": 4, "mean": 0.425, "kept": 0.25, "open": 0.5, "dropped": 0.25, "entropy": ENTROPY, "committed": None,
        "fixed": None,
    }, abs=1e-6)  # fmt: skip
    assert found == {
        "epoch": 4, "epochs": 8, "finished": False, "running": True, "images_per_second": 1500.0,
        "seconds_per_epoch": 5.5, "seconds_left": 22.0,
        "selection_accuracy": {"last": 0.5, "best": 0.6, "best_epoch": 3, "epochs": [0.2, None, 0.6, 0.5]},
        "costs": [{"unit": "params", "expected": 505.0, "target": 500.0, "goal": "0.5x", "whole": 1000}],
    }  # fmt: skip


def test_what_a_person_sees_of_it(run: RunDirectory, capsys) -> None:
    begun(run)
    age(run, 20)
    out = status(capsys, run)[1]
    assert section(out, "training") == {
        "epochs": f"{'█' * 15}{'░' * 15} 4 of 8, about 22.0 s left",
        "last epoch": "finished 20 s ago",
        "selection": "▁ █▆ 50.00 %, best 60.00 % after epoch 3",
        "E[parameters]": f"{'█' * 15}│{'░' * 14} 505 of 1.00 k, target 500 (+1.0 %), in the end 0.5x",
        "posterior": f"{'█' * 8}{'▒' * 14}{'░' * 8} "
        "25 % of 4 groups kept (p < 0.05), 50 % open, 25 % dropped (p > 0.95)",
        "": "mean p 0.425, entropy 0.471 bits a group",
        "speed": "1.50 k images/s, 5.50 s an epoch",
    }
    assert "train     running   epoch 4 of 8" in out.splitlines()


@pytest.mark.parametrize(
    ("epochs", "seconds", "running"), [(4, 60, True), (4, 80, False), (0, 600, True), (0, 1000, False)]
)
def test_only_what_has_fallen_silent_is_to_be_resumed(
    run: RunDirectory, capsys, epochs: int, seconds: float, running: bool
) -> None:
    begun(run, epochs)
    if not epochs:
        (run.train_path / "log.jsonl").unlink()
    age(run, seconds)
    resume = f"pgnas train --resume --run {run.path}"
    code, out, err = status(capsys, run)
    assert (code, err) == (0, "" if running else f"next: {resume}\n")
    assert ("the training has stopped, or hangs" in out) is not running
    found = json.loads(status(capsys, run, "--json")[1])
    assert (found["unfinished"], found["training"]["running"]) == (True, running)
    assert found["next"] == (None if running else resume)
    (run.checkpoints_path / "000000007").mkdir(parents=True)  # inside an epoch
    assert training(capsys, run)["running"] is True


def test_before_the_first_epoch_there_is_little_to_say(run: RunDirectory, capsys) -> None:
    begun(run, 0)
    age(run, 75)
    found = training(capsys, run)
    assert (found["epoch"], found["selection_accuracy"], found["costs"], found["posterior"]) == (0, None, [], None)
    assert section(status(capsys, run)[1], "training") == {
        "epochs": f"{'░' * 30} 0 of 8", "begun": "1 min 15 s ago, no epoch is finished yet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (
            {"objective.fixed_drop": 0.425, "budget.target_params": None},
            "none: every group is dropped at the rate 0.425",
        ),
        ({"commit.at": 0.4}, "committed to one candidate after epoch 3: 25 % of 4 groups kept"),
    ],
)
def test_a_posterior_that_is_none_any_more(run: RunDirectory, capsys, recipe: dict[str, Any], says: str) -> None:
    begun(run, **recipe)
    assert section(status(capsys, run)[1], "training")["posterior"] == says


@pytest.mark.parametrize(
    ("unit", "typed", "logged", "says"),
    [
        ("latency", "3ms", (0.0035, 0.003), "3.5 ms, target 3 ms (+16.7 %), in the end 3ms"),
        ("macs", "5", (6.0, 5.0), "6 of 10, target 5 (+20.0 %), in the end 5"),
    ],
)
def test_another_cost_that_is_held(run: RunDirectory, capsys, unit: str, typed: str, logged, says: str) -> None:
    begun(run, 0, **{"budget.target_params": None, f"budget.target_{unit}": typed})
    row = {"epoch": 1, "expected_params": 1.0, f"expected_{unit}": logged[0], f"target_{unit}": logged[1]}
    write_jsonl(run.train_path / "log.jsonl", [row, {"epoch": 2, "expected_params": 1.0}])
    (shown,) = (value for key, value in section(status(capsys, run)[1], "training").items() if key.startswith("E["))
    assert shown.split(" ", 1)[1] == says


def test_each_of_several_costs_is_shown(run: RunDirectory, capsys) -> None:
    begun(run, 0, **{"budget.target_macs": "5"})
    row = {"epoch": 1, "expected_params": 505.0, "target_params": 500.0, "expected_macs": 4.0, "target_macs": 5.0}
    write_jsonl(run.train_path / "log.jsonl", [row])
    shown = {
        key: text.split(" ", 1)[1] for key, text in section(status(capsys, run)[1], "training").items() if "E[" in key
    }
    assert shown == {
        "E[parameters]": "505 of 1.00 k, target 500 (+1.0 %), in the end 0.5x",
        "E[MACs]": "4 of 10, target 5 (-20.0 %), in the end 5",
    }


# ---- what comes after --------------------------------------------------------------------------------------

TRAINED = {"epochs": 4, "params": 1000, "macs": 10, "expected_params": 505.0, "selection_accuracy": 0.5}
SHARE = {"value": 0.8, "low": 0.75, "high": 0.85, "n": 400}
RANKING = {
    "winner": "00ff", "params": 510, "method": "exhaustive", "confidence": 0.95, "margin": 0.0, "images": 150,
    "images_exhaustive": 1000, "test_accuracy": SHARE, "selection_accuracy": {**SHARE, "value": 0.82},
}  # fmt: skip
TAU = {"value": 0.5, "low": -0.25, "high": 1.0}
REGRET = {"value": 0.01, "low": 0.0, "high": 0.03}


@pytest.fixture
def ranked(run: RunDirectory) -> RunDirectory:
    """The same with all stages up to the ranking."""
    begun(run)
    run.finish("train", TRAINED)
    run.finish("sample", {"candidates": 30, "strategy": "posterior"})
    run.finish("rank", {"winner": "00ff"})
    write_json(run.rank_path / "ranking.json", RANKING)
    return run


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, {}),
        ({"method": "race", "margin": 0.0123},
         {"margin": "no candidate is more than 1.23 points above it (95 %); 15.0 % of all images read"}),
        ({"front": {"points": [{}, {}, {}]}}, {"front": "3 networks"}),
        ({"certify": {"k": 8, "tau": TAU, "regret_at_1": REGRET}},
         {"certified": f"8 trained from scratch: Kendall tau {estimate(TAU).text}, "
                f"regret {estimate(REGRET, times=100, unit=' points').text}"
            }),
        ({"finetune": {"epochs": 3, "test_accuracy": SHARE}}, {"fine-tuned": "3 epochs: test 80 % (75-85)"}),
    ],
    ids=["exhaustive", "race", "front", "certify", "finetune"],
)  # fmt: skip
def test_the_ranking(ranked: RunDirectory, capsys, changes: dict[str, Any], says: dict[str, str]) -> None:
    write_json(ranked.rank_path / "ranking.json", {**RANKING, **changes})
    code, out, err = status(capsys, ranked)
    assert (code, err) == (0, f"next: pgnas export --run {ranked.path}\n")
    assert section(out, "ranking") == {
        "winner": "00ff, 510 parameters, 51.0 % of the supernet",
        "accuracy": "test 80 % (75-85), selection 82 % (75-85)",
        **says,
    }
    assert not {"epochs", "last epoch"} & set(section(out, "training"))  # it is finished


@pytest.mark.parametrize("change", [{"winner": 3}, {"margin": None}, {"front": []}, {"certify": {"k": 8}}])
def test_a_damaged_ranking_is_a_run_error(ranked: RunDirectory, capsys, change: dict[str, Any]) -> None:
    write_json(ranked.rank_path / "ranking.json", {**RANKING, **change})
    code, _, err = status(capsys, ranked)
    assert code == 3
    assert "ranking.json: key" in err.splitlines()[-2]
    assert err.splitlines()[-1] == f"hint: pgnas rank --force --run {ranked.path}"


@pytest.mark.parametrize(
    ("files", "facts", "says"),
    [
        (["model.safetensors", PROOF], (True, 3000, True), "with its proof, pgnas verify replays it"),
        (["model.safetensors"], (True, 1500, False), "without its proof"),
        ([], (False, 0, False), "{path} is not there any more"),
    ],
)
def test_the_export(ranked: RunDirectory, capsys, files: list[str], facts: tuple[Any, ...], says: str) -> None:
    ranked.finish("export", {"path": "export", "params": 510})
    ranked.export_path.mkdir()
    for name in files:
        (ranked.export_path / name).write_bytes(bytes(1500))
    found = json.loads(status(capsys, ranked, "--json")[1])
    assert found["export"] == dict(
        zip(("path", "found", "bytes", "proof"), (str(ranked.export_path), *facts), strict=True)
    )
    assert found["next"] is None
    shown = section(status(capsys, ranked)[1], "export")
    assert list(shown.values())[-1] == says.format(path=ranked.export_path)
    assert shown.get("size") == (f"{facts[1] / 1000:.2f} kB, 510 parameters" if files else None)


# ---- where it is shown -------------------------------------------------------------------------------------

RUN = """
import sys
sys.modules["torch"] = sys.modules["timm"] = None
from pgnas_cli.__main__ import main
sys.exit(main(["status", "--run", sys.argv[1]]))
"""


@pytest.mark.parametrize("columns", [40, 100])
def test_it_fits_into_a_terminal_and_needs_no_torch(ranked: RunDirectory, environment, columns: int) -> None:
    shown = python_in_terminal(RUN, os.path.relpath(ranked.path), environment=environment, columns=columns)
    assert shown.code == 0
    *tables, upcoming = (line for line in shown.lines[1:] if line)
    assert max(map(len, tables)) <= columns
    assert upcoming.startswith("next: pgnas export")
    words = " ".join(shown.written.split())
    assert "\x1b[32mdone" in words
    for name in ("stage", "training", "ranking"):
        assert any(line.startswith(name) for line in tables), name


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_piped_it_is_plain_text_in_any_encoding(ranked: RunDirectory, environment, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ranked.path)], env=environment | {"PYTHONIOENCODING": encoding},
        capture_output=True, timeout=60,
    )  # fmt: skip
    out = done.stdout.decode(encoding)
    assert (done.returncode, "\x1b" in out) == (0, False)
    assert ("▁ █▆" if encoding == "utf-8" else "_ #+") in out
