"""Search that goes on where sampling stops: proposals only, what they score is told to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.posterior import Masks, Posterior
from pgnas_cli.posterior.strategies.strategy import Options, Scored, Strategy

POPULATION = 64
TOURNAMENT = 8
CROSSOVER = 0.5
MUTATION = 0.1


class Evolution(Strategy):
    """Aging evolution seeded by the posterior (Real et al., Regularized Evolution, AAAI 2019).

    The population is the last `population` networks that were told, whatever they scored: the oldest leave. Until two
    are there, proposals are draws from the posterior. A child has one parent, or with probability `crossover` two, and
    then each layer's mask is from either with equal chance; a parent is the best of `tournament` members drawn with
    replacement. Mutation draws each gate group anew from the posterior with probability `mutation`, at least one, so
    that children stay where the posterior is.

    Args:
        posterior: where the first networks and all mutations are drawn from.
        seed: of the proposals.
        population, tournament, crossover, mutation: see above.
    """

    name = "evolution"
    example = "--strategy evolution"
    needs_scores = True

    def __init__(
        self,
        posterior: Posterior,
        seed: int,
        *,
        population: int = POPULATION,
        tournament: int = TOURNAMENT,
        crossover: float = CROSSOVER,
        mutation: float = MUTATION,
    ) -> None:
        if population < 2 or tournament < 1:
            raise ValueError(f"population {population} and tournament {tournament}, they should be at least 2 and 1")
        self._posterior = posterior
        self._population: deque[Scored] = deque(maxlen=population)
        self._tournament, self._crossover, self._mutation = tournament, crossover, mutation
        self._seed, self._told = seed, 0
        self._generator = np.random.default_rng([seed, 0])

    @classmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Evolution:
        return cls(posterior, seed)

    def ask(self, n: int) -> list[Masks]:
        if len(self._population) < 2:
            return [self._posterior.draw(self._generator) for _ in range(n)]
        return [self._child() for _ in range(n)]

    def tell(self, scored: Sequence[Scored]) -> None:
        """Add networks and their scores to the population, in their order.

        What is asked next depends on the seed and on what was told, not on how many earlier proposals were used.
        """
        self._population.extend(scored)
        self._told += 1
        self._generator = np.random.default_rng([self._seed, self._told])

    def _child(self) -> Masks:
        child = dict(self._parent())
        if self._generator.random() < self._crossover:
            other = self._parent()
            for name in child:
                if self._generator.random() < 0.5:
                    child[name] = other[name]
        fresh = self._posterior.draw(self._generator)
        again = self._groups_to_redraw()
        return {name: np.where(again[name], fresh[name], mask) for name, mask in child.items()}

    def _parent(self) -> Masks:
        drawn = self._generator.integers(len(self._population), size=self._tournament)
        return max((self._population[index] for index in drawn), key=lambda member: member[1])[0]

    def _groups_to_redraw(self) -> dict[str, NDArray[np.bool_]]:
        """Layer -> [K]: whether a channel's group is to be drawn anew."""
        chosen = self._generator.random(self._posterior.groups) < self._mutation
        chosen[self._generator.integers(len(chosen))] = True
        channels, start = {}, 0
        for name, layer in self._posterior.items():
            channels[name] = np.repeat(chosen[start : start + len(layer.sizes)], layer.sizes)
            start += len(layer.sizes)
        return channels
