"""Bounds on finite populations: exact at the end, valid under the hypothesis, and the estimate unbiased."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pgnas_cli.ranking.bounds import Draws, certified, largest_excess


def population(better: int, worse: int, images: int) -> np.ndarray:
    values = np.zeros(images, np.int8)
    values[:better], values[better : better + worse] = 1, -1
    return values


def weighted(images: int, heavy: int) -> np.ndarray:
    return np.where(np.arange(images) < heavy, 1.0, 0.25)


def test_the_order_is_that_of_draws_by_weight() -> None:
    """P(first, second, third) = w_a / W * w_b / (W - w_a): all six orders of three images."""
    weights, rng = np.array([1.0, 2.0, 5.0]), np.random.default_rng(0)
    n = 6000
    orders = [tuple(Draws(weights, rng).order.tolist()) for _ in range(n)]
    for a, b, c in itertools.permutations(range(3)):
        wanted = weights[a] / 8 * weights[b] / (8 - weights[a])
        assert abs(orders.count((a, b, c)) / n - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / n)


@pytest.mark.parametrize("weights", [np.ones(30), weighted(30, 6)], ids=["even", "weighted"])
def test_the_estimate_of_a_sum_is_unbiased_and_exact_at_the_end(weights: np.ndarray) -> None:
    values, rng = np.random.default_rng(1).normal(1, 1, 30), np.random.default_rng(2)
    estimates = []
    for _ in range(4000):
        draws = Draws(weights, rng)
        estimates.append(values[draws.order[:10]] @ draws.factors(10))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - values.sum()) < 4 * error
    assert values[draws.order] @ draws.factors(30) == pytest.approx(values.sum())


@pytest.mark.parametrize("weights", [np.ones(60), weighted(60, 12)], ids=["even", "weighted"])
@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 9), (9, 3), (30, 30), (60, 0), (0, 60)])
def test_at_the_end_the_bound_is_the_truth(better: int, worse: int, weights: np.ndarray) -> None:
    draws = Draws(weights, np.random.default_rng(0))
    d = population(better, worse, 60)[draws.order][None]
    assert largest_excess(draws, d, 1e-6) == max(0, better - worse)
    assert bool(certified(draws, d, better - worse + 1, 1e-9)[0])
    assert not bool(certified(draws, d, better - worse, 1e-9)[0])


@pytest.mark.parametrize("heavy", [0, 60], ids=["even", "weighted"])
@pytest.mark.parametrize(("better", "worse"), [(1, 0), (6, 5), (21, 20)])
def test_a_true_hypothesis_survives_all_looks(better: int, worse: int, heavy: int) -> None:
    """T = 1, so T <= 0 is wrong: at any of six looks it may be certified in 20 % of all orders at most."""
    rng, trials, delta = np.random.default_rng(3), 200, 0.2
    weights = weighted(300, heavy) if heavy else np.ones(300)
    wrong = 0
    for _ in range(trials):
        draws = Draws(weights, rng)
        d = population(better, worse, 300)[draws.order][None]
        wrong += any(certified(draws, d[:, :n], 1, delta)[0] for n in (20, 50, 100, 150, 200, 270))
    assert wrong <= delta * trials + 2.33 * np.sqrt(trials * delta * (1 - delta))


def test_clear_differences_are_certified_early_and_monotonically() -> None:
    draws = Draws(np.ones(2000), np.random.default_rng(4))
    d = population(20, 400, 2000)[draws.order][None]
    assert certified(draws, d[:, :200], 1, 1e-4).all()
    found = [bool(certified(draws, d[:, :60], above, 1e-4)[0]) for above in range(-200, 2001, 50)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (False, True)


def test_more_images_never_loosen_the_bound_of_identical_candidates() -> None:
    draws = Draws(np.ones(1000), np.random.default_rng(5))
    same = np.zeros((1, 1000), np.int8)
    excess = [largest_excess(draws, same[:, :n], 0.01) for n in (50, 100, 200, 400, 800, 1000)]
    assert excess == sorted(excess, reverse=True)
    assert excess[-1] == 0
    assert 20 < excess[2] < 60  # about ln(1 / 0.01) / 200 of 1000, and what is left


def test_what_a_candidate_was_chosen_by_does_not_count_for_it() -> None:
    draws = Draws(np.ones(400), np.random.default_rng(6))
    d = np.zeros((2, 63), np.int8)
    d[:, :60] = -1  # all evidence lies in the first 60 images
    found = certified(draws, d, 1, 0.01, start_K=np.array([0, 60]))
    assert found.tolist() == [True, False]


def test_no_images_certify_only_what_is_impossible() -> None:
    draws = Draws(np.ones(10), np.random.default_rng(0))
    nothing = np.zeros((1, 0), np.int8)
    assert not certified(draws, nothing, 10, 0.5)[0]
    assert certified(draws, nothing, 11, 0.5)[0]


@pytest.mark.parametrize("weights", [np.array([1.0, 0.0]), np.array([[1.0]]), np.array([1.0, np.nan])])
def test_weights_are_positive_numbers(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="positive"):
        Draws(weights, np.random.default_rng(0))
