"""What a report knows of a run: its files, read once and checked, so that nothing later stumbles over them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgnas_cli import restore
from pgnas_cli.errors import RunError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.recipe import Recipe
from pgnas_cli.run import STAGES, RunDirectory, expect, read_json, read_jsonl

Row = dict[str, Any]
Schema = Mapping[str, Any]
"""Key -> type, tuple of types, a schema for an object, or [schema] for a list of objects; "key?" may be absent."""

_NONE = type(None)
_MANIFEST: Schema = {"created": str, "versions": dict}
_PROPORTION: Schema = {"value": float, "low": float, "high": float, "n": int}
_ESTIMATE: Schema = {"value": (float, _NONE), "low": (float, _NONE), "high": (float, _NONE)}
_SPREAD: Schema = {"mean": float, "min": float, "max": float}
_LATENCY: Schema = {"median": float, "low": float, "high": float, "batch": int, "runs": int}

_STAGES: Mapping[str, Schema] = {
    "inflate": {"params": int, "macs": int, "seed": int, "explicit?": list, "pretrained?": bool,
                "weights?": (str, _NONE), "symmetry_noise?": float, "seconds?": float},
    "train": {"epochs": int, "steps": int, "seconds": float, "images": int, "device": str, "seed": int,
              "params": int, "macs": int, "processes": int, "fixed_drop": (float, _NONE), "soft": (dict, _NONE),
              "expected_params": float, "expected_macs": float, "selection_accuracy": (float, _NONE),
              "target_params": (float, _NONE), "target_macs": (float, _NONE), "target_latency": (float, _NONE),
              "sampled": (dict, _NONE), "p": {"mean": float, "above_0.95": float},
              "data": {"spec": str, "num_classes": int, "class_names": list, "in_chans": int, "img_size": int,
                       "num_train": int, "num_selection": int, "num_test": int, "seed": int, "split_rule?": str,
                       "location?": (str, _NONE), "corrupt?": dict,
                       "sha256": {"train": str, "selection": str, "test": str}}},
    "sample": {"candidates": int, "asked": int, "strategy": str, "source": str, "drop_prob": (float, _NONE),
               "seed": int, "max_params": (float, _NONE), "max_macs": (float, _NONE), "params": _SPREAD,
               "macs": _SPREAD, "strategy_facts": dict, "seconds": float,
               "diversity": {"distinct": int, "hamming": float, "hamming_share": float}},
    "rank": {"method": str, "winner": str},
    "export": {"candidate": str, "chosen_by": str, "max_params": (float, _NONE), "params": int, "macs": int,
               "layout": str, "path": str, "masked_difference": float},
}  # fmt: skip
_LOG: Schema = {
    "epoch": int, "loss": float, "train_accuracy": float, "selection_accuracy": (float, _NONE), "seconds": float,
    "mode_params": int, "expected_params": float, "expected_macs": float,
    "warnings?": [{"kind": str, "gate": (str, _NONE), "message": str, "hint": str}],
}  # fmt: skip
_CANDIDATE: Schema = {"id": str, "strategy": str, "params": int, "macs": int}
_LEADERBOARD: Schema = {**_CANDIDATE, "rank": int, "accuracy": float, "correct": int, "n": int}
_RANKING: Schema = {
    "method": str, "winner": str, "params": int, "macs": int, "candidates": int, "images": int,
    "images_exhaustive": int, "confidence": float, "margin": float, "seed": int, "recalibrate": int,
    "evolved": int, "selection_accuracy": _PROPORTION, "test_accuracy": _PROPORTION,
    "distribution": {"mean": float, "std": float, **_SPREAD, "median": float},
    "looks": [{"seen": int, "racing": int, "staying": int, "leader": str, "accuracy": float, "images": int}],
    "asked": {"name": str, "confidence": float, "margin": (float, _NONE), "budget": (float, _NONE),
              "recalibrate": int, "seed": int, "evolve": int},
    "seconds": float, "device": str, "processes": int,
    "front?": {"confidence": float, "device": str, "batch": int, "threads": int, "images": int,
               "params": list, "macs": list, "latency": list,
               "points": [{"id": str, "params": int, "macs": int, "selection_accuracy": _PROPORTION,
                           "latency": _LATENCY}]},
    "certify?": {"k": int, "tau": _ESTIMATE, "regret_at_1": _ESTIMATE, "confidence": float, "epochs": int,
                 "images": int, "seconds": float,
                 "candidates": [{"id": str, "supernet_accuracy": float, "scratch_accuracy": float}]},
    "finetune?": {"epochs": int, "lr": float, "images": int, "seconds": float, "selection_accuracy": _PROPORTION,
                  "test_accuracy": _PROPORTION},
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A run as its files tell it.

    Args:
        run: where they lie.
        manifest: run.json.
        spec: what was inflated.
        recipe: the resolved recipe; None before the training has begun.
        log, posterior: a row for each whole epoch, also of a training that is under way.
        candidates: a row for each candidate that was sampled.
        leaderboard: a row for each ranked candidate, best first.
        ranking: rank/ranking.json; None before the ranking.
        baselines: the runs inside this one, by name.
    """

    run: RunDirectory
    manifest: Row
    spec: BuildSpec
    recipe: Recipe | None = None
    log: tuple[Row, ...] = ()
    posterior: tuple[Row, ...] = ()
    candidates: tuple[Row, ...] = ()
    leaderboard: tuple[Row, ...] = ()
    ranking: Row | None = None
    baselines: Mapping[str, Facts] = field(default_factory=dict)

    @classmethod
    def read(cls, run: RunDirectory) -> Facts:
        """Everything that a run's files say. Nothing is loaded that holds weights or masks.

        Raises:
            RunError: a file that a finished stage has written is missing, or one is damaged: with the file, the key and
                what to type.
        """
        manifest = run.manifest()
        check(manifest, _MANIFEST, run.manifest_path, again(run, "inflate"))
        stages = {name: _stage(run, name) for name in STAGES}
        begun = (run.train_path / "recipe.toml").is_file() or stages["train"] is not None
        return cls(
            run,
            {**manifest, "stages": {name: record for name, record in stages.items() if record is not None}},
            restore.run_spec(run),
            restore.run_recipe(run) if begun else None,
            _epochs(run, "log.jsonl", _LOG, stages["train"]) if begun else (),
            _posterior(run, stages["train"]) if begun else (),
            _candidates(run) if stages["sample"] is not None else (),
            _leaderboard(run) if stages["rank"] is not None else (),
            _ranking(run) if stages["rank"] is not None else None,
            {path.parent.name: cls.read(RunDirectory(path.parent)) for path in _inside(run)},
        )

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.run.path.resolve().name

    def stage(self, name: str) -> Row | None:
        """The record of a finished stage."""
        found: Row | None = self.manifest["stages"].get(name)
        return found

    @property
    def training(self) -> bool:
        """Whether a training has begun and is not finished."""
        return self.recipe is not None and self.stage("train") is None

    @property
    def winner(self) -> Row | None:
        """The leaderboard's row of the winner."""
        if self.ranking is None:
            return None
        return next((row for row in self.leaderboard if row["id"] == self.ranking["winner"]), None)

    def part(self, name: str) -> Row | None:
        """What the ranking was asked for besides: "front", "certify" or "finetune"."""
        return None if self.ranking is None else self.ranking.get(name)


