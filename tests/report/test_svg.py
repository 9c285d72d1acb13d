"""Drawings as SVG."""

from __future__ import annotations

import base64
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_samples import HOSTILE, MIXED, card, heat, scatter

from pgnas_cli.report.drawing import Circle, Drawing, Mark, Path, Picture, Rect, Shape, Text
from pgnas_cli.report.svg import indexed_png, number, svg
from pgnas_cli.report.themes import DARK, LIGHT, PICTURE_SCALE, Theme, channels

NAME = "{http://www.w3.org/2000/svg}"
KNOWN = {"svg", "title", "desc", "rect", "path", "circle", "text", "image"}
both = pytest.mark.parametrize("theme", [None, LIGHT, DARK], ids=["page", "light", "dark"])


def parsed(*shapes: Shape, theme: Theme | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(svg(Drawing(200, 100, shapes), title="T", alt="A", id="x", theme=theme))


def only(root: ElementTree.Element, name: str) -> ElementTree.Element:
    (found,) = [element for element in root if element.tag == NAME + name]
    return found


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.0, "1"), (1.234, "1.23"), (-0.001, "0"), (0.1 + 0.2, "0.3"), (1200.5, "1200.5"), (100, "100")],
)
def test_numbers_have_at_most_two_decimals(value: float, written: str) -> None:
    assert number(value) == written


@both
def test_it_is_named_and_described(theme: Theme | None) -> None:
    root = parsed(theme=theme)
    assert root.get("role") == "img"
    assert root.get("viewBox") == "0 0 200 100"
    named = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    assert [named[id] for id in str(root.get("aria-labelledby")).split()] == ["T", "A"]


def test_without_a_description_only_the_title_names_it() -> None:
    root = ElementTree.fromstring(svg(Drawing(1, 1, ()), title="T", alt="", id="x"))
    assert root.get("aria-labelledby") == "x-title"
    assert [element.tag for element in root] == [NAME + "title"]


def test_on_a_page_inks_are_classes_and_the_width_is_in_em() -> None:
    root = parsed(Rect(0, 0, 5, 5, "share3", "line"))
    assert root.get("width") == "12.5em"
    assert root.get("height") is None
    assert only(root, "rect").get("class") == "f-share3 s-line"
    assert "#" not in ElementTree.tostring(root, "unicode")


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_file_has_its_own_colours_and_ground(theme: Theme) -> None:
    root = parsed(Circle(3, 4, 5, "series2", "surface"), theme=theme)
    ground = only(root, "rect")
    assert (ground.get("width"), ground.get("height"), ground.get("fill")) == ("200", "100", theme.inks["surface"])
    circle = only(root, "circle")
    assert (circle.get("fill"), circle.get("stroke")) == (theme.inks["series2"], theme.inks["surface"])
    assert root.get("font-family")
    assert "var(" not in ElementTree.tostring(root, "unicode")


def test_a_path_is_closed_where_it_is_filled() -> None:
    points = ((0, 0), (10, 5.555), (20, 0))
    assert only(parsed(Path(points, "line", dashed=True)), "path").attrib == {
        "d": "M0 0L10 5.55L20 0",
        "class": "s-line",
        "stroke-width": "1.5",
        "stroke-dasharray": "4 3",
    }
    assert only(parsed(Path(points, fill="series1", opacity=0.5)), "path").attrib == {
        "d": "M0 0L10 5.55L20 0Z",
        "class": "f-series1",
        "opacity": "0.5",
    }


def test_writing() -> None:
    root = parsed(Text(10, 20, "a < b", "muted", 13, "end", bold=True, angle=-90))
    assert only(root, "text").text == "a < b"
    assert only(root, "text").attrib == {
        "x": "10",
        "y": "20",
        "font-size": "13",
        "class": "f-muted",
        "text-anchor": "end",
        "font-weight": "600",
        "transform": "rotate(-90 10 20)",
    }


def test_an_ink_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError, match="pink"):
        parsed(Rect(0, 0, 1, 1, "pink"))


@both
def test_marks_carry_tip_and_command(theme: Theme | None) -> None:
    root = parsed(Circle(1, 1, 1, "line", mark=Mark("tip", "do it")), Rect(0, 0, 1, 1, mark=Mark("other")), theme=theme)
    marks = [element for element in root if "mark" in element.get("class", "").split()]
    assert [(element[0].tag, element[0].text, element.get("data-command")) for element in marks] == [
        (NAME + "title", "tip", "do it"),
        (NAME + "title", "other", None),
    ]


def test_a_picture_says_what_its_cells_are() -> None:
    levels = np.array([[0, 63], [7, 20], [1, 2]], np.uint8)
    bands, columns = ((0, 1, "a"), (1, 2, 'b"<')), ("epoch 1", "epoch 2")
    image = only(parsed(Picture(1, 2, 30, 40, levels, bands, columns)), "image")
    assert json.loads(str(image.get("data-bands"))) == [list(band) for band in bands]
    assert json.loads(str(image.get("data-columns"))) == list(columns)
    assert image.get("image-rendering") == "pixelated"
    data = base64.b64decode(str(image.get("href")).removeprefix("data:image/png;base64,"))
    assert data == indexed_png(levels)
    assert "data-bands" not in only(parsed(Picture(1, 2, 30, 40, levels)), "image").attrib


def test_a_picture_has_the_colour_of_each_level() -> None:
    levels = np.random.default_rng(0).integers(0, 64, (5, 9)).astype(np.uint8)
    with Image.open(io.BytesIO(indexed_png(levels))) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), levels)
        expected = np.array([channels(colour) for colour in PICTURE_SCALE], np.uint8)[levels]
        assert np.array_equal(np.asarray(image.convert("RGB")), expected)


@both
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_looks_like_markup_stays_text(theme: Theme | None, hostile: str) -> None:
    levels = np.zeros((1, 1), np.uint8)
    drawing = Drawing(
        9,
        9,
        (
            Text(0, 0, hostile),
            Rect(0, 0, 1, 1, mark=Mark(hostile, hostile)),
            Picture(0, 0, 1, 1, levels, ((0, 1, hostile),), (hostile,)),
        ),
    )
    root = ElementTree.fromstring(svg(drawing, title=hostile, alt=hostile, id="x", theme=theme))
    assert {element.tag.removeprefix(NAME) for element in root.iter()} <= KNOWN
    texts = [element.text for element in root.iter() if element.text]
    assert texts == [hostile] * 4
    assert [element.get("data-command") for element in root.iter() if element.get("data-command")] == [hostile]
    assert json.loads(str(only(root, "image").get("data-bands"))) == [[0, 1, hostile]]


def test_characters_that_xml_forbids_are_left_out() -> None:
    root = parsed(Text(0, 0, "a\x00\x08\x1b\x7f\ud800\uffff\tb"), Rect(0, 0, 1, 1, mark=Mark("\x0bx", "\x0cy")))
    assert only(root, "text").text == "a\x7f\ufffd\tb"
    (mark,) = [element for element in root if element.tag == NAME + "rect"]
    assert (mark[0].text, mark.get("data-command")) == ("x", "y")


@both
@pytest.mark.parametrize("drawing", [scatter(), heat(), card(MIXED, (0, 0.4, 1))], ids=["scatter", "heat", "card"])
def test_the_same_drawing_gives_the_same_file_which_asks_for_nothing(drawing: Drawing, theme: Theme | None) -> None:
    first, second = (svg(drawing, title=MIXED, alt=MIXED, id="x", theme=theme) for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert re.findall(r"url\(|@import", first) == []
