"""The race as it went."""

from __future__ import annotations

from typing import Any

import pytest

from pgnas_cli.report import race
from pgnas_cli.report.document import Code, Figure, Number
from pgnas_cli.report.drawing import Circle, Path, Text


def look(seen: int, racing: int, staying: int, images: int) -> dict[str, Any]:
    return {"seen": seen, "racing": racing, "staying": staying, "leader": "ab" * 8, "accuracy": 0.8, "images": images}


LOOKS = [look(100, 64, 16, 6400), look(1000, 16, 4, 20_800)]


def ranking(looks: list[dict[str, Any]], method: str = "race") -> dict[str, Any]:
    return {"method": method, "looks": looks, "images": 20_800, "images_exhaustive": 64_000}


def drawn(looks: list[dict[str, Any]]) -> Figure:
    figure = race.race(ranking(looks))
    assert figure is not None
    return figure


def stairs(figure: Figure) -> Path:
    return next(s for s in figure.drawing.shapes if isinstance(s, Path) and s.width == 2.5)


def test_the_field_shrinks_at_the_looks() -> None:
    points = stairs(drawn(LOOKS)).points
    assert [x for x, _ in points[1:]] == [points[1][0]] * 2 + [points[3][0]] * 2
    ys = [y for _, y in points]
    assert ys[0] == ys[1]  # all race until the first look
    assert ys[2] == ys[3]
    assert ys[2] - ys[1] == pytest.approx(ys[4] - ys[3])  # a quarter stays each time


def test_every_look_has_a_mark() -> None:
    figure = drawn(LOOKS)
    first, second = figure.drawing.marks
    assert first.tip == ("after 100 images: 64 racing, 16 staying, leader abababab at 80.0 %; 6,400 images so far")
    assert second.tip.startswith("after 1,000 images")
    circle = next(s for s in figure.drawing.shapes if isinstance(s, Circle) and s.mark is second)
    assert (circle.x, circle.y) == stairs(figure).points[-1]


def test_the_leader_stands_in_a_panel_below() -> None:
    circles = [s for s in drawn(LOOKS).drawing.shapes if isinstance(s, Circle)]
    above, below = ([s for s in circles if (s.mark is None) is without] for without in (False, True))
    assert [s.x for s in above] == [s.x for s in below]
    assert max(s.y for s in above) < min(s.y for s in below)


def test_words_and_table() -> None:
    figure = drawn(LOOKS)
    assert figure.table is not None
    assert figure.table.rows[1] == (
        Number("1,000", 1000),
        Number("16", 16),
        Number("4", 4),
        Code("ab" * 8),
        Number("80.0 %", 0.8),
        Number("20,800", 20_800),
    )
    assert "20,800 images were looked at instead of 64,000 (32 %)" in figure.alt
    assert "64 candidates over 2 looks" in figure.alt
    assert "4 left" in [s.text for s in figure.drawing.shapes if isinstance(s, Text)]


@pytest.mark.parametrize("looks", [[look(32, 1, 1, 32)], [look(32, 5, 5, 160)], [look(32, 500, 1, 16_000)]])
def test_one_look(looks: list[dict[str, Any]]) -> None:
    figure = drawn(looks)
    assert len(figure.drawing.marks) == 1
    assert "over 1 look:" in figure.alt


@pytest.mark.parametrize(("looks", "method"), [(LOOKS[:1], "exhaustive"), ([], "race")])
def test_nothing_raced(looks: list[dict[str, Any]], method: str) -> None:
    assert race.race(ranking(looks, method)) is None
