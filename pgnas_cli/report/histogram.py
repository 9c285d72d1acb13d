"""Accuracies of the candidates of several searches, as histograms on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.report import chart
from pgnas_cli.report.chart import Panel, Scale
from pgnas_cli.report.document import Figure, Inline, Number, Table
from pgnas_cli.report.drawing import SERIES, Circle, Drawing, Path, Rect, Shape, Text

LEAST_BINS, MOST_BINS = 8, 40
ROW = 22.0
"""Height of a sample's line above the histograms, in pixels."""
STRIP = 6.0
"""Where the first of these begins."""
STEPS = (1, 2, 5)
_LINES = "Lines above: from the smallest to the largest value, with a dot at the mean."


def candidates(samples: Mapping[str, Sequence[float]], *, winner: float | None = None, note: str = "") -> Figure:
    """Histograms in shared bins, as shares of each sample, below lines from its smallest to its largest value.

    A dot on such a line is the mean.

    Args:
        samples: label -> accuracies (fractions), at most six of them, each with a value at least.
        winner: accuracy of the chosen network.
        note: a sentence under the figure.

    Raises:
        ValueError: there is no sample, or more than six, or one without a value.
    """
    if not 1 <= len(samples) <= SERIES or not all(len(values) for values in samples.values()):
        raise ValueError(f"one to {SERIES} samples are wanted, and a value in each")
    values = {label: np.asarray(found, np.float64) for label, found in samples.items()}
    edges = bins(list(values.values()))
    shares = {label: np.histogram(found, edges)[0] / len(found) for label, found in values.items()}

    outer = [edges[0], edges[-1]] + ([winner] if winner is not None else [])
    x = chart.around(outer, chart.LEFT, chart.WIDTH - chart.RIGHT, pad=0.02)
    above, y = [], STRIP + ROW * (winner is not None)
    for number, (label, found) in enumerate(values.items()):
        text = f"{label}: mean {chart.percent(float(found.mean()))}, n = {len(found):,}"
        lines, height = _line(x, found, text, y, *_look(number))
        above += lines
        y += height
    top = y + chart.ABOVE
    panel = Panel(x, chart.around(np.concatenate(list(shares.values())), top + 240, top, zero=True, pad=0.05))
    shapes = panel.axes("share of the candidates", chart.percents, "accuracy on the selection split", chart.percents)
    for number, label in enumerate(values):
        shapes += _outline(panel, edges, shares[label], *_look(number))
    if winner is not None:
        place, y = x(winner), STRIP + 0.5 * ROW
        shapes.append(Path(((place, panel.y.start), (place, y)), "text", 1.5, dashed=True))
        shapes.append(chart.beside(place, y + 0.35 * chart.SIZE, f"chosen: {chart.percent(winner)}", x.end))
    shapes += above
    return Figure(
        name="candidates",
        title="Accuracy of the candidates",
        alt=_alt(values, winner),
        drawing=Drawing(chart.WIDTH, top + 240 + chart.BELOW, tuple(shapes)),
        table=_table(values),
        note=f"{_LINES} {note}".strip(),
    )


def bins(samples: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Edges of bins that hold all values, at multiples of 1, 2 or 5 times a power of ten.

    They are about as wide as Freedman and Diaconis (1981) advise, 2 * interquartile range / n^(1/3), for the sample
    for which this is least, but between 8 and 40 of them cover the whole range.
    """
    everything = np.concatenate(samples)
    low, high = float(everything.min()), float(everything.max())
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return np.array([low - 0.005, high + 0.005])
    advised = [2 * float(np.subtract(*np.percentile(found, [75, 25]))) / len(found) ** (1 / 3) for found in samples]
    wanted = min((width for width in advised if width > 0), default=0.0)
    wanted = min(max(wanted, (high - low) / MOST_BINS), (high - low) / LEAST_BINS)
    power = 10.0 ** math.floor(math.log10(wanted))
    width = power * min((*STEPS, 10), key=lambda step: abs(math.log(step * power / wanted)))
    first, last = math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1
    edges = np.arange(first, last + 1, dtype=np.float64) * width
    edges[0] = min(edges[0], low)  # a value on an edge may lie below it by a rounding
    return edges


def _outline(
    panel: Panel, edges: NDArray[np.float64], shares: NDArray[np.float64], ink: str, dashed: bool
) -> Iterator[Shape]:
    """A histogram from its first bin that is not empty to its last: its area, and the line around it."""
    used = np.flatnonzero(shares)
    first, last = int(used[0]), int(used[-1]) + 1
    corners = [panel.at(float(edges[first]), 0.0)]
    for index in range(first, last):
        corners += [panel.at(float(edges[end]), float(shares[index])) for end in (index, index + 1)]
    corners.append(panel.at(float(edges[last]), 0.0))
    yield Path(tuple(corners), fill=ink, opacity=0.22)
    yield Path(tuple(corners), ink, 2, dashed=dashed)


def _look(number: int) -> tuple[str, bool]:
    """Ink of a sample, and whether its lines are dashed."""
    return f"series{number + 1}", number % 2 == 1


def _line(
    x: Scale, values: NDArray[np.float64], label: str, top: float, ink: str, dashed: bool
) -> tuple[list[Shape], float]:
    """From the smallest to the largest value, with a dot at the mean, and the name where there is room.

    Returns:
        The shapes, which begin at `top`, and their height: a name that has no room at either end stands above.
    """
    low, high = x(float(values.min())), x(float(values.max()))
    width = chart.width_of(label)
    after, before = high + 10 + width <= x.end, low - 10 - width >= 0
    y = top + 0.5 * ROW + (0 if after or before else chart.LINE)
    baseline = y + 0.35 * chart.SIZE
    if after:
        name = Text(high + 10, baseline, label, "text", chart.SIZE)
    elif before:
        name = Text(low - 10, baseline, label, "text", chart.SIZE, "end")
    else:
        name = Text(max(min(low, x.end - width), 4), top + chart.SIZE, label, "text", chart.SIZE)
    left = name.x - (width if name.anchor == "end" else 0)
    # nothing shines through the name
    shapes: list[Shape] = [Rect(left - 3, name.y - chart.SIZE, width + 6, chart.SIZE + 4, "surface"), name]
    if high > low:
        shapes.append(Path(((low, y), (high, y)), ink, 2, dashed=dashed))
    return [*shapes, Circle(x(float(values.mean())), y, 5, ink, "surface")], y + 0.5 * ROW - top


def _std(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _alt(samples: Mapping[str, NDArray[np.float64]], winner: float | None) -> str:
    parts = [
        f"{label}: {chart.counted(len(found), 'candidate')}, mean {chart.percent(float(found.mean()))}, from "
        f"{chart.percent(float(found.min()))} to {chart.percent(float(found.max()))}."
        for label, found in samples.items()
    ]
    chosen = [] if winner is None else [f"The chosen network has {chart.percent(winner)}."]
    return " ".join(["Histograms of accuracy on the selection split.", *parts, *chosen])


def _table(samples: Mapping[str, NDArray[np.float64]]) -> Table:
    rows: list[tuple[Inline, ...]] = []
    for label, found in samples.items():
        statistics = (found.mean(), _std(found), found.min(), np.median(found), found.max())
        cells = (Number(chart.percent(float(v), 2), float(v)) for v in statistics)
        rows.append((label, Number(f"{len(found):,}", len(found)), *cells))
    columns = ("candidates", "n", "mean", "standard deviation", "smallest", "median", "largest")
    return Table("Accuracy on the selection split", columns, tuple(rows))
