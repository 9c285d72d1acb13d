"""A document as one HTML file that asks for nothing: style, script and pictures are in it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pgnas_cli.report import legend
from pgnas_cli.report.document import Code, Document, Figure, Inline, Key, Number, Table
from pgnas_cli.report.drawing import INKS, Drawing, Picture
from pgnas_cli.report.svg import allowed, number, shapes, svg
from pgnas_cli.report.svg import text as escaped
from pgnas_cli.report.themes import DARK, LIGHT, Theme

_LONG = 30
"""A table of more rows scrolls under its header line, and is printed only where it is open."""
_BREAK = re.compile(" (?=[(\u00b1])")
"""Where a number may be broken: before its interval."""


def page(document: Document) -> str:
    """The document as an HTML page; all its texts are escaped."""
    style, script = style_sheet(), _file("report.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )
    environment.filters |= {"inline": inline, "parts": parts, "code": code, "kind": lambda block: type(block).__name__}
    template = environment.from_string(_file("report.html.j2"))
    return template.render(
        document=document,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        cells=cells,
        numeric=numeric,
        drawn=drawn,
        swatch=swatch,
        pointed=pointed,
        long=_LONG,
    )


def inline(part: Inline) -> Markup:
    """A piece of a sentence, or the content of a cell; a number has its stored value as `<data value>`."""
    if isinstance(part, Code):
        return code(part.text)
    if isinstance(part, Number):
        value, text = part.value, _BREAK.sub(" <wbr>", escaped(part.text))
        if value is None or not math.isfinite(value):
            return Markup(f"<span>{text}</span>")
        return Markup(f'<data value="{value!r}">{text}</data>')
    return Markup(escaped(part))


def code(line: str) -> Markup:
    """A command, a name or a path; words with hyphens are elements, which the page does not break at these."""
    words = (f"<span>{escaped(word)}</span>" if "-" in word else escaped(word) for word in re.split(r"(\s+)", line))
    return Markup(f"<code>{''.join(words)}</code>")


def parts(sentence: tuple[Inline, ...]) -> Markup:
    """All pieces of a sentence."""
    return Markup("".join(map(inline, sentence)))


def numeric(table: Table) -> list[bool]:
    """Of each column, whether it holds numbers only, and is set flush right."""
    return [
        bool(table.rows) and all(isinstance(row[column], Number) for row in table.rows)
        for column in range(len(table.columns))
    ]


def cells(table: Table) -> Markup:
    """The rows of a table; the first cell of each is its header."""
    classes = [' class="n"' if right else "" for right in numeric(table)]
    rows = []
    for row in table.rows:
        first, *others = zip(classes, row, strict=True)
        rows.append(f'<tr><th scope="row"{first[0]}>{inline(first[1])}</th>')
        rows += [f"<td{kind}>{inline(cell)}</td>" for kind, cell in others]
        rows.append("</tr>\n")
    return Markup("".join(rows))


def drawn(drawing: Drawing, title: str, alt: str, id: str) -> Markup:
    """A drawing as a part of the page."""
    return Markup(svg(drawing, title=title, alt=alt, id=id))


def swatch(key: Key) -> Markup:
    """The sign of a legend's entry."""
    size = f"0 0 {number(legend.WIDTH)} {number(legend.HEIGHT)}"
    return Markup(f'<svg viewBox="{size}" fill="none" aria-hidden="true">{shapes((legend.sign(key),))}</svg>')


def pointed(figure: Figure) -> str:
    """What the pointer finds on the page's drawings of a figure: "cells" of a picture, "marks", or nothing."""
    drawings = [drawing for group in figure.groups for drawing in group.drawings] or [figure.drawing]
    every = (shape for drawing in drawings for shape in drawing.shapes)
    if any(isinstance(shape, Picture) and shape.bands and shape.columns for shape in every):
        return "cells"
    return "marks" if any(drawing.marks for drawing in drawings) else ""


def style_sheet() -> str:
    """The page's style sheet, after the colours of the two themes and the classes of the inks.

    The dark colours are those of readers who prefer them, or of `<html data-theme="dark">`; paper is light.
    """
    light, dark = _variables(LIGHT), _variables(DARK)
    colours = [
        f":root {{ color-scheme: light; {light} }}",
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {dark} }} }}",
        f'@media screen {{ :root[data-theme="light"] {{ color-scheme: light; {light} }}',
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }} }}',
        *(f".f-{ink} {{ fill: var(--{ink}) }} .s-{ink} {{ stroke: var(--{ink}) }}" for ink in sorted(INKS)),
    ]
    return "\n".join([*colours, _file("report.css")])


def _variables(theme: Theme) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in {**theme.inks, **theme.page}.items())


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: nothing but this style, this script and pictures in the page itself."""
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return resources.files("pgnas_cli.templates").joinpath(name).read_text(encoding="utf-8")


def _finalized(value: Any) -> Any:
    """What an expression of the template gives, without the characters that no document may hold."""
    return allowed(value) if isinstance(value, str) and not isinstance(value, Markup) else value
