"""What the miniature tables compute: the expected best of n, correlations, bins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def expected_best(values: Sequence[float], n: int) -> float:
    """Mean of the largest of n values drawn without replacement, over all draws; exact.

        sum over i = n..N of x_(i) C(i-1, n-1) / C(N, n),    x_(1) <= ... <= x_(N)

    The weights w_i are computed from w_N = n / N by w_(i-1) = w_i (i - n) / (i - 1), so that nothing overflows.

    Raises:
        ValueError: n is not between 1 and N.
    """
    N = len(values)
    if not 1 <= n <= N:
        raise ValueError(f"the best of {n} of {N} values was asked for")
    total, weight = 0.0, n / N
    for rank, value in zip(range(N, n - 1, -1), sorted(values, reverse=True), strict=False):
        total += weight * value
        weight *= (rank - n) / (rank - 1) if rank > 1 else 0.0
    return total


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if len(a) < 2 or min(a) == max(a) or min(b) == max(b):
        return None
    return statistics.correlation(a, b)


def counts(values: Sequence[float], width: float, weights: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """(index of a bin, how many) of the bins [index * width, (index + 1) * width) that hold a value.

    Args:
        values: any; one that is a rounding below an edge belongs to the bin above it.
        width: of the bins.
        weights: how often each value counts; once if None.
    """
    found: dict[int, int] = {}
    for value, weight in zip(values, weights if weights is not None else [1] * len(values), strict=True):
        index = math.floor(value / width + 1e-9)
        found[index] = found.get(index, 0) + weight
    return sorted(found.items())
