"""A 1x1 convolution of masked inputs on the CPU, with the mask of each example in its own copy of the weights.

    y_n = W (m_n * x_n) = (W diag(m_n)) x_n

A 1x1 convolution is a matrix product, and in the second form nothing of the inputs' size is read or written besides
the products themselves. The gradients follow from D_n, the gradient of the weights of example n alone:

    D_n = grad_y_n x_n^T        grad_W = sum_n D_n diag(m_n)        grad_m_n[k] = sum_o W[o, k] D_n[o, k]
    grad_x_n = (W diag(m_n))^T grad_y_n

Each example costs some passes over O x K numbers instead of over K x P: it pays where the outputs are not many more
than the positions, see `pays`. Few examples are computed at a time, so that these numbers stay in the caches, but no
fewer than there are threads, and not one by one where they are small: threads wait for each other after each operation.

Shape suffixes: B examples, N those of one part, K input channels, O outputs, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OUTPUTS_PER_POSITION = {torch.contiguous_format: 4, torch.channels_last: 1}
"""O / P up to which this is faster than a product of the inputs with their masks, measured for 64 to 1024 inputs."""
FEW_POSITIONS = 128
"""With fewer it is so only up to O / P = 1, in both layouts."""
WEIGHTS_AT_A_TIME = 1 << 20
"""Most numbers in the weights of a part's examples, for each thread, and no more in all than the inputs have; a single
example may have more."""


def is_pointwise(weight: Tensor, padding: Sequence[int], groups: int) -> bool:
    """Whether a convolution is one matrix product for each position that it reads."""
    return groups == 1 and weight.shape[2:] == (1, 1) and not any(padding)


def every_nth(x: Tensor, stride: Sequence[int]) -> Tensor:
    """The positions that a 1x1 kernel with this stride reads: x[:, :, ::stride[0], ::stride[1]], contiguous.

    On the CPU a convolution of these is up to twice as fast as the convolution with the stride, and their masks
    multiply a fraction of the inputs.

    Args:
        x: [B, K, H, W].
        stride: of the rows and of the columns.

    Returns:
        [B, K, H', W'] in the layout of x, NCHW where that is neither. Differentiable twice.
    """
    found: Tensor = _EveryNth.apply(x, tuple(stride))
    return found


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `masked_pointwise` takes these, and is faster than the product of the inputs with their masks.

    Args:
        x: [B, K, H, W].
        weight: [O, K, 1, 1].
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or weight.dtype != x.dtype:
        return False
    layout = _layout(x)
    if layout is None:
        return False
    positions = x.shape[2] * x.shape[3]
    return 0 < len(weight) <= positions * (OUTPUTS_PER_POSITION[layout] if positions >= FEW_POSITIONS else 1)


def masked_pointwise(x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv(x * keep, weight, bias) for a 1x1 kernel with stride 1.

    Args:
        x: [B, K, H, W], contiguous in NCHW or channels_last.
        keep: [B, K], one mask for each example.
        weight: [O, K, 1, 1].
        bias: [O] or None.

    Returns:
        [B, O, H, W] in the layout of x. Differentiable twice.

    Memory besides that: twice the numbers of x at most in the backward pass, or two weights, once in the forward pass.
    """
    assert keep.shape == x.shape[:2], (keep.shape, x.shape)
    assert weight.shape[1:] == (x.shape[1], 1, 1), (weight.shape, x.shape)
    assert bias is None or (bias.shape == weight.shape[:1] and bias.dtype == x.dtype), bias
    found: Tensor = _MaskedPointwise.apply(x, keep, weight, bias)
    return found


