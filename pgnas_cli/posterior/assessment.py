"""What networks cost: of masks exactly, of keep probabilities in expectation. The network itself is not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.posterior.posterior import Masks

UNITS = ("params", "macs")
"""What a cost may be in: parameters, or multiply-adds of one image."""
PerChannel = Mapping[str, NDArray[np.float64]]
"""Gated layer -> a number per input channel, [K]."""


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


AssessMany = Callable[[Sequence[Masks]], Sequence[Assessment]]
"""Exact cost and usability of each of many masks."""


class Costs(Protocol):
    """What a strategy may ask of the network. `unit` is "params" or "macs"."""

    def whole(self, unit: str) -> float:
        """Cost with everything kept."""

    def expected(self, keep: PerChannel, unit: str) -> float:
        """E[cost] of the compact network if every channel is kept independently with its probability."""

    def slope(self, keep: PerChannel, unit: str) -> PerChannel:
        """dE[cost] / dkeep of every channel."""

    def assess_many(self, many: Sequence[Masks]) -> Sequence[Assessment]:
        """Exact cost and usability of each of many masks."""
