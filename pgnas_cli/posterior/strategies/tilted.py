"""Draws of a given mean size: the posterior conditioned on a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Posterior
from pgnas_cli.posterior.strategies.strategy import Independent, Options, budget, known_costs
from pgnas_cli.posterior.tilting import DRAWS, Tilt, solve_sampled


class Tilted(Independent):
    """q(m) ~ p(m) exp(-lambda C(m)) as a product of gates, lambda solved for the mean size (exponential tilting).

    One training run gives networks of many sizes. See `posterior.tilting`.

    Args:
        tilt: the solved distribution.
        seed: of the draws.
    """

    name = "tilted"
    options = ("params", "macs")
    example = "--strategy tilted --params 20M"
    needs_width = True

    def __init__(self, tilt: Tilt, seed: int) -> None:
        super().__init__(tilt.distribution, seed)
        self.tilt = tilt

    @classmethod
    def make(cls, posterior: Posterior, costs: Costs | None, options: Options, *, n: int, seed: int) -> Tilted:
        known, wanted = known_costs(costs, cls), budget(options, cls.example)
        if wanted is None:
            raise UsageError("--strategy tilted needs the size to draw at", "--params 20M, or --macs 0.5x")
        unit, size = wanted
        if isinstance(size, tuple):
            raise UsageError(
                f"--{unit} is a range; --strategy tilted draws at one size", f"--strategy stratified --{unit} LOW..HIGH"
            )
        return cls(solve_sampled(posterior, known, unit, size, seed=seed), seed)

    def facts(self, found: Sequence[Candidate], strata: Sequence[int]) -> dict[str, Any]:
        return tilt_facts(self.tilt, found)


def tilt_facts(tilt: Tilt, found: Sequence[Candidate]) -> dict[str, Any]:
    """What the record says of a tilt and of the candidates drawn at it.

    `calibration` is of the draws that the tilt was corrected by; `sampled` and `relative_error` are of the candidates.
    """
    mean = float(np.mean([getattr(candidate, tilt.unit) for candidate in found])) if found else None
    return {
        "unit": tilt.unit,
        "target": tilt.target,
        "lambda": tilt.multiplier,
        "expected": tilt.expected,
        "residual": tilt.residual,
        "calibration": {"draws": DRAWS, "usable": tilt.usable, "mean": tilt.sampled},
        "candidates": len(found),
        "sampled": mean,
        "relative_error": None if mean is None else mean / tilt.target - 1.0,
    }
