"""Legends of figures that stand alone."""

from __future__ import annotations

import pytest

from pgnas_cli.report.document import Figure, Key
from pgnas_cli.report.drawing import Circle, Drawing, Path, Rect, Shape, Text
from pgnas_cli.report.legend import HEIGHT, WIDTH, sign, with_legend


def figure(*legend: Key, width: float = 300) -> Figure:
    return Figure("f", "t", "a", Drawing(width, 100, (Rect(0, 0, width, 100, "grid"),)), legend=legend)


@pytest.mark.parametrize(("shape", "kind"), [("box", Rect), ("line", Path), ("point", Circle), ("gap", Rect)])
def test_a_sign_is_of_the_entrys_shape_and_ink(shape: str, kind: type[Shape]) -> None:
    found = sign(Key("series2", "x", shape))
    assert isinstance(found, kind)
    assert "series2" in (found.fill, found.stroke)
    if isinstance(found, Rect):
        assert found.dashed == (shape == "gap")
        assert 0 <= found.x <= found.x + found.width <= WIDTH
        assert 0 <= found.y <= found.y + found.height <= HEIGHT


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'star'"):
        sign(Key("series1", "x", "star"))


def test_without_entries_the_drawing_is_as_it_was() -> None:
    assert with_legend(figure()) == figure().drawing


def test_entries_stand_above_the_drawing_and_within_its_width() -> None:
    found = with_legend(figure(*(Key(f"series{n}", f"entry number {n}") for n in range(1, 6))))
    texts = [shape for shape in found.shapes if isinstance(shape, Text)]
    ground = found.shapes[-1]
    assert isinstance(ground, Rect)
    assert [text.text for text in texts] == [f"entry number {n}" for n in range(1, 6)]
    assert (found.width, found.height) == (300, 100 + ground.y)
    assert max(text.y for text in texts) < ground.y
    assert max(text.x + 6 * len(text.text) for text in texts) < 300
    places = [(text.y, text.x) for text in texts]
    assert places == sorted(places)
    assert len({text.y for text in texts}) == 3, "two entries have room in a line"


def test_an_entry_that_is_wider_than_the_drawing_has_a_line_of_its_own() -> None:
    found = with_legend(figure(Key("series1", "a" * 50), Key("series2", "b"), width=100))
    assert len({shape.y for shape in found.shapes if isinstance(shape, Text)}) == 2
