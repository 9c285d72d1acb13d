"""What the miniature tables compute: paired differences and their intervals, verdicts, the expected best of n."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Args:
        mean: of them.
        half: half the width of Student's 95 % interval; None with one pair.
        n: pairs.
    """

    mean: float
    half: float | None
    n: int

    def text(self, digits: int = 2) -> str:
        interval = "" if self.half is None else f" +- {self.half:.{digits}f}"
        return f"{self.mean:+.{digits}f}{interval} (n = {self.n})"


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """values - base over the seeds that both have; None without one.

    Seeds are the units: images are the same in all runs, so their number does not narrow the interval.
    """
    differences = [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]
    n = len(differences)
    if not n:
        return None
    half = None
    if n > 1:
        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(statistics.fmean(differences), half, n)


def verdict(found: Difference | None, sign: int) -> str:
    """Whether a difference has the published sign.

    Args:
        found: ours.
        sign: +1 or -1, the published one's.

    Returns:
        "agrees" or "does not agree" where the interval lies on one side of zero, else "not decided", with the reason.
    """
    assert sign in (1, -1)
    if found is None:
        return "not decided: there is no pair of runs"
    if found.half is None:
        return "not decided: one seed has no interval"
    if abs(found.mean) <= found.half:
        return "not decided: the interval holds zero"
    return "agrees" if found.mean * sign > 0 else "does not agree"


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
