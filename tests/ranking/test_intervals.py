"""Wilson's interval against scipy, and at its ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from pgnas_cli.ranking.intervals import wilson


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
