"""The front: candidates of which no other is both at least as accurate and at least as small or fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.ranking.latency import Latency, measure
from pgnas_cli.training.data import Data
from pgnas_cli.training.objective import Score

OBJECTIVES = ("params", "macs", "latency")
"""What accuracy is weighed against: parameters, multiply-adds of one image, median seconds of a batch."""
MEASURING_SECONDS = 60.0
"""No further turn of the latency measurement starts after that."""

Row = Mapping[str, Any]
"""A line of leaderboard.jsonl, which may have a "latency" besides."""


def non_dominated(points: ArrayLike, maximise: Sequence[bool]) -> list[int]:
    """The points that no other point dominates: is at least as good in every objective, and better in one.

    Of equal points the first is taken. A point with a NaN, such as a latency that was not measured, cannot be compared:
    it dominates none and is not on the front.

    Args:
        points: [n, objectives].
        maximise: for each objective whether more is better.

    Returns:
        Indices, in rising order.

    Raises:
        ValueError: the shapes do not fit.
    """
    cost = np.array(points, dtype=np.float64).reshape(-1, len(maximise))
    if np.ndim(points) == 2 and np.shape(points)[1] != len(maximise):
        raise ValueError(f"{np.shape(points)[1]} objectives, and {len(maximise)} directions")
    cost[:, list(maximise)] *= -1
    known = np.flatnonzero(~np.isnan(cost).any(1))
    # sorted, whoever dominates a point, or equals it and came first, stands before it
    order = known[np.lexsort(cost[known].T[::-1])]
    front = np.empty_like(cost)
    found: list[int] = []
    for index in order:
        if not (front[: len(found)] <= cost[index]).all(1).any():
            front[len(found)] = cost[index]
            found.append(int(index))
    return sorted(found)


def front(rows: Iterable[Row], objective: str) -> list[Row]:
    """The non-dominated rows of a leaderboard, smallest or fastest first: accuracy against one objective.

    Of equal rows the first by id is taken; rows without a latency are left out of a front in latency.

    Args:
        rows: of the leaderboard, with id, accuracy, params, macs, and under "latency" {"median": seconds} or nothing.
        objective: "params", "macs" or "latency".

    Raises:
        UsageError: another objective.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"the objective {objective!r}, it should be {', '.join(OBJECTIVES)}", "params")
    by_id = sorted(rows, key=lambda row: str(row["id"]))
    points = [(float(row["accuracy"]), size(row, objective)) for row in by_id]
    chosen = [by_id[index] for index in non_dominated(points, (True, False))]
    return sorted(chosen, key=lambda row: size(row, objective))


def size(row: Row, objective: str) -> float:
    """What a row costs; NaN for a latency that was not measured."""
    if objective != "latency":
        return float(row[objective])
    latency = row.get("latency")
    return float("nan") if latency is None else float(latency["median"])


def confirmed(rows: Iterable[Row], score: Callable[[str], Score], images: int) -> list[Row]:
    """The rows, after whoever is on a front by parameters or MACs has seen the whole selection split.

    A race leaves estimates, and a front collects those that are too high. Its members that have seen a part only are
    evaluated, which may bring others onto the front, until all members are.

    Args:
        rows: of the leaderboard, with correct and n besides what `front` needs.
        score: id -> the score on the whole selection split.
        images: of the selection split.
    """
    by_id = {str(row["id"]): row for row in rows}
    whole = {name for name, row in by_id.items() if row["n"] >= images}
    while partial := members(by_id.values()) - whole:
        for name in sorted(partial):
            found = score(name)
            by_id[name] = {**by_id[name], "accuracy": found.accuracy, "correct": found.correct, "n": found.n}
        whole |= partial
    return list(by_id.values())


def members(rows: Iterable[Row]) -> set[str]:
    """Ids of those on the front by parameters or by MACs."""
    rows = list(rows)
    return {str(row["id"]) for objective in ("params", "macs") for row in front(rows, objective)}


def measure_candidates(
    evaluator: Evaluator, candidates: Sequence[Candidate], batch: int, *, limit: float = MEASURING_SECONDS
) -> dict[str, Latency]:
    """Id -> latency of each compact network on the evaluator's device, in float32, in turns; see `latency.measure`.

    Args:
        evaluator: holds the supernet, the images and the device.
        candidates: whose networks are built.
        batch: images of a pass: those of the selection split, again and again where there are fewer.
        limit: seconds after which no further turn starts.
    """
    if batch < 1:
        raise UsageError(f"a batch of {batch} images to measure the latency of, it should be at least 1", "1")
    images = evaluator.data.probe(batch)
    layout = torch.channels_last if evaluator.way.channels_last else torch.contiguous_format
    images = images[torch.arange(batch) % len(images)].to(evaluator.device, memory_format=layout)
    networks = {candidate.id: evaluator.net.compact(candidate).to(memory_format=layout) for candidate in candidates}
    return measure(networks, images, limit=limit)


def readable_images(data: Data) -> int:
    """Images of the selection split, without those that turned out unreadable so far."""
    return data.num_selection - len(data.corrupt.get("selection", []))


def fronts(
    rows: Sequence[Row],
    evaluator: Evaluator,
    candidates: Sequence[Candidate],
    winner: str,
    *,
    batch: int = 1,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Accuracy on the selection split against parameters, MACs and measured latency.

    Latency is measured of the members of the fronts by parameters and by MACs, and of the winner: the front by latency
    is that among them. Accuracies are those of the split that candidates are chosen on, and the front consists of
    the best of many: differences within the intervals may be chance.

    Args:
        rows: the leaderboard.
        evaluator: evaluates whoever has seen a part of the split only, and says where latency is measured.
        candidates: those of the leaderboard.
        winner: its id.
        batch: images of a batch whose latency is measured.
        confidence: of the intervals.

    Returns:
        JSON-ready: confidence; device, batch and threads of the latency; "points": a row for each network, fewest
        parameters first: id, params, macs, selection_accuracy {value, low, high, n}, latency {median, low, high
        (quartiles, in seconds), batch, runs}; and ids of each front, smallest or fastest first, under "params", "macs"
        and "latency".
    """
    known = {candidate.id: candidate for candidate in candidates}
    settled = confirmed(rows, lambda name: evaluator.score(known[name], "selection"), readable_images(evaluator.data))
    chosen = members(settled) | {winner}
    shown = sorted((row for row in settled if row["id"] in chosen), key=lambda row: (row["params"], row["id"]))
    latency = measure_candidates(evaluator, [known[row["id"]] for row in shown], batch)
    measured = [{**row, "latency": asdict(latency[row["id"]])} for row in shown]
    points = [
        {
            "id": row["id"],
            "params": row["params"],
            "macs": row["macs"],
            "selection_accuracy": wilson(row["correct"], row["n"], confidence).to_json(),
            "latency": row["latency"],
        }
        for row in measured
    ]
    return {
        "confidence": confidence,
        "device": str(evaluator.device),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "points": points,
        **{objective: [row["id"] for row in front(measured, objective)] for objective in OBJECTIVES},
    }
