"""What a supernet costs, now and as its posterior expects.

The expectation counts what compaction will leave: an output channel that no reader keeps takes its whole filter with
it, so dropping a hidden channel saves in the convolution that writes it as well as in the one that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SupernetCost:
    """Sizes of a supernet.

    Args:
        params: parameters with everything kept (gates not counted).
        macs: multiply-adds for one image with everything kept.
        expected_params: scalar tensor, E[parameters] of the compact network, differentiable in the drop logits.
        expected_macs: scalar tensor, E[multiply-adds].
    """

    params: int
    macs: int
    expected_params: Tensor
    expected_macs: Tensor
