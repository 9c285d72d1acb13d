"""Fidelity: Kendall's tau, which candidates are trained from scratch, and what a kill leaves."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.ranking import fidelity
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.fidelity import FILE, agreement, certify, kendall_tau, spread
from pgnas_cli.ranking.finetune import Trained
from pgnas_cli.ranking.rank import rank
from pgnas_cli.run import RunDirectory, read_jsonl
from pgnas_cli.training.data import open_data
from pgnas_cli.training.progress import TrainProgress


def by_definition(x: list[float], y: list[float]) -> float:
    """Kendall 1945, pair by pair."""
    agree = untied_x = untied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = x[i] - x[j], y[i] - y[j]
        agree += 0 if a * b == 0 else 1 if a * b > 0 else -1
        untied_x, untied_y = untied_x + (a != 0), untied_y + (b != 0)
    return agree / math.sqrt(untied_x * untied_y) if untied_x and untied_y else math.nan


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_tau_is_the_definition_and_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = (list(values) for values in zip(*pairs, strict=True))
    found = kendall_tau(x, y)
    assert found == pytest.approx(by_definition(x, y), nan_ok=True)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found == pytest.approx(kendalltau(x, y).statistic)
    assert kendall_tau(y, x) == pytest.approx(found, nan_ok=True)
    assert kendall_tau(x, [-value for value in y]) == pytest.approx(-found, nan_ok=True)


@pytest.mark.parametrize(
    ("x", "y", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 1 / 3),
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(6)),
        ([1, 1, 1], [1, 2, 3], math.nan),
        ([1], [1], math.nan),
        ([], [], math.nan),
    ],
)
def test_known_values(x: list[float], y: list[float], tau: float) -> None:
    assert kendall_tau(x, y) == pytest.approx(tau, nan_ok=True)


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="two vectors of one length"):
        kendall_tau([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("candidates", "k", "places"),
    [(3, 3, [0, 1, 2]), (8, 3, [0, 4, 7]), (100, 5, [0, 25, 50, 74, 99]), (4, 4, [0, 1, 2, 3])],
)
def test_candidates_are_spread_over_the_ranking(candidates: int, k: int, places: list[int]) -> None:
    assert spread(candidates, k) == places


def test_places_are_distinct() -> None:
    assert all(len(set(spread(n, k))) == k for n in range(3, 40) for k in range(3, n + 1))


@pytest.mark.parametrize(
    ("candidates", "k", "message", "hint"),
    [
        (8, 2, "at least 3", "--certify 3"),
        (8, 9, "8 candidates are ranked", "--certify 8"),
        (2, 3, "2 candidates are ranked", "pgnas sample -n 3"),
    ],
)
def test_too_few_and_too_many(candidates: int, k: int, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        spread(candidates, k)
    assert hint in error.value.hint


# ---- tau and regret with intervals ----


def test_a_faithful_ranking_has_no_regret() -> None:
    supernet = np.linspace(0.9, 0.8, 6)
    found = agreement(supernet, supernet + 0.05, 0.95)
    assert found == {"tau": {"value": 1.0, "low": 1.0, "high": 1.0}, "regret_at_1": {"value": 0, "low": 0, "high": 0}}


def test_regret_is_that_of_the_first() -> None:
    found = agreement(np.array([0.9, 0.8, 0.7]), np.array([0.50, 0.75, 0.25]), 0.95)
    assert found["regret_at_1"] == {"value": 0.25, "low": 0.0, "high": 0.25}
    assert found["tau"]["value"] == pytest.approx(1 / 3)
    assert -1 <= found["tau"]["low"] < 1 / 3 < found["tau"]["high"] <= 1


def test_accuracies_that_are_all_alike_have_no_tau() -> None:
    found = agreement(np.array([0.9, 0.8, 0.7]), np.full(3, 0.5), 0.95)
    assert found["tau"] == {"value": None, "low": None, "high": None}
    assert found["regret_at_1"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Pairs of a normal distribution with correlation r have tau = 2 / pi * arcsin(r)."""
    generator, covered, r, trials = np.random.default_rng(0), 0, 0.6, 40
    truth = 2 / math.pi * math.asin(r)
    for _ in range(trials):
        x, noise = generator.normal(size=(2, 30))
        tau = agreement(x, r * x + math.sqrt(1 - r * r) * noise, 0.9)["tau"]
        covered += tau["low"] <= truth <= tau["high"]
    assert 0.75 * trials <= covered <= trials


# ---- training them ----


