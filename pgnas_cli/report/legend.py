"""The legend of a figure: a sign for each entry, and the drawing of a file with its entries above it."""

from __future__ import annotations

from pgnas_cli.report.document import Figure, Key
from pgnas_cli.report.drawing import Circle, Drawing, Path, Rect, Shape, Text, composed

WIDTH, HEIGHT = 20.0, 16.0
"""Of a sign."""
_SIZE = 12.0
_CHARACTER = 0.6 * _SIZE
_GAP, _LINE = 18.0, 22.0


def sign(key: Key) -> Shape:
    """A piece of what the entry stands for, `WIDTH` times `HEIGHT` at most.

    Raises:
        ValueError: the entry's shape is none of box, line, point and gap.
    """
    if key.shape == "box":
        return Rect(1, 3, 18, 10, key.ink, radius=2)
    if key.shape == "line":
        return Path(((0, 8), (WIDTH, 8)), key.ink, 2.5)
    if key.shape == "point":
        return Circle(10, 8, 5, key.ink)
    if key.shape == "gap":
        return Rect(1.5, 3.5, 17, 9, stroke=key.ink, radius=2, dashed=True)
    raise ValueError(f"a legend's entry is a box, a line, a point or a gap, not {key.shape!r}")


def with_legend(figure: Figure) -> Drawing:
    """The figure's whole drawing, below its legend if it has one: as many entries in a line as fit."""
    placed = []
    x, y = 4.0, 4.0
    for key in figure.legend:
        width = WIDTH + 6 + _CHARACTER * len(key.text)
        if x > 4 and x + width > figure.drawing.width:
            x, y = 4.0, y + _LINE
        shapes = (sign(key), Text(WIDTH + 6, 12.2, key.text, "text", _SIZE))
        placed.append((x, y, Drawing(width, HEIGHT, shapes)))
        x += width + _GAP
    top = y + _LINE + 4 if placed else 0.0
    whole = figure.drawing
    return composed([*placed, (0.0, top, whole)], whole.width, whole.height + top)
