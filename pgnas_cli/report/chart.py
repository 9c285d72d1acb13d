"""Axes and what lies between them: scales, ticks, the writing of numbers, frames, lines, staircases and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.report.drawing import Circle, Path, Point, Rect, Shape, Text

WIDTH = 640.0
"""Of every diagram, in pixels."""
SIZE = 13.0
"""Of the writing: a page that is 360 pixels wide shows a diagram at half its size."""
LEFT, RIGHT = 62.0, 24.0
"""Room for the labels of the upward axis, and for half a label beyond the end of the other."""
ABOVE, BELOW = 32.0, 46.0
"""Room for the title of the upward axis, and for labels and title of the other."""
LINE = 16.0
"""Distance of two lines of writing."""

Writer = Callable[[Sequence[float]], list[str]]
"""Ticks -> their labels."""


# ---- values -------------------------------------------------------------------------------------------------


def value(row: Mapping[str, Any], key: str) -> float:
    """A number of a row; NaN where it is missing or null."""
    found = row.get(key)
    return math.nan if found is None else float(found)


def known(values: Iterable[float]) -> list[float]:
    """The values that are finite."""
    return [v for v in values if math.isfinite(v)]


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Indices of all of n, or of `most` of them at equal steps: the first and the last are among them."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


# ---- scales -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The values from `low` to `high` at pixels from `start` to `end`, linearly or by their logarithms.

    Raises:
        ValueError: the range is empty or not finite, or a logarithmic one does not lie above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high - self.low) and self.low < self.high and (self.low > 0 or not self.log)):
            raise ValueError(f"no {'logarithmic ' if self.log else ''}scale from {self.low} to {self.high}")

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int, *, whole: bool = False) -> list[float]:
        """At most so many round values in the range, rising; `whole`: integers only."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most, whole)


def around(
    values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.06, zero: bool = False
) -> Scale:
    """A scale on which all finite values lie, with a share `pad` of it free at either end.

    Args:
        values: if none is finite, the scale goes from 0 to 1, a logarithmic one from 1 to 10.
        start, end: pixels.
        log: by logarithms; the finite values lie above 0.
        pad: around one value, or values that are all alike, a tenth of it is free instead.
        zero: of a linear scale of values from 0 up: it starts at 0.
    """
    finite = known(values) or ([1.0, 10.0] if log else [0.0, 1.0])
    low, high = min(finite), max(finite)
    if log:
        factor = (high / low) ** pad if high > low * (1 + 1e-9) else 1.1
        return Scale(low / factor, high * factor, start, end, log=True)
    low = 0.0 if zero else low
    alike = high - low <= 1e-9 * max(abs(low), abs(high))
    room = 0.1 * abs(high) or 1.0 if alike else pad * (high - low)
    return Scale(0.0 if zero else low - room, high + room, start, end)


def of_shares(values: Iterable[float], start: float, end: float, *, pad: float = 0.06) -> Scale:
    """The same for values between 0 and 1, none of which the scale goes beyond."""
    scale = around(values, start, end, pad=pad)
    return replace(scale, low=max(scale.low, 0.0), high=min(scale.high, 1.0))


