"""Sums over an epoch, kept on the device so that no step waits for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World


class EpochSums:
    """Named sums of one process, in float64 where the device has it.

    Args:
        world: this process among the others.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value: float | Tensor, weight: float = 1.0) -> None:
        """Add weight * value."""
        amount = self._number(value) * weight
        self._sums[name] = self._sums[name] + amount if name in self._sums else amount

    def over_all(self) -> dict[str, float]:
        """The sums over all processes, which all call this together."""
        return distributed.reduce_sums({name: float(value) for name, value in self._sums.items()}, self.world)

    def restore(self, sums: Mapping[str, float]) -> None:
        """Go on from sums over all processes, each with its equal part of them."""
        self._sums = {name: self._number(value / self.world.size) for name, value in sums.items()}

    def clear(self) -> None:
        """Begin the next epoch."""
        self._sums = {}

    def _number(self, value: float | Tensor) -> Tensor:
        kind = torch.float32 if self.world.device.type == "mps" else torch.float64
        return torch.as_tensor(value, device=self.world.device, dtype=kind)
