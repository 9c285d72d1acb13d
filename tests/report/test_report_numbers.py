"""How numbers are rounded for a report."""

from __future__ import annotations

import pytest

from pgnas_cli.ranking.intervals import Estimate
from pgnas_cli.report import numbers
from pgnas_cli.report.document import Number


@pytest.mark.parametrize(
    ("half", "places"),
    [(0.93, 1), (0.08, 2), (4, 0), (1.2, 1), (3.5, 1), (3.6, 0), (12, 0), (0.012, 3), (1e-9, 4), (0, 1)],
)
def test_decimals_follow_the_half_width(half: float, places: int) -> None:
    assert numbers.decimals(half) == places


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.8277, 0.8202, 0.8350), "82.8 % (82.0\N{EN DASH}83.5)"),
        ((0.99312, 0.99232, 0.99384), "99.31 % (99.23\N{EN DASH}99.38)"),
        ((0.5, 0.4, 0.6), "50 % (40\N{EN DASH}60)"),
        ((1.0, 1.0, 1.0), "100.0 % (100.0\N{EN DASH}100.0)"),
        ((0.8364999999999999,), "83.7 %"),  # a mean of rounded numbers: 0.8365
        ((0.8365,), "83.7 %"),
        ((None,), "\N{EN DASH}"),
    ],
)
def test_accuracies_keep_their_value(ends: tuple[float, ...], text: str) -> None:
    assert numbers.accuracy(*ends) == Number(text, ends[0])


def test_latency_is_in_milliseconds_and_its_value_in_seconds() -> None:
    found = numbers.latency({"median": 0.00257, "low": 0.00252, "high": 0.00265})
    assert found == Number("2.57 ms (2.52\N{EN DASH}2.65)", 0.00257)


@pytest.mark.parametrize(
    ("made", "text", "value"),
    [
        (numbers.count(92_697), "92.7 k", 92_697),
        (numbers.whole(92_697), "92,697", 92_697),
        (numbers.seconds(200), "3 min 20 s", 200),
        (numbers.share(0.4974), "49.7 %", 0.4974),
        (numbers.estimate({"value": 0.5, "low": -0.25, "high": 1.0}), "0.5 (-0.2 to 1.0)", 0.5),
        (numbers.estimate({"value": None, "low": None, "high": None}), "not defined", None),
        (numbers.points(Estimate(-0.02, -0.05, 0.01)), "-2.0 points (-5.0 to 1.0)", -0.02),
        (numbers.points(Estimate(0.02, 0.01, 0.03), "-"), "2.0 points (1.0 to 3.0)", 0.02),
        (numbers.count(None), "\N{EN DASH}", None),
    ],
)
def test_what_is_shown_and_what_is_kept(made: Number, text: str, value: float | None) -> None:
    assert made == Number(text, value)


def test_the_difference_has_newcombes_interval() -> None:
    """56 of 70 against 48 of 80: 0.2 (0.0524 to 0.3339), the example of Newcombe 1998, table II, method 10."""
    found = numbers.difference({"value": 56 / 70, "n": 70}, {"value": 48 / 80, "n": 80})
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    reverse = numbers.difference({"value": 48 / 80, "n": 80}, {"value": 56 / 70, "n": 70})
    assert (reverse.low, reverse.high) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


@pytest.mark.parametrize(("ratio", "text"), [(1.0241, "+2.4 %"), (0.9, "-10.0 %"), (0.99999, "0.0 %"), (1, "0.0 %")])
def test_a_change_of_nothing_has_no_sign(ratio: float, text: str) -> None:
    assert numbers.change(ratio) == Number(text, ratio - 1)


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert numbers.points(Estimate(-0.0001, -0.02, 0.02)).text == "0.0 points (-2.0 to 2.0)"
    assert numbers.estimate({"value": -0.001, "low": -0.2, "high": 0.2}).text == "0.00 (-0.20 to 0.20)"