def again(run: RunDirectory, stage: str) -> str:
    """The command that runs a stage anew; of what cannot be run anew, the one that makes a new run."""
    return "pgnas inflate ARCH makes a new run" if stage == "inflate" else f"{typed(run, stage)} --force"


def typed(run: RunDirectory, stage: str, *options: str) -> str:
    """A command of this run, as it is typed."""
    return shlex.join(["pgnas", stage, *options, "--run", str(run.path)])


def _stage(run: RunDirectory, name: str) -> Row | None:
    record = run.stage(name)
    if record is not None:
        check(record, {"finished": str, **_STAGES[name]}, run.manifest_path, again(run, name), f"stages.{name}.")
    return record


def _inside(run: RunDirectory) -> list[Path]:
    return sorted(run.baseline_path("").glob("*/run.json"))


def _epochs(run: RunDirectory, name: str, schema: Schema, done: Row | None) -> tuple[Row, ...]:
    """The rows of a log; one that the training has not begun yet has none."""
    path, hint = run.train_path / name, again(run, "train")
    if done is None and not path.is_file():
        return ()
    rows = read_jsonl(path, hint=hint, whole_lines=True)
    for row in rows:
        check(row, schema, path, hint)
    return tuple(rows)


def _posterior(run: RunDirectory, done: Row | None) -> tuple[Row, ...]:
    """The rows of posterior.jsonl: numbers, of the same layers and groups after every epoch."""
    name, schema = "posterior.jsonl", {"epoch": int, "p": dict}
    rows = _epochs(run, name, schema, done)
    path, hint = run.train_path / name, again(run, "train")
    for row in rows:
        for layer, values in row["p"].items():
            expect({layer: values}, layer, list, path, hint=hint)
            if not all(isinstance(value, int | float) for value in values):
                raise RunError(f"{path}: epoch {row['epoch']} has something else than numbers for {layer}", hint)
        if _sizes(row) != _sizes(rows[0]):
            raise RunError(
                f"{path}: epoch {row['epoch']} has other layers or groups than epoch {rows[0]['epoch']}", hint
            )
    return rows


def _sizes(row: Row) -> dict[str, int]:
    return {layer: len(values) for layer, values in row["p"].items()}


def _candidates(run: RunDirectory) -> tuple[Row, ...]:
    """The candidates, without the line that stands before them."""
    path, hint = run.path / "candidates.jsonl", again(run, "sample")
    _, *rows = read_jsonl(path, hint=hint) or [{}]
    for row in rows:
        check(row, _CANDIDATE, path, hint)
    return tuple(rows)


def _leaderboard(run: RunDirectory) -> tuple[Row, ...]:
    path, hint = run.rank_path / "leaderboard.jsonl", again(run, "rank")
    rows = read_jsonl(path, hint=hint)
    for row in rows:
        check(row, _LEADERBOARD, path, hint)
    return tuple(rows)


def _ranking(run: RunDirectory) -> Row:
    path, hint = run.rank_path / "ranking.json", again(run, "rank")
    found = read_json(path, hint=hint)
    check(found, _RANKING, path, hint)
    return found


def check(document: Mapping[str, Any], schema: Schema, path: Path, hint: str, prefix: str = "") -> None:
    """Check an object of a file against what is read of it.

    Raises:
        RunError: a key is missing, or its value is of another type or not finite.
    """
    for name, wanted in schema.items():
        key = name.removesuffix("?")
        if key != name and key not in document:
            continue
        kind = dict if isinstance(wanted, Mapping) else list if isinstance(wanted, list) else wanted
        full = f"{prefix}{key}"
        value = expect({full: document[key]} if key in document else {}, full, kind, path, hint=hint)
        if isinstance(value, float) and not math.isfinite(value):
            raise RunError(f"{path}: key {full!r} is {value}, which is no finite number", hint)
        if isinstance(wanted, Mapping):
            check(value, wanted, path, hint, f"{full}.")
        elif isinstance(wanted, list):
            for index, item in enumerate(value):
                entry = f"{full}[{index}]"
                check(expect({entry: item}, entry, dict, path, hint=hint), wanted[0], path, hint, f"{entry}.")
