"""The commands that repeat a run lead to the same recipe, and the same options, as the run had."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from report_runs import RANKING, SPEC, WINNER, write_run, write_training

from pgnas_cli.commands import _train_options
from pgnas_cli.commands._options import command
from pgnas_cli.commands.train import make_recipe, train
from pgnas_cli.plugin import Inflation
from pgnas_cli.recipe_file import load_recipe
from pgnas_cli.report import repeat
from pgnas_cli.report.facts import Facts
from pgnas_cli.run import RunDirectory, write_json


def lines(run: RunDirectory) -> dict[str, list[str]]:
    """Command -> its arguments."""
    split = [shlex.split(line) for line in repeat.commands(Facts.read(run), "new run")]
    assert all((words[0], words[-2:]) == ("pgnas", ["--run", "new run"]) for words in split)
    return {words[1]: words[2:-2] for words in split}


def strata(*targets: float) -> dict[str, Any]:
    return {"strata": [{"unit": "params", "target": target} for target in targets]}


def typed(arguments: list[str]) -> Any:
    """The recipe that `pgnas train` makes of its arguments."""
    app = typer.Typer()
    command(app, train)
    found = typer.main.get_command(app).make_context("train", arguments).params
    return make_recipe(found["recipe"], _train_options.changes(found), found["settings"] or [], found["fixed_drop"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective.l2": 2.5, "optimizer.gate_lr": 0.3, "objective.num_examples": 777.0},
        {"optimizer.gate_optimizer": "sgd", "optimizer.lr": 0.05, "optimizer.gate_lr": 0.05},
        {"schedule.milestones": (3, 6), "schedule.name": "step", "objective.gate_stem": True},
        {"compute.channels_last": True, "data.rand_augment": "rand-m9", "data.name": "folder:/a b/c'd"},
        {"budget.target_params": "12", "annealing.temperature_end": 0.1},
    ],
)
def test_train_repeats_the_recipe(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", "train")
    write_training(run, **settings)
    found = lines(run)["train"]
    wanted = Facts.read(run).recipe
    assert wanted is not None
    made = typed([argument for argument in found if argument not in ("--data-dir",)])
    assert repeat.flat(repeat.resolved(made, wanted)) == repeat.flat(wanted)
    assert found[:2] == ["--recipe", "posterior"]


def test_a_committed_training_follows_the_default_recipe() -> None:
    default = load_recipe("default")
    assert repeat.nearest_recipe(repeat.resolved(default, default)) == ("default", {})


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("data.dir", "/x y", ["--data-dir", "/x y"]),
        ("objective.fixed_drop", 0.25, ["--fixed-drop", "0.25"]),
        ("compute.compile", False, ["--no-compile"]),
        ("schedule.epochs", 3, ["--epochs", "3"]),
        ("annealing.warmup", 0.5, ["--set", "annealing.warmup=0.5"]),
        ("data.auto_augment", "10", ["--set", 'data.auto_augment="10"']),
    ],
)
def test_how_a_setting_is_typed(key: str, value: Any, option: list[str]) -> None:
    assert repeat.typed_setting(key, value) == option


def test_inflate_names_what_was_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "inflate", inflate={"weights": "/w.safetensors", "symmetry_noise": 0.02})
    spec = SPEC.to_json() | {"inflation": vars(Inflation(width=1.5, stem="small")), "seed": 7}
    write_json(run.manifest_path, run.manifest() | {"model": spec})
    assert lines(run) == {
        "inflate": [SPEC.arch, "--width", "1.5", "--stem", "small", "--in-chans", "1", "--weights", "/w.safetensors",
                    "--symmetry-noise", "0.02", "--seed", "7"]
    }  # fmt: skip
    write_json(run.manifest_path, run.manifest() | {"model": spec | {"plugin": "elsewhere"}})
    assert lines(run)["inflate"][0] == f"elsewhere:{SPEC.arch}"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ["-n", "2", "--seed", "4"]),
        ({"strategy": "uniform", "drop_prob": 0.25},
         ["-n", "2", "--strategy", "uniform", "--drop-prob", "0.25", "--seed", "4"]),
        ({"source": "soft", "max_params": 700.0}, ["-n", "2", "--from", "soft", "--max-params", "700", "--seed", "4"]),
        ({"strategy": "tilted", "strategy_facts": {"lambda": 1.0, "unit": "macs", "target": 4000.0}},
         ["-n", "2", "--strategy", "tilted", "--macs", "4000", "--seed", "4"]),
        ({"strategy": "stratified", "strategy_facts": strata(400.0, 800.0)},
         ["-n", "2", "--strategy", "stratified", "--params", "400..800", "--seed", "4"]),
        ({"strategy": "stratified", "strategy_facts": strata(300.0, 900.0)},
         ["-n", "2", "--strategy", "stratified", "--seed", "4"]),  # the range that nobody need name
    ],
)  # fmt: skip
def test_sample_repeats_the_draws(tmp_path: Path, changes: dict[str, Any], options: list[str]) -> None:
    assert lines(write_run(tmp_path / "run", "sample", sample=changes))["sample"] == options


@pytest.mark.parametrize(
    ("ranking", "options"),
    [
        ({}, ["--seed", "5", "--device", "cpu"]),
        ({"asked": RANKING["asked"] | {"name": "race", "margin": 0.001, "confidence": 0.9, "evolve": 3}},
         ["--method", "race", "--confidence", "0.9", "--margin", "0.1", "--evolve", "3", "--seed", "5", "--device",
          "cpu"]),
        ({"device": "cuda:0", "processes": 2}, ["--seed", "5", "--gpus", "0,1"]),
        ({"processes": 2}, ["--seed", "5", "--device", "cpu", "--procs", "2"]),
    ],
)  # fmt: skip
def test_rank_repeats_the_comparison(tmp_path: Path, ranking: dict[str, Any], options: list[str]) -> None:
    assert lines(write_run(tmp_path / "run", "rank", ranking=ranking))["rank"] == options


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, []),
        ({"chosen_by": "at", "max_params": 600}, ["--at", "600"]),
        ({"chosen_by": "candidate", "layout": "dense"}, ["--candidate", WINNER, "--layout", "dense"]),
    ],
)
def test_export_repeats_the_choice(tmp_path: Path, changes: dict[str, Any], options: list[str]) -> None:
    assert lines(write_run(tmp_path / "run", export=changes))["export"] == options


def test_only_finished_stages_are_repeated(tmp_path: Path) -> None:
    assert list(lines(write_run(tmp_path / "run", "sample"))) == ["inflate", "train", "sample"]