class _EveryNth(torch.autograd.Function):
    """Autograd's own slices would fill the gradient with zeros once for each of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        ctx.layout = _layout(x) or torch.contiguous_format
        return x[:, :, :: stride[0], :: stride[1]].contiguous(memory_format=ctx.layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_x = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.layout).zero_()
        grad_x[:, :, :: ctx.stride[0], :: ctx.stride[1]] = grad
        return grad_x, None


class _MaskedPointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, keep, weight)
        layout = _layout(x) or torch.contiguous_format
        y = torch.empty((len(x), len(weight), *x.shape[2:]), dtype=x.dtype, memory_format=layout)
        x_BKP, y_BOP = _matrices(x), _matrices(y)
        for part, scaled_NOK in _scaled(x, keep, _matrix(weight)):
            _multiply(scaled_NOK, x_BKP[part], y_BOP[part])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, weight = ctx.saved_tensors
        needs_x, needs_keep, needs_weight, needs_bias = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        if torch.is_grad_enabled():  # it is differentiated itself
            return *_plain_gradients((x, keep, weight), ctx.needs_input_grad, grad), grad_bias
        grad = grad.contiguous(memory_format=_layout(x) or torch.contiguous_format)
        x_BKP, grad_BOP, weight_OK = _matrices(x), _matrices(grad), _matrix(weight)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_keep = torch.empty_like(keep) if needs_keep else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        own_NOK = _space(x, weight_OK)
        for part, scaled_NOK in _scaled(x, keep, weight_OK):
            if grad_x is not None:
                _multiply(scaled_NOK.mT, grad_BOP[part], _matrices(grad_x)[part])
            if not (needs_keep or needs_weight):
                continue
            own_NOK = own_NOK[: len(scaled_NOK)]
            _multiply(grad_BOP[part], x_BKP[part].mT, own_NOK)
            if grad_weight is not None:
                grad_weight[:, :, 0, 0] += torch.mul(own_NOK, keep[part][:, None], out=scaled_NOK).sum(0)
            if grad_keep is not None:
                torch.sum(own_NOK.mul_(weight_OK), 1, out=grad_keep[part])
        return grad_x, grad_keep, grad_weight, grad_bias


def _layout(x: Tensor) -> torch.memory_format | None:
    """NCHW where it is both, as with one channel or one position; None where it is neither."""
    return next((layout for layout in OUTPUTS_PER_POSITION if x.is_contiguous(memory_format=layout)), None)


def _matrices(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, P], a view."""
    return x.flatten(2) if x.is_contiguous() else x.permute(0, 2, 3, 1).flatten(1, 2).mT


def _matrix(weight: Tensor) -> Tensor:
    """[O, K, 1, 1] -> [O, K]."""
    return weight.flatten(1).contiguous()


def _space(x: Tensor, weight_OK: Tensor) -> Tensor:
    """[N, O, K], uninitialised."""
    numbers = max(1, weight_OK.numel())
    examples = min(torch.get_num_threads() * max(1, WEIGHTS_AT_A_TIME // numbers), max(1, x.numel() // numbers))
    return weight_OK.new_empty(min(len(x), examples), *weight_OK.shape)


def _scaled(x: Tensor, keep: Tensor, weight_OK: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Part by part: which examples, and the weights [N, O, K] that each of them sees; good until the next part."""
    space_NOK = _space(x, weight_OK)
    for start in range(0, len(keep), max(1, len(space_NOK))):
        keep_NK = keep[start : start + len(space_NOK)]
        scaled_NOK = torch.mul(weight_OK, keep_NK[:, None], out=space_NOK[: len(keep_NK)])
        yield slice(start, start + len(keep_NK)), scaled_NOK


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b, all [N, ., .]; written row by row, or as (b^T a^T)^T where `out` lies column by column."""
    left, right, rows = (a, b, out) if out.stride(-1) == 1 else (b.mT, a.mT, out.mT)
    torch.bmm(left, right, out=rows)


def _plain_gradients(
    inputs: tuple[Tensor, Tensor, Tensor], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Those of x, keep and weight by autograd, which can differentiate them again.

    With respect to aliases: x may itself depend on the weight, or the mask on x, and that path is not this layer's.
    """
    x, keep, weight = (value.view_as(value) for value in inputs)
    y = F.conv2d(x * keep[:, :, None, None], weight)
    asked = [value for value, need in zip((x, keep, weight), needed, strict=False) if need]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True) if asked else ())
    return tuple(next(found) if need else None for need in needed[: len(inputs)])
