"""Runs made of files alone, for tests of what is read from them: no network is built or trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pgnas_cli.plugin import BuildSpec, Inflation
from pgnas_cli.recipe_file import load_recipe, override, to_toml
from pgnas_cli.run import STAGES, RunDirectory, write_bytes, write_json, write_jsonl

SPEC = BuildSpec("shakeshake26_2x4d", "shakeshake", Inflation(), 10, 1, 8, 0, "pgnas 0.1.0")
WINNER, SECOND = "aaaa000011112222", "bbbb000011112222"
DATA = {
    "spec": "digits", "num_classes": 2, "class_names": ["zero", "one"], "in_chans": 1, "img_size": 8, "num_train": 1000,
    "num_selection": 400, "num_test": 500, "seed": 0, "location": "/data", "split_rule": "stratified",
    "sha256": {"train": "a1", "selection": "b2", "test": "c3"},
}  # fmt: skip
SPREAD = {"mean": 480.0, "min": 470, "max": 490}
RECORDS: dict[str, dict[str, Any]] = {
    "inflate": {"params": 1000, "macs": 9000, "seed": 0, "explicit": ["in_chans"], "pretrained": False,
                "weights": None, "seconds": 1.5},
    "train": {"epochs": 2, "steps": 20, "seconds": 60.0, "images": 2000, "device": "cpu", "threads": 1, "seed": 3,
              "checkpoint": "train/x", "params": 1000, "macs": 9000, "processes": 1, "target_params": 500.0,
              "target_macs": None, "target_latency": None, "soft": None, "fixed_drop": None,
              "sampled": {"params": {"mean": 501.0, "sd": 4.0, "n": 64}}, "expected_params": 510.0,
              "expected_macs": 5000.0, "selection_accuracy": 0.75, "p": {"mean": 0.3, "above_0.95": 0.125},
              "data": DATA},
    "sample": {"candidates": 2, "asked": 2, "strategy": "posterior", "source": "final", "drop_prob": None, "seed": 4,
               "max_params": None, "max_macs": None, "params": SPREAD, "macs": SPREAD, "strategy_facts": {},
               "diversity": {"candidates": 2, "distinct": 2, "hamming": 12.0, "hamming_share": 0.25},
               "sha256": "d4", "seconds": 0.5},
    "rank": {"method": "exhaustive", "winner": WINNER},
    "export": {"candidate": WINNER, "chosen_by": "winner", "max_params": None, "params": 480, "macs": 4000,
               "layout": "gather", "path": "export", "masked_difference": 1e-7},
}  # fmt: skip
LOG = [
    {"epoch": epoch, "step": 10 * epoch, "loss": 1.0, "cross_entropy": 0.9, "kl": 0.1, "train_accuracy": 0.5,
     "selection_accuracy": 0.75, "seconds": 30.0, "mode_params": 520, "expected_params": 510.0,
     "expected_macs": 5000.0, "target_params": 500.0, "p": {"mean": 0.3}, "warnings": []}
    for epoch in (1, 2)
]  # fmt: skip
POSTERIOR = [{"epoch": epoch, "p": {"stage1.conv": [0.1, 0.9], "stage2.conv": [0.4]}} for epoch in (1, 2)]
CANDIDATES = [
    {"id": name, "strategy": "posterior", "params": params, "macs": 4000, "log_prob": -1.0}
    for name, params in ((WINNER, 480), (SECOND, 470))
]
LEADERBOARD = [
    {"rank": rank, "id": row["id"], "strategy": "posterior", "accuracy": correct / 400, "correct": correct, "n": 400,
     "log_likelihood": -0.5, "params": row["params"], "macs": 4000}
    for rank, (row, correct) in enumerate(zip(CANDIDATES, (320, 310), strict=True), 1)
]  # fmt: skip
RANKING: dict[str, Any] = {
    "method": "exhaustive", "winner": WINNER, "params": 480, "macs": 4000, "candidates": 2, "images": 800,
    "images_exhaustive": 800, "confidence": 0.95, "margin": 0.0, "seed": 5, "recalibrate": 0, "evolved": 0,
    "selection_accuracy": {"value": 0.8, "low": 0.758, "high": 0.836, "n": 400},
    "test_accuracy": {"value": 0.79, "low": 0.752, "high": 0.824, "n": 500},
    "distribution": {"mean": 0.7875, "std": 0.0177, "min": 0.775, "median": 0.7875, "max": 0.8}, "looks": [],
    "asked": {"name": "auto", "confidence": 0.95, "margin": None, "budget": None, "recalibrate": 0, "seed": 5,
              "evolve": 0},
    "seconds": 3.0, "device": "cpu", "processes": 1,
}  # fmt: skip
ESTIMATE = {"value": 0.5, "low": -0.25, "high": 1.0}
CERTIFY = {"k": 3, "tau": ESTIMATE, "regret_at_1": {"value": 0.0, "low": 0.0, "high": 0.0}, "confidence": 0.95,
           "epochs": 2, "images": 6000, "seconds": 90.0,
           "candidates": [{"id": f"{n}" * 8, "supernet_accuracy": 0.8 - n / 100, "scratch_accuracy": 0.8 + n / 100}
                          for n in range(3)]}  # fmt: skip
SETTINGS = {"data.name": "digits", "schedule.epochs": 2, "budget.target_params": "0.5x", "seed": 3,
            "objective.l2": 1.0, "objective.num_examples": 10000.0, "optimizer.gate_lr": 0.1}  # fmt: skip


def write_run(path: Path, last: str | None = "export", **changes: dict[str, Any]) -> RunDirectory:
    """A run whose stages up to `last` are done; `changes` are made in the records of stages, and in "ranking"."""
    assert not changes.keys() - {*STAGES, "ranking"}
    run = RunDirectory.create(path, SPEC.arch)
    run.write_manifest(SPEC.to_json(), {"python": "3.11", "torch": "2"})
    for stage in STAGES[: STAGES.index(last) + 1] if last is not None else ():
        run.finish(stage, {**copy.deepcopy(RECORDS[stage]), **changes.get(stage, {})})
        if stage == "train":
            write_training(run)
        if stage == "sample":
            write_jsonl(run.path / "candidates.jsonl", [{"sha256": "d4", "candidates": 2}, *CANDIDATES])
        if stage == "rank":
            write_json(run.rank_path / "ranking.json", {**copy.deepcopy(RANKING), **changes.get("ranking", {})})
            write_jsonl(run.rank_path / "leaderboard.jsonl", LEADERBOARD)
    return run


def write_training(run: RunDirectory, epochs: int = 2, **settings: Any) -> None:
    """The files of a training after so many epochs."""
    recipe = override(load_recipe("posterior"), {**SETTINGS, **settings})
    write_bytes(run.train_path / "recipe.toml", to_toml(recipe).encode())
    write_jsonl(run.train_path / "log.jsonl", LOG[:epochs])
    write_jsonl(run.train_path / "posterior.jsonl", POSTERIOR[:epochs])
