"""How a table of RESULTS.md is described, and how it becomes markdown: from the rows of a CSV alone.

    Table(
        title="Temperature", about="What is compared, on what, and why that is fair.",
        read=csv_rows("temperature"), line=("tau",),
        columns=(text("tau", lambda row: row["tau"]), mean("error, %", "test_error"), span("parameters", "params")),
        claims=(Claim("0.1 errs less than 0.67", "test_error", ("0.1",), ("0.67",)),),
    )

A row of the CSV is one run; a line of the table is all rows that agree in the columns `line`, one for each seed. What
is compared is compared seed by seed: mean of the differences, and the 95 % interval of Student's t over them.

A claim is about a difference and its sign. It *holds* where the interval lies wholly on its side of 0, *fails* where
it lies wholly on the other side, and is *not shown* otherwise, and then says on which side the mean lies; with fewer
than two common seeds it is *open*. No correction is made for the number of claims: of twenty that are not true, one may
seem to hold or to fail.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

CONFIDENCE = 0.95
Row = Mapping[str, str]
Key = tuple[str, ...]
Lines = Mapping[Key, list[Row]]
"""Values of the columns `line` -> the rows of all seeds."""
HOLDS, FAILS, NOT_SHOWN, OPEN = "holds", "fails", "not shown", "open"


# ---- rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What a table is made of.

    Args:
        rows: of its CSV, perhaps with columns of others.
        notes: what the files say of themselves: about what, and when and where the rows were made.
    """

    rows: list[Row]
    notes: list[str]


def read_csv(path: Path) -> Source:
    """A file of the ledger; one that is not there has no rows."""
    if not path.is_file():
        return Source([], [])
    lines = path.read_text().splitlines()
    notes = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    return Source(list(csv.DictReader(line for line in lines if not line.startswith("#"))), notes)


def csv_rows(name: str) -> Callable[[Path], Source]:
    """Reads NAME.csv of the folder of results."""
    return lambda folder: read_csv(folder / f"{name}.csv")


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """What the rows have in a column, without empty cells."""
    return [float(row[column]) for row in rows if row.get(column)]


# ---- differences and claims -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Of two lines, seed by seed.

    Args:
        mean: of the differences.
        half: half of its 95 % interval; None from fewer than two seeds.
        n: seeds that both have.
    """

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half:.2f}" if self.half is not None else f"{self.mean:+.2f} (n = {self.n})"


def paired(rows: Sequence[Row], base: Sequence[Row], column: str) -> Difference | None:
    """Rows minus base in a column over the seeds of both; None if there is none."""
    ours, theirs = ({row["seed"]: float(row[column]) for row in side if row.get(column)} for side in (rows, base))
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not values:
        return None
    half = None
    if len(values) > 1:
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(statistics.fmean(values), half, len(values))


@dataclass(frozen=True)
class Claim:
    """A line has a smaller (or larger) mean in a column than another.

    Args:
        text: the claim, as a sentence without its verdict.
        column: what is compared.
        line, base: the values of the table's columns `line`.
        larger: whether the claim is that it is larger.
    """

    text: str
    column: str
    line: Key
    base: Key
    larger: bool = False

    def judged(self, lines: Lines) -> tuple[str, Difference | None]:
        """(verdict, difference that it rests on)."""
        found = paired(lines.get(self.line, []), lines.get(self.base, []), self.column)
        if found is None or found.half is None:
            return OPEN, found
        side = found.mean if self.larger else -found.mean
        if abs(side) <= found.half:
            return NOT_SHOWN, found
        return (HOLDS if side > 0 else FAILS), found


# ---- columns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        head: its head.
        show: the cell of a line, from its rows and all lines.
    """

    head: str
    show: Callable[[list[Row], Lines], str]


def mean(head: str, column: str, digits: int = 2, scale: float = 1.0, unit: str = "") -> Column:
    """Mean over the seeds; with the standard deviation where they differ in what is shown."""

    def show(rows: list[Row], lines: Lines) -> str:
        values = [value * scale for value in numbers(rows, column)]
        if not values:
            return "-"
        shown = f"{statistics.fmean(values):,.{digits}f}"
        spread = f"{statistics.stdev(values):,.{digits}f}" if len(values) > 1 else "0"
        return f"{shown}{unit}" if not float(spread.replace(",", "")) else f"{shown} ± {spread}{unit}"

    return Column(head, show)


