"""Documents as HTML pages, as they are written; `test_browser` sees them as a browser shows them."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_samples import HOSTILE, card, everything, heat, results, scatter

from pgnas_cli.report.document import (
    Code,
    Commands,
    Document,
    Figure,
    Group,
    Inline,
    Key,
    Notice,
    Number,
    Paragraph,
    Section,
    Table,
)
from pgnas_cli.report.drawing import INKS, Drawing
from pgnas_cli.report.html import inline, numeric, page, pointed, style_sheet, swatch
from pgnas_cli.report.themes import THEMES

Element = tuple[str, dict[str, str | None]]


class Reader(HTMLParser):
    """Elements with their attributes in order, texts, and what lies in <script> and <style>."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.texts: list[str] = []
        self.sources: dict[str, str] = {}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None:
            self.sources[self.cdata_elem] = self.sources.get(self.cdata_elem, "") + data
        elif data.strip():
            self.texts.append(data)

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def written(*blocks: object) -> Reader:
    section = Section("s", "Section", blocks)
    return Reader(page(Document("Title", ("Lead",), (section,))))


@pytest.fixture(scope="module")
def source() -> str:
    return page(everything())


@pytest.fixture(scope="module")
def reader(source: str) -> Reader:
    return Reader(source)


# ---- one file that asks for nothing -------------------------------------------------------------------------


def test_nothing_is_asked_for(source: str, reader: Reader) -> None:
    links = {value for _, a in reader.elements for name, value in a.items() if name in ("src", "href", "xlink:href")}
    assert {re.split("[^#:]", str(link))[0] or str(link)[:5] for link in links} == {"#", "data:"}
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg\b)\S+", source) == []
    assert re.findall(r"@import|url\(", reader.sources["style"]) == []


def test_the_policy_allows_this_style_and_this_script_only(reader: Reader) -> None:
    (policy,) = [
        str(meta["content"]) for meta in reader.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(reader.sources[name].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert not [attributes for _, attributes in reader.elements if "style" in attributes]
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]


def test_the_same_document_gives_the_same_page(source: str) -> None:
    assert page(everything()) == source


# ---- texts --------------------------------------------------------------------------------------------------


def test_no_text_becomes_an_element(reader: Reader) -> None:
    names = [name for name, _ in reader.elements]
    assert names.count("script") == names.count("style") == 1
    assert "img" not in names
    assert not re.findall("alert", reader.sources["script"] + reader.sources["style"])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_are_shown_as_they_are(hostile: str) -> None:
    drawing = Drawing(10, 10, ())
    reader = written(
        Paragraph((hostile, Code(hostile), Number(hostile, 1.0), Number(hostile, None))),
        Notice("warning", (hostile,)),
        Commands((hostile,)),
        Table(hostile, (hostile,), ((hostile,),)),
        Figure("f", hostile, hostile, drawing, None, (Key("text", hostile),), (), hostile),
        Figure("g", hostile, hostile, drawing, None, (), (Group(hostile, (drawing,)),)),
    )
    assert "".join(reader.texts).count(hostile) == 4 + 1 + 1 + 3 + 5 + 4
    labels = [attributes.get("aria-label") for _, attributes in reader.elements]
    assert labels.count(hostile) == 3  # of the table and both figures
    assert "49" not in "".join(reader.texts)


def test_characters_that_no_document_may_hold_are_left_out() -> None:
    bad = "a\x00\x1b\ud800b"
    source = page(
        Document(bad, (bad, Code(bad)), (Section("s", bad, (Commands((bad,)), Table(bad, (bad,), ((bad,),)))),))
    )
    source.encode()
    assert not re.findall("[\x00\x1b]", source)
    assert Reader(source).texts.count("a\ufffdb") == 10


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("a & b", "a &amp; b"),
        (Code("<x>"), "<code>&lt;x&gt;</code>"),
        (Code("a --b-c &"), "<code>a <span>--b-c</span> &amp;</code>"),
        (Number("82 % (81, 83)", 0.82), '<data value="0.82">82 % <wbr>(81, 83)</data>'),
        (Number("5 ± 1", 5.0), '<data value="5.0">5 <wbr>± 1</data>'),
        (Number("83.7 %", 0.8365), '<data value="0.8365">83.7 %</data>'),
        (Number("1,024", 1024), '<data value="1024">1,024</data>'),
        (Number("not measured", None), "<span>not measured</span>"),
        (Number("none", math.nan), "<span>none</span>"),
    ],
)
def test_pieces_of_sentences(part: Inline, expected: str) -> None:
    assert inline(part) == expected


def test_long_tables_say_on_paper_that_they_are_not_there() -> None:
    notes = [text for text in written(*(Figure(f"f{n}", "t", "", card("a", (1,)), results(n)) for n in (30, 31))).texts
             if "printed" in text]  # fmt: skip
    assert notes == [" of 31 rows: printed where they are open on the page"]


def test_tables_of_figures_are_told_apart(reader: Reader) -> None:
    """Regions, of which a reader may ask for a list."""
    labels = [attributes["aria-label"] for attributes in reader.named("div") if attributes.get("role") == "region"]
    assert len(labels) == len(set(labels)) >= 4


