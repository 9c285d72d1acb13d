"""A convolution of masked inputs that stores no masked inputs for its backward pass.

    y = conv(x * mask, W)        or, for a mask that all examples share,        y = conv(x, W * mask)

Written plainly, autograd keeps both factors for the multiplication and their product for the convolution; x is mostly
kept already, by the ReLU that computed it, so the product would be a third copy. Here the product is computed again.
On the CPU a 1x1 convolution with a stride keeps the positions that it reads as well.

On the CPU products lie in one workspace per thread, of the size of the largest: fresh memory costs a page fault for
every 4 KiB, which takes several times as long as the multiplication.

Shape suffixes: B examples, K input channels, O outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pgnas_cli.supernet import masked_pointwise as pointwise


class ConvGeometry(NamedTuple):
    """The arguments of a convolution with zero padding."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


def masked_conv2d(x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    """conv(x * keep, weight, bias).

    A mask that all examples share multiplies the weights where those are fewer than the inputs.

    Args:
        x: [B, K, H, W].
        keep: [B, K], or [1, K] for a mask that all examples share; cast to the dtype that the convolution computes in.
        weight: [O, K / groups, h, w].
        bias: [O] or None.

    Returns:
        [B, O, H', W'], in autocast's dtype where autocast is on. Differentiable twice.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    keep = keep.to(x.dtype)
    alone = not torch.compiler.is_compiling() and pointwise.is_pointwise(weight, geometry.padding, geometry.groups)
    if alone and x.device.type == "cpu" and tuple(geometry.stride) != (1, 1):
        x, geometry = pointwise.every_nth(x, geometry.stride), geometry._replace(stride=(1, 1))
    if alone and len(keep) == len(x) and pointwise.pays(x, weight):
        return pointwise.masked_pointwise(x, keep, weight, bias)
    fold = len(keep) == 1 and weight.numel() < x.numel()
    mask = _of_weight(keep, weight, geometry.groups) if fold else keep[:, :, None, None]
    if torch.compiler.is_compiling():  # the compiler itself decides what to compute again
        return F.conv2d(x, weight * mask, bias, *geometry) if fold else F.conv2d(x * mask, weight, bias, *geometry)
    found: Tensor = _MaskedConv2d.apply(x, mask, weight, bias, geometry, fold)
    return found


def _of_weight(keep: Tensor, weight: Tensor, groups: int) -> Tensor:
    """[1, K] -> [1 or O, K / groups, 1, 1]: for every weight the mask of the channel that it reads."""
    if groups == 1:
        return keep[:, :, None, None]
    return keep.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(*weight.shape[:2], 1, 1)


class _MaskedConv2d(torch.autograd.Function):
    """conv(x * mask, weight) or, with `fold`, conv(x, weight * mask); the mask broadcasts."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, fold: bool
    ) -> Tensor:
        ctx.save_for_backward(x, mask, weight)
        ctx.geometry, ctx.fold = geometry, fold
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        if fold:
            return F.conv2d(x, _product(weight, mask), bias, *geometry)
        return F.conv2d(_product(x, mask), weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        needs_x, needs_mask, needs_weight, needs_bias = ctx.needs_input_grad[:4]
        if ctx.fold:
            product = _product(weight, mask)
            inputs, wanted = (x, product), [needs_x, needs_weight or needs_mask, needs_bias]
        else:
            product = _product(x, mask)
            inputs, wanted = (product, weight), [needs_x or needs_mask, needs_weight, needs_bias]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, *inputs, ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups, wanted
        )
        if ctx.fold:
            grad_weight, grad_mask = _factor_gradients(grad_weight, weight, mask, product, needs_weight, needs_mask)
        else:
            grad_x, grad_mask = _factor_gradients(grad_x, x, mask, product, needs_x, needs_mask)
        return grad_x, grad_mask, grad_weight, grad_bias, None, None


_workspaces = threading.local()


def _product(value: Tensor, mask: Tensor) -> Tensor:
    """value * mask, in the layout of `value`; good until the next product, unless it is differentiated itself."""
    differentiated = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    if differentiated or value.device.type != "cpu" or not _is_dense(value):
        return value * mask
    spaces: dict[torch.dtype, Tensor] = vars(_workspaces).setdefault("by_dtype", {})
    space = spaces.get(value.dtype)
    if space is None or space.numel() < value.numel():
        spaces.pop(value.dtype, None)
        space = spaces[value.dtype] = torch.empty(value.numel(), dtype=value.dtype)
    product: Tensor = torch.mul(value, mask, out=space.as_strided(value.shape, value.stride()))
    return product


def _is_dense(value: Tensor) -> bool:
    return value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last)


def _factor_gradients(
    grad: Tensor | None, value: Tensor, mask: Tensor, product: Tensor, needs_value: bool, needs_mask: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `value` and `mask` from that of their product, in the memory of `grad` and `product`.

    Both are this backward pass's own, so they are overwritten, but for a backward pass that is differentiated itself.
    """
    if grad is None:
        return None, None
    overwrite = not torch.is_grad_enabled()
    grad_mask = None
    if needs_mask:
        terms = torch.mul(grad, value, out=product) if overwrite else grad * value
        grad_mask = terms.sum_to_size(mask.shape)
    if not needs_value:
        return None, grad_mask
    return (grad.mul_(mask) if overwrite else grad * mask), grad_mask
