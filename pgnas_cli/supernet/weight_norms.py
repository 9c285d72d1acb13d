"""Squared norms of weights by gate group, and their gradients, in single passes over the weights.

The weight prior needs ||W_group||^2 of every layer in every step. Its gradient 2 c W, added by autograd as a tensor of
its own, would hold a copy of all weights from the start of the backward pass on, when the activations are all there
too. `tap` adds it instead to the gradient that the layer has just computed.

Shape suffixes: G gate groups of a layer, K input channels, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 18
"""Weights that are squared at once: what fits into a core's cache."""


def squared_norms(weight: Tensor, sizes: Sequence[int], group_of_channel: Tensor, conv_groups: int = 1) -> Tensor:
    """[G] squared norms of the slices of a weight that read each group's channels.

    Sums of blocks in the weight's dtype: the relative error is about that of one addition, whatever the size.

    Args:
        weight: [O, K / conv_groups, ...].
        sizes: channels per group.
        group_of_channel: [K] index of each channel's group.
        conv_groups: groups of the convolution; outputs j O / conv_groups ... read its j-th part of the channels.

    Returns:
        [G], differentiable in the weight.
    """
    found: Tensor = _SquaredNorms.apply(weight, tuple(sizes), group_of_channel, conv_groups)
    return found


def sum_of_squares(weights: Sequence[Tensor]) -> Tensor:
    """Scalar: the sum of squares of all elements of all weights."""
    none = weights[0].new_zeros(0, dtype=torch.long)
    return torch.cat([squared_norms(weight, [weight[0].numel()], none) for weight in weights]).sum()


Grouping = tuple[tuple[int, ...], Tensor, int]
"""sizes, group_of_channel and conv_groups of `squared_norms`."""


def tap(
    weight: Tensor, sizes: Sequence[int], group_of_channel: Tensor, conv_groups: int = 1, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same weight, for one layer to compute with, and its `squared_norms`.

    The gradient of the norms is added to the layer's, in place: nothing but one layer may read the returned weight.

    Args:
        weight, sizes, group_of_channel, conv_groups: as in `squared_norms`.
        norms: what `squared_norms` gives, where it is known already.
    """
    if norms is None:
        with torch.no_grad():
            norms = _norms(weight, tuple(sizes), group_of_channel, conv_groups)
    tapped, joined = _Tap.apply(weight, norms, group_of_channel, conv_groups)
    return tapped, joined


@torch.no_grad()
def norms_of_many(weights: Sequence[Tensor], groupings: Sequence[Grouping]) -> list[Tensor]:
    """`squared_norms` of each weight, without gradient.

    On an accelerator, where small operations cost their launch, those of all weights with one group are computed
    together.
    """
    if _on_cpu(weights[0]):
        return [_norms(weight, *grouping) for weight, grouping in zip(weights, groupings, strict=True)]
    whole = [index for index, (sizes, _, _) in enumerate(groupings) if len(sizes) == 1]
    found: dict[int, Tensor] = {}
    if whole:
        squared = torch.stack(torch._foreach_norm([weights[index] for index in whole])).square_()
        found = dict(zip(whole, squared.split(1), strict=True))
    return [
        found[index] if index in found else _norms(weight, *groupings[index]) for index, weight in enumerate(weights)
    ]


def _on_cpu(weight: Tensor) -> bool:
    """Where caches decide the time; elsewhere the number of operations does."""
    return weight.device.type == "cpu"


def _rows(weight: Tensor) -> Tensor:
    """[O, K / groups * positions], a view of a dense weight in either memory format; the order within a row is open."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def _norms(weight: Tensor, sizes: tuple[int, ...], group_of_channel: Tensor, conv_groups: int) -> Tensor:
    if len(sizes) == 1:
        return torch.linalg.vector_norm(_rows(weight), dim=1).square_().sum().view(1)
    columns = _squared_columns(weight, conv_groups)
    if len(sizes) == len(columns):
        return columns
    return columns.new_zeros(len(sizes)).index_add_(0, group_of_channel, columns)


def _squared_columns(weight: Tensor, conv_groups: int) -> Tensor:
    """[K] squared norm of the weights that read each channel."""
    if not _on_cpu(weight):
        parted = weight.unflatten(0, (conv_groups, -1))
        other = [1, *range(3, parted.ndim)]
        return torch.linalg.vector_norm(parted, dim=other).square_().flatten()
    height = len(weight) // conv_groups
    step = max(1, _BLOCK // max(1, weight[0].numel()))
    parts = []
    for start in range(0, len(weight), height):
        blocks = weight[start : start + height].split(step)
        squares = torch.stack([block.square().sum(0) for block in blocks]).sum(0)
        parts.append(squares.flatten(1).sum(1) if squares.ndim > 1 else squares)
    return torch.cat(parts)


def _coefficients(grad: Tensor, weight: Tensor, group_of_channel: Tensor, conv_groups: int) -> Tensor:
    """The gradient of each weight's norm, broadcastable against the weight; that of a weight w is 2 w times it."""
    if len(grad) == 1:
        return grad.view([1] * weight.ndim)
    channels = grad if len(grad) == len(group_of_channel) else grad[group_of_channel]
    if conv_groups > 1:
        channels = channels.view(conv_groups, 1, -1).expand(-1, len(weight) // conv_groups, -1).flatten(0, 1)
    return channels.view(-1, weight.shape[1], *[1] * (weight.ndim - 2))


class _SquaredNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, sizes: tuple[int, ...], group_of_channel: Tensor, conv_groups: int) -> Tensor:
        ctx.save_for_backward(weight, group_of_channel)
        ctx.conv_groups = conv_groups
        return _norms(weight, sizes, group_of_channel, conv_groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, group_of_channel = ctx.saved_tensors
        return weight * (2 * _coefficients(grad, weight, group_of_channel, ctx.conv_groups)), None, None, None


class _Tap(torch.autograd.Function):
    """Keeps the weight itself instead of saving it: the norms can be used after the layer's graph has been freed."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, norms: Tensor, group_of_channel: Tensor, conv_groups: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.weight, ctx.version = weight, weight._version
        ctx.group_of_channel, ctx.conv_groups = group_of_channel, conv_groups
        return weight.view_as(weight), norms.view_as(norms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_norms: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_norms is None:
            return grad, None, None, None
        if ctx.weight._version != ctx.version:
            raise RuntimeError("a weight was changed between the forward and the backward pass of its squared norms")
        factor = _coefficients(grad_norms, ctx.weight, ctx.group_of_channel, ctx.conv_groups)
        if grad is None:
            return ctx.weight * (2 * factor), None, None, None
        if torch.is_grad_enabled():
            return torch.addcmul(grad, ctx.weight, factor, value=2), None, None, None
        return grad.addcmul_(ctx.weight, factor, value=2), None, None, None
