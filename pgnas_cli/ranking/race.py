"""Racing: all candidates see the same images, those that cannot win drop out, and finalists see every image.

The images of the selection split are drawn in one order for all candidates. After each slice, longer than the one
before, the paired outcomes decide. Two ways to stop:

* guarantee: a candidate drops out when it is certified that it is no better than the leader; the race ends when it is
  certified that no candidate is more than `margin` better (`bounds`). It costs what it costs.
* budget: after each slice the best share of the candidates stays, the same share after every slice, chosen so that the
  images add up to `budget` times those of an exhaustive ranking (successive halving: Karnin, Koren, Somekh 2013;
  Jamieson, Talwalkar 2016). The margin that can be certified at the end is reported.

The margin holds with probability `confidence`. A guarantee fails only where the best candidate of all and some other
one are involved, so that an error probability of (1 - confidence) / (K - 1) a pair is enough, at any number of looks.

A few pilots see every image first. Most images are answered alike by all candidates, and decide nothing: an image is
drawn early with a weight that grows with how undecided the pilots are about it. The weights are fixed before the order
is drawn, and the bounds and estimates take them into account.

Shape suffixes: K candidates, N images of the split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.errors import UsageError
from pgnas_cli.ranking.bounds import Draws, certified, largest_excess

FIRST_SLICE = 32
"""Least number of images in the first slice."""
FIRST_SHARE = 1 / 16
"""The first slice is at most this share of the split: what a candidate that leaves after it may hide is the margin."""
FIRST_OF_BUDGET = 1 / 3
"""It is also at most this share of a budget, which leaves the rest for the later slices."""
GROWTH = {"budget": 2.0, "guarantee": 1.25}
"""Images seen after a slice over those seen before it. Looks cost no confidence, only time."""
PILOTS = 8
"""At most so many candidates see every image before the order is drawn."""
PILOT_SHARE = 0.1
"""They are at most this share of the candidates, and take at most twice this share of a budget."""
TOP = 5
"""So many of the best are told of after a slice."""
EVEN_WEIGHT = 0.25
"""Weight of an image that all pilots are sure about, beside 1 for one about which they could not be less sure."""


class Outcomes(Protocol):
    """What candidates answer: evaluates them, or looks it up."""

    def __call__(
        self, candidates: Sequence[int], images: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """(whether the answer is right, log-probability of the label in nats), both [candidates, images]."""


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands: its index, its accuracy (an estimate where it has seen a part), and images seen."""

    index: int
    accuracy: float
    seen: int


@dataclass(frozen=True)
class Look:
    """What is known after a slice.

    Args:
        seen: images of the split that those in the race have seen.
        racing: candidates that saw this slice.
        staying: how many of them go on.
        leader: index of the best.
        accuracy: its estimated accuracy.
        images: candidates times images evaluated so far.
        top: the best, best first.
    """

    seen: int
    racing: int
    staying: int
    leader: int
    accuracy: float
    images: int
    top: tuple[Standing, ...] = ()


