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
"""O / P up to which this is faster than a product of the inputs with their masks, measured on ResNet-50's layers."""


WEIGHTS_AT_A_TIME = 1 << 20
"""Most numbers in the weights of a part's examples, for each thread; a single example may have more."""


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
        [B, K, H', W'] in the layout of x. Differentiable twice.
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
    return layout is not None and 0 < len(weight) <= OUTPUTS_PER_POSITION[layout] * x.shape[2] * x.shape[3]


def masked_pointwise(x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv(x * keep, weight, bias) for a 1x1 kernel with stride 1.

    Args:
        x: [B, K, H, W], contiguous in NCHW or channels_last.
        keep: [B, K], one mask for each example.
        weight: [O, K, 1, 1].
        bias: [O] or None.

    Returns:
        [B, O, H, W] in the layout of x. Differentiable twice.
    """
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
        ctx.save_for_backward(x, keep, weight, bias)
        layout = _layout(x) or torch.contiguous_format
        y = torch.empty((len(x), len(weight), *x.shape[2:]), dtype=x.dtype, memory_format=layout)
        x_BKP, y_BOP = _matrices(x), _matrices(y)
        for part, scaled_NOK in _scaled(keep, _matrix(weight)):
            _multiply(scaled_NOK, x_BKP[part], y_BOP[part])
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is differentiated itself
            return _plain_gradients((x, keep, weight, bias), grad)
        needs_x, needs_keep, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=_layout(x) or torch.contiguous_format)
        x_BKP, grad_BOP, weight_OK = _matrices(x), _matrices(grad), _matrix(weight)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_keep = torch.empty_like(keep) if needs_keep else None
        grad_weight_OK = torch.zeros_like(weight_OK) if needs_weight else None
        own_NOK = _space(keep, weight_OK)
        for part, scaled_NOK in _scaled(keep, weight_OK):
            if grad_x is not None:
                _multiply(scaled_NOK.mT, grad_BOP[part], _matrices(grad_x)[part])
            if not (needs_keep or needs_weight):
                continue
            own_NOK = own_NOK[: len(scaled_NOK)]
            _multiply(grad_BOP[part], x_BKP[part].mT, own_NOK)
            if grad_weight_OK is not None:
                grad_weight_OK += torch.mul(own_NOK, keep[part][:, None], out=scaled_NOK).sum(0)
            if grad_keep is not None:
                torch.sum(own_NOK.mul_(weight_OK), 1, out=grad_keep[part])
        grad_weight = None if grad_weight_OK is None else grad_weight_OK.view_as(weight)
        return grad_x, grad_keep, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None


def _layout(x: Tensor) -> torch.memory_format | None:
    """NCHW where it is both, as with one channel or one position; None where it is neither."""
    return next((layout for layout in OUTPUTS_PER_POSITION if x.is_contiguous(memory_format=layout)), None)


def _matrices(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, P], a view."""
    return x.flatten(2) if x.is_contiguous() else x.permute(0, 2, 3, 1).flatten(1, 2).mT


def _matrix(weight: Tensor) -> Tensor:
    """[O, K, 1, 1] -> [O, K]."""
    return weight.flatten(1).contiguous()


def _space(keep: Tensor, weight_OK: Tensor) -> Tensor:
    """[N, O, K], uninitialised."""
    examples = torch.get_num_threads() * max(1, WEIGHTS_AT_A_TIME // weight_OK.numel())
    return weight_OK.new_empty(min(len(keep), examples), *weight_OK.shape)


def _scaled(keep: Tensor, weight_OK: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Part by part: which examples, and the weights [N, O, K] that each of them sees; good until the next part."""
    space_NOK = _space(keep, weight_OK)
    for start in range(0, len(keep), max(1, len(space_NOK))):
        keep_NK = keep[start : start + len(space_NOK)]
        scaled_NOK = torch.mul(weight_OK, keep_NK[:, None], out=space_NOK[: len(keep_NK)])
        yield slice(start, start + len(keep_NK)), scaled_NOK


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b, all [N, ., .]; written row by row, or as (b^T a^T)^T where `out` lies column by column."""
    left, right, rows = (a, b, out) if out.stride(-1) == 1 else (b.mT, a.mT, out.mT)
    torch.bmm(left, right, out=rows)


def _plain_gradients(inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], grad: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients by autograd, which can differentiate them again."""
    x, keep, weight, bias = inputs
    y = F.conv2d(x * keep[:, :, None, None], weight, bias)
    asked = [value for value in inputs if value is not None and value.requires_grad]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return tuple(next(found) if value is not None and value.requires_grad else None for value in inputs)
