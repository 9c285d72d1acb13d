"""Confidence intervals: of proportions, and of any statistic by resampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Proportion:
    """A measured share with its interval.

    Args:
        value: correct / n.
        low, high: ends of the interval.
        n: number of trials.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wilson(correct: int, n: int, confidence: float = 0.95) -> Proportion:
    """Wilson's score interval of a binomial proportion.

        (x + z^2/2 +- z sqrt(x (n-x) / n + z^2/4)) / (n + z^2)

    z is the normal quantile at (1 + confidence) / 2. It keeps its coverage near 0 and 1, where the normal
    approximation fails, and always lies in [0, 1]. E. B. Wilson, JASA 22 (1927) 209-212.

    Args:
        correct: successes x, 0..n.
        n: trials, at least 1.
        confidence: coverage, in (0, 1).

    Raises:
        ValueError: the counts or the confidence are out of range.
    """
    if not (n >= 1 and 0 <= correct <= n and 0 < confidence < 1):
        raise ValueError(f"no proportion: {correct} of {n} at confidence {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = correct + z * z / 2
    spread = z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    # rounding can leave 1e-17 where the exact end is 0 or 1
    low = 0.0 if correct == 0 else (centre - spread) / (n + z * z)
    high = 1.0 if correct == n else (centre + spread) / (n + z * z)
    return Proportion(correct / n, low, high, n)


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval; None where it is not defined.

    Args:
        value: of the sample.
        low, high: ends of the interval.
    """

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def bootstrap(
    n: int,
    statistic: Callable[[NDArray[np.int64]], float],
    confidence: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic of n units with its percentile bootstrap interval.

    The ends are the quantiles (1 -+ confidence) / 2 of the statistic over resamples of n units drawn with replacement.
    Resamples on which it is not defined (NaN) are left out. Efron, Annals of Statistics 7 (1979) 1-26. With few units
    the interval is too narrow: the sample holds less variety than what it was drawn from.

    Args:
        n: units in the sample, at least 1.
        statistic: of the units with these indices, [n]; rising from 0 for the sample itself.
        confidence: coverage, in (0, 1).
        resamples: how many.
        seed: of the draws.

    Raises:
        ValueError: n or the confidence is out of range.
    """
    if not (n >= 1 and 0 < confidence < 1):
        raise ValueError(f"no interval: {n} units at confidence {confidence}")
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    values = np.array([statistic(indices) for indices in drawn])
    values, value = values[~np.isnan(values)], statistic(np.arange(n))
    if not len(values) or math.isnan(value):
        return Estimate(None, None, None)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high))
