"""What inflation changes in a timm ResNet. Block classes and parameter names stay timm's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from pgnas_cli.plugin import UsageError

KERNELS = {1: (1, 1), 3: (3, 1), 5: (3, 2), 7: (3, 3), 9: (5, 2)}
"""Extent of a kernel -> (kernel size, dilation): 5x5 is a 3x3 with dilation 2, 9x9 a 5x5 with dilation 2."""


class ParallelConv2d(nn.Module):
    """Parallel convolutions of different extent on the same input, their outputs concatenated.

    Args:
        inputs: input channels.
        outputs: output channels of all together, shared as evenly as they divide.
        kernels: extents, keys of KERNELS.
        stride: of each.

    Shape: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int], stride: int) -> None:
        super().__init__()
        n = len(kernels)
        shares = [outputs // n + (index < outputs % n) for index in range(n)]
        self.branches = nn.ModuleList()
        for extent, share in zip(kernels, shares, strict=True):
            size, dilation = KERNELS[extent]
            self.branches.append(
                nn.Conv2d(inputs, share, size, stride, padding=extent // 2, dilation=dilation, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def plain_names(model: nn.Module) -> dict[str, str]:
    """The branch of each parallel convolution that has the plain 3x3 kernel -> the name of that convolution.

    Raises:
        UsageError: there is no such branch.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ParallelConv2d):
            plain = [
                index
                for index, branch in enumerate(module.branches)
                if (branch.kernel_size, branch.dilation) == ((3, 3), (1, 1))
            ]
            if not plain:
                raise UsageError(
                    "pretrained 3x3 convolutions need a 3x3 among the parallel kernels", "--kernels 1,3,5,9"
                )
            found[f"{name}.branches.{plain[0]}"] = name
    return found


def use_small_stem(model: ResNet) -> str:
    """3x3 stem with stride 1 and no pooling; the name of its weight, which starts anew."""
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
    _initialise(model.conv1)
    model.maxpool = nn.Identity()
    return "conv1.weight"


def inflate_resnet(model: ResNet, *, width: float, kernels: Sequence[int]) -> None:
    """Widen the inner channels of every block and replace its 3x3 convolutions by parallel ones, in place.

    Inner channels: round(planes * width), then rounded to a multiple of the number of kernels, at least one each.

    Raises:
        UsageError: an unknown kernel, or more kernels than channels.
    """
    if unknown := [kernel for kernel in kernels if kernel not in KERNELS]:
        known = ", ".join(map(str, KERNELS))
        raise UsageError(f"kernel {unknown[0]} was given, it should be one of {known}", "--kernels 1,3,5,9")
    if width == 1.0 and not kernels:
        return
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            if isinstance(block, Bottleneck):
                _inflate_bottleneck(block, width, kernels)
            elif isinstance(block, BasicBlock):
                _inflate_basic(block, width, kernels)
            else:
                raise TypeError(f"a {type(block).__name__} is no block of this family")


def inner_channels(planes: int, width: float, kernels: Sequence[int]) -> int:
    """round(planes * width), rounded to a multiple of the number of kernels, at least one channel each."""
    n = max(1, len(kernels))
    return max(n, n * round(round(planes * width) / n))


def _spatial(old: nn.Conv2d, inputs: int, outputs: int, kernels: Sequence[int]) -> nn.Module:
    """The convolution or parallel convolutions in the place of the 3x3 convolution `old`."""
    stride = old.stride[0]
    new: nn.Module
    if kernels:
        new = ParallelConv2d(inputs, outputs, kernels, stride)
    else:
        new = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return _initialise(new)


def _initialise(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module


def _inflate_bottleneck(block: Bottleneck, width: float, kernels: Sequence[int]) -> None:
    inner = inner_channels(block.conv1.out_channels, width, kernels)
    block.conv1 = _initialise(nn.Conv2d(block.conv1.in_channels, inner, 1, bias=False))
    block.bn1 = nn.BatchNorm2d(inner)
    block.conv2 = _spatial(block.conv2, inner, inner, kernels)
    block.bn2 = nn.BatchNorm2d(inner)
    block.conv3 = _initialise(nn.Conv2d(inner, block.conv3.out_channels, 1, bias=False))


def _inflate_basic(block: BasicBlock, width: float, kernels: Sequence[int]) -> None:
    inner = inner_channels(block.conv1.out_channels, width, kernels)
    block.conv1 = _spatial(block.conv1, block.conv1.in_channels, inner, kernels)
    block.bn1 = nn.BatchNorm2d(inner)
    block.conv2 = _spatial(block.conv2, inner, block.conv2.out_channels, kernels)
