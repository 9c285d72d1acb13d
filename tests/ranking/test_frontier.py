"""The front: what is dominated, what ties and gaps do, who is measured, and who has to see every image first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pgnas_cli.errors import UsageError
from pgnas_cli.ranking import frontier
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.frontier import confirmed, front, fronts, measure_candidates, members, non_dominated
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.ranking.latency import Latency, measure
from pgnas_cli.ranking.rank import rank
from pgnas_cli.run import RunDirectory, read_jsonl
from pgnas_cli.training.data import open_data
from pgnas_cli.training.objective import Score

NAN = float("nan")


def by_definition(points: np.ndarray, maximise: tuple[bool, ...]) -> list[int]:
    """O(n^2): nobody is at least as good in everything and better in something; of equals the first."""
    good = np.where(maximise, points, -points)
    found = []
    for i, point in enumerate(good):
        if np.isnan(point).any():
            continue
        better = ((good >= point).all(1) & (good > point).any(1)).any()
        if not better and not (good[:i] == point).all(1).any():
            found.append(i)
    return found


@pytest.mark.parametrize("maximise", [(True,), (True, False), (True, False, False), (False, True, True, False)])
@pytest.mark.parametrize("levels", [3, 8, 10**6])
def test_the_definition(maximise: tuple[bool, ...], levels: int) -> None:
    """Few levels give many ties, in one objective and in all."""
    generator = np.random.default_rng(levels)
    for n in (1, 2, 40, 200):
        points = generator.integers(levels, size=(n, len(maximise))).astype(float)
        points[generator.random(points.shape) < 0.05] = NAN
        assert non_dominated(points, maximise) == by_definition(points, maximise)


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([], []),
        ([(0.5, 10.0)], [0]),
        ([(0.5, 10.0), (0.5, 10.0)], [0]),
        ([(0.5, NAN), (0.4, 10.0)], [1]),
        ([(NAN, 1.0)], []),
        ([(0.5, float("inf")), (0.4, 10.0)], [0, 1]),
        ([(0.5, 10.0), (0.5, 9.0), (0.6, 10.0)], [1, 2]),
    ],
)
def test_small_cases(points: list, found: list[int]) -> None:
    assert non_dominated(points, (True, False)) == found


def test_points_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="3 objectives, and 2 directions"):
        non_dominated(np.zeros((4, 3)), (True, False))


def row(name: str, accuracy: float, params: int, macs: int = 1, latency: float | None = None, n: int = 100) -> dict:
    found = {"id": name, "accuracy": accuracy, "correct": round(accuracy * n), "n": n, "params": params, "macs": macs}
    return found if latency is None else {**found, "latency": {"median": latency}}


ROWS = [
    row("e", 0.9, 50, 5, 0.004),
    row("d", 0.8, 40, 6, 0.002),
    row("c", 0.8, 40, 4, 0.003),
    row("b", 0.7, 60, 3, 0.001),
    row("a", 0.95, 70, 7),
]


@pytest.mark.parametrize(("objective", "ids"), [("params", "cea"), ("macs", "bcea"), ("latency", "bde")])
def test_fronts_go_by_size_and_the_first_id_stands_for_equals(objective: str, ids: str) -> None:
    assert "".join(found["id"] for found in front(ROWS, objective)) == ids
    assert "".join(found["id"] for found in front(ROWS[::-1], objective)) == ids


def test_an_unknown_objective() -> None:
    with pytest.raises(UsageError, match="params, macs, latency"):
        front(ROWS, "size")


def test_who_is_on_a_front_has_seen_every_image() -> None:
    """The lucky ones fall off when they are evaluated, and those that they hid are evaluated in their turn."""
    rows = [row("a", 0.90, 50), row("b", 0.95, 30, n=10), row("c", 0.85, 30, n=10), row("d", 0.2, 99, 2, n=10)]
    truth = {"b": 0.6, "c": 0.8}
    asked: list[str] = []

    def score(name: str) -> Score:
        asked.append(name)
        return Score(round(100 * truth[name]), 100, -1.0)

    found = {entry["id"]: entry for entry in confirmed(rows, score, 100)}
    assert asked == ["b", "c"]
    assert {name: (entry["accuracy"], entry["n"]) for name, entry in found.items()} == {
        "a": (0.9, 100), "b": (0.6, 100), "c": (0.8, 100), "d": (0.2, 10),
    }  # fmt: skip
    assert members(found.values()) == {"a", "c"}
    assert rows[1]["accuracy"] == 0.95


def test_nothing_is_evaluated_where_all_have_seen_all() -> None:
    assert confirmed(ROWS, pytest.fail, 100) == ROWS


@pytest.fixture
def evaluator(run: RunDirectory) -> Evaluator:
    return Evaluator(sampled_supernet(run), open_data("digits"), torch.device("cpu"))


@pytest.mark.parametrize("batch", [1, 3, 203])
def test_compact_networks_are_measured_on_the_batch_that_was_asked_for(
    run: RunDirectory, evaluator: Evaluator, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """203 images, of which the selection split has 200: the first three come again."""
    asked: dict = {}

    def spy(networks, images, **options):
        asked.update(networks=networks, images=images)
        return measure(networks, images, runs=4, warmup=0)

    monkeypatch.setattr(frontier, "measure", spy)
    chosen = read_candidates(run)[:2]
    found = measure_candidates(evaluator, chosen, batch)
    assert list(found) == [candidate.id for candidate in chosen]
    assert all(latency.batch == batch for latency in found.values())
    assert asked["images"].shape == (batch, 1, 8, 8)
    assert torch.equal(asked["images"][200:], asked["images"][: max(0, batch - 200)])
    for candidate in chosen:
        network = asked["networks"][candidate.id]
        assert sum(parameter.numel() for parameter in network.parameters()) == candidate.params


def test_a_batch_of_none(evaluator: Evaluator) -> None:
    with pytest.raises(UsageError, match="a batch of 0 images"):
        measure_candidates(evaluator, [], 0)


def test_a_limit_ends_the_measurement_after_three_turns(evaluator: Evaluator) -> None:
    network = evaluator.net.compact(evaluator.net.mode())
    images = evaluator.data.probe(1)
    assert measure({"a": network}, images, runs=9, warmup=1, limit=0.0)["a"].runs == 3
    assert measure({"a": network}, images, runs=9, warmup=1)["a"].runs == 9


def test_members_and_winner_are_measured_and_nobody_else(
    run: RunDirectory, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank(run, device="cpu")
    rows, candidates = read_jsonl(run.rank_path / "leaderboard.jsonl"), read_candidates(run)
    largest = max(rows, key=lambda found: found["params"])
    winner = {**largest, "accuracy": 0.0, "correct": 0, "id": largest["id"]}  # dominated by all
    rows = [winner, *(found for found in rows if found["id"] != winner["id"])]
    measured: list[str] = []

    def fake(evaluator: Evaluator, chosen, batch: int) -> dict[str, Latency]:
        measured.extend(candidate.id for candidate in chosen)
        return {candidate.id: Latency(place + 1.0, 0.5, 9.0, batch, 20) for place, candidate in enumerate(chosen)}

    monkeypatch.setattr(frontier, "measure_candidates", fake)
    found = fronts(rows, evaluator, candidates, winner["id"], batch=7, confidence=0.9)
    assert set(measured) == members(rows) | {winner["id"]}
    assert winner["id"] not in members(rows)
    assert len(measured) < len(rows)
    assert [point["id"] for point in found["points"]] == measured
    assert [point["params"] for point in found["points"]] == sorted(point["params"] for point in found["points"])
    assert (found["device"], found["batch"], found["confidence"]) == ("cpu", 7, 0.9)
    assert found["params"] == [entry["id"] for entry in front(rows, "params")]
    assert found["macs"] == [entry["id"] for entry in front(rows, "macs")]
    assert found["latency"][0] == measured[0]
    for point in found["points"]:
        entry = next(entry for entry in rows if entry["id"] == point["id"])
        assert point["selection_accuracy"] == wilson(entry["correct"], entry["n"], 0.9).to_json()
        assert point["latency"]["batch"] == 7
    assert evaluator.images == 0


def test_an_estimate_on_the_front_is_replaced_by_the_score(
    run: RunDirectory, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank(run, device="cpu")
    rows, candidates = read_jsonl(run.rank_path / "leaderboard.jsonl"), read_candidates(run)
    quick = Latency(1.0, 1.0, 1.0, 1, 20)
    monkeypatch.setattr(frontier, "measure_candidates", lambda e, chosen, b: {c.id: replace(quick) for c in chosen})
    before = fronts(rows, evaluator, candidates, rows[0]["id"])
    lucky = next(place for place, found in enumerate(rows) if found["id"] not in before["params"])
    rows[lucky] = {**rows[lucky], "accuracy": 1.0, "correct": 64, "n": 64}
    assert fronts(rows, evaluator, candidates, rows[0]["id"]) == before
    assert evaluator.images >= 200
