"""What a strategy is. A new one is a module of this package and its entry in `STRATEGIES`.

A strategy proposes masks (`ask`) and may learn from how they scored (`tell`). It evaluates nothing, and it leaves
repeated, unusable and too large networks to `posterior.sampling.sample_candidates`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import UNITS, Costs
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Masks, Posterior

Scored = tuple[Masks, float]
"""Masks and how good they are: more is better."""
Size = float | tuple[float, float]
"""A cost, or the range between two."""


@dataclass(frozen=True)
class Options:
    """What the user may give to a strategy; None is not given. Each strategy names those that it takes.

    Args:
        drop_prob: the constant drop probability.
        params: parameters wanted.
        macs: multiply-adds of one image wanted.
    """

    drop_prob: float | None = None
    params: Size | None = None
    macs: Size | None = None

    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Strategy(ABC):
    """Proposes masks.

    Class attributes:
        name: what `--strategy` calls it, and what its candidates carry.
        options: those of `Options` that it takes.
        example: what to type to use it.
        needs_width: it makes sense only while the posterior holds many networks.
        needs_scores: it goes on from what it is told; drawing from it alone is not enough.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str]
    needs_width: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = False

    strata: int = 1
    """Proposal i belongs to stratum i mod strata; a set of candidates has as many of each."""

    @classmethod
    @abstractmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Strategy:
        """The strategy as the user asked for it.

        Args:
            posterior: the learned probabilities.
            costs: of the network; None where nobody can say.
            options: no others than it takes.
            n: candidates wanted.
            seed: of all its draws.

        Raises:
            UsageError: an option is missing or makes no sense.
        """

    @abstractmethod
    def ask(self, n: int) -> list[Masks]:
        """The next n proposals: `ask(2)` and `ask(3)` give what `ask(5)` gives."""

    def tell(self, scored: Sequence[Scored]) -> None:  # noqa: B027 - most strategies learn nothing
        """Learn how masks scored, its own proposals or others."""

    def log_prob(self, masks: Masks) -> float:
        """Log-probability of proposing the masks, in nats; nan where it has none."""
        return float("nan")

    def facts(self, found: Sequence[Candidate], strata: Sequence[int]) -> dict[str, Any]:
        """What the record of a set of candidates says of how it was drawn, as JSON.

        Args:
            found: the candidates.
            strata: the stratum of each.
        """
        return {}


class Independent(Strategy):
    """Independent draws from one distribution.

    Args:
        distribution: the drop probabilities to draw at.
        seed: of the draws.
    """

    def __init__(self, distribution: Posterior, seed: int) -> None:
        self.distribution = distribution
        self._generator = np.random.default_rng(seed)

    def ask(self, n: int) -> list[Masks]:
        return [self.distribution.draw(self._generator) for _ in range(n)]

    def log_prob(self, masks: Masks) -> float:
        return self.distribution.log_prob(masks)


def budget(options: Options, example: str) -> tuple[str, Size] | None:
    """(unit, size) of the budget that was given; None if there is none.

    Raises:
        UsageError: there are two.
    """
    given = [(unit, size) for unit, size in options.given().items() if unit in UNITS]
    if len(given) > 1:
        raise UsageError("--params and --macs were both given: a strategy meets one budget", example)
    return given[0] if given else None


def known_costs(costs: Costs | None, kind: type[Strategy]) -> Costs:
    """The costs.

    Raises:
        UsageError: they are not known.
    """
    if costs is None:
        raise UsageError(
            f"--strategy {kind.name} needs to know what networks cost: draw with it from a run",
            f"pgnas sample {kind.example}",
        )
    return costs
