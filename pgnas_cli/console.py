"""The one place that prints: data to stdout, everything else to stderr.

Tables and text are what a person reads; with `--json` stdout carries exactly one JSON document instead, and
with `--quiet` stderr carries only warnings and errors. Text is never read as rich markup, so that a folder
called `[red]` is printed as it is, and nothing is wrapped when the stream is not a terminal.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pgnas_cli.units import human as human
from pgnas_cli.units import percent as percent
from pgnas_cli.units import seconds as seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

Justify = Literal["left", "right", "center"]
Metrics = Mapping[str, float | str]
Grid = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Column names, and rows of as many cells."""


@dataclasses.dataclass(frozen=True)
class Styled:
    """A text with one of rich's styles, such as "dim", which only a terminal shows."""

    text: str
    style: str

    def __str__(self) -> str:
        return self.text


_UNWRAPPED = 10_000  # columns when stdout is no terminal: a table is as wide as its content
_SECONDS_BETWEEN_LINES = 10.0  # of progress, when stderr is no terminal


class Bar(Protocol):
    """What `Output.progress` yields."""

    def update(
        self,
        advance: float = 0,
        *,
        completed: float | None = None,
        metrics: Metrics | None = None,
        below: Grid | None = None,
    ) -> None:
        """Move on by `advance` steps (or to `completed`).

        Args:
            advance, completed: where the bar is.
            metrics: label -> value, shown under it; None leaves them.
            below: a table that a terminal shows under the bar while it moves; None leaves it. A narrow terminal shows
                its first columns.
        """


class Output:
    """Prints for one command; `configure` sets how. Commands use the module's single instance, `console`."""

    def __init__(self) -> None:
        self.configure()

    def configure(
        self, *, json: bool = False, quiet: bool = False, debug: bool = False, hints: bool | None = None
    ) -> None:
        """Set the modes.

        Args:
            json: one JSON document on stdout, and no hint of the next command.
            quiet: no progress, notes and hints on stderr.
            debug: read by main(): print the traceback of an error.
            hints: name the next command to type; None leaves that as it was.
        """
        self.json, self.quiet, self.debug = json, quiet, debug
        self.hints = getattr(self, "hints", True) if hints is None else hints
        self._answered = False
        self._live: Console | None = None

    # stdout -------------------------------------------------------------------------------------------------

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        justify: Sequence[Justify] = (),
    ) -> None:
        """Print a table; `justify` holds one entry per column (left where it ends). Nothing with --json."""
        if self.json:
            return
        if title:
            self.line(title)  # rich would wrap a title at the table's width
        table = _grid(columns, rows, justify)
        console = _stdout()
        if console.is_terminal:
            console.print(table)
            return
        with console.capture() as captured:
            console.print(table)
        console.out(*(line.rstrip() for line in captured.get().splitlines()), sep="\n", highlight=False)

    @property
    def width(self) -> int:
        """Columns that a table may take: the terminal's; where stdout is none, more than any table needs."""
        return _stdout().width

    @property
    def blocks(self) -> bool:
        """Whether stdout can show block characters; an encoding such as ASCII cannot."""
        return (sys.stdout.encoding or "ascii").lower().startswith("utf")

    def line(self, *parts: str | Styled) -> None:
        """Print one line of data, the parts one after the other. Nothing with --json."""
        from rich.text import Text

        if not self.json:
            _stdout().print(Text.assemble(*map(_text, parts)), soft_wrap=True)

    def result(self, obj: object, render: Callable[[], None]) -> None:
        """Print `obj` as the JSON document with --json, else call `render`. Once per command."""
        if not self.json:
            render()
            return
        assert not self._answered, "a command prints one JSON document"
        self._answered = True
        text = json_module.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
        _stdout().out(text, highlight=False)

    # stderr -------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Say something that is no data. Hidden by --quiet."""
        if not self.quiet:
            self._say(text)

    def next_command(self, text: str) -> None:
        """Name the command to type next. Hidden by --quiet and --json."""
        if self.hints and not (self.quiet or self.json):
            self._say(text, label="next:", style="green")

    def warn(self, text: str) -> None:
        """Say what the user should know although the command goes on. Never hidden."""
        self._say(_one_line(text), label="warning:", style="yellow")

    def error(self, message: str, hint: str = "") -> None:
        """Print `error: MESSAGE` and, if there is one, `hint: HINT`: one line each. Never hidden."""
        self._say(_one_line(message), label="error:", style="bold red")
        if hint:
            self._say(_one_line(hint), label="hint:", style="cyan")

    def traceback(self) -> None:
        """Print the traceback of the exception being handled."""
        sys.stderr.write(traceback.format_exc())

    @contextmanager
    def progress(
        self, title: str, total: float | None = None, *, unit: str = "", every: float = _SECONDS_BETWEEN_LINES
    ) -> Iterator[Bar]:
        """A progress bar on stderr: `with console.progress("train", 90, unit="epochs") as bar: bar.update(1)`.

        Without a terminal it prints the first update, then at most one line in `every` seconds, and the last;
        with --quiet it prints nothing. `total` is None where the end is not known.
        """
        if self.quiet:
            yield _NoBar()
        elif _stderr().is_terminal:
            with self._live_bar(title, total, unit) as bar:
                yield bar
        else:
            lines = _LineBar(self.note, title, total, unit, every)
            try:
                yield lines
            finally:
                lines.close()

    @contextmanager
    def _live_bar(self, title: str, total: float | None, unit: str) -> Iterator[Bar]:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        def text(field: str) -> TextColumn:
            return TextColumn("{task.fields[" + field + "]}", markup=False)

        console = _stderr()
        times = (kind(table_column=Column(no_wrap=True)) for kind in (TimeElapsedColumn, TimeRemainingColumn))
        progress = Progress(text("title"), BarColumn(), text("count"), *times, console=console)
        task = progress.add_task("", total=total, title=title, count=_count(0, total, unit))
        bar = _RichBar(progress, task, unit)

        def drawn() -> Group:
            return Group(progress, *bar.metrics, *bar.below)

        with Live(get_renderable=drawn, console=console, refresh_per_second=10):
            self._live = console
            try:
                yield bar
            finally:
                self._live = None
                bar.below = []  # the command prints its own tables

    def _say(self, text: str, label: str = "", style: str = "") -> None:
        from rich.text import Text

        line = Text(text) if not label else Text.assemble((label, style), " ", text)
        (self._live or _stderr()).print(line, soft_wrap=True)


