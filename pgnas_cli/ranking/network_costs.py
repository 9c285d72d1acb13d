"""What a supernet's candidates cost, for strategies that know no torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgnas_cli import compact as compaction
from pgnas_cli.posterior.assessment import Assessment, PerChannel
from pgnas_cli.posterior.posterior import Masks
from pgnas_cli.supernet.supernet import Supernet


class NetworkCosts:
    """`posterior.assessment.Costs` of a supernet: numbers in, numbers out, float64 on the CPU.

    The expectation counts every surrogate, also one that compaction would fold away, as `Supernet.cost` does.

    Args:
        net: the supernet.
    """

    def __init__(self, net: Supernet) -> None:
        self._net = net

    def whole(self, unit: str) -> float:
        """Cost with everything kept."""
        return float(getattr(self._net.kept_cost(), unit))

    def expected(self, keep: PerChannel, unit: str) -> float:
        """E[cost] of the compact network; keep: layer -> [K]."""
        with torch.no_grad():
            return float(self._expectation({name: torch.from_numpy(values) for name, values in keep.items()}, unit))

    def slope(self, keep: PerChannel, unit: str) -> PerChannel:
        """Layer -> [K], dE[cost] / dkeep; 0 where the cost does not depend on a layer."""
        leaves = {name: torch.from_numpy(values).requires_grad_() for name, values in keep.items()}
        grads = torch.autograd.grad(self._expectation(leaves, unit), list(leaves.values()), materialize_grads=True)
        return {name: grad.numpy() for name, grad in zip(leaves, grads, strict=True)}

    def _expectation(self, keep: dict[str, Tensor], unit: str) -> Tensor:
        cost: Tensor = getattr(compaction.expected_cost(self._net.graph, keep), unit)
        return cost

    def assess_many(self, many: Sequence[Masks]) -> Sequence[Assessment]:
        """Exact cost and usability of each."""
        return self._net.assess_many(many)