# ---- structure ----------------------------------------------------------------------------------------------


def test_every_id_is_there_once_and_every_reference_leads_to_one(reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [str(a["href"])[1:] for a in reader.named("a")]
    references += [id for _, a in reader.elements for id in (a.get("aria-labelledby") or "").split()]
    assert set(references) <= set(ids)
    assert {section.id for section in everything().sections} <= set(references)


def test_headings_descend_step_by_step(reader: Reader) -> None:
    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert max(levels) == 4


def test_a_table_names_its_columns_and_rows(reader: Reader) -> None:
    found = written(results())
    assert [header["scope"] for header in found.named("th")] == ["col"] * 4 + ["row"] * 4
    assert [value["value"] for value in found.named("data")][:3] == ["0.5", "0", "0.63"]
    assert [header.get("class") for header in found.named("th")][:4] == [None, "n", "n", None]


@pytest.mark.parametrize(
    ("column", "right"),
    [
        ((Number("1", 1), Number("2", 2)), True),
        ((Number("1", 1), Number("not measured", None)), True),
        ((Number("1", 1), "two"), False),
        ((Code("1"), Code("2")), False),
        ((), False),
    ],
)
def test_columns_of_numbers_only_are_flush_right(column: tuple[Inline, ...], right: bool) -> None:
    assert numeric(Table("", ("a",), tuple((cell,) for cell in column))) == [right]


@pytest.mark.parametrize(
    ("table", "sortable"),
    [
        (results(), True),
        (Table("", ("a",), (("x",), ("y",)), sortable=False), False),
        (Table("", ("a",), (("x",),)), False),
        (Table("", ("a",), ()), False),
    ],
)
def test_tables_of_several_rows_can_be_sorted(table: Table, sortable: bool) -> None:
    (found,) = written(table).named("table")
    assert ("data-sortable" in found) == sortable


@pytest.mark.parametrize(("kind", "words"), [("warning", "Warning:"), ("missing", "Not run yet:")])
def test_a_notice_says_in_words_what_it_is(kind: str, words: str) -> None:
    found = written(Notice(kind, ("text",)))
    assert words in found.texts
    assert [aside["class"] for aside in found.named("aside")] == [f"notice {kind}"]


@pytest.mark.parametrize(
    ("drawing", "groups", "finds"),
    [
        (heat(), (), "cells"),
        (scatter(), (), "marks"),
        (Drawing(1, 1, ()), (), ""),
        (Drawing(1, 1, ()), (Group("g", (card("a", (1.0,)),)),), "marks"),
        (scatter(), (Group("g", (Drawing(1, 1, ()),)),), ""),
    ],
)
def test_what_the_pointer_finds(drawing: Drawing, groups: tuple[Group, ...], finds: str) -> None:
    assert pointed(Figure("f", "t", "a", drawing, groups=groups)) == finds


def test_groups_stand_for_the_whole_drawing() -> None:
    found = written(Figure("f", "t", "a", scatter(), groups=(Group("g", (card("a", (1.0,)),) * 3),)))
    assert [image["id"] for image in found.named("svg")] == [f"drawing-f-1-{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("shape", ["box", "line", "point", "gap"])
def test_the_legend_has_the_ink_of_the_drawing(shape: str) -> None:
    assert re.search('class="[fs]-series3"', swatch(Key("series3", "x", shape)))


# ---- style --------------------------------------------------------------------------------------------------


def test_every_ink_has_its_classes_and_its_colours() -> None:
    sheet = style_sheet()
    for ink in INKS:
        assert f".f-{ink} {{ fill: var(--{ink}) }}" in sheet
        assert f".s-{ink} {{ stroke: var(--{ink}) }}" in sheet
        assert {theme.inks[ink] for theme in THEMES.values()} == set(re.findall(rf"--{ink}: (#\w+);", sheet))
    used = set(re.findall(r"var\(--([\w-]+)\)", sheet))
    assert used <= INKS | set(THEMES["light"].page)


# ---- size and speed -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_report_is_made_quickly_and_stays_small() -> None:
    shares = tuple(number / 39 for number in range(40))
    cards = tuple(card(f"stage{number // 20}.block{number}", shares) for number in range(120))
    figures = [Figure("architecture", "t", "a", cards[0], groups=(Group("g", cards),))]
    figures += [Figure(f"front{number}", "t", "a", scatter(), results(30)) for number in range(20)]
    rows = tuple(
        (Code(f"{number:016x}"), *(Number(f"{number:,}.0", number + n / 8) for n in range(8))) for number in range(1500)
    )
    board = Table("Candidates", ("id", *(f"column {n}" for n in range(8))), rows)
    document = Document("t", ("l",), (Section("a", "A", tuple(figures)), Section("b", "B", (board,))))
    start = time.process_time()
    source = page(document)
    assert time.process_time() - start < 2
    assert len(source.encode()) < 3_000_000
    assert source.count("<tr>") == 1500 + 1 + 20 * 31
