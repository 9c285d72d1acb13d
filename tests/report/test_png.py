"""Drawings as PNG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from report_samples import MIXED, card, heat, scatter

from pgnas_cli.report.drawing import Circle, Drawing, Path, Picture, Rect, Text
from pgnas_cli.report.png import png
from pgnas_cli.report.themes import DARK, LIGHT, PICTURE_SCALE, Theme, channels

themes = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def pixels(drawing: Drawing, theme: Theme = LIGHT, scale: float = 2) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png(drawing, theme=theme, scale=scale))) as image:
        return np.asarray(image.convert("RGB"))


def ink(name: str, theme: Theme = LIGHT) -> tuple[int, int, int]:
    return channels(theme.inks[name])


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_size_is_that_of_the_drawing_times_the_scale(scale: float) -> None:
    assert pixels(Drawing(123, 45, ()), scale=scale).shape == (45 * scale, 123 * scale, 3)


@themes
def test_shapes_lie_where_they_should_in_their_colours(theme: Theme) -> None:
    shapes = (
        Rect(10, 10, 40, 20, "share7"),
        Circle(80, 20, 10, "series2"),
        Path(((0, 60), (100, 60)), "warning", 4),
        Path(((10, 70), (50, 70), (10, 95)), fill="series3"),
        Rect(60, 70, 30, 20, "series4", radius=6),
    )
    found = pixels(Drawing(100, 100, shapes), theme)
    places = {(30, 20): "share7", (80, 20): "series2", (50, 60): "warning", (14, 74): "series3", (75, 80): "series4"}
    assert {at: tuple(found[2 * at[1], 2 * at[0]].tolist()) for at in places} == {
        at: ink(name, theme) for at, name in places.items()
    }
    for x, y in ((55, 20), (80, 35), (50, 50), (48, 94), (60.5, 70.5)):
        assert tuple(found[int(2 * y), int(2 * x)].tolist()) == ink("surface", theme)


def test_later_shapes_cover_earlier_ones() -> None:
    shapes = (
        Circle(10, 10, 8, "series1"),
        Rect(0, 0, 20, 20, "series2"),
        Picture(0, 0, 4, 4, np.array([[5]], np.uint8)),
    )
    found = pixels(Drawing(20, 20, shapes))
    assert tuple(found[20, 20].tolist()) == ink("series2")
    assert tuple(found[4, 4].tolist()) == channels(PICTURE_SCALE[5])


def test_a_picture_has_sharp_cells() -> None:
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 10
    found = pixels(Drawing(60, 40, (Picture(0, 0, 60, 40, levels),)), scale=1)
    expected = np.array([channels(colour) for colour in PICTURE_SCALE])[levels]
    assert np.array_equal(found[10::20, 10::20], expected)
    assert np.array_equal(found[2:18, 2:18].reshape(-1, 3), np.broadcast_to(expected[0, 0], (256, 3)))


@pytest.mark.parametrize(("anchor", "left", "right"), [("start", 50, 100), ("middle", 25, 75), ("end", 0, 50)])
def test_writing_begins_or_ends_where_it_should(anchor: str, left: int, right: int) -> None:
    found = pixels(Drawing(100, 30, (Text(50, 20, "mmm", size=12, anchor=anchor),)), scale=1)
    rows, columns = np.nonzero((found != 255).any(2))
    assert left - 1 <= columns.min() < columns.max() <= right
    assert 8 < rows.min() < rows.max() <= 20


@themes
@pytest.mark.parametrize("drawing", [scatter(), heat(), card(MIXED, (0, 0.4, 1))], ids=["scatter", "heat", "card"])
def test_the_same_drawing_gives_the_same_bytes(drawing: Drawing, theme: Theme) -> None:
    first = png(drawing, theme=theme)
    assert first == png(drawing, theme=theme)
    with Image.open(io.BytesIO(first)) as image:
        assert not {"Software", "Creation Time"} & set(image.info)


@pytest.mark.parametrize("text", ["$x_{1", r"\frac{1}", "\u732b\U0001f408", "\x00\x07a\ud800"])
def test_texts_are_neither_formulas_nor_a_reason_to_warn(text: str) -> None:
    assert (pixels(Drawing(90, 30, (Text(5, 20, text),))) != 255).any()