def linear_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten in [low, high], as many as there can be."""
    if most < 1:
        return []
    power = math.floor(math.log10((high - low) / most)) - 1
    steps = (digit * 10.0**exponent for exponent in range(power, power + 9) for digit in (1, 2, 5))
    for step in steps:
        if whole and step < 1:
            continue
        multiples = range(math.floor(low / step), math.ceil(high / step) + 1)
        if len(multiples) > most + 2:
            continue
        # the decimal's nearest float, not 3 * 0.1; on an end of the range although that is a rounding off
        ticks = [float(f"{n * step:.12g}") for n in multiples]
        inside = [min(max(t, low), high) for t in ticks if low - 1e-12 * abs(t) <= t <= high + 1e-12 * abs(t)]
        if len(inside) <= most:
            return inside
    return []


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many powers of ten in [low, high], with 2 and 5 or 3 times them where there is room.

    Where that leaves fewer than three in less than a decade, they are those of a linear scale.
    """
    if most < 1:
        return []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [tick for power in powers for digit in digits if low <= (tick := digit * 10.0**power) <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 3 and high < 10 * low:
        return linear_ticks(low, high, most)
    return ticks[:: math.ceil(len(ticks) / most)]


# ---- numbers in words ---------------------------------------------------------------------------------------


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent: `83.7 %`."""
    return f"{round(100 * share, 9):.{decimals}f} %"  # 0.8364999999999999 is 83.7 %, as 0.8365 is


def duration(seconds: float) -> str:
    """A short time in three digits: `2.66 ms`, `250 us`."""
    factor, unit = _time_unit(seconds)
    return f"{seconds * factor:#.3g}".rstrip(".") + f" {unit}"


def counted(n: int, what: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def plain(ticks: Sequence[float]) -> list[str]:
    """Labels of plain numbers."""
    return _fixed(ticks, 1, "")


def percents(ticks: Sequence[float]) -> list[str]:
    """Labels of shares, in percent."""
    return _fixed(ticks, 100, " %")


def counts(ticks: Sequence[float]) -> list[str]:
    """Labels of counts, all in the same of k, M, G and T."""
    largest, power = max(map(abs, ticks), default=0), 0
    while largest >= 1000 ** (power + 1) and power < 4:
        power += 1
    return _fixed(ticks, 1000.0**-power, f" {' kMGT'[power]}".rstrip())


def durations(ticks: Sequence[float]) -> list[str]:
    """Labels of seconds, all in s, ms or us."""
    factor, unit = _time_unit(max(map(abs, ticks), default=0))
    return _fixed(ticks, factor, f" {unit}")


def _time_unit(seconds: float) -> tuple[float, str]:
    return (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")


def _fixed(ticks: Sequence[float], factor: float, suffix: str) -> list[str]:
    """The ticks times `factor` with as many decimals as the one that needs most."""
    scaled = [tick * factor for tick in ticks]
    error = 1e-9 * max(map(abs, scaled), default=0)
    decimals = next((d for d in range(12) if all(abs(round(v, d) - v) <= error for v in scaled)), 12)
    return [f"{v:.{decimals}f}{suffix}" for v in scaled]


def width_of(text: str, size: float = SIZE) -> float:
    """About how wide a text is set, in pixels, rather too much than too little."""
    return 0.58 * size * len(text)


# ---- the frame ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A rectangle with two axes: x.start is its left, y.start its lower edge."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> Point:
        """Where a pair of values lies."""
        return self.x(x), self.y(y)

    def axes(
        self, y_title: str, write_y: Writer, x_title: str = "", write_x: Writer = plain, *, whole_x: bool = False
    ) -> list[Shape]:
        """Helper lines, labels and titles.

        Args:
            y_title: of the upward axis, set above it.
            write_y, write_x: write the labels.
            x_title: of the other axis; without one it has no labels: a panel below has them.
            whole_x: ticks of the other axis at integers only.
        """
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        shapes: list[Shape] = []
        y_ticks = self.y.ticks(int((bottom - top) // 30))
        for tick, text in zip(y_ticks, _written(self.y, y_ticks, write_y), strict=True):
            shapes.append(Path(((left, self.y(tick)), (right, self.y(tick))), "grid", 1))
            shapes.append(Text(left - 8, self.y(tick) + 0.35 * SIZE, text, "muted", SIZE, "end"))
        for tick, text in fitting(self.x, write_x, whole=whole_x):
            shapes.append(Path(((self.x(tick), bottom), (self.x(tick), bottom + 5)), "line", 1))
            if x_title:
                shapes.append(Text(self.x(tick), bottom + 19, text, "muted", SIZE, "middle"))
        shapes.append(Path(((left, bottom), (right, bottom)), "line", 1))
        shapes.append(Text(4, top - 15, y_title, "text", SIZE))
        if x_title:
            shapes.append(Text((left + right) / 2, bottom + 38, x_title, "text", SIZE, "middle"))
        return shapes


def fitting(scale: Scale, write: Writer, *, whole: bool = False) -> list[tuple[float, str]]:
    """Ticks of a scale to the right with their labels, as many of at most 8 as have room beside each other."""
    for most in range(8, 0, -1):
        ticks = scale.ticks(most, whole=whole)
        texts = _written(scale, ticks, write)
        needed = max(map(width_of, texts), default=0) + 12
        if all(scale(b) - scale(a) >= needed for a, b in pairwise(ticks)):
            return list(zip(ticks, texts, strict=True))
    return []


def _written(scale: Scale, ticks: Sequence[float], write: Writer) -> list[str]:
    """Labels of a linear scale share unit and decimals; those of a logarithmic one are far apart."""
    return [write([tick])[0] for tick in ticks] if scale.log else write(ticks)


# ---- between the axes ---------------------------------------------------------------------------------------


def curve(panel: Panel, xs: Sequence[float], ys: Sequence[float], ink: str, *, dashed: bool = False) -> list[Shape]:
    """A line through points, broken where a value is not finite; a point without neighbours is a dot."""
    shapes: list[Shape] = []
    run: list[Point] = []
    for x, y in [*zip(xs, ys, strict=True), (math.nan, math.nan)]:
        if math.isfinite(x) and math.isfinite(y):
            run.append(panel.at(x, y))
        elif run:
            shapes.append(Path(tuple(run), ink, 2, dashed=dashed) if len(run) > 1 else Circle(*run[0], 3, ink))
            run = []
    return shapes


def staircase(points: Sequence[Point]) -> tuple[Point, ...]:
    """Along each point's height to the next one's place, then up or down to it."""
    stairs = list(points[:1])
    for before, after in pairwise(points):
        stairs += [(after[0], before[1]), after]
    return tuple(stairs)


@dataclass(frozen=True)
class EndLabel:
    """The name of a line, at the height of its end, with a piece of the line before it: of a lone point, a dot."""

    y: float
    name: str
    ink: str
    dashed: bool
    dot: bool = False


def end_labels(labels: Sequence[EndLabel], x: float, top: float, bottom: float) -> list[Shape]:
    """Names beside the ends of lines, moved apart where they would overlap.

    Args:
        labels: of the lines.
        x: where the names start.
        top, bottom: between which they stay; there is room for them all.
    """
    order = sorted(labels, key=lambda label: label.y)
    places: list[float] = []
    for label in order:
        places.append(max(label.y, places[-1] + LINE if places else top))
    limit = bottom
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - LINE
    shapes: list[Shape] = []
    for label, y in zip(order, places, strict=True):
        line = Path(((x, y), (x + 20, y)), label.ink, 2, dashed=label.dashed)
        shapes.append(Circle(x + 10, y, 3, label.ink) if label.dot else line)
        shapes.append(Text(x + 26, y + 0.35 * SIZE, label.name, "text", SIZE))
    return shapes


def upright(panel: Panel, x: float, label: str = "") -> list[Shape]:
    """A dashed vertical line at a value of x, with a label at its upper end, on the side that has room."""
    place, top = panel.x(x), panel.y.end
    shapes: list[Shape] = [Path(((place, panel.y.start), (place, top)), "muted", 1, dashed=True)]
    if label:
        shapes.append(beside(place, top + SIZE, label, panel.x.end))
    return shapes


def beside(x: float, baseline: float, label: str, right: float, gap: float = 6) -> Text:
    """A text to the right of x, or to its left where it would reach beyond `right`."""
    if x + gap + width_of(label) > right:
        return Text(x - gap, baseline, label, "text", SIZE, "end")
    return Text(x + gap, baseline, label, "text", SIZE)


def named(x: float, y: float, label: str, right: float) -> list[Shape]:
    """The name of a point, beside it and a little above, on a ground that keeps other points away from it."""
    text = beside(x, y - 10, label, right, gap=9)
    width = width_of(label)
    left = text.x - (width if text.anchor == "end" else 0)
    return [Rect(left - 2, text.y - SIZE, width + 4, SIZE + 4, "surface", opacity=0.8), text]