@pytest.fixture
def evaluator(run: RunDirectory) -> Evaluator:
    """Of a run that has been ranked."""
    rank(run, device="cpu")
    return Evaluator(sampled_supernet(run), open_data("digits"), torch.device("cpu"))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parameters of every network that is trained. The training leaves it as it is, but for the report."""
    found: list[int] = []

    def fake(network, recipe, data, device, report):
        found.append(sum(parameter.numel() for parameter in network.parameters()))
        report(TrainProgress(1, 1, 4, 4, {"loss": 1.0}))
        return Trained(network.eval(), 100, 0.5)

    monkeypatch.setattr(fidelity, "train_compact", fake)
    return found


def rows_of(run: RunDirectory) -> list[dict]:
    return read_jsonl(run.rank_path / "leaderboard.jsonl")


def test_what_is_reported(run: RunDirectory, evaluator: Evaluator, trainings: list[int]) -> None:
    rows, told = rows_of(run), []
    found = certify(run, evaluator, read_candidates(run), rows, 3, epochs=2, confidence=0.9, report=told.append)
    chosen = [rows[place] for place in spread(8, 3)]
    assert trainings == [row["params"] for row in chosen]
    assert [entry["id"] for entry in found["candidates"]] == [row["id"] for row in chosen]
    assert [entry["supernet_accuracy"] for entry in found["candidates"]] == [row["accuracy"] for row in chosen]
    assert (found["k"], found["epochs"], found["images"], found["seconds"]) == (3, 2, 300, 1.5)
    scratch = np.array([entry["scratch_accuracy"] for entry in found["candidates"]])
    supernet = np.array([entry["supernet_accuracy"] for entry in found["candidates"]])
    assert {name: found[name] for name in ("tau", "regret_at_1")} == agreement(supernet, scratch, 0.9)
    assert found["confidence"] == 0.9
    assert [(progress.step, progress.steps) for progress in told] == [(4, 12), (8, 12), (12, 12)]
    assert [progress.metrics["candidate"] for progress in told] == ["1 of 3", "2 of 3", "3 of 3"]
    assert evaluator.images == 0


def test_an_estimate_of_a_race_is_replaced_by_the_score(
    run: RunDirectory, evaluator: Evaluator, trainings: list[int]
) -> None:
    rows, candidates = rows_of(run), read_candidates(run)
    whole = certify(run, evaluator, candidates, rows, 3)
    rows[7] = {**rows[7], "accuracy": 0.99, "correct": 64, "n": 64}
    assert certify(run, evaluator, candidates, rows, 3) == whole
    assert evaluator.images == 200


def test_what_was_trained_before_a_kill_is_not_trained_again(
    run: RunDirectory, evaluator: Evaluator, trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, candidates = rows_of(run), read_candidates(run)
    whole = certify(run, evaluator, candidates, rows, 4)
    assert len(trainings) == 4
    path = run.path / FILE
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    assert certify(run, evaluator, candidates, rows, 4) == whole
    assert trainings[4:] == trainings[2:4]
    assert path.read_text() == "".join(lines)
    assert certify(run, evaluator, candidates, rows, 4) == whole
    assert len(trainings) == 6
    certify(run, evaluator, candidates, rows, 4, epochs=9)  # another training has results of its own
    assert len(trainings) == 10
    assert certify(run, evaluator, candidates, rows, 4) == whole
    recipe = fidelity.scratch_recipe(run, evaluator.device)
    monkeypatch.setattr(fidelity, "scratch_recipe", lambda *a: replace(recipe, seed=recipe.seed + 1))
    certify(run, evaluator, candidates, rows, 4)
    assert len(trainings) == 14


def test_a_damaged_file_names_itself(run: RunDirectory, evaluator: Evaluator) -> None:
    path = run.path / FILE
    path.write_text('{"id": "abcd"}\n')
    with pytest.raises(RunError, match=r"certify.jsonl: key 'settings' is missing") as error:
        certify(run, evaluator, read_candidates(run), rows_of(run), 3)
    assert "remove" in error.value.hint


@pytest.mark.slow
def test_a_real_certification_repeats_itself(run: RunDirectory, evaluator: Evaluator) -> None:
    evaluator.data = open_data("digits", limit_train=256)
    rows, candidates = rows_of(run), read_candidates(run)
    first = certify(run, evaluator, candidates, rows, 3, epochs=4)
    (run.path / FILE).unlink()
    second = certify(run, evaluator, candidates, rows, 3, epochs=4)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["images"] == 3 * 4 * 256
    assert all(entry["scratch_accuracy"] > 0.2 for entry in first["candidates"])
