"""Fidelity: whether candidates that score well with the supernet's weights do so when they are trained from scratch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.finetune import fresh_network, scratch_recipe, train_compact
from pgnas_cli.ranking.frontier import readable_images
from pgnas_cli.ranking.intervals import bootstrap
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import to_toml
from pgnas_cli.run import RunDirectory, append_jsonl, expect, read_jsonl, write_jsonl
from pgnas_cli.training.objective import evaluate
from pgnas_cli.training.progress import Report, TrainProgress, ignore
from pgnas_cli.training.seeds import seed_from

FEWEST = 3
"""Two candidates have one order, which says nothing about a correlation."""
FILE = "certify.jsonl"
"""In the run: a line for each candidate that has been trained from scratch. Rankings come and go; it stays."""


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b: how far two orders of the same n items agree, from -1 to 1; NaN if one orders nothing.

        (C - D) / sqrt((pairs not tied in x) * (pairs not tied in y))

    C pairs are ordered alike and D oppositely; a pair tied in either counts as neither. Kendall: The treatment of ties
    in ranking problems, Biometrika 33 (1945) 239-251.

    Args:
        x, y: [n].

    Raises:
        ValueError: they differ in length.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two vectors of one length are wanted, not {a.shape} and {b.shape}")
    signs = [np.sign(values[:, None] - values[None, :]) for values in (a, b)]
    untied = float((signs[0] ** 2).sum()) * float((signs[1] ** 2).sum())
    return float((signs[0] * signs[1]).sum()) / untied**0.5 if untied else float("nan")


def spread(candidates: int, k: int) -> list[int]:
    """Places of k candidates at equal steps over a ranking, from 0, the winner, to the last.

    Raises:
        UsageError: k is below 3, or there are fewer candidates.
    """
    if k < FEWEST:
        raise UsageError(f"--certify {k} was given, it should be at least {FEWEST}", f"--certify {FEWEST}")
    if k > candidates:
        more = f"pgnas sample -n {k} draws more" if candidates < FEWEST else f"--certify {candidates}"
        raise UsageError(f"--certify {k} was given, and {candidates} candidates are ranked", more)
    return [int(place) for place in np.linspace(0, candidates - 1, k).round()]


def certify(
    run: RunDirectory,
    evaluator: Evaluator,
    candidates: Sequence[Candidate],
    rows: Sequence[Mapping[str, Any]],
    k: int,
    *,
    epochs: int | None = None,
    confidence: float = 0.95,
    report: Report = ignore,
) -> dict[str, Any]:
    """Train k candidates from scratch, and compare their order with that of the ranking.

    They stand at equal steps over the ranking, the winner among them. Each compact network starts from fresh weights
    (`fresh_network`, one seed for all) and is trained by the run's own recipe, then scored on the selection split. What
    is done is kept in the run's certify.jsonl, and is not done again for the same recipe, data and kind of device. A
    candidate of which the ranking knows an estimate only is scored on the whole split with the supernet's weights too.

    Args:
        run: a ranked run.
        evaluator: of its supernet.
        candidates: those of the ranking.
        rows: the leaderboard, best first.
        k: how many to train, at least 3.
        epochs: of each training; the recipe's if None.
        confidence: of the intervals.
        report: called after every step, with the steps of all trainings together.

    Returns:
        JSON-ready: k; tau (`kendall_tau` of the two accuracies) and regret_at_1 (best accuracy from scratch, minus that
        of the candidate that the ranking puts first) as {value, low, high} with bootstrap intervals over the k
        candidates, values null where the accuracies are all alike; confidence; epochs of each, images and seconds of
        all trainings; and candidates, best of the ranking first: id, supernet_accuracy, scratch_accuracy.

    Raises:
        UsageError: k or epochs is out of range.
        PgnasError: a training diverges.
    """
    chosen = [rows[place] for place in spread(len(rows), k)]
    recipe = scratch_recipe(run, evaluator.device, epochs)
    known = {candidate.id: candidate for candidate in candidates}
    path = run.path / FILE
    settings = _settings(run, recipe, evaluator.device.type)
    done = _begin(path, settings)
    for number, row in enumerate(chosen):
        if row["id"] not in done:
            told = _part(report, number, k)
            done[row["id"]] = _scratch(evaluator, known[row["id"]], recipe, told)
            append_jsonl(path, {"settings": settings, **done[row["id"]]})
    supernet = np.array([_supernet_accuracy(evaluator, known[row["id"]], row) for row in chosen])
    trained = [done[row["id"]] for row in chosen]
    scratch = np.array([row["correct"] / row["n"] for row in trained])
    return {
        "k": k,
        **agreement(supernet, scratch, confidence),
        "confidence": confidence,
        "epochs": recipe.schedule.epochs,
        "images": sum(row["images"] for row in trained),
        "seconds": sum(row["seconds"] for row in trained),
        "candidates": [
            {"id": row["id"], "supernet_accuracy": float(before), "scratch_accuracy": float(after)}
            for row, before, after in zip(chosen, supernet, scratch, strict=True)
        ],
    }


def agreement(
    supernet: NDArray[np.float64], scratch: NDArray[np.float64], confidence: float
) -> dict[str, dict[str, float | None]]:
    """tau and regret_at_1 of candidates in the order of the ranking, with bootstrap intervals over the candidates.

    Args:
        supernet, scratch: accuracies, [k].
        confidence: of the intervals.
    """

    def tau(indices: NDArray[np.int64]) -> float:
        return kendall_tau(supernet[indices], scratch[indices])

    def regret(indices: NDArray[np.int64]) -> float:
        return float(scratch[indices].max() - scratch[indices.min()])

    statistics = {"tau": tau, "regret_at_1": regret}
    return {name: bootstrap(len(scratch), found, confidence).to_json() for name, found in statistics.items()}


def _settings(run: RunDirectory, recipe: Recipe, device: str) -> str:
    """A hash of what the accuracy of a training from scratch depends on, besides the candidate."""
    data = run.require("train")["data"].get("sha256")
    text = json.dumps([to_toml(recipe, ""), data, run.manifest()["model"], device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _begin(path: Path, settings: str) -> dict[str, dict[str, Any]]:
    """Id -> row of what has been trained in the same way. A line that was not written to its end is cut off."""
    if not path.is_file():
        return {}
    hint = f"remove {path}: its candidates are trained again"
    rows = read_jsonl(path, hint=hint, whole_lines=True)
    for row in rows:
        for name, kind in (("id", str), ("settings", str), ("correct", int), ("n", int), ("images", int)):
            expect(row, name, kind, path, hint=hint)
        expect(row, "seconds", float, path, hint=hint)
    write_jsonl(path, rows)
    return {row["id"]: row for row in rows if row["settings"] == settings}


def _scratch(evaluator: Evaluator, candidate: Candidate, recipe: Recipe, report: Report) -> dict[str, Any]:
    """Train one candidate from fresh weights, and score it on the selection split."""
    network = fresh_network(evaluator.net, candidate, seed_from(f"{recipe.seed}/scratch"))
    trained = train_compact(network, recipe, evaluator.data, evaluator.device, report)
    score = evaluate(trained.network, evaluator.batches("selection"))
    return {
        "id": candidate.id,
        "correct": score.correct,
        "n": score.n,
        "images": trained.images,
        "seconds": trained.seconds,
    }


def _part(report: Report, number: int, k: int) -> Report:
    """A report of the training with this number among k: its steps become those of all."""

    def told(progress: TrainProgress) -> None:
        metrics = {"candidate": f"{number + 1} of {k}", **progress.metrics}
        step = number * progress.steps + progress.step
        report(TrainProgress(progress.epoch, progress.epochs, step, k * progress.steps, metrics))

    return told


def _supernet_accuracy(evaluator: Evaluator, candidate: Candidate, row: Mapping[str, Any]) -> float:
    """Accuracy on the whole selection split, computed where the ranking has seen a part."""
    if row["n"] >= readable_images(evaluator.data):
        return float(row["accuracy"])
    return evaluator.score(candidate, "selection").accuracy
