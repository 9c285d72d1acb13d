"""What a ranking leaves in the run: the leaderboard, and what it says of the whole."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import save_candidates
from pgnas_cli.ranking.race import Field, Look
from pgnas_cli.run import RunDirectory, replace_folder, write_json, write_jsonl
from pgnas_cli.supernet.supernet import Supernet

LEADERBOARD, RANKING = "leaderboard.jsonl", "ranking.json"


def leaderboard(field: Field, candidates: Sequence[Candidate], winner: int) -> list[dict[str, Any]]:
    """The rows of leaderboard.jsonl, best first: who has seen more images before who has seen fewer, the winner on top.

    `accuracy` is exact where n is the whole split; else it is the estimate that the race went by, and `correct` of `n`
    are what was seen: harder images than the others, where there were pilots.
    """
    indices = np.arange(len(field))
    accuracy, mean = field.accuracy(indices), field.log_likelihood(indices)
    correct = field.right.sum(1)
    ranked = field.ranked(indices)
    order = sorted(ranked, key=lambda index: (index != winner, -field.seen[index]))
    return [
        {
            "rank": place,
            "id": candidates[index].id,
            "strategy": candidates[index].strategy,
            "accuracy": int(correct[index]) / field.images if field.seen[index] == field.images else accuracy[index],
            "correct": int(correct[index]),
            "n": int(field.seen[index]),
            "log_likelihood": float(mean[index]) if math.isfinite(mean[index]) else None,
            "params": candidates[index].params,
            "macs": candidates[index].macs,
        }
        for place, index in enumerate(order, 1)
    ]


def distribution(accuracies: ArrayLike) -> dict[str, float]:
    """Mean, standard deviation (n - 1), minimum, median and maximum of the candidates' accuracies."""
    values = np.asarray(accuracies, np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def history(looks: Sequence[Look], candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The looks of a race, JSON-ready: who led, who stayed, and what it had cost."""
    return [
        {
            "seen": look.seen,
            "racing": look.racing,
            "staying": look.staying,
            "leader": candidates[look.leader].id,
            "accuracy": look.accuracy,
            "images": look.images,
        }
        for look in looks
    ]


def write(
    run: RunDirectory,
    rows: Sequence[dict[str, Any]],
    ranking: dict[str, Any],
    *,
    net: Supernet,
    evolved: Sequence[Candidate] = (),
) -> None:
    """Leaderboard and ranking appear together, in the place of the last ones.

    Args:
        run: which.
        rows: the leaderboard.
        ranking: the ranking.
        net: the candidates' supernet.
        evolved: candidates that are not those of the sample.
    """
    folder = run.rank_path.with_name(".rank.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write_jsonl(folder / LEADERBOARD, rows)
        write_json(folder / RANKING, ranking)
        if evolved:
            save_candidates(folder, net, evolved)
        run.forget("rank")
        replace_folder(folder, run.rank_path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
