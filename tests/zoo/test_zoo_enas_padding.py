"""ENAS's poolings, strided convolutions and reductions: TensorFlow's SAME padding, against its documentation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pgnas_zoo.enas_net import Branch, FactorizedReduction, SeparableConv, StridedAvgPool
from torch import Tensor, nn


def same_padded(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """As its documentation has it: total = (ceil(n / s) - 1) s + k - n, the smaller half in front."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (7, 8), (2, 2), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_poolings_pad_as_tensorflow_does(shape: tuple[int, int], stride: int) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    total = F.avg_pool2d(same_padded(x, 3, stride, 0.0), 3, stride, divisor_override=1)
    pixels = F.avg_pool2d(same_padded(torch.ones_like(x), 3, stride, 0.0), 3, stride, divisor_override=1)
    average, maximum = (Branch(kind, 3, stride, 1.0, False).eval() for kind in (2, 3))
    torch.testing.assert_close(average(x), total / pixels)
    torch.testing.assert_close(maximum(x), F.max_pool2d(same_padded(x, 3, stride, -math.inf), 3, stride))
    assert (StridedAvgPool()(torch.zeros(1, 1, *shape)) == 0).all()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [7, 8])
def test_strided_convolutions_pad_as_tensorflow_does(kernel: int, size: int) -> None:
    depthwise = SeparableConv(3, kernel, 2).depthwise1
    x = torch.randn(2, 3, size, size)
    wanted = F.conv2d(same_padded(x, kernel, 2, 0.0), depthwise.weight, stride=2, groups=3)
    torch.testing.assert_close(depthwise(x), wanted)


@pytest.mark.parametrize("size", [5, 6])
def test_the_second_path_of_a_reduction_is_shifted_by_one_pixel(size: int) -> None:
    layer = FactorizedReduction(1, 2).eval()
    nn.init.ones_(layer.conv1.weight)
    nn.init.ones_(layer.conv2.weight)
    x = torch.rand(1, 1, size, size) + 1
    found = layer(x) * math.sqrt(1 + layer.bn.eps)
    torch.testing.assert_close(found[0, 0], x[0, 0, ::2, ::2])
    torch.testing.assert_close(found[0, 1], F.pad(x, (0, 1, 0, 1))[0, 0, 1::2, 1::2])
