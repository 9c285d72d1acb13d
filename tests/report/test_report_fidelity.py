"""Accuracies with the supernet's weights against those from scratch."""

from __future__ import annotations

from typing import Any

import pytest

from pgnas_cli.report import fidelity, numbers
from pgnas_cli.report.document import Code, Number
from pgnas_cli.report.drawing import Circle, Rect, Text

PAIRS = [(0.80, 0.85), (0.70, 0.90), (0.60, 0.80)]


def certified(pairs: list[tuple[float, float]], tau: float | None = 0.5) -> dict[str, Any]:
    interval = {"low": None, "high": None} if tau is None else {"low": -0.25, "high": 1.0}
    return {
        "tau": {"value": tau, **interval},
        "confidence": 0.95,
        "epochs": 6,
        "candidates": [
            {"id": f"{n:016x}", "supernet_accuracy": before, "scratch_accuracy": after}
            for n, (before, after) in enumerate(pairs)
        ],
    }


def test_points_lie_where_their_accuracies_say() -> None:
    shapes = fidelity.scatter(certified(PAIRS)).drawing.shapes
    (square,) = (s for s in shapes if isinstance(s, Rect) and s.mark is not None)
    third, second = (s for s in shapes if isinstance(s, Circle))
    x, y = square.x + square.width / 2, square.y + square.height / 2
    assert second.x - third.x == pytest.approx(x - second.x)
    assert third.y - y == pytest.approx(y - second.y)
    assert second.y < y < third.y


def test_every_candidate_has_a_mark_and_the_chosen_one_a_name() -> None:
    figure = fidelity.scatter(certified(PAIRS))
    tips = [mark.tip for mark in figure.drawing.marks]
    assert len(tips) == 3
    assert [tip for tip in tips if "the chosen network" in tip] == [tips[-1]]
    assert tips[-1].startswith("00000000: 80.0 % with the supernet's weights, 85.0 % from scratch")
    assert "chosen" in [s.text for s in figure.drawing.shapes if isinstance(s, Text)]


def test_tau_stands_in_the_alternative_and_the_table() -> None:
    certify = certified(PAIRS)
    words = f"Kendall's tau, with its 95 % interval: {numbers.estimate(certify['tau']).text}"
    figure = fidelity.scatter(certify)
    assert figure.table is not None
    assert words in figure.alt
    assert words in figure.table.caption
    assert "60.0 % to 80.0 % with the supernet's weights and 80.0 % to 90.0 % from scratch in 6 epochs" in figure.alt


def test_the_table_has_the_difference() -> None:
    table = fidelity.scatter(certified(PAIRS)).table
    assert table is not None
    *cells, difference = table.rows[0]
    assert cells == [Code("0" * 16), Number("80.0 %", 0.8), Number("85.0 %", 0.85)]
    assert isinstance(difference, Number)
    assert (difference.text, difference.value) == ("+5.0", pytest.approx(0.05))


@pytest.mark.parametrize("pairs", [[(0.8, 0.8)] * 3, [(1.0, 1.0), (0.9, 1.0), (0.8, 1.0)], [(0.0, 0.0)] * 3])
def test_accuracies_that_are_alike(pairs: list[tuple[float, float]]) -> None:
    figure = fidelity.scatter(certified(pairs, tau=None))
    assert "not defined" in figure.alt
    assert len(figure.drawing.marks) == 3
    assert all(0 <= s.y <= figure.drawing.height for s in figure.drawing.shapes if isinstance(s, Circle))
