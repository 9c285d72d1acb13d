"""Layers whose inputs are gated. They keep the class's own arithmetic, padding and state-dict names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from pgnas_cli.supernet import weight_norms
from pgnas_cli.supernet.gate import INITIAL_DROP, TEMPERATURE, Gate
from pgnas_cli.supernet.masked_conv import ConvGeometry, masked_conv2d
from pgnas_cli.supernet.surrogate import SurrogateConv2d


class _Gated(nn.Module):
    """Puts a gate before the layer class that stands behind it in the order of resolution.

    `tapped_weight` is the weight that a supernet's forward pass reads, see `weight_norms.tap`; outside of it None.
    """

    gate: Gate
    weight: Tensor
    tapped_weight: Tensor | None = None

    @classmethod
    def from_layer(cls, layer: nn.Module, gate: Gate) -> Self:
        """Wrap `layer`: its attributes, training flag and parameters are shared, not copied."""
        gated: Any = cls.__new__(cls)
        gated.__dict__.update(layer.__dict__)
        gated._modules = dict(layer._modules)
        gated.gate = gate.train(layer.training)
        wrapped: Self = gated
        return wrapped

    @property
    def used_weight(self) -> Tensor:
        """The weight to compute with."""
        return self.weight if self.tapped_weight is None else self.tapped_weight

    def squared_norms(self) -> Tensor:
        """[G] squared norm of the weight slices that read each group's inputs."""
        return weight_norms.squared_norms(self.weight, *self.grouping())

    def tap(self, norms_G: Tensor) -> Tensor:
        """The same norms, their gradient joined to that of the next forward passes; sets `tapped_weight`."""
        self.tapped_weight, joined_G = weight_norms.tap(self.weight, *self.grouping(), norms=norms_G)
        return joined_G

    def grouping(self) -> weight_norms.Grouping:
        """How the weight is cut into the parts that read each group."""
        return self.gate.sizes, self.gate.group_of_channel, getattr(self, "groups", 1)


class SearchConv2d(_Gated, nn.Conv2d):
    """conv(x * keep): a convolution that reads gated inputs. Its weights are those of the layer it replaces.

    `plain_class` is the class of the same layer without its gate.
    """

    plain_class: type[nn.Conv2d] = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        keep_BK = self.gate.keep(x)
        if keep_BK is None and self.tapped_weight is None:
            return super().forward(x)
        return self._compute(x, keep_BK, self.used_weight)

    def _compute(self, x: Tensor, keep_BK: Tensor | None, weight: Tensor) -> Tensor:
        if keep_BK is None:
            return self._conv_forward(x, weight, self.bias)
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return self._conv_forward(x * keep_BK.to(x.dtype)[:, :, None, None], weight, self.bias)
        geometry = ConvGeometry(self.stride, self.padding, self.dilation, self.groups)
        return masked_conv2d(x, keep_BK, weight, self.bias, geometry)


class SearchConv2dSame(SearchConv2d, Conv2dSame):
    """The same for timm's convolution with TensorFlow's `same` padding."""

    plain_class = Conv2dSame

    def _compute(self, x: Tensor, keep_BK: Tensor | None, weight: Tensor) -> Tensor:
        x = pad_same(x, list(weight.shape[-2:]), list(self.stride), list(self.dilation))
        geometry = ConvGeometry(self.stride, (0, 0), self.dilation, self.groups)
        if keep_BK is None:
            return F.conv2d(x, weight, self.bias, *geometry)
        return masked_conv2d(x, keep_BK, weight, self.bias, geometry)


class SearchSurrogate(SearchConv2d, SurrogateConv2d):
    """The same for a surrogate, which it remains."""


class SearchLinear(_Gated, nn.Linear):
    """linear(x * keep): a linear layer that reads gated features."""

    plain_class: type[nn.Linear] = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.gate(x), self.used_weight, self.bias)


SearchLayer = SearchConv2d | SearchLinear


class TappedNorms:
    """The squared norms of all layers' groups, tapped from the weights that one forward pass reads.

    It holds on to weights only, not to activations. Good for one use while the weights stay as they are.

    Args:
        layers: the gated layers; each gets its `tapped_weight`.
    """

    def __init__(self, layers: Sequence[SearchLayer]) -> None:
        norms = weight_norms.norms_of_many([layer.weight for layer in layers], [layer.grouping() for layer in layers])
        self.norms_G = torch.cat([layer.tap(found) for layer, found in zip(layers, norms, strict=True)])
        self._state = self._describe(layers)

    def current(self, layers: Sequence[SearchLayer]) -> bool:
        """Whether the norms are still those of these layers, and differentiable if they have to be."""
        return self._state == self._describe(layers)

    @staticmethod
    def _describe(layers: Sequence[SearchLayer]) -> list[tuple[object, ...]]:
        return [(id(layer.weight), layer.weight.data_ptr(), layer.weight._version, id(layer.gate)) for layer in layers]


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