def each(head: str, column: str, digits: int = 2) -> Column:
    """The values of all seeds, in their order."""
    return Column(head, lambda rows, lines: " / ".join(f"{v:,.{digits}f}" for v in numbers(rows, column)) or "-")


def span(head: str, column: str, digits: int = 0, scale: float = 1.0, unit: str = "") -> Column:
    """Smallest and largest value."""

    def show(rows: list[Row], lines: Lines) -> str:
        values = [value * scale for value in numbers(rows, column)]
        if not values:
            return "-"
        low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
        return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"

    return Column(head, show)


def text(head: str, show: Callable[[Row], str]) -> Column:
    """What the first row of a line says."""
    return Column(head, lambda rows, lines: show(rows[0]))


def difference(head: str, column: str, base: Callable[[Row], Key]) -> Column:
    """The difference to another line, seed by seed, with its interval; nothing for that line itself.

    Args:
        head: the head.
        column: what is compared.
        base: the key of the other line, from a row of this one.
    """

    def show(rows: list[Row], lines: Lines) -> str:
        other = lines.get(base(rows[0]))
        if other is None or other is rows:
            return ""
        found = paired(rows, other, column)
        return "-" if found is None else str(found)

    return Column(head, show)


# ---- the table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A section of RESULTS.md.

    Args:
        title: its heading.
        about: what is compared on what, and what the columns mean; paragraphs of markdown.
        read: the folder of results -> its rows.
        line: the columns that say which line a row belongs to.
        columns: of the table.
        claims: judged by the rule above.
        order: sorts the lines; None keeps the order of the file.
        parts: columns of `line`, from the first on, that get a table of their own for each value.
    """

    title: str
    about: str
    read: Callable[[Path], Source]
    line: Key
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...] = ()
    order: Callable[[Key], object] | None = None
    parts: int = 0

    def lines(self, rows: Iterable[Row]) -> dict[Key, list[Row]]:
        """The rows of each line by seed, in the table's order."""
        found: dict[Key, list[Row]] = {}
        for row in rows:
            found.setdefault(tuple(row[name] for name in self.line), []).append(row)
        keys = list(found) if self.order is None else sorted(found, key=self.order)  # type: ignore[arg-type]
        return {key: sorted(found[key], key=lambda row: int(row["seed"])) for key in keys}

    def render(self, folder: Path) -> str:
        """The section."""
        source = self.read(folder)
        lines = self.lines(source.rows)
        blocks = [f"## {self.title}", self.about.strip()]
        if not lines:
            return "\n\n".join([*blocks, "No rows yet."])
        for part in dict.fromkeys(key[: self.parts] for key in lines):
            members = [rows for key, rows in lines.items() if key[: self.parts] == part]
            heading = [f"### {', '.join(part)}"] if part else []
            blocks += [*heading, self._markdown(members, lines)]
        if self.claims:
            blocks.append("\n".join(shown(claim, lines) for claim in self.claims))
        blocks.append("\n".join(f"- {note}" for note in source.notes))
        return "\n\n".join(blocks)

    def _markdown(self, members: list[list[Row]], lines: Lines) -> str:
        table = [[column.head for column in self.columns], ["---"] * len(self.columns)]
        table += [[column.show(rows, lines) for column in self.columns] for rows in members]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in table)

    def judged(self, folder: Path) -> list[tuple[str, Claim]]:
        """(verdict, claim) of every claim."""
        lines = self.lines(self.read(folder).rows)
        return [(claim.judged(lines)[0], claim) for claim in self.claims]


def shown(claim: Claim, lines: Lines) -> str:
    """A claim as an item of a list: its verdict, itself, and the difference."""
    verdict, found = claim.judged(lines)
    evidence = "no seed has both" if found is None else str(found)
    if found is not None and found.half is not None:
        evidence += f", n = {found.n}"
    if verdict == NOT_SHOWN and found is not None and found.mean:
        evidence += "; the mean agrees" if (found.mean > 0) == claim.larger else "; the mean is against it"
    return f"- **{verdict}**: {claim.text} ({evidence})"
