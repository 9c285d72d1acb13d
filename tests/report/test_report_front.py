"""The front: accuracy against size or latency."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.report import front, numbers
from pgnas_cli.report.document import Code, Figure
from pgnas_cli.report.drawing import Circle, Path, Rect, Text


def row(name: str, accuracy: float, params: int, n: int = 1000) -> dict[str, Any]:
    return {"id": name.ljust(16, "0"), "accuracy": accuracy, "n": n, "params": params, "macs": 10 * params}


ROWS = [
    row("a", 0.90, 300),
    row("b", 0.85, 200),
    row("c", 0.80, 250),
    row("d", 0.95, 100, n=50),
    row("e", 0.70, 280, n=50),
]
ID = {name: name.ljust(16, "0") for name in "abcde"}


def point(name: str, accuracy: float, params: int, latency: float | None) -> dict[str, Any]:
    score = wilson(round(1000 * accuracy), 1000).to_json()
    measured = None if latency is None else {"median": latency, "low": latency, "high": latency, "batch": 1, "runs": 9}
    return {"id": ID[name], "params": params, "macs": 10 * params, "selection_accuracy": score, "latency": measured}


FRONT = {
    "confidence": 0.9,
    "device": "cpu",
    "batch": 1,
    "threads": 2,
    "points": [point("d", 0.75, 100, 0.002), point("b", 0.85, 200, 0.004), point("a", 0.90, 300, 0.003)],
    "params": [ID["d"], ID["b"], ID["a"]],
    "macs": [ID["d"], ID["b"], ID["a"]],
    "latency": [ID["d"], ID["a"]],
}


def drawn(objective: str = "params", found: Any = FRONT, winner: str = "a", rows: Any = ROWS) -> Figure:
    figure = front.front(objective, rows, found, ID[winner])
    assert figure is not None
    return figure


def marked(figure: Figure) -> dict[str, Circle | Rect]:
    """First digit of the id -> the shape that has its mark."""
    return {s.mark.tip[0]: s for s in figure.drawing.shapes if isinstance(s, Circle | Rect) and s.mark is not None}


def members(figure: Figure) -> list[str]:
    assert figure.table is not None
    return [cells[0].text[0] for cells in figure.table.rows if isinstance(cells[0], Code) and cells[-1] == "yes"]


@pytest.mark.parametrize(
    ("objective", "ids"), [("params", ["d", "b", "a"]), ("macs", ["d", "b", "a"]), ("latency", ["d", "a"])]
)
def test_the_front_of_the_ranking(objective: str, ids: list[str]) -> None:
    figure = drawn(objective)
    assert figure.name == f"front-{objective}"
    assert members(figure) == ids
    assert set(marked(figure)) == {"a", "b", "d"}
    commands = {mark.command for mark in figure.drawing.marks}
    assert commands == {f"pgnas export --candidate {name}0000000" for name in "abd"}


def test_points_lie_where_their_numbers_say() -> None:
    found = marked(drawn())
    a, b, d = (found[name] for name in "abd")
    centre = a.x + 7, a.y + 7  # of a square
    assert b.x - d.x == pytest.approx((centre[0] - d.x) / 2)  # 100, 200, 300 parameters
    assert d.y - b.y == pytest.approx((d.y - centre[1]) * 2 / 3)  # 0.75, 0.85, 0.90
    assert centre[1] < b.y < d.y


def test_the_interval_is_an_upright_line_through_its_point() -> None:
    figure = drawn()
    b = marked(figure)["b"]
    (line,) = (s for s in figure.drawing.shapes if isinstance(s, Path) and s.opacity < 1 and s.points[0][0] == b.x)
    assert line.points[0][1] > b.y > line.points[1][1]


def test_the_steps_go_through_the_front() -> None:
    figure = drawn("latency")
    steps = next(s for s in figure.drawing.shapes if isinstance(s, Path) and s.width == 1.5 and s.stroke == "series1")
    d, a = (marked(figure)[name] for name in "da")
    assert [x for x, _ in steps.points] == pytest.approx([d.x, a.x + 7, a.x + 7])
    assert [y for _, y in steps.points] == pytest.approx([d.y, d.y, a.y + 7])


@pytest.mark.parametrize("winner", ["a", "b", "d"])
def test_the_chosen_network_is_a_square(winner: str) -> None:
    figure = drawn("latency", winner=winner)
    shapes = marked(figure)
    assert [name for name, shape in shapes.items() if isinstance(shape, Rect)] == [winner]
    assert shapes[winner].fill == "series2"
    assert "chosen" in [s.text for s in figure.drawing.shapes if isinstance(s, Text)]
    assert ("not on the front" in figure.alt) == (winner == "b")


def test_others_are_small_points_without_marks() -> None:
    figure = drawn()
    others = [s for s in figure.drawing.shapes if isinstance(s, Circle) and s.mark is None]
    assert len(others) == 2  # c and e: a, b and d have marks
    assert "2 other candidates" in figure.alt
    assert not [s for s in drawn("latency").drawing.shapes if isinstance(s, Circle) and s.mark is None]
    assert "2 threads" in drawn("latency").note


@pytest.mark.parametrize("objective", ["params", "macs"])
def test_without_a_front_it_is_that_of_the_candidates_that_saw_every_image(objective: str) -> None:
    figure = drawn(objective, None)
    assert members(figure) == ["b", "a"]  # c is beaten by b; d has seen a part only
    assert figure.table is not None
    score = wilson(850, 1000)
    assert figure.table.rows[0][4] == numbers.accuracy(0.85, score.low, score.high)
    assert figure.table.rows[0][3] == numbers.NONE
    assert "estimates" in figure.note


@pytest.mark.parametrize("winner", ["c", "e"])  # e has seen a part of the images
def test_a_winner_beside_the_front_is_shown(winner: str) -> None:
    figure = drawn("params", None, winner=winner)
    assert members(figure) == ["b", "a"]
    assert isinstance(marked(figure)[winner], Rect)


def test_a_latency_that_was_not_measured() -> None:
    assert front.front("latency", ROWS, None, ID["a"]) is None
    unmeasured = {**FRONT, "latency": [], "points": [point("a", 0.9, 300, None)]}
    assert front.front("latency", ROWS, unmeasured, ID["a"]) is None


def test_another_objective() -> None:
    with pytest.raises(ValueError, match="'size'"):
        front.front("size", ROWS, FRONT, ID["a"])


def test_one_candidate() -> None:
    figure = drawn("params", None, rows=ROWS[:1])
    assert list(marked(figure)) == ["a"]
    assert "1 network forms the front: 300 with 90.0 %." in figure.alt


def test_of_many_candidates_some_are_drawn() -> None:
    many = [{**row("x", 0.5 + n / 10_000, 300 + n, n=50), "id": f"{n:016d}"} for n in range(4000)]
    figure = drawn(rows=[*ROWS, *many])
    others = [s for s in figure.drawing.shapes if isinstance(s, Circle) and s.mark is None]
    assert len(others) == front.DRAWN
    assert f"{front.DRAWN} of the 4002 other candidates" in figure.note


def test_stragglers_do_not_flatten_the_others() -> None:
    many = [{**row("x", 0.80 + n / 10_000, 300 + n, n=50), "id": f"{n:016d}"} for n in range(200)]
    figure = drawn(rows=[*ROWS, *many, row("f", 0.01, 300, n=50)])
    assert "Not drawn: 2 candidates below" in figure.note
    b, a = marked(figure)["b"], marked(figure)["a"]
    assert b.y - a.y - 7 > 20


@pytest.mark.parametrize(
    ("ids", "cut"), [(["a" * 16, "b" * 16], 8), (["a" * 16, "a" * 10 + "b" * 6], 11), (["a" * 16], 8), (["short"], 5)]
)
def test_ids_are_as_short_as_they_may_be(ids: list[str], cut: int) -> None:
    assert front.shortest(ids)(ids[0]) == ids[0][:cut]


def test_networks_far_apart_are_drawn_by_their_logarithms() -> None:
    rows = [row("a", 0.9, 10_000), row("b", 0.85, 1000), row("c", 0.8, 100)]
    found = marked(drawn("params", None, rows=rows))
    assert found["b"].x - found["c"].x == pytest.approx(found["a"].x + 7 - found["b"].x)
    assert math.isfinite(found["a"].y)