class _NoBar:
    def update(
        self,
        advance: float = 0,
        *,
        completed: float | None = None,
        metrics: Metrics | None = None,
        below: Grid | None = None,
    ) -> None:
        """Print nothing."""


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID, unit: str) -> None:
        self._progress, self._task, self._unit = progress, task, unit
        self.metrics: list[Text] = []
        self.below: list[Table] = []

    def update(
        self,
        advance: float = 0,
        *,
        completed: float | None = None,
        metrics: Metrics | None = None,
        below: Grid | None = None,
    ) -> None:
        task = self._progress.tasks[self._task]
        done = task.completed + advance if completed is None else completed
        self._progress.update(self._task, completed=done, count=_count(done, task.total, self._unit))
        if metrics is not None:
            self.metrics = [_text(_metrics(metrics))]
        if below is not None:
            self.below = [_fitting(below, self._progress.console)]


class _LineBar:
    def __init__(self, say: Callable[[str], None], title: str, total: float | None, unit: str, every: float) -> None:
        self._say, self._title, self._total, self._unit, self._every = say, title, total, unit, every
        self._done, self._metrics = 0.0, ""
        self._printed_at = -math.inf
        self._pending = False

    def update(
        self,
        advance: float = 0,
        *,
        completed: float | None = None,
        metrics: Metrics | None = None,
        below: Grid | None = None,
    ) -> None:
        self._done = self._done + advance if completed is None else completed
        if metrics is not None:
            self._metrics = _metrics(metrics)
        self._pending = True
        if time.monotonic() - self._printed_at >= self._every:
            self.close()

    def close(self) -> None:
        if self._pending:
            parts = (self._title, _count(self._done, self._total, self._unit), self._metrics)
            self._say("  ".join(part for part in parts if part))
            self._printed_at, self._pending = time.monotonic(), False


console = Output()


# helpers ---------------------------------------------------------------------------------------------------


def _grid(columns: Sequence[str], rows: Iterable[Sequence[object]], justify: Sequence[Justify] = ()) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify=justify[index] if index < len(justify) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-") if cell is None else _text(cell) for cell in row))
    return table


def _fitting(grid: Grid, console: Console) -> Table:
    """The table with as many of its columns as fit side by side; two of them in any case."""
    columns, rows = grid
    unbounded = console.options.update(max_width=_UNWRAPPED)
    for count in range(len(columns), 2, -1):
        table = _grid(columns[:count], [row[:count] for row in rows])
        if console.measure(table, options=unbounded).maximum <= console.width:
            return table
    return _grid(columns[:2], [row[:2] for row in rows])


def _text(value: object) -> Text:
    from rich.text import Text

    return Text(str(value), style=value.style if isinstance(value, Styled) else "")


def _stdout() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNWRAPPED
    return Console(markup=False, emoji=False, highlight=False, width=width)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def _plain(value: Any) -> Any:
    """`value` in JSON's own types; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, PurePath) else value


def _one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def _count(done: float, total: float | None, unit: str) -> str:
    count = f"{done:g}" if total is None else f"{done:g}/{total:g}"
    return f"{count} {unit}".rstrip()


def _metrics(metrics: Metrics) -> str:
    return "  ".join(f"{label} {_number(value)}" for label, value in metrics.items())


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return human(value) if abs(value) >= 1e4 else f"{value:.4g}"
