"""Drawing sets of distinct candidates. A strategy turns a posterior into a distribution over masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Masks, Posterior

STRATEGIES = ("posterior", "uniform")
DRAWS_PER_CANDIDATE = 50
"""Give up on more distinct candidates after this many draws for each that was asked for."""


@dataclass(frozen=True)
class Assessment:
    """What the channel graph says of a set of masks.

    Args:
        params: exact parameters of the compact network.
        macs: exact multiply-adds of the compact network.
        usable: the logits depend on the image.
    """

    params: int
    macs: int
    usable: bool


Assess = Callable[[Masks], Assessment]


@dataclass(frozen=True)
class SampleReport:
    """How a set was drawn.

    Args:
        draws: masks drawn in all.
        duplicates: draws that repeated an earlier one.
        unusable: draws whose logits do not depend on the image.
        too_large: draws above --max-params or --max-macs.
    """

    draws: int
    duplicates: int
    unusable: int
    too_large: int


def resolve(posterior: Posterior, strategy: str, drop_prob: float | None) -> Posterior:
    """The distribution that a strategy draws from.

    posterior: the learned probabilities. uniform: one constant probability for every channel (Bender et al. 2018),
    meant for a supernet that was trained at that same constant rate.

    Raises:
        UsageError: unknown strategy; uniform without a drop probability; posterior with one.
    """
    if strategy == "posterior":
        if drop_prob is not None:
            raise UsageError("--drop-prob belongs to --strategy uniform", "leave it out, or add --strategy uniform")
        return posterior
    if strategy == "uniform":
        if drop_prob is None:
            raise UsageError("--strategy uniform needs the rate to draw at", "--drop-prob 0.4")
        return posterior.at_rate(drop_prob)
    raise UsageError(f"unknown strategy {strategy!r}", f"one of: {', '.join(STRATEGIES)}")


def draw_masks(distribution: Posterior, seed: int) -> Iterator[dict[str, NDArray[np.bool_]]]:
    """An endless stream of masks; the same seed gives the same stream."""
    generator = np.random.default_rng(seed)
    while True:
        yield distribution.draw(generator)


def sample_candidates(
    distribution: Posterior,
    n: int,
    *,
    strategy: str,
    assess: Assess,
    seed: int,
    max_params: float | None = None,
    max_macs: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Candidate], SampleReport]:
    """Up to `n` distinct, usable candidates within the limits.

    Draws at most `DRAWS_PER_CANDIDATE * n` times: a posterior that has nearly converged holds few distinct networks,
    and a limit may exclude nearly all of them. Fewer candidates than asked for is not an error.

    Args:
        distribution: what to draw from, see `resolve`.
        n: how many, at least 1.
        strategy: the name that the candidates carry.
        assess: exact cost and usability of masks.
        seed: of the stream of draws.
        max_params: upper limit of exact parameters.
        max_macs: upper limit of exact multiply-adds.
        progress: called with the number of candidates found so far.

    Raises:
        UsageError: n < 1, or not one candidate was found, with the reason.
    """
    if n < 1:
        raise UsageError(f"{n} candidates were asked for, it should be at least 1", "-n 100")
    found: dict[str, Candidate] = {}
    duplicates = unusable = too_large = draws = 0
    smallest: Assessment | None = None
    for masks in draw_masks(distribution, seed):
        if len(found) == n or draws == DRAWS_PER_CANDIDATE * n:
            break
        draws += 1
        cost = assess(masks)
        if not cost.usable:
            unusable += 1
            continue
        if smallest is None or cost.params < smallest.params:
            smallest = cost
        if (max_params is not None and cost.params > max_params) or (max_macs is not None and cost.macs > max_macs):
            too_large += 1
            continue
        candidate = Candidate(masks, strategy, cost.params, cost.macs, distribution.log_prob(masks))
        if candidate.id in found:
            duplicates += 1
            continue
        found[candidate.id] = candidate
        if progress is not None:
            progress(len(found))
    if not found:
        if smallest is None:
            raise UsageError(
                f"none of {draws} draws gives a network whose logits depend on the image",
                "train with a larger --target-params, or a smaller --prior-drop",
            )
        raise UsageError(
            f"none of {draws} draws is within the limits: "
            f"the smallest has {smallest.params} parameters and {smallest.macs} MACs",
            "raise --max-params or --max-macs, or train with a smaller --target-params",
        )
    return list(found.values()), SampleReport(draws, duplicates, unusable, too_large)
