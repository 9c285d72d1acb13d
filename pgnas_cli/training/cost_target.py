"""What a budget holds the network at: numbers of parameters and multiply-adds, and a latency by a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pgnas_cli.recipe import Budget
from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.sizes import Relative, parse_count, parse_seconds
from pgnas_cli.supernet.cost import SupernetCost
from pgnas_cli.supernet.latency import LatencyTable, candidate_latency, expected_latency
from pgnas_cli.supernet.supernet import Supernet


@dataclass(frozen=True)
class Target:
    """A cost and the value it is held at.

    Args:
        unit: "params", "macs" (of one image) or "latency" (seconds).
        value: the expectation that is wanted at the end.
        table: what operations take; for a latency only.

    Raises:
        ValueError: another unit, or a latency without a table.
    """

    unit: str
    value: float
    table: LatencyTable | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}, it should be params, macs or latency")
        if (self.unit == "latency") != (self.table is not None):
            raise ValueError("a target in latency needs a table, and no other takes one")

    @property
    def option(self) -> str:
        """The option that sets it."""
        return f"--target-{self.unit}"

    def expectation(self, net: Supernet, keep: Mapping[str, Tensor] | None = None) -> Tensor:
        """E[cost] of the compact network under the posterior, a scalar tensor that the drop logits differentiate.

        Args:
            net: the supernet.
            keep: other probabilities of being kept than the posterior's, on any device.
        """
        if self.table is not None:
            return expected_latency(net, self.table, keep)
        return self.counted(net.cost(keep))

    def counted(self, cost: SupernetCost) -> Tensor:
        """The expectation of a cost in parameters or multiply-adds."""
        assert self.table is None
        return cost.expected_params if self.unit == "params" else cost.expected_macs

    def whole(self, net: Supernet) -> float:
        """Cost of the network with everything kept."""
        if self.table is not None:
            return self.table.full_seconds
        return float(getattr(net.kept_cost(), self.unit))

    def shown(self, value: float) -> str:
        """A value of this cost for a message."""
        return f"{1e3 * value:.4g} ms" if self.unit == "latency" else f"{value:.0f}"


def find_targets(net: Supernet, budget: Budget, table: LatencyTable | None) -> tuple[Target, ...]:
    """The targets of a recipe as numbers: "0.5x" is half of what the supernet costs with everything kept.

    Returns:
        In the order of UNITS; empty where the recipe has none.

    Raises:
        UsageError: a text is no such size or time.
        ValueError: the recipe names a latency, and there is no table.
    """
    found = []
    for unit, text in (("params", budget.target_params), ("macs", budget.target_macs)):
        if text is not None:
            size = parse_count(text, f"--target-{unit}")
            whole = float(getattr(net.kept_cost(), unit))
            found.append(Target(unit, size.factor * whole if isinstance(size, Relative) else float(size)))
    if budget.target_latency is not None:
        if table is None:
            raise ValueError("a target in latency needs a table")
        seconds = parse_seconds(budget.target_latency, "--target-latency")
        value = seconds.factor * table.full_seconds if isinstance(seconds, Relative) else seconds
        found.append(Target("latency", value, table))
    return tuple(found)


def expectations(net: Supernet, targets: Sequence[Target], keep: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """E[cost] in the unit of each target, as `Target.expectation` gives it; parameters and multiply-adds at once."""
    counts = [target for target in targets if target.table is None]
    cost = net.cost(keep) if counts else None
    return [
        target.expectation(net, keep) if cost is None or target.table is not None else target.counted(cost)
        for target in targets
    ]


def sampled_cost(
    net: Supernet, table: LatencyTable | None = None, *, candidates: int = 64, seed: int = 0
) -> dict[str, dict[str, float]]:
    """What candidates drawn from the posterior cost exactly, each counted by itself.

    Args:
        net: the supernet.
        table: by which their latency is predicted.
        candidates: draws; those whose logits do not depend on the image are left out, as `pgnas sample` does.
        seed: of the draws.

    Returns:
        "params", "macs" and, with a table, "latency" (seconds) -> {"mean", "sd", "n"}: of the n draws that can be used,
        the standard deviation over them as a population; empty if none can.
    """
    posterior, generator = net.posterior(), np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(candidates):
        masks = posterior.draw(generator)
        cost = net.assess(masks)
        if not cost.usable:
            continue
        found.setdefault("params", []).append(cost.params)
        found.setdefault("macs", []).append(cost.macs)
        if table is not None:
            found.setdefault("latency", []).append(candidate_latency(net, masks, table))
    return {
        unit: {"mean": statistics.fmean(values), "sd": statistics.pstdev(values), "n": len(values)}
        for unit, values in found.items()
    }
