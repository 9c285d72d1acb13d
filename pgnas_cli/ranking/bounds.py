"""How far one candidate can be above another on a whole split, from the part of it that both have seen.

A split is a finite population of N images. Images are drawn without replacement: after t - 1 draws image e comes next
with probability q_t(e) = w_e / W_t, W_t the weight of what is left. Of two candidates, d_e = correct(other) -
correct(leader) in {-1, 0, 1} on image e, S_t its sum over the first t draws, and T its sum over all N: what is to be
bounded. Since E[d_t / q_t | past] = T - S_{t-1}, under the hypothesis T >= D the wealth

    M_t = prod_{s <= t} (1 + lambda_s (D - S_{s-1} - d_s / q_s)),   0 <= lambda_s <= 1 / (W_s / w_min - (D - S_{s-1}))

is a non-negative supermartingale that starts at 1, for every predictable lambda. By Ville's inequality it reaches
1 / delta with probability at most delta, at any time, however the time to look was chosen: then T <= D - 1 is
certified. The lambda_s are shares of their largest value, growing as W_1 / W_s, since without replacement the drift
grows so; the wealth is the mean over several shares, a mixture that needs no tuning. Towards the end of the split the
bound closes on the truth, and at its end it is the truth.

Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, JRSS B 86 (2024) 1-27, section 5 (without
replacement); Waudby-Smith, Stark, Ramdas: RiLACS, E-Vote-ID 2021 (weighted draws).

Shape suffixes: K candidates, n images in the order of the draws, J shares.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SHARES = np.array([0.9, 0.6, 0.3, 0.15, 0.07, 0.03, 0.015])
"""Shares J of the largest stake, at the first draw."""
LARGEST_SHARE = 0.95
"""A loss of everything would end the test."""
CHUNK = 2**22
"""Numbers held at once for one share."""


class Draws:
    """The order in which the images of a split are drawn, with what the bounds need of it.

    Args:
        weights: positive weight of every image, [N]; equal weights are ordinary sampling without replacement.
        rng: the only source of randomness.
    """

    def __init__(self, weights: NDArray[np.float64], rng: np.random.Generator) -> None:
        if weights.ndim != 1 or not (weights > 0).all():
            raise ValueError("weights should be a vector of positive numbers")
        # of exponential clocks with rates w, one rings first with probability w / sum of w (successive sampling)
        clock = rng.exponential(size=len(weights)) / weights
        self.order: NDArray[np.int64] = np.argsort(clock, kind="stable")
        """[N] indices of the images, first drawn first."""
        self.weights = weights[self.order]
        self.clock = clock[self.order]
        self.left = np.cumsum(self.weights[::-1])[::-1]
        """[N] W_t, the weight of what is left before draw t."""

    def __len__(self) -> int:
        return len(self.order)

    def factors(self, n: int) -> NDArray[np.float64]:
        """[n] 1 / probability that an image is among the first n draws, given the clock of the next: 1 / (1 - e^-wt).

        A sum over the first n images of value times factor estimates the sum over all N without bias (priority
        sampling; Cohen, Kaplan: Summarizing data using bottom-k sketches, PODC 2007).
        """
        if n >= len(self):
            return np.ones(len(self))
        return -1.0 / np.expm1(-self.weights[:n] * self.clock[n])


def certified(
    draws: Draws,
    difference_Kn: NDArray[np.int8],
    above: int | NDArray[np.int64],
    delta: float,
    *,
    start_K: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Whether T < `above` is certified, for each of K pairs: wrong with probability at most `delta` for each.

    Args:
        draws: the order of the images.
        difference_Kn: correct(other) - correct(leader) on the first n images drawn.
        above: D of the hypothesis T >= D, one number or [K].
        delta: error probability of one pair, at any number of looks.
        start_K: images that a candidate's masks depend on (those that a search had seen when it proposed it): the
            wealth starts at 1 after them. None for candidates that were there before.

    Returns:
        [K]
    """
    pairs, n = difference_Kn.shape
    N, found = len(draws), np.zeros(pairs, bool)
    above_K = np.broadcast_to(np.asarray(above, np.int64), pairs)
    if n == 0:
        return above_K > N
    smallest = draws.weights.min()
    largest_n = draws.left[:n] / smallest
    remaining_n = N - np.arange(n)
    scale_n = draws.left[:n] / draws.weights[:n]
    growth_n = draws.left[0] / draws.left[:n]
    step = max(1, CHUNK // n)
    for first in range(0, pairs, step):
        part = slice(first, min(first + step, pairs))
        d = difference_Kn[part].astype(np.float64)
        seen = np.cumsum(d, 1)
        missing = above_K[part, None] - seen + d
        """[K, n] D - S_{t-1}: what the images that are left must bring, if T is D."""
        impossible = (missing > remaining_n).any(1) | (above_K[part] - seen[:, -1] > N - n)
        gain = (missing - d * scale_n) / np.maximum(largest_n - missing, smallest * 1e-9)
        if start_K is not None:
            gain = np.where(np.arange(n) >= start_K[part, None], gain, 0.0)
        np.maximum(gain, -1.0, out=gain)
        wealth = np.stack([np.log1p(np.minimum(LARGEST_SHARE, share * growth_n) * gain).sum(1) for share in SHARES])
        top = wealth.max(0)
        log_mean = top + np.log(np.exp(wealth - top).mean(0))
        found[part] = impossible | (log_mean >= -math.log(delta))
    return found


def largest_excess(
    draws: Draws,
    difference_Kn: NDArray[np.int8],
    delta: float,
    *,
    start_K: NDArray[np.int64] | None = None,
) -> int:
    """The smallest E >= 0 such that T <= E is certified for all K pairs at once, each at `delta`.

    In images: divided by N it is how far above the leader, in accuracy, any of the others can be.
    """
    low, high = 0, len(draws)
    open_K = np.arange(len(difference_Kn))
    while low < high and len(open_K):
        middle = (low + high) // 2
        chosen = None if start_K is None else start_K[open_K]
        good = certified(draws, difference_Kn[open_K], middle + 1, delta, start_K=chosen)
        if good.all():
            high = middle
        else:
            low, open_K = middle + 1, open_K[~good]  # the wealth grows with D: what is certified stays so above it
    return low if len(open_K) else 0
