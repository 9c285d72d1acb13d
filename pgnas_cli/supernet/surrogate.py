"""Surrogates: what makes the choice of an operation without weights a choice of channels.

A pooling or identity branch has no convolution whose inputs could be dropped. Behind it goes a 1x1 convolution that
keeps the number of channels and starts as the identity; gated, it drops single channels of the branch, and the branch
itself where it drops them all. Zhou et al. 2020 (arXiv 1906.09557) name this as the first piece of future work.
"""

from __future__ import annotations

import torch
from torch import nn


class SurrogateConv2d(nn.Conv2d):
    """A 1x1 convolution without bias that starts as the identity: y = W x with W = I.

    Its initialisation draws no random numbers, so that a seed gives a network the same other weights with surrogates
    as without. Compaction leaves out a surrogate that is still the identity and keeps all its inputs.

    Args:
        channels: of the input and of the output.

    Shape: [B, channels, H, W] -> [B, channels, H, W].
    """

    plain_class = nn.Conv2d

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)

    def reset_parameters(self) -> None:
        """W = I."""
        with torch.no_grad():  # nn.init.dirac_ takes a step for every channel
            identity = torch.eye(self.in_channels, dtype=self.weight.dtype, device=self.weight.device)
            self.weight.copy_(identity[:, :, None, None])

    def is_identity(self) -> bool:
        """Whether W is still exactly the identity; False on the meta device, where there are no weights."""
        if self.weight.is_meta:
            return False
        with torch.no_grad():
            identity = torch.eye(self.in_channels, dtype=self.weight.dtype, device=self.weight.device)
            return torch.equal(self.weight.flatten(1), identity)
