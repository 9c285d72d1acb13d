"""Confidence intervals of proportions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any


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
