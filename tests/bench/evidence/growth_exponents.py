"""Exponents of cost: y ~ x^a over the upper part of a range, by least squares on logarithms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t


@dataclass(frozen=True)
class Exponent:
    """a in y ~ x^a.

    Args:
        value: least squares.
        low, high: its 95 % interval, Student's with n - 2 degrees of freedom; of the points' scatter about the line.
        n: points.
        first, last: x of the first and the last of them.
    """

    value: float
    low: float
    high: float
    n: int
    first: float
    last: float


def exponent(xs: Sequence[float], ys: Sequence[float]) -> Exponent | None:
    """The exponent over the points from the geometric middle of all x upwards.

    Below it, what a call costs whatever its size hides how the cost grows.

    Args:
        xs: above 0, not all equal.
        ys: 0 and below, such as memory too small to be seen, has no logarithm and is left out.

    Returns:
        None where fewer than three points are left: two give a line, but no interval.
    """
    middle = math.sqrt(min(xs) * max(xs)) if xs else math.inf
    # the middle point of a grid belongs to the upper part, also where rounding has moved it a little
    upper = sorted((x, y) for x, y in zip(xs, ys, strict=True) if x >= 0.9 * middle and y > 0)
    if len({x for x, _ in upper}) < 3:
        return None
    log_x, log_y = ([math.log(value) for value in side] for side in zip(*upper, strict=True))
    slope, intercept = statistics.linear_regression(log_x, log_y)
    scatter = sum((y - intercept - slope * x) ** 2 for x, y in zip(log_x, log_y, strict=True))
    spread = statistics.variance(log_x) * (len(upper) - 1)
    half = float(t.ppf(0.975, len(upper) - 2)) * math.sqrt(scatter / (len(upper) - 2) / spread)
    return Exponent(slope, slope - half, slope + half, len(upper), upper[0][0], upper[-1][0])
