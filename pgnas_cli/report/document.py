"""What a report says, before it is HTML: sections of sentences, tables and figures.

All texts are plain: whoever writes them into a page escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgnas_cli.report.drawing import Drawing


@dataclass(frozen=True)
class Number:
    """A number as it is shown, rounded, and as it was stored.

    Args:
        text: such as "83.7 %".
        value: such as 0.8365: what tables sort by, and what a program reads. None where the text stands for no number.
    """

    text: str
    value: float | None


@dataclass(frozen=True)
class Code:
    """Something to type, a name or a path, set in a fixed-width face."""

    text: str


Inline = str | Number | Code
"""A piece of a sentence, or the content of a cell."""


@dataclass(frozen=True)
class Table:
    """A table with one header line.

    Args:
        caption: what it shows, with units.
        columns: their names.
        rows: of as many cells; the first cell of a row names it.
        sortable: whether a reader may sort it by any column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Inline, ...], ...]
    sortable: bool = True


@dataclass(frozen=True)
class Group:
    """A part of a figure that is laid out anew for every width of the page: drawings side by side under a heading."""

    heading: str
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend: an ink, and what it stands for. `shape` is "box", "line", "point" or "gap"."""

    ink: str
    text: str
    shape: str = "box"


@dataclass(frozen=True)
class Figure:
    """A figure, as a whole and, where that helps narrow pages, in groups.

    Args:
        name: of its files, such as "front-params"; letters, digits and hyphens; no other figure of the report has it.
        title: what it shows.
        alt: what somebody who does not see it should know: the kind of figure, and what it says.
        drawing: the whole of it; its axes are labelled in it.
        table: the numbers behind it; None for a figure whose table stands elsewhere on the page.
        legend: drawn beside or above it by whoever shows it.
        groups: the same content for pages, which show these instead of `drawing` if there are any.
        note: a sentence under it.
    """

    name: str
    title: str
    alt: str
    drawing: Drawing
    table: Table | None = None
    legend: tuple[Key, ...] = ()
    groups: tuple[Group, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Notice:
    """Something the reader should not miss: `kind` is "warning" or "missing" (a stage that has not been run)."""

    kind: str
    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Commands:
    """Lines to type, in order."""

    lines: tuple[str, ...]


Block = Paragraph | Notice | Commands | Table | Figure


@dataclass(frozen=True)
class Section:
    """A section of the page; `id` is its anchor: letters, digits and hyphens."""

    id: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Figure))


@dataclass(frozen=True)
class Document:
    """A report.

    Args:
        title: of the page.
        lead: the result, in one sentence.
        sections: in their order.
        footer: who made the page, with which version.
        facts: short labelled values that stand under the lead, such as ("run", "runs/x").
    """

    title: str
    lead: tuple[Inline, ...]
    sections: tuple[Section, ...]
    footer: tuple[Inline, ...] = ()
    facts: tuple[tuple[str, Inline], ...] = field(default=())

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in order."""
        return tuple(figure for section in self.sections for figure in section.figures)
