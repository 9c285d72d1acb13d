"""Draws at the learned probabilities."""

from __future__ import annotations

from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.posterior import Posterior
from pgnas_cli.posterior.strategies.strategy import Independent, Options


class Learned(Independent):
    """The posterior as it is: m_k ~ Bernoulli(1 - p_k), independent (Zhou et al. 2020, Algorithm 1, lines 7-8)."""

    name = "posterior"
    example = "--strategy posterior"

    @classmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Learned:
        return cls(posterior, seed)
