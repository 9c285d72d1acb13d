"""Accuracies of the candidates of several searches, as histograms on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.report import chart
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Figure, Inline, Key, Number, Table
from pgnas_cli.report.drawing import SERIES, Circle, Drawing, Path, Shape, Text

LEAST_BINS, MOST_BINS = 8, 40
ROW = 22.0
"""Height of a sample's line above the histograms, in pixels."""
STEPS = (1, 2, 5)


def candidates(samples: Mapping[str, Sequence[float]], *, winner: float | None = None, note: str = "") -> Figure:
    """Histograms in shared bins, as shares of each sample, under a line from its smallest to its largest value.

    A dot on that line is the mean.

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

    rows = len(samples) + (winner is not None)
    top = chart.ABOVE + ROW * rows
    outer = [edges[0], edges[-1]] + ([winner] if winner is not None else [])
    x = chart.around(outer, chart.LEFT, chart.WIDTH - chart.RIGHT, pad=0.02)
    panel = Panel(x, chart.around(np.concatenate(list(shares.values())), top + 240, top, zero=True, pad=0.05))
    shapes = panel.axes("", chart.percents, "accuracy on the selection split", chart.percents)
    shapes.append(Text(4, 14, "share of the candidates", "text", chart.SIZE))
    for number, (label, found) in enumerate(values.items()):
        ink, dashed = f"series{number + 1}", number % 2 == 1
        shapes += _outline(panel, edges, shares[label], ink, dashed)
        y = chart.ABOVE + ROW * (rows - len(samples) + number + 0.5)
        shapes += _line(panel, found, f"{label}, n = {len(found):,}", y, ink, dashed)
    if winner is not None:
        place, y = x(winner), chart.ABOVE + 0.5 * ROW
        shapes.append(Path(((place, panel.y.start), (place, y)), "text", 1.5, dashed=True))
        shapes.append(chart.beside(place, y + 0.35 * chart.SIZE, f"chosen: {chart.percent(winner)}", x.end))
    return Figure(
        name="candidates",
        title="Accuracy of the candidates",
        alt=_alt(values, winner),
        drawing=Drawing(chart.WIDTH, top + 240 + chart.BELOW, tuple(shapes)),
        table=_table(values),
        legend=tuple(Key(f"series{number}", label) for number, label in enumerate(samples, 1)),
        note=note,
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


def _line(panel: Panel, values: NDArray[np.float64], label: str, y: float, ink: str, dashed: bool) -> Iterator[Shape]:
    """From the smallest to the largest value, with a dot at the mean, and the name on the side that has room."""
    low, high = panel.x(float(values.min())), panel.x(float(values.max()))
    if high > low:
        yield Path(((low, y), (high, y)), ink, 2, dashed=dashed)
    yield Circle(panel.x(float(values.mean())), y, 5, ink, "surface")
    baseline, needed = y + 0.35 * chart.SIZE, chart.width_of(label) + 10
    if high + needed <= panel.x.end:
        yield Text(high + 10, baseline, label, "text", chart.SIZE)
    elif low - needed >= 0:
        yield Text(low - 10, baseline, label, "text", chart.SIZE, "end")
    else:
        yield Text((low + high) / 2, y - 8, label, "text", chart.SIZE, "middle")


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
