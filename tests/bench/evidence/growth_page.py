"""How cost grows, as Markdown and figures, from the rows of results/growth.csv.

    python tests/bench/evidence/growth_page.py [--results DIR]

prints the section and writes DIR/figures/growth-SWEEP.svg and .png: time above, memory below, both axes logarithmic.
Nothing is measured; the same rows give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from growth_exponents import Exponent, exponent
from growth_points import BASE, SWEEPS, WORK, Sweep
from ledger import RESULTS, Ledger, Row
from section import Section

from pgnas_cli.report import chart
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Figure, Key
from pgnas_cli.report.drawing import Circle, Drawing, Shape
from pgnas_cli.report.legend import with_legend
from pgnas_cli.report.png import png
from pgnas_cli.report.svg import svg
from pgnas_cli.report.themes import LIGHT

COLUMNS = ("sweep", "setting", "what", "x", "seconds", "low", "high", "wall", "megabytes", "n", "reason")
KEY = ("sweep", "setting", "what")
ABOUT = (
    "How cost grows: CPU seconds of the process (median and quartiles of n in turn, one thread), wall seconds "
    "(median), MB by which the peak of resident memory rises; reason: why a point was not measured"
)
TITLE = "How cost grows"
INKS = {
    "inflate": "series1", "step": "series2", "sample": "series3", "evaluate": "series4", "compact": "series5",
    "costs": "series6",
}  # fmt: skip
NOTHING = "-"
Points = tuple[list[float], list[float]]
"""x and y."""


def ledger(folder: Path = RESULTS) -> Ledger:
    """The table's file."""
    return Ledger("growth", ABOUT, COLUMNS, KEY, folder)


