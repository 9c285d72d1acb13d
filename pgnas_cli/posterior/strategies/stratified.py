"""Candidates spread over sizes: for a front, and for asking how far a ranking can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Masks, Posterior
from pgnas_cli.posterior.strategies.strategy import Options, Strategy, budget, known_costs
from pgnas_cli.posterior.strategies.tilted import Tilted, tilt_facts
from pgnas_cli.posterior.tilting import Tilt, solve_sampled

STRATA = 7
"""Sizes that are drawn at; fewer where fewer candidates are asked for."""
RANGE = (0.3, 0.9)
"""The sizes between which they lie if nobody says: shares of the supernet."""


class Stratified(Strategy):
    """Stratified sampling by size (Cochran 1977, ch. 5): as many candidates from each of several tilted posteriors.

    The targets are evenly spaced from the lowest to the highest; proposal i is drawn at target i mod strata, each
    stratum with a generator of its own.

    Args:
        tilts: the strata, by rising target.
        seed: of the draws.
    """

    name = "stratified"
    options = ("params", "macs")
    example = "--strategy stratified --params 0.3x..0.9x"
    needs_width = True

    def __init__(self, tilts: Sequence[Tilt], seed: int) -> None:
        self.tilts = tuple(tilts)
        self.strata = len(self.tilts)
        self._generators = [np.random.default_rng([seed, index]) for index in range(self.strata)]
        self._asked = 0

    @classmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Stratified:
        known, wanted = known_costs(costs, cls), budget(options, cls.example)
        whole = known.whole("params")
        unit, size = wanted or ("params", (RANGE[0] * whole, RANGE[1] * whole))
        if not isinstance(size, tuple):
            raise UsageError(
                f"--{unit} is one size; --strategy stratified spreads over a range",
                f"--{unit} 0.3x..0.9x, or {Tilted.example}",
            )
        low, high = size
        if not low < high:
            raise UsageError(f"--{unit} goes from {low:.0f} to {high:.0f}, it should rise", f"--{unit} 0.3x..0.9x")
        targets = np.linspace(low, high, min(n, STRATA)) if n > 1 else np.array([(low + high) / 2])
        return cls([solve_sampled(posterior, known, unit, float(target), seed=seed) for target in targets], seed)

    def ask(self, n: int) -> list[Masks]:
        proposals: list[Masks] = []
        for _ in range(n):
            stratum = self._asked % self.strata
            proposals.append(self.tilts[stratum].distribution.draw(self._generators[stratum]))
            self._asked += 1
        return proposals

    def log_prob(self, masks: Masks) -> float:
        """Under the mixture of the strata: log of the mean of their probabilities."""
        logs = np.array([tilt.distribution.log_prob(masks) for tilt in self.tilts])
        return float(np.logaddexp.reduce(logs)) - math.log(self.strata)

    def facts(self, found: Sequence[Candidate], strata: Sequence[int]) -> dict[str, Any]:
        members: list[list[Candidate]] = [[] for _ in self.tilts]
        for candidate, stratum in zip(found, strata, strict=True):
            members[stratum].append(candidate)
        return {"strata": [tilt_facts(tilt, group) for tilt, group in zip(self.tilts, members, strict=True)]}