class Field:
    """The candidates of a race, and what each has answered so far.

    Args:
        outcomes: evaluates candidates on images.
        candidates: number of candidates K.
        images: number of images N of the split.
        seed: of the order of the images.
        pilots: how many candidates see every image first, evenly spread; 0 draws all images with equal weights.
        tie: sorts candidates of equal accuracy and log-likelihood, smallest first: size, then identity.
        expected: how many candidates there may be in the end, which the error probability is divided among; None: K.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        candidates: int,
        images: int,
        *,
        seed: int,
        pilots: int,
        tie: Sequence[Any],
        expected: int | None = None,
    ) -> None:
        self.expected = candidates if expected is None else expected
        self.outcomes, self.tie, self.spent, self.pilots = outcomes, list(tie), 0, pilots
        self.right = np.zeros((candidates, images), bool)
        """[K, N] in the order of the draws."""
        self.log_prob = np.zeros(candidates)
        """[K] sum over the images that were seen."""
        self.seen = np.zeros(candidates, np.int64)
        self.start = np.zeros(candidates, np.int64)
        """[K] images that had been seen when a candidate was proposed; see `bounds.certified`."""
        chosen = np.unique(np.linspace(0, candidates - 1, pilots).round().astype(np.int64))
        weights, self.expectation = np.ones(images), np.zeros(images)
        if len(chosen):
            right, log_prob = self._evaluate(chosen, np.arange(images))
            weights = pilot_weights(log_prob)
        self.draws = Draws(weights, np.random.default_rng(seed))
        if len(chosen):
            self.right[chosen] = right[:, self.draws.order]
            self.log_prob[chosen] = log_prob.sum(1, dtype=np.float64)
            self.seen[chosen] = images
            self.expectation = self.right[chosen].mean(0)

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def images(self) -> int:
        """N."""
        return len(self.draws)

    def _evaluate(
        self, candidates: Sequence[int] | NDArray[np.int64], images: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        self.spent += len(candidates) * len(images)
        return self.outcomes([int(index) for index in candidates], images)

    def show(self, candidates: NDArray[np.int64], n: int) -> None:
        """Have candidates see the first n images; what they have seen is not shown again."""
        behind = candidates[self.seen[candidates] < n]
        for first in np.unique(self.seen[behind]):
            group = behind[self.seen[behind] == first]
            right, log_prob = self._evaluate(group, self.draws.order[first:n])
            self.right[group, first:n] = right
            self.log_prob[group] += log_prob.sum(1, dtype=np.float64)
            self.seen[group] = n

    def add(self, tie: Sequence[Any], n: int) -> NDArray[np.int64]:
        """Let in candidates that were proposed when the first n images had been seen; their indices.

        Args:
            tie: of the new ones, as in the constructor.
            n: see `bounds.certified`: only images after those count in a certificate.
        """
        number = len(tie)
        new = np.arange(len(self), len(self) + number)
        self.tie.extend(tie)
        self.right = np.concatenate([self.right, np.zeros((number, self.images), bool)])
        self.log_prob = np.concatenate([self.log_prob, np.zeros(number)])
        self.seen = np.concatenate([self.seen, np.zeros(number, np.int64)])
        self.start = np.concatenate([self.start, np.full(number, n)])
        return new

    def accuracy(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """[candidates] estimates of the accuracy on the whole split, unbiased; exact where all of it was seen.

        (1 / N) * (sum over all images of c_e + sum over seen images of (right_e - c_e) * factor_e): c_e is the mean of
        the pilots, which saw all, and what they agree on adds no variance.
        """
        estimate = np.empty(len(candidates))
        for n in np.unique(self.seen[candidates]):
            rows = self.seen[candidates] == n
            surprise = self.right[candidates[rows], :n] - self.expectation[:n]
            estimate[rows] = self.expectation.mean() + surprise @ self.draws.factors(n) / self.images
        return estimate

    def ranked(self, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same candidates, best first: accuracy, then log-likelihood, then `tie`."""
        accuracy = np.round(self.accuracy(candidates), 12)  # equal counts are equal
        mean = self.log_likelihood(candidates)
        keys = [(-a, -b, self.tie[i]) for a, b, i in zip(accuracy, mean, candidates, strict=True)]
        return candidates[sorted(range(len(candidates)), key=keys.__getitem__)]

    def look(self, seen: int, racing: int, ranked: NDArray[np.int64], staying: int) -> Look:
        """What is known after a slice, of candidates from best to worst."""
        accuracy = self.accuracy(ranked[:TOP])
        top = tuple(Standing(int(i), float(a), int(self.seen[i])) for i, a in zip(ranked[:TOP], accuracy, strict=True))
        return Look(seen, racing, staying, top[0].index, top[0].accuracy, self.spent, top)

    def log_likelihood(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """[candidates] mean log-probability of the labels of the images seen, in nats; -inf where it is not finite."""
        mean = self.log_prob[candidates] / np.maximum(1, self.seen[candidates])
        return np.where(np.isfinite(mean), mean, -np.inf)

    def difference(self, others: NDArray[np.int64], leader: int, n: int) -> NDArray[np.int8]:
        """[others, n] correct(other) - correct(leader)."""
        return self.right[others, :n].view(np.int8) - self.right[leader, :n].view(np.int8)

    def margin(self, leader: int, confidence: float, rivals: NDArray[np.int64] | None = None) -> float:
        """By how much at most any rival's accuracy on the whole split is above the leader's, with this confidence.

        Args:
            leader: index of the winner.
            confidence: that all bounds hold at once.
            rivals: None: all others, as far as each has seen the images.
        """
        rivals = np.arange(len(self)) if rivals is None else rivals
        rivals = rivals[rivals != leader]
        excess = 0
        for n in np.unique(np.minimum(self.seen[rivals], self.seen[leader])):
            group = rivals[np.minimum(self.seen[rivals], self.seen[leader]) == n]
            found = largest_excess(
                self.draws,
                self.difference(group, leader, int(n)),
                self.delta(confidence),
                start_K=self.starts(group, leader),
            )
            excess = max(excess, found)
        return excess / self.images

    def delta(self, confidence: float) -> float:
        """The error probability of one pair: only pairs with the best candidate of all can make a guarantee fail."""
        return (1 - confidence) / max(1, len(self) - 1, self.expected - 1)

    def starts(self, others: NDArray[np.int64], leader: int) -> NDArray[np.int64]:
        """[others] images that either of the two had been chosen by."""
        return np.maximum(self.start[others], self.start[leader])


Report = Callable[[Look], None]


def pilot_weights(log_prob: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N] weights from the pilots' log-probabilities of the labels, [pilots, N].

    w = a + (1 - a) (4 q (1 - q))^2, with q the mean probability of the label and a = EVEN_WEIGHT. 4 q (1 - q) is 1
    where the pilots cannot decide, and 0 where they are sure, rightly or wrongly. What is not finite counts as q = 0.
    """
    probability = np.where(np.isfinite(log_prob), np.exp(log_prob.astype(np.float64)), 0.0).mean(0)
    return EVEN_WEIGHT + (1 - EVEN_WEIGHT) * (4 * probability * (1 - probability)) ** 2


def slices(images: int, growth: float, budget: float = 1.0) -> list[int]:
    """How many images have been seen after each slice: growing by a factor, up to all."""
    end = float(max(FIRST_SLICE, math.ceil(min(FIRST_SHARE, FIRST_OF_BUDGET * budget) * images)))
    ends = []
    while end < images:
        ends.append(int(end))
        end *= growth
    return [*ends, images]


def pilots_of(candidates: int, budget: float | None = None) -> int:
    """How many pilots a race of so many candidates has."""
    most = candidates * PILOT_SHARE * (1.0 if budget is None else min(1.0, 2 * budget))
    return min(PILOTS, int(most)) if most >= 2 else 0


def exhaustive(field: Field, *, report: Report) -> int:
    """Show every candidate every image; index of the best."""
    everyone = np.arange(len(field))
    field.show(everyone, field.images)
    ranked = field.ranked(everyone)
    report(field.look(field.images, len(field), ranked, 1))
    return int(ranked[0])


def guaranteed(field: Field, *, confidence: float, margin: float, report: Report) -> tuple[int, float]:
    """Race until the winner is within `margin` of the best candidate, with this confidence; it then sees every image.

    Args:
        field: the candidates at the start.
        confidence: in (0, 1).
        margin: in accuracy on the whole split, at least 0.
        report: called after every slice.

    Returns:
        (index of the winner, margin that is certified, at most the one asked for)
    """
    racing = np.arange(len(field))
    for n in slices(field.images, GROWTH["guarantee"]):
        field.show(racing, n)
        ranked = field.ranked(racing)
        leader, others = int(ranked[0]), ranked[1:]
        difference = field.difference(others, leader, n)
        delta, starts = field.delta(confidence), field.starts(others, leader)
        close = certified(field.draws, difference, int(margin * field.images + 1e-9) + 1, delta, start_K=starts)
        done = n == field.images or bool(close.all())
        beaten = certified(field.draws, difference, 1, delta, start_K=starts) if not done else close
        racing = np.concatenate([ranked[:1], others[~beaten]]) if not done else ranked
        report(field.look(n, len(ranked), ranked, len(racing)))
        if done:
            margin = field.margin(leader, confidence, ranked)
            field.show(ranked[:1], field.images)
            return leader, margin
    raise AssertionError("the last slice ends the race")


def budgeted(
    field: Field, *, confidence: float, budget: float, report: Report, strict: bool = True
) -> tuple[int, float]:
    """Race within a share of the images of an exhaustive ranking.

    After each slice the same share of the candidates stays: the largest that the budget allows (`plan`).

    Args:
        field: the candidates at the start; what its pilots have seen counts.
        confidence: of the margin.
        budget: in (0, 1]; more is spent where `strict` is off and it is too small.
        report: called after every slice.
        strict: see `plan`; off where candidates came that were planned for, but fewer.

    Returns:
        (index of the winner, margin that is certified, over all candidates)

    Raises:
        UsageError: see `plan`.
    """
    ends, stay = plan(len(field), field.images, field.pilots, budget, strict=strict)
    unseen = len(field) - field.pilots
    racing = np.arange(len(field))
    for number, n in enumerate(ends):
        field.show(racing, n)
        ranked = field.ranked(racing)
        whole = ranked[field.seen[ranked] == field.images]
        partial = ranked[field.seen[ranked] < field.images][: staying(unseen, stay, number + 1)]
        racing = np.concatenate([whole, partial])
        racing = ranked[np.isin(ranked, racing)]
        report(field.look(n, len(ranked), ranked, len(racing)))
    leader = int(field.ranked(np.flatnonzero(field.seen == field.images))[0])
    return leader, field.margin(leader, confidence)


def staying(candidates: int, share: float, slices_seen: int) -> int:
    """How many of so many candidates are left after so many slices, at least one."""
    return max(1, int(candidates * share**slices_seen + 1e-9))


def plan(candidates: int, images: int, pilots: int, budget: float, *, strict: bool = True) -> tuple[list[int], float]:
    """(`slices` of a race with a budget, the largest share that may stay after each of them).

    Raises:
        UsageError: the budget is too small to show every candidate the first slice, and the pilots and one more every
            image. Not strict: one candidate stays, at more than the budget.
    """
    ends = slices(images, GROWTH["budget"], budget)
    sizes = np.diff([0, *ends])

    def needed(share: float) -> float:
        left = sum(size * staying(candidates - pilots, share, number) for number, size in enumerate(sizes))
        return float(left) + pilots * images

    allowed = budget * candidates * images + 1e-6
    if needed(0.0) > allowed and not strict:
        return ends, 0.0
    if needed(0.0) > allowed:
        # a larger budget has more pilots and a longer first slice
        beside_pilots = 1 - 2 * PILOT_SHARE
        least = max(needed(0.0) / images / beside_pilots, 1 / (beside_pilots - FIRST_OF_BUDGET)) / candidates
        least = math.ceil(100 * least) / 100
        raise UsageError(
            f"--budget {budget:g} is {allowed:,.0f} images; {candidates} candidates need {needed(0.0):,.0f} at least",
            f"--budget {least:g}, or --method exhaustive" if least < 1 else "--method exhaustive",
        )
    if needed(1.0) <= allowed:
        return ends, 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) <= allowed else (low, middle)
    return ends, low
