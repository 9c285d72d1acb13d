"""Races on made-up outcomes with known truth: what they cost, whom they choose, and whether the guarantee holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.ranking.race import (
    Field,
    Look,
    budgeted,
    exhaustive,
    guaranteed,
    pilot_weights,
    pilots_of,
    plan,
    slices,
)


class Population:
    """Outcomes of K candidates on N images: most images are easy for all, some are hard, a few impossible."""

    def __init__(self, candidates: int, images: int, seed: int, spread: float = 0.6) -> None:
        rng = np.random.default_rng(seed)
        skill = rng.normal(0, spread, candidates)
        difficulty = rng.choice([-6.0, 0.0, 6.0], images, p=[0.75, 0.15, 0.10]) + rng.normal(0, 0.5, images)
        logit = skill[:, None] - difficulty
        self.right = rng.random((candidates, images)) < 1 / (1 + np.exp(-logit))
        self.log_prob = -np.log1p(np.exp(-logit)).astype(np.float32)
        self.accuracy = self.right.mean(1)
        self.asked = np.zeros(self.right.shape, int)

    def __call__(self, candidates: Sequence[int], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.ix_(list(candidates), images)
        self.asked[place] += 1
        return self.right[place], self.log_prob[place]

    def field(self, *, seed: int = 0, pilots: int = 0) -> Field:
        candidates, images = self.right.shape
        return Field(self, candidates, images, seed=seed, pilots=pilots, tie=list(range(candidates)))

    def regret(self, winner: int) -> float:
        return float(self.accuracy.max() - self.accuracy[winner])


def ignore(look: Look) -> None:
    pass


@pytest.mark.parametrize("pilots", [0, 5])
def test_the_guarantee_holds_in_a_hundred_races(pilots: int) -> None:
    """At 80 % confidence at most 20 of 100 races may miss; one that is 3 standard errors above would be 32."""
    missed, images = 0, []
    for seed in range(100):
        population = Population(50, 1000, seed)
        field = population.field(seed=seed, pilots=pilots)
        winner, margin = guaranteed(field, confidence=0.8, margin=0.02, report=ignore)
        assert margin <= 0.02
        missed += population.regret(winner) > margin + 1e-12
        images.append(field.spent / population.right.size)
    assert missed <= 20 + 3 * 4
    assert np.mean(images) < 0.8


def test_a_margin_that_is_reported_holds_for_budgets_too() -> None:
    missed = 0
    for seed in range(60):
        population = Population(40, 800, seed)
        winner, margin = budgeted(population.field(seed=seed), confidence=0.8, budget=0.3, report=ignore)
        missed += population.regret(winner) > margin + 1e-12
    assert missed <= 12 + 3 * 3.1


@pytest.mark.parametrize("budget", [0.15, 0.3, 1.0])
@pytest.mark.parametrize("pilots", [0, 4])
def test_a_budget_is_kept_and_nothing_is_asked_twice(budget: float, pilots: int) -> None:
    population = Population(100, 1600, 7)
    field = population.field(pilots=pilots)
    looks: list[Look] = []
    winner, _ = budgeted(field, confidence=0.95, budget=budget, report=looks.append)
    assert population.asked.max() == 1
    assert field.spent == population.asked.sum() == looks[-1].images
    assert 0.8 * budget < field.spent / population.right.size <= budget
    assert field.seen[winner] == 1600
    assert [look.racing for look in looks] == sorted((look.racing for look in looks), reverse=True)


def test_a_budget_finds_a_winner_as_good_as_the_best() -> None:
    """A fifth of the images; outcomes that are independent, as here, are the hardest to tell apart."""
    regrets, spreads = [], []
    for seed in range(30):
        population = Population(100, 1600, seed)
        winner, _ = budgeted(population.field(seed=seed, pilots=3), confidence=0.95, budget=0.2, report=ignore)
        regrets.append(population.regret(winner))
        spreads.append(population.accuracy.std())
    assert np.mean(regrets) < 0.05 * np.mean(spreads)


def test_without_a_margin_left_a_race_is_an_exhaustive_ranking() -> None:
    population = Population(12, 300, 3, spread=0.0)
    winner, margin = guaranteed(population.field(), confidence=0.95, margin=0.0, report=ignore)
    assert (margin, population.regret(winner)) == (0.0, 0.0)
    assert winner == exhaustive(Population(12, 300, 3, spread=0.0).field(), report=ignore)


def test_one_candidate_wins_having_seen_everything() -> None:
    for race in (
        lambda field: guaranteed(field, confidence=0.95, margin=0.0, report=ignore),
        lambda field: budgeted(field, confidence=0.95, budget=1.0, report=ignore),
    ):
        field = Population(1, 200, 0).field()
        assert race(field) == (0, 0.0)
        assert field.seen[0] == 200


def test_estimates_are_unbiased_with_pilots_and_without() -> None:
    population = Population(20, 600, 5)
    for pilots in (0, 3):
        errors = []
        for seed in range(200):
            field = population.field(seed=seed, pilots=pilots)
            field.show(np.arange(20), 100)
            errors.append(field.accuracy(np.arange(20)) - population.accuracy)
        mean, error = np.mean(errors, 0), np.std(errors, 0) / np.sqrt(200)
        assert (np.abs(mean) <= 4.5 * error + 1e-12).all()


def test_pilots_make_the_estimates_sharper() -> None:
    population = Population(40, 2000, 6)
    spread = {}
    for pilots in (0, 8):
        rows = np.setdiff1d(np.arange(40), np.linspace(0, 39, 8).round().astype(int))
        errors = []
        for seed in range(40):
            field = population.field(seed=seed, pilots=pilots)
            field.show(rows, 200)
            difference = field.accuracy(rows) - population.accuracy[rows]
            errors.append(difference - difference.mean())
        spread[pilots] = np.std(errors)
    assert spread[8] < 0.7 * spread[0]


def test_candidates_may_come_later_and_their_choice_is_accounted_for() -> None:
    population = Population(30, 400, 8)
    field = Field(population, 20, 400, seed=0, pilots=0, tie=list(range(20)))
    field.show(np.arange(20), 100)
    new = field.add(range(20, 30), 100)
    assert new.tolist() == list(range(20, 30))
    field.show(np.arange(30), 400)
    assert field.accuracy(np.arange(30)) == pytest.approx(population.accuracy)
    assert field.starts(new, 0).tolist() == [100] * 10
    assert field.starts(np.array([1, 2]), 25).tolist() == [100, 100]


def test_the_same_seed_gives_the_same_race() -> None:
    found = []
    for _ in range(2):
        looks: list[Look] = []
        field = Population(60, 900, 9).field(seed=4, pilots=4)
        found.append((budgeted(field, confidence=0.9, budget=0.3, report=looks.append), looks))
    assert found[0] == found[1]


def test_pilot_weights() -> None:
    log_prob = np.log(np.array([[0.5, 1.0, 1e-30, 0.9], [0.5, 1.0, 1e-30, 0.7]], np.float32))
    log_prob[0, 2] = -np.inf
    weights = pilot_weights(log_prob)
    assert weights[:3] == pytest.approx([1.0, 0.25, 0.25])
    assert weights[3] == pytest.approx(0.25 + 0.75 * (4 * 0.8 * 0.2) ** 2, rel=1e-5)


@pytest.mark.parametrize(("images", "growth"), [(10, 2.0), (64, 2.0), (6000, 2.0), (6000, 1.25), (50000, 1.25)])
def test_slices_grow_up_to_the_whole_split(images: int, growth: float) -> None:
    ends = slices(images, growth)
    assert ends[-1] == images
    assert ends == sorted(set(ends))
    assert ends[0] == min(images, max(32, -(-images // 16)))


def test_a_small_budget_begins_with_a_small_slice() -> None:
    assert slices(6000, 2.0, 0.15)[0] == 300
    assert slices(3000, 2.0, 0.03)[0] == 32
    assert slices(60_000, 2.0, 0.03)[0] == 600


@pytest.mark.parametrize(("candidates", "budget", "pilots"), [(1, None, 0), (19, None, 0), (20, None, 2),
                         (500, None, 8), (500, 0.15, 8), (50, 0.15, 0), (100, 0.15, 3)])  # fmt: skip
def test_how_many_pilots(candidates: int, budget: float | None, pilots: int) -> None:
    assert pilots_of(candidates, budget) == pilots


@pytest.mark.parametrize("candidates", [2, 20, 120, 1500])
@pytest.mark.parametrize("images", [20, 200, 1000, 50_000])
def test_a_budget_that_is_too_small_is_refused_with_one_that_is_not(candidates: int, images: int) -> None:
    budget = 1e-4
    with pytest.raises(UsageError, match=f"{candidates} candidates need") as error:
        plan(candidates, images, pilots_of(candidates, budget), budget)
    if error.value.hint.startswith("--budget"):
        budget = float(error.value.hint.removeprefix("--budget").split(",")[0])
        ends, share = plan(candidates, images, pilots_of(candidates, budget), budget)
        assert ends[-1] == images
        assert 0 <= share <= 1
    else:
        assert error.value.hint == "--method exhaustive"
        assert min(candidates, images / 32) < 3
