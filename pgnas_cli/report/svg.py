"""A drawing as SVG: a part of a page, whose style sheet colours it, or a file with colours of its own."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.report.drawing import INKS, Circle, Drawing, Mark, Path, Picture, Rect, Shape, Text
from pgnas_cli.report.themes import PICTURE_SCALE, Theme

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
EM = 16
"""Lengths of a drawing that make one em of the page."""
WIDE = 360
"""Wider drawings than that are not scaled down to a narrow page: they scroll."""
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FILLS = {ink: f"f-{ink}" for ink in INKS}
_STROKES = {ink: f"s-{ink}" for ink in INKS}


def svg(drawing: Drawing, *, title: str, alt: str, id: str, theme: Theme | None = None) -> str:
    """The drawing as an `<svg>` element.

    Marks are shapes of class "mark" with their tip as `<title>` and their command as `data-command`. A picture with
    bands or columns has them as JSON in `data-bands` and `data-columns`.

    Args:
        drawing: what is drawn.
        title: its name.
        alt: what somebody who does not see it should know; may be empty.
        id: begins every id in the element; nothing else on the page has it.
        theme: None for a part of a page: each ink is a class, f-INK for areas and s-INK for lines, and the width is in
            em of `EM`; of class "wide" above `WIDE`. With a theme it is a file that stands alone.
    """
    paint = _Paint(theme)
    width, height = number(drawing.width), number(drawing.height)
    labels = f"{id}-title {id}-desc" if alt else f"{id}-title"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{text(id)}" viewBox="0 0 {width} {height}" role="img" '
        f'fill="none" stroke-linejoin="round" aria-labelledby="{text(labels)}"'
    ]
    if theme is None:
        wide = ' class="wide"' if drawing.width > WIDE else ""
        parts.append(f'{wide} width="{number(drawing.width / EM)}em">')
    else:
        parts.append(f' width="{width}" height="{height}" font-family="{FONT}">')
    parts.append(f'<title id="{text(id)}-title">{text(title)}</title>')
    if alt:
        parts.append(f'<desc id="{text(id)}-desc">{text(alt)}</desc>')
    if theme is not None:
        parts.append(f'<rect width="{width}" height="{height}"{paint("surface")}/>')
    parts += [_shape(shape, paint) for shape in drawing.shapes]
    parts.append("</svg>\n" if theme is not None else "</svg>")
    return "".join(parts)


def shapes(found: Iterable[Shape]) -> str:
    """Elements of shapes whose inks are classes of the page."""
    paint = _Paint(None)
    return "".join(_shape(shape, paint) for shape in found)


def number(value: float) -> str:
    """A length with at most two decimals."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def text(value: str) -> str:
    """Escaped for an attribute or an element, without what XML forbids."""
    return escape(allowed(value))


def allowed(value: str) -> str:
    """The text without the characters that no XML document may hold; half characters become U+FFFD."""
    return _FORBIDDEN.sub(lambda found: "\ufffd" if "\ud800" <= found[0] <= "\udfff" else "", value)


class _Paint:
    """Attributes of inks, with or without a theme."""

    def __init__(self, theme: Theme | None) -> None:
        self._inks: Mapping[str, str] | None = None if theme is None else theme.inks

    def __call__(self, fill: str = "", stroke: str = "", mark: bool = False) -> str:
        if self._inks is None:
            names = [_FILLS[fill]] if fill else []
            names += [_STROKES[stroke]] if stroke else []
            names += ["mark"] if mark else []
            return f' class="{" ".join(names)}"' if names else ""
        return (
            (f' fill="{self._inks[fill]}"' if fill else "")
            + (f' stroke="{self._inks[stroke]}"' if stroke else "")
            + (' class="mark"' if mark else "")
        )


def _shape(shape: Shape, paint: _Paint) -> str:
    if isinstance(shape, Rect):
        size = (
            f'x="{number(shape.x)}" y="{number(shape.y)}" width="{number(shape.width)}" height="{number(shape.height)}"'
        )
        round_ = f' rx="{number(shape.radius)}"' if shape.radius else ""
        return _marked("rect", size + round_ + paint(shape.fill, shape.stroke, shape.mark is not None), shape)
    if isinstance(shape, Circle):
        size = f'cx="{number(shape.x)}" cy="{number(shape.y)}" r="{number(shape.radius)}"'
        return _marked("circle", size + paint(shape.fill, shape.stroke, shape.mark is not None), shape)
    if isinstance(shape, Path):
        points = "L".join(f"{number(x)} {number(y)}" for x, y in shape.points)
        width = f' stroke-width="{number(shape.width)}"' if shape.stroke else ""
        return (
            f'<path d="M{points}{"Z" if shape.fill else ""}"{paint(shape.fill, shape.stroke)}{width}{_style(shape)}/>'
        )
    if isinstance(shape, Text):
        return _text(shape, paint)
    return _picture(shape)


def _marked(element: str, attributes: str, shape: Rect | Circle) -> str:
    attributes += _style(shape)
    mark: Mark | None = shape.mark
    if mark is None:
        return f"<{element} {attributes}/>"
    command = f' data-command="{text(mark.command)}"' if mark.command else ""
    return f"<{element} {attributes}{command}><title>{text(mark.tip)}</title></{element}>"


def _style(shape: Rect | Circle | Path) -> str:
    dashes = ' stroke-dasharray="4 3"' if getattr(shape, "dashed", False) else ""
    return dashes + (f' opacity="{number(shape.opacity)}"' if shape.opacity != 1 else "")


def _text(shape: Text, paint: _Paint) -> str:
    x, y = number(shape.x), number(shape.y)
    attributes = f'x="{x}" y="{y}" font-size="{number(shape.size)}"{paint(shape.ink)}'
    if shape.anchor != "start":
        attributes += f' text-anchor="{shape.anchor}"'
    if shape.bold:
        attributes += ' font-weight="600"'
    if shape.angle:
        attributes += f' transform="rotate({number(shape.angle)} {x} {y})"'
    return f"<text {attributes}>{text(shape.text)}</text>"


def _picture(shape: Picture) -> str:
    data = base64.b64encode(indexed_png(shape.levels)).decode()
    attributes = "".join(f' {name}="{text(value)}"' for name, value in _places(shape))
    return (
        f'<image x="{number(shape.x)}" y="{number(shape.y)}" width="{number(shape.width)}" '
        f'height="{number(shape.height)}" preserveAspectRatio="none" image-rendering="pixelated"{attributes} '
        f'href="data:image/png;base64,{data}"/>'
    )


def _places(shape: Picture) -> Iterator[tuple[str, str]]:
    """What the pointer needs to know of a picture that has names."""
    if shape.bands or shape.columns:
        yield "data-bands", json.dumps(shape.bands, ensure_ascii=False)
        yield "data-columns", json.dumps(shape.columns, ensure_ascii=False)


def indexed_png(levels: NDArray[np.uint8]) -> bytes:
    """A PNG file of levels [rows, columns] in the colours of `PICTURE_SCALE`, each level a byte, no row filtered."""
    rows, columns = levels.shape
    lines = np.zeros((rows, columns + 1), np.uint8)
    lines[:, 1:] = levels
    palette = b"".join(bytes.fromhex(colour[1:]) for colour in PICTURE_SCALE)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
