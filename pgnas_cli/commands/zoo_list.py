"""`pgnas zoo list`: every architecture, the published supernets first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Annotated, Any, NamedTuple

import typer

from pgnas_cli.console import Justify, console, human
from pgnas_cli.errors import UsageError, nearest
from pgnas_cli.plugin import ArchitectureInfo

Row = dict[str, Any]


class _Column(NamedTuple):
    heading: str
    cell: Callable[[Row], str]
    justify: Justify = "left"


_COLUMNS = (
    _Column("architecture", lambda row: row["name"]),
    _Column("plugin", lambda row: row["plugin"]),
    _Column("params", lambda row: human(row["params"]), "right"),
    _Column("published", lambda row: human(row["published_params"] or 0), "right"),
    _Column("MACs", lambda row: human(row["macs"]), "right"),
    _Column("image", lambda row: str(row["img_size"]), "right"),
    _Column("classes", lambda row: str(row["num_classes"]), "right"),
    _Column("recipe", lambda row: row["recipe"]),
    _Column("summary", lambda row: row["summary"]),
)
_GIVE_WAY = ("classes", "image", "plugin", "MACs", "recipe")  # in this order, where the terminal is too narrow
_BETWEEN = 3  # columns between two columns of a table
_SHORTEST_SUMMARY = 16


def list_architectures(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Part of a name or of a plugin's name, or a pattern such as 'resnet*'."),
    ] = None,
) -> None:
    """List the architectures and the plugins that bring them."""
    from pgnas_cli import registry

    for status in registry.plugins():
        if status.plugin is None:
            console.warn(f"plugin {status.name} of {status.distribution} is left out: {status.problem}")
    rows = [_row(status.plugin.name, info) for status, info in registry.architectures() if status.plugin]
    if pattern is not None:
        rows = _matching(rows, pattern)
    published = [row for row in rows if row["published_params"] is not None]
    others = [row for row in rows if row["published_params"] is None]

    def render() -> None:
        if published:
            _print("published supernets", published, without=())
        if published and others:
            console.line()
        if others:
            _print("to be inflated", others, without=("published", "recipe"))
        if pattern is None and any(s.plugin and s.plugin.name == registry.FALLBACK for s in registry.plugins()):
            console.note(f"and any other CNN of timm by its name, through {registry.FALLBACK}")

    console.result(rows, render)


def _row(plugin: str, info: ArchitectureInfo) -> Row:
    return {
        "name": info.name,
        "plugin": plugin,
        "params": info.params,
        "macs": info.macs,
        "published_params": info.published_params,
        "published": info.published,
        "base": info.base,
        "recipe": info.recipe,
        "num_classes": info.num_classes,
        "img_size": info.img_size,
        "in_chans": info.in_chans,
        "summary": info.summary,
    }


def _matching(rows: list[Row], pattern: str) -> list[Row]:
    wanted = pattern.lower()
    found = [
        row
        for row in rows
        if any(wanted in word or fnmatch(word, wanted) for word in (row["name"].lower(), row["plugin"].lower()))
    ]
    if not found:
        close = nearest(wanted, [row["name"] for row in rows])
        raise UsageError(
            f"no architecture matches {pattern!r}" + (f"; did you mean {close}?" if close else ""),
            "pgnas zoo list shows every architecture",
        )
    return found


def _print(title: str, rows: Sequence[Row], without: Sequence[str]) -> None:
    """A table as wide as the terminal: columns give way, and the summary is cut."""
    table = {c: [c.cell(row) for row in rows] for c in _COLUMNS if c.heading not in without}
    summary = next(column for column in table if column.heading == "summary")
    summaries = table.pop(summary)

    def width() -> int:
        return sum(max(map(len, (c.heading, *cells))) for c, cells in table.items()) + _BETWEEN * (len(table) - 1)

    for heading in _GIVE_WAY:
        if width() > console.width:
            table = {column: cells for column, cells in table.items() if column.heading != heading}
    room = console.width - width() - _BETWEEN
    if room >= _SHORTEST_SUMMARY:
        table[summary] = [text if len(text) <= room else f"{text[: room - 1]}…" for text in summaries]
    console.table(
        title,
        [column.heading for column in table],
        zip(*table.values(), strict=True),
        justify=[column.justify for column in table],
    )
