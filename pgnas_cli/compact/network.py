"""What compaction returns: an ordinary network without masks or gates, and the index layers between its layers."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


class IndexLayer(nn.Module):
    """A layer around a constant index [n] of channel positions, which is no part of the state dict."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)

    def extra_repr(self) -> str:
        return f"channels={self.index.numel()}"


def _trained_in_nhwc(x: Tensor) -> bool:
    """Whether channels should be picked in channels_last, where index_select(1) gives contiguous maps.

    On a CPU, with gradients the copies that this costs later take longer than the slower selection; without them it is
    the other way round. Not measured on other devices. Never for what stands in for a tensor while a network is traced.
    """
    return (
        isinstance(x, Tensor)
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.requires_grad
        and torch.is_grad_enabled()
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class ChannelGather(IndexLayer):
    """y[:, i] = x[:, index[i]]; a view where the index is one range."""

    def __init__(self, index: Tensor) -> None:
        super().__init__(index)
        first, n = (int(index[0]), index.numel()) if index.numel() else (0, 0)
        self.start = first if torch.equal(index.cpu(), torch.arange(first, first + n)) else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, n, ...]."""
        if self.start is not None:
            return x.narrow(1, self.start, self.index.shape[0])
        if _trained_in_nhwc(x):
            return x.permute(0, 2, 3, 1).index_select(3, self.index).permute(0, 3, 1, 2)
        return x.index_select(1, self.index)


class ChannelScatter(IndexLayer):
    """y[:, index[i]] = x[:, i], 0 elsewhere."""

    def __init__(self, index: Tensor, channels: int) -> None:
        super().__init__(index)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, ...] -> [B, channels, ...]."""
        zeros = x.new_zeros((x.shape[0], self.channels, *x.shape[2:]))
        return zeros.index_copy(1, self.index, x)


class ChannelAdd(IndexLayer):
    """y = x, y[:, index[i]] += part[:, i]: a sum whose second operand is dead in some channels."""

    def forward(self, x: Tensor, part: Tensor) -> Tensor:
        """[B, C, ...], [B, n, ...] -> [B, C, ...], in the wider of the two dtypes, as a plain sum."""
        dtype = torch.promote_types(x.dtype, part.dtype)
        return x.to(dtype).index_add(1, self.index, part.to(dtype))


class CompactNetwork(fx.GraphModule):
    """The small network: plain layers under the backbone's own names, fit for inference, export and fine-tuning."""

    def gather_indices(self) -> dict[str, Tensor]:
        """Name -> int64 index [n] of every gather, scatter and partial sum; the names depend on the network and the
        masks only."""
        layers = ((name, m) for name, m in self.named_modules() if isinstance(m, IndexLayer))
        return {name.split(".", 1)[1]: layer.index for name, layer in layers}

    def extra_repr(self) -> str:
        """One line of sizes."""
        params = sum(p.numel() for p in self.parameters())
        convs = sum(isinstance(m, nn.Conv2d) for m in self.modules())
        return f"params={params:,}, convolutions={convs}, index_layers={len(self.gather_indices())}"

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def __str__(self) -> str:
        return nn.Module.__repr__(self)