def of_sweep(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of a sweep's grid, in its order; rows of another grid are not among them."""
    settings = [str(setting) for setting in SWEEPS[name].settings()]
    found = [row for row in rows if row["sweep"] == name and row["setting"] in settings]
    return sorted(found, key=lambda row: settings.index(row["setting"]))


def points(rows: Sequence[Row], what: str, column: str) -> Points:
    """x and a column of the points of one kind of work that were measured."""
    measured = [row for row in rows if row["what"] == what and row["n"]]
    return [float(row["x"]) for row in measured], [float(row[column]) for row in measured]


# ---- Markdown -----------------------------------------------------------------------------------------------


def lines(rows: Sequence[Row], sittings: Sequence[str]) -> list[str]:
    """The section: what was measured and how, and a table of exponents for every sweep that has rows."""
    found = [
        f"## {TITLE}",
        "",
        f"One thread on the CPU. Base: {BASE}; each sweep varies one thing in geometric steps. Time is the CPU time of "
        "the process, median of n repeats in turn after one to warm up. Memory is what the work adds to the peak of "
        "resident memory, in a process that has not done it before; for inflate the supernet itself. Exponents a of "
        "cost ~ x^a by least squares on logarithms over the upper half of the range (on a logarithmic scale), with the "
        "95 % interval of the points' scatter. A training step has the KL, SGD with momentum and no loading of images; "
        "all drop probabilities are 1/2; one candidate is evaluated with its masks written into the supernet, on "
        "images that are in memory. What a ranking costs a candidate is another table: races.",
    ]
    sections = [["", *_section(part, name, sweep)] for name, sweep in SWEEPS.items() if (part := of_sweep(rows, name))]
    found += [line for section in sections for line in section] or ["", "No rows yet."]
    return found + (["", *(f"- {sitting}" for sitting in sittings)] if sections else [])


def _section(rows: Sequence[Row], name: str, sweep: Sweep) -> Iterator[str]:
    yield f"### Against {sweep.title}"
    yield ""
    yield f"![Time and memory against {sweep.title}](results/figures/growth-{name}.svg)"
    yield ""
    yield f"| | {sweep.title} | time | memory, MB | exponent of time | of memory | fitted over | n |"
    yield "|---|---|---|---|---|---|---|---|"
    for what in sweep.work:
        xs, seconds = points(rows, what, "seconds")
        _, megabytes = points(rows, what, "megabytes")
        if xs:
            time, memory = exponent(xs, seconds), exponent(xs, megabytes)
            yield (
                f"| {WORK[what]} | {_ends(xs, _count)} | {_ends(seconds, chart.duration)} | "
                f"{_ends(megabytes, _number)} | {_exponent(time)} | {_exponent(memory)} | {_range(time)} | "
                f"{_repeats(rows, what)} |"
            )
    for row in rows:
        if row["reason"]:
            yield ""
            yield f"Not measured: {WORK[row['what']]}, {row['setting']}: {row['reason']}."


def _ends(values: Sequence[float], write: Callable[[float], str]) -> str:
    return " to ".join(dict.fromkeys([write(values[0]), write(values[-1])]))


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _exponent(found: Exponent | None) -> str:
    return NOTHING if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _range(found: Exponent | None) -> str:
    return NOTHING if found is None else f"{_count(found.first)} to {_count(found.last)}, {found.n} points"


def _repeats(rows: Sequence[Row], what: str) -> str:
    return " to ".join(sorted({row["n"] for row in rows if row["what"] == what and row["n"]}, key=int))


def render(folder: Path) -> str:
    """The section of RESULTS.md, from the file of a folder."""
    table = ledger(folder)
    return "\n".join(lines(table.rows(), table.sittings()))


GROWTH = Section(TITLE, render)


# ---- figures ------------------------------------------------------------------------------------------------


def figure(rows: Sequence[Row], name: str) -> Figure | None:
    """Time above, memory below, against what a sweep varies; None where nothing was measured."""
    sweep, part = SWEEPS[name], of_sweep(rows, name)
    times = {what: points(part, what, "seconds") for what in sweep.work}
    memory = {what: points(part, what, "megabytes") for what in sweep.work}
    xs = [x for found, _ in times.values() for x in found]
    if not xs:
        return None
    across = chart.around(xs, chart.LEFT, chart.WIDTH - chart.RIGHT, log=True)
    upper = Panel(across, chart.around(_above_zero(times), 250, chart.ABOVE, log=True))
    lower = Panel(across, chart.around(_above_zero(memory), 530, 312, log=True))
    shapes = [
        *upper.axes("CPU time", chart.durations),
        *lower.axes("memory added, MB", chart.plain, sweep.title, chart.counts),
        *_curves(upper, times),
        *_curves(lower, memory),
    ]
    return Figure(
        name=f"growth-{name}",
        title=f"Time and memory against {sweep.title}",
        alt=" ".join(_sentences(times)),
        drawing=Drawing(chart.WIDTH, 530 + chart.BELOW, tuple(shapes)),
        legend=tuple(Key(INKS[what], _named(what, found), "line") for what, found in times.items() if found[0]),
    )


def _above_zero(measured: Mapping[str, Points]) -> list[float]:
    return [y for _, ys in measured.values() for y in ys if y > 0]


def _curves(panel: Panel, measured: Mapping[str, Points]) -> Iterator[Shape]:
    """A line and its points for each kind of work; memory too small to be seen is left out."""
    for what, (xs, ys) in measured.items():
        seen = [(x, y) for x, y in zip(xs, ys, strict=True) if y > 0]
        yield from chart.curve(panel, [x for x, _ in seen], [y for _, y in seen], INKS[what])
        yield from (Circle(*panel.at(x, y), 3.5, INKS[what]) for x, y in seen)


def _named(what: str, measured: Points) -> str:
    found = exponent(*measured)
    return WORK[what] if found is None else f"{WORK[what]}: x^{found.value:.2f}"


def _sentences(times: Mapping[str, Points]) -> Iterator[str]:
    yield "Two line charts with logarithmic axes: CPU time above, memory below."
    for what, (xs, ys) in times.items():
        if xs:
            ends = [f"{chart.duration(y)} at {_count(x)}" for x, y in ((xs[0], ys[0]), (xs[-1], ys[-1]))]
            yield f"{WORK[what].capitalize()}: {', '.join(dict.fromkeys(ends))}."


def write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Every sweep's figure as SVG and PNG in `folder`; what was written."""
    written = []
    for name in SWEEPS:
        found = figure(rows, name)
        if found is None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        drawing, path = with_legend(found), folder / found.name
        path.with_suffix(".svg").write_text(svg(drawing, title=found.title, alt=found.alt, id=found.name, theme=LIGHT))
        path.with_suffix(".png").write_bytes(png(drawing, theme=LIGHT, scale=1))
        written += [path.with_suffix(".svg"), path.with_suffix(".png")]
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args().results
    print(render(folder))
    write_figures(ledger(folder).rows(), folder / "figures")


if __name__ == "__main__":
    main()
