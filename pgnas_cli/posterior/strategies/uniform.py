"""Draws at one constant probability: the baseline of the posterior."""

from __future__ import annotations

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.posterior import Posterior
from pgnas_cli.posterior.strategies.strategy import Independent, Options


class Uniform(Independent):
    """One drop probability for every channel: m_k ~ Bernoulli(1 - drop_prob), independent.

    Meant for a supernet that was trained at that same constant rate (Bender et al., Understanding and Simplifying
    One-Shot Architecture Search, ICML 2018).
    """

    name = "uniform"
    options = ("drop_prob",)
    example = "--strategy uniform --drop-prob 0.4"

    @classmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Uniform:
        if options.drop_prob is None:
            raise UsageError("--strategy uniform needs the rate to draw at", "--drop-prob 0.4")
        return cls(posterior.at_rate(options.drop_prob), seed)
