"""Which candidate of a run is exported: the winner, one by its id, or the best one of at most a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgnas_cli.errors import UsageError, nearest
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import ranked_candidates
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.run import RunDirectory, expect, read_json, read_jsonl
from pgnas_cli.sizes import Relative, parse_count

SHORTEST = 4
"""Least number of characters that name a candidate."""
SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """A candidate, and how it was chosen.

    Args:
        candidate: which.
        by: "winner", "candidate" (by its id) or "at" (the best-ranked one of at most `max_params` parameters).
        max_params: of "at"; None otherwise.
    """

    candidate: Candidate
    by: str
    max_params: int | None = None


def choose(run: RunDirectory, winner: str, candidate: str | None = None, at: str | None = None) -> Choice:
    """The candidate that --candidate or --at names; the winner without them.

    Raises:
        UsageError: both are given; the id names none, or several; no candidate is so small.
    """
    if candidate is not None and at is not None:
        raise UsageError("--candidate and --at exclude each other: each names the network to export", "leave one out")
    if at is not None:
        return _at_most(run, at)
    if candidate is not None:
        return Choice(find_candidate(run, candidate), "candidate")
    return Choice(find_candidate(run, winner), "winner")


def find_candidate(run: RunDirectory, wanted: str) -> Candidate:
    """The candidate whose id begins with `wanted`, at least four characters of it.

    Raises:
        UsageError: it is too short; there is none, with the nearest; or more than one, with what to type.
    """
    prefix, listed = wanted.lower(), f"the ids stand in {run.rank_path / 'leaderboard.jsonl'}"
    if len(prefix) < SHORTEST:
        raise UsageError(f"{wanted!r} names no candidate: at least {SHORTEST} characters of an id are needed", listed)
    candidates = ranked_candidates(run)
    found = [candidate for candidate in candidates if candidate.id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        close = nearest(prefix, [candidate.id[: len(prefix)] for candidate in candidates])
        meant = f"; did you mean {close}?" if close else ""
        raise UsageError(f"no candidate of {run.path} begins with {wanted!r}{meant}", listed)
    ids = sorted(candidate.id for candidate in found)
    shown = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    raise UsageError(
        f"{len(ids)} candidates of {run.path} begin with {wanted!r}: {shown}",
        f"type one more fully, such as --candidate {_unambiguous(ids)}",
    )


def _unambiguous(ids: Sequence[str]) -> str:
    """The shortest beginning of the first of several sorted ids that no other has."""
    first, second = ids[:2]
    alike = next(place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    return first[: alike + 1]


def _at_most(run: RunDirectory, at: str) -> Choice:
    """The best-ranked candidate of at most a size."""
    size = parse_count(at, "--at")
    limit = size.of(run.require("train")["params"]) if isinstance(size, Relative) else size
    rows = _leaderboard(run)
    fitting = [row for row in rows if row["params"] <= limit]
    if not fitting:
        smallest = min(rows, key=lambda row: int(row["params"]))
        raise UsageError(
            f"--at {at} was given: no candidate of {run.path} has at most {limit:,} parameters",
            f"the smallest has {smallest['params']:,}: --at {smallest['params']}",
        )
    front = _front(run)
    exact = [row for row in fitting if row["id"] in front]  # what is not there is beaten by what is no larger
    if exact:
        best = max(exact, key=lambda row: float(front[row["id"]]["value"]))
    else:
        best = min(fitting, key=lambda row: int(row["rank"]))
    return Choice(find_candidate(run, best["id"]), "at", limit)


def selection_accuracy(run: RunDirectory, candidate_id: str) -> dict[str, Any] | None:
    """Accuracy of a candidate on the selection split as {value, low, high, n}, 95 %.

    None where the ranking has not evaluated it on the whole split, as a race does not with those that fall behind.
    """
    data = run.require("train")["data"]
    readable = data["num_selection"] - len(data.get("corrupt", {}).get("selection", []))
    row = next((row for row in _leaderboard(run) if row["id"] == candidate_id), None)
    if (row is None or row["n"] < readable) and candidate_id in _front(run):
        found = _front(run)[candidate_id]
        return wilson(round(found["value"] * found["n"]), found["n"]).to_json()
    return wilson(row["correct"], row["n"]).to_json() if row is not None and row["n"] >= readable else None


def _front(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Id -> accuracy on the whole selection split of the networks on the front; empty without `rank --front`."""
    path, hint = run.rank_path / "ranking.json", f"pgnas rank --force --run {run.path}"
    front = read_json(path, hint=hint).get("front")
    return {} if front is None else {row["id"]: row["selection_accuracy"] for row in front["points"]}


def _leaderboard(run: RunDirectory) -> list[dict[str, Any]]:
    """The rows of the last ranking, checked."""
    path, hint = run.rank_path / "leaderboard.jsonl", f"pgnas rank --force --run {run.path}"
    rows = read_jsonl(path, hint=hint)
    for row in rows:
        expect(row, "id", str, path, hint=hint)
        for key in ("rank", "params", "correct", "n"):
            expect(row, key, int, path, hint=hint)
    return rows
