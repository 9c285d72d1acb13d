"""Layers whose inputs are gated. They keep the class's own arithmetic, padding and state-dict names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from pgnas_cli.supernet.gate import INITIAL_DROP, TEMPERATURE, Gate
from pgnas_cli.supernet.surrogate import SurrogateConv2d


class _Gated(nn.Module):
    """Puts a gate before the layer class that stands behind it in the order of resolution."""

    gate: Gate
    weight: Tensor

    @classmethod
    def from_layer(cls, layer: nn.Module, gate: Gate) -> Self:
        """Wrap `layer`: its attributes, training flag and parameters are shared, not copied."""
        gated: Any = cls.__new__(cls)
        gated.__dict__.update(layer.__dict__)
        gated._modules = dict(layer._modules)
        gated.gate = gate.train(layer.training)
        wrapped: Self = gated
        return wrapped

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(self.gate(x))
        return found

    def squared_norms(self) -> Tensor:
        """[G] squared norm of the weight slices that read each group's inputs."""
        return _group_squared_norms(self.weight, self.gate, getattr(self, "groups", 1))


class SearchConv2d(_Gated, nn.Conv2d):
    """conv(x * keep): a convolution that reads gated inputs. Its weights are those of the layer it replaces.

    `plain_class` is the class of the same layer without its gate.
    """

    plain_class: type[nn.Conv2d] = nn.Conv2d


class SearchConv2dSame(SearchConv2d, Conv2dSame):
    """The same for timm's convolution with TensorFlow's `same` padding."""

    plain_class = Conv2dSame


class SearchSurrogate(SearchConv2d, SurrogateConv2d):
    """The same for a surrogate, which it remains."""


class SearchLinear(_Gated, nn.Linear):
    """linear(x * keep): a linear layer that reads gated features."""

    plain_class: type[nn.Linear] = nn.Linear


SearchLayer = SearchConv2d | SearchLinear


def _group_squared_norms(weight: Tensor, gate: Gate, conv_groups: int) -> Tensor:
    if len(gate.sizes) == 1:
        return weight.square().sum().view(1)
    # weight [O, K/groups, ...]: the slice of conv group j reads channels j*K/groups ...
    per_channel = weight.square().flatten(2).sum(2) if weight.ndim > 2 else weight.square()
    per_channel = per_channel.unflatten(0, (conv_groups, -1)).sum(1).flatten()
    if len(gate.sizes) == gate.channels:
        return per_channel
    return per_channel.new_zeros(len(gate.sizes)).index_add(0, gate.group_of_channel, per_channel)


def search_layer(
    layer: nn.Module, sizes: Sequence[int], *, initial_drop: float = INITIAL_DROP, temperature: float = TEMPERATURE
) -> SearchLayer:
    """The gated version of a convolution or linear layer.

    Args:
        layer: Conv2d, timm's Conv2dSame or Linear.
        sizes: channels per gate group; for a grouped convolution each is a whole number of its groups' inputs.

    Raises:
        ValueError: another kind of layer, or sizes that do not fit it. The plugin that named them is at fault.
    """
    if isinstance(layer, nn.Conv2d):
        channels = layer.in_channels
        unit = channels // layer.groups if layer.groups > 1 else 1
    elif isinstance(layer, nn.Linear):
        channels, unit = layer.in_features, 1
    else:
        raise ValueError(f"a {type(layer).__name__} cannot be gated: Conv2d and Linear can")
    if sum(sizes) != channels:
        raise ValueError(f"gate group sizes {list(sizes)} sum to {sum(sizes)}, the layer reads {channels} channels")
    if any(size % unit for size in sizes):
        raise ValueError(f"gate group sizes {list(sizes)} should be multiples of the {unit} inputs of one group")
    gate = Gate(sizes, initial_drop=initial_drop, temperature=temperature)
    with torch.no_grad():
        gate.to(layer.weight.device)
    if isinstance(layer, nn.Linear):
        return SearchLinear.from_layer(layer, gate)
    if isinstance(layer, SurrogateConv2d):
        return SearchSurrogate.from_layer(layer, gate)
    kind = SearchConv2dSame if isinstance(layer, Conv2dSame) else SearchConv2d
    return kind.from_layer(layer, gate)
