"""Drawings: shapes in the colours of named roles, which `svg` and `png` turn into files.

A drawing knows no colour. Its inks are roles, and a theme gives each role its colour, so that one drawing serves a
light page, a dark page and paper. x grows to the right, y downwards; lengths are pixels at the drawing's own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SHARE_STEPS = 10
"""Inks share0 (nothing) to share10 (everything) form a sequential scale."""
SERIES = 6
"""Inks series1 to series6 tell categories apart, also for readers who confuse red and green."""
INKS = frozenset(
    ["text", "muted", "line", "grid", "surface", "gap", "warning"]
    + [f"series{n}" for n in range(1, SERIES + 1)]
    + [f"{kind}{step}" for kind in ("share", "on") for step in range(SHARE_STEPS + 1)]
)
"""text, muted: writing. line: edges and axes. grid: helper lines. surface: the page. gap: the outline of what is
dropped. on0 to on10: writing on share0 to share10."""

Point = tuple[float, float]


def share_ink(share: float) -> str:
    """The ink of a share in [0, 1]; only nothing is share0, and only everything share10."""
    if share <= 0 or share >= 1:
        return f"share{0 if share <= 0 else SHARE_STEPS}"
    return f"share{min(max(round(share * SHARE_STEPS), 1), SHARE_STEPS - 1)}"


def on_ink(share: float) -> str:
    """The ink of writing on `share_ink(share)`."""
    return share_ink(share).replace("share", "on")


@dataclass(frozen=True)
class Mark:
    """What the pointer and the arrow keys find on a drawing.

    Args:
        tip: what is said of it, one line.
        command: what to type to act on it, such as `pgnas export --candidate ID`; empty if there is nothing.
    """

    tip: str
    command: str = ""


@dataclass(frozen=True)
class Rect:
    """A rectangle whose corners have `radius`; an empty fill or stroke is none."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    radius: float = 0
    dashed: bool = False
    opacity: float = 1
    mark: Mark | None = None


@dataclass(frozen=True)
class Path:
    """Straight lines from point to point; with `fill` the polygon that they enclose."""

    points: tuple[Point, ...]
    stroke: str = ""
    width: float = 1.5
    fill: str = ""
    dashed: bool = False
    opacity: float = 1


@dataclass(frozen=True)
class Circle:
    """A point of a diagram."""

    x: float
    y: float
    radius: float
    fill: str = ""
    stroke: str = ""
    opacity: float = 1
    mark: Mark | None = None


@dataclass(frozen=True)
class Text:
    """One line of writing: `y` is its baseline, `anchor` says what of it lies at x: start, middle or end.

    Args:
        angle: degrees, clockwise, about (x, y).
    """

    x: float
    y: float
    text: str
    ink: str = "text"
    size: float = 12
    anchor: str = "start"
    bold: bool = False
    angle: float = 0


@dataclass(frozen=True, eq=False)
class Picture:
    """A matrix as coloured cells, in a scale of its own that every theme shares.

    Args:
        levels: uint8 [rows, columns], 0 to 63, from the lower to the upper end of the scale.
        bands: (first row, rows, name) of what lies one below the other, for the reader's pointer.
        columns: name of each column.
    """

    x: float
    y: float
    width: float
    height: float
    levels: NDArray[np.uint8]
    bands: tuple[tuple[int, int, str], ...] = ()
    columns: tuple[str, ...] = ()


Shape = Rect | Path | Circle | Text | Picture


@dataclass(frozen=True)
class Drawing:
    """Shapes, painted in their order, on a ground of `width` times `height`."""

    width: float
    height: float
    shapes: tuple[Shape, ...]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Every mark, in the order in which the arrow keys visit them."""
        return tuple(mark for shape in self.shapes if (mark := getattr(shape, "mark", None)) is not None)


def moved(shape: Shape, dx: float, dy: float) -> Shape:
    """The shape, displaced."""
    if isinstance(shape, Path):
        return replace(shape, points=tuple((x + dx, y + dy) for x, y in shape.points))
    return replace(shape, x=shape.x + dx, y=shape.y + dy)


def composed(placed: Iterable[tuple[float, float, Drawing]], width: float, height: float) -> Drawing:
    """One drawing of several, each with its upper left corner at (x, y)."""
    return Drawing(width, height, tuple(moved(s, x, y) for x, y, drawing in placed for s in drawing.shapes))


def flowed(drawings: Sequence[Drawing], width: float, gap: float) -> Drawing:
    """Drawings side by side, as text flows: a line holds as many as fit into `width`, at least one."""
    placed: list[tuple[float, float, Drawing]] = []
    x = y = tallest = widest = 0.0
    for drawing in drawings:
        if x and x + drawing.width > width:
            x, y, tallest = 0.0, y + tallest + gap, 0.0
        placed.append((x, y, drawing))
        widest, tallest = max(widest, x + drawing.width), max(tallest, drawing.height)
        x += drawing.width + gap
    return composed(placed, widest, y + tallest)
