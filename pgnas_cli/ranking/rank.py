"""Ranking: candidates on the selection split, the winner alone on the test split."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgnas_cli import restore
from pgnas_cli.errors import DataError, RunError, UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.run import RunDirectory, replace_folder, write_json, write_jsonl
from pgnas_cli.training.data import Data
from pgnas_cli.training.devices import choose_device
from pgnas_cli.training.objective import Score
from pgnas_cli.training.setup import open_run_data

METHODS = ("exhaustive",)
CONFIDENCE = 0.95
EFFECT_SAMPLE = 16
"""Candidates that are also scored without recalibration, to print what it does."""


@dataclass(frozen=True)
class RankProgress:
    """What ranking reports after a candidate.

    Args:
        done, candidates: scored so far, and in all.
        leader: id of the best so far.
        accuracy: its accuracy on the selection split.
    """

    done: int
    candidates: int
    leader: str
    accuracy: float


Report = Callable[[RankProgress], None]


def order(candidate: Candidate, score: Score) -> tuple[float, float, int, str]:
    """Sort key, best first: accuracy, then log-likelihood, then size, then id."""
    log_likelihood = score.log_likelihood if math.isfinite(score.log_likelihood) else -math.inf
    return (-score.accuracy, -log_likelihood, candidate.params, candidate.id)


def rank(
    run: RunDirectory,
    *,
    method: str = "exhaustive",
    recalibrate: int = 0,
    device: str = "auto",
    gpus: str | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
    force: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Score every candidate of a run on the selection split, and the winner once on the test split.

    Neither the weights nor the posterior saw the selection split, and nothing is chosen on the test split.

    Args:
        run: a run with candidates.
        method: "exhaustive": every candidate sees the whole selection split.
        recalibrate: training images for BatchNorm recalibration of each candidate; 0 is off. When it is on, up to 16
            candidates are scored without it too, and the mean difference is recorded.
        device, gpus, data_dir, workers: as in training.
        force: rank again although an export has used the last ranking.
        report: called after every candidate.

    Returns:
        What rank/ranking.json holds.

    Raises:
        RunError: a stage is missing, or the candidates belong to another supernet.
        DataError: the data are not those that the supernet was trained with.
        UsageError: unknown method, negative recalibration.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method!r} was given, it should be {' or '.join(METHODS)}", "--method exhaustive")
    if recalibrate < 0:
        raise UsageError(f"--recalibrate {recalibrate} was given, it should be at least 0", "--recalibrate 512")
    run.begin("rank", force=force)
    chosen = choose_device(device, gpus)
    candidates = read_candidates(run)
    data = same_data(run, data_dir=data_dir, workers=workers)
    evaluator = Evaluator(sampled_supernet(run, chosen), data, chosen, recalibrate=recalibrate)

    started = time.perf_counter()
    scores = score_all(evaluator, candidates, report)
    seconds = time.perf_counter() - started
    images = evaluator.images
    effect = recalibration_effect(evaluator, candidates, scores)
    ranked = sorted(candidates, key=lambda candidate: order(candidate, scores[candidate.id]))
    winner = ranked[0]
    test = evaluator.score(winner, "test")
    selection = scores[winner.id]
    ranking = {
        "method": method,
        "winner": winner.id,
        "params": winner.params,
        "macs": winner.macs,
        "candidates": len(candidates),
        "images": images,
        "images_exhaustive": len(candidates) * data.num_selection,
        "seconds": seconds,
        "device": str(chosen),
        "confidence": CONFIDENCE,
        "margin": 0.0,
        "recalibrate": evaluator.recalibrate,
        "recalibration_effect": effect,
        "selection_accuracy": wilson(selection.correct, selection.n, CONFIDENCE).to_json(),
        "test_accuracy": wilson(test.correct, test.n, CONFIDENCE).to_json(),
        "distribution": distribution([scores[c.id].accuracy for c in candidates]),
    }
    rows = [leaderboard_row(place, candidate, scores[candidate.id]) for place, candidate in enumerate(ranked, 1)]
    _write(run, rows, ranking)
    kept = ("method", "winner", "candidates", "images", "seconds", "recalibrate", "device")
    run.finish("rank", {name: ranking[name] for name in kept})
    return ranking


def score_all(evaluator: Evaluator, candidates: list[Candidate], report: Report | None) -> dict[str, Score]:
    """Score of every candidate on the whole selection split, by id."""
    scores: dict[str, Score] = {}
    leader: tuple[tuple[float, float, int, str], Candidate] | None = None
    for number, candidate in enumerate(candidates, 1):
        scores[candidate.id] = evaluator.score(candidate, "selection")
        key = order(candidate, scores[candidate.id])
        if leader is None or key < leader[0]:
            leader = (key, candidate)
        if report is not None:
            report(RankProgress(number, len(candidates), leader[1].id, scores[leader[1].id].accuracy))
    return scores


def _write(run: RunDirectory, rows: list[dict[str, Any]], ranking: dict[str, Any]) -> None:
    """Leaderboard and ranking appear together, in the place of the last ones."""
    folder = run.rank_path.with_name(".rank.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write_jsonl(folder / "leaderboard.jsonl", rows)
        write_json(folder / "ranking.json", ranking)
        run.forget("rank")
        replace_folder(folder, run.rank_path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def leaderboard_row(place: int, candidate: Candidate, score: Score) -> dict[str, Any]:
    """One line of leaderboard.jsonl."""
    log_likelihood = score.log_likelihood if math.isfinite(score.log_likelihood) else None
    return {
        "rank": place,
        "id": candidate.id,
        "accuracy": score.accuracy,
        "correct": score.correct,
        "n": score.n,
        "log_likelihood": log_likelihood,
        "params": candidate.params,
        "macs": candidate.macs,
    }


def distribution(accuracies: list[float]) -> dict[str, float]:
    """Mean, standard deviation (n - 1), minimum, median and maximum of the candidates' accuracies."""
    values = np.asarray(accuracies)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def recalibration_effect(
    evaluator: Evaluator, candidates: list[Candidate], scores: dict[str, Score]
) -> dict[str, float] | None:
    """Mean and standard deviation of (accuracy with - without recalibration), on the first candidates; None if off."""
    if not evaluator.recalibrate:
        return None
    differences = [
        scores[candidate.id].accuracy - evaluator.score(candidate, "selection", recalibrate=False).accuracy
        for candidate in candidates[:EFFECT_SAMPLE]
    ]
    found = distribution(differences)
    return {"mean": found["mean"], "std": found["std"], "candidates": len(differences)}


def same_data(run: RunDirectory, *, data_dir: Path | None = None, workers: int | None = None) -> Data:
    """The data set that the run was trained with.

    Raises:
        DataError: it has changed since: other images, labels, or splits (by the checksums of Data.describe), or other
            classes.
    """
    recipe = restore.run_recipe(run)
    trained = run.require("train").get("data")
    if not isinstance(trained, dict):
        raise RunError(f"{run.manifest_path}: stages.train.data is missing", "pgnas train --force trains again")
    data = open_run_data(run, recipe, data_dir=data_dir, workers=workers)
    now = data.describe()
    before = trained.get("sha256")
    changed = [
        f"{key} is {now[key]}, it was {trained.get(key)}"
        for key in ("num_classes", "in_chans", "img_size")
        if now[key] != trained.get(key)
    ] or [
        f"the {split} images, their labels or their order differ"
        for split, digest in now["sha256"].items()
        if not isinstance(before, dict) or before.get(split) != digest
    ]
    if changed:
        raise DataError(
            f"{recipe.data.name} has changed since training: {changed[0]}",
            "put back what the supernet was trained on (--data-dir names another place), or train again: "
            f"pgnas train --run {run.path} --data {recipe.data.name} --force",
        )
    return data
