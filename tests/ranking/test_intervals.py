"""Wilson's interval against scipy, and at its ends; the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from pgnas_cli.ranking.intervals import bootstrap, wilson


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 50_000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_equals_scipy(n: int, share: float, confidence: float) -> None:
    correct = round(share * n)
    ours = wilson(correct, n, confidence)
    theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value == correct / n <= ours.high <= 1


@pytest.mark.parametrize("n", [1, 2, 400, 10**9])
def test_none_and_all_have_exact_ends_and_room_on_the_other_side(n: int) -> None:
    for confidence in (0.5, 0.68, 0.8, 0.9, 0.95, 0.99, 0.999):  # at some of them the formula leaves 1e-17
        none, every = wilson(0, n, confidence), wilson(n, n, confidence)
        assert (none.value, none.low) == (0.0, 0.0)
        assert (every.value, every.high) == (1.0, 1.0)
    none, every = wilson(0, n), wilson(n, n)
    z2 = 1.959963984540054**2
    assert none.high == pytest.approx(z2 / (n + z2))
    assert every.low == pytest.approx(n / (n + z2))


def test_a_known_value() -> None:
    found = wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_more_trials_and_less_confidence_are_narrower() -> None:
    widths = [found.high - found.low for found in (wilson(5, 10), wilson(50, 100), wilson(500, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert wilson(50, 100, 0.9).low > wilson(50, 100, 0.99).low


def test_the_numbers_are_plain() -> None:
    assert wilson(1, 2).to_json().keys() == {"value", "low", "high", "n"}
    assert all(type(number) in (float, int) for number in wilson(1, 2).to_json().values())


@pytest.mark.parametrize(
    "arguments", [(0, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, -0.5), (1, 5, math.nan)]
)
def test_impossible_counts_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(*arguments)


# ---- the bootstrap ----


def test_the_mean_has_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(400, lambda indices: float(values[indices].mean()), 0.9)
    half = 1.6449 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    again = bootstrap(400, lambda indices: float(values[indices].mean()), 0.9)
    assert (again, bootstrap(400, lambda i: float(values[i].mean()), 0.9, seed=1) == found) == (found, False)


def test_the_interval_is_that_of_the_quantiles_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    ours = bootstrap(50, lambda indices: float(np.median(values[indices])), 0.95, resamples=9999)
    theirs = scipy_bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), rel=0.1)


def test_resamples_without_a_value_are_left_out() -> None:
    """Two units: half of the resamples are one of them twice."""
    found = bootstrap(2, lambda indices: math.nan if indices[0] == indices[1] else 3.0)
    assert found.to_json() == {"value": 3.0, "low": 3.0, "high": 3.0}
    assert bootstrap(2, lambda _: math.nan).to_json() == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("arguments", [(0, 0.95), (5, 0.0), (5, 1.0)])
def test_impossible_samples_are_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="no interval"):
        bootstrap(arguments[0], len, arguments[1])
