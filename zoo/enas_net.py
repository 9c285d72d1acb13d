"""The ENAS micro network (Pham et al., Efficient Neural Architecture Search, arXiv 1802.03268) as its authors train it.

15 normal cells and 2 reduction cells, the sixth and the twelfth, each of which halves the map and doubles the filters.
Every cell reads the outputs of the two cells before it. Paddings are TensorFlow's SAME, initial weights truncated
He-normal draws. The dropout in front of the classifier is left out: it is off when convolution inputs are gated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropPath
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from pgnas_cli.supernet.surrogate import SurrogateConv2d

Arc = tuple[tuple[int, int, int, int], ...]
NORMAL: Arc = ((0, 2, 0, 0), (0, 4, 0, 1), (0, 4, 1, 1), (1, 0, 0, 1), (0, 2, 1, 1))
"""For each node: input, operation, input, operation. Inputs 0 and 1 are those of the cell, 2 is its first node."""
REDUCTION: Arc = ((1, 0, 1, 0), (0, 3, 0, 2), (1, 1, 3, 1), (1, 0, 0, 4), (0, 3, 1, 1))
SEPARABLE_3, SEPARABLE_5, AVERAGE, MAXIMUM, IDENTITY = range(5)

NORMAL_CELLS = 15
REDUCTIONS = (5, 11)
AUXILIARY = 12
"""Number of the cell whose output the auxiliary head reads."""


class ReLUConvBN(nn.Sequential):
    """ReLU-Conv1x1-BN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)


class SeparableConv(nn.Sequential):
    """ReLU-depthwise-pointwise-BN, twice; the first time with the stride."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        for turn in (1, 2):
            depthwise: nn.Conv2d
            if stride == 1 or turn == 2:
                depthwise = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False)
            else:
                depthwise = Conv2dSame(channels, channels, kernel, stride, groups=channels, bias=False)
            self.add_module(f"relu{turn}", nn.ReLU())
            self.add_module(f"depthwise{turn}", depthwise)
            self.add_module(f"pointwise{turn}", nn.Conv2d(channels, channels, 1, bias=False))
            self.add_module(f"bn{turn}", nn.BatchNorm2d(channels))


class StridedAvgPool(nn.Module):
    """3x3 average with stride 2 and SAME padding, which is left out of the mean (timm's AvgPool2dSame counts it).

    An odd size is padded by one pixel on both sides, an even one at its end only.

    Shape: [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)].
    """

    channel_rule = "per"

    def forward(self, x: Tensor) -> Tensor:
        padding = [size % 2 for size in x.shape[2:]]
        return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)


class FactorizedReduction(nn.Module):
    """Two paths, the second shifted by one pixel, each pool 1x1 stride 2 then Conv1x1 to half the channels; one BN.

    Shape: [B, inputs, H, W] -> [B, outputs, ceil(H / 2), ceil(W / 2)], outputs even.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(1, 2)
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))
        self.conv2 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.conv1(self.pool(x)), self.conv2(self.pool(self.shift(x)))], 1))


def _operation(kind: int, channels: int, stride: int) -> nn.Module:
    if kind in (SEPARABLE_3, SEPARABLE_5):
        return SeparableConv(channels, 3 if kind == SEPARABLE_3 else 5, stride)
    if kind == AVERAGE:
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False) if stride == 1 else StridedAvgPool()
    if kind == MAXIMUM:
        return nn.MaxPool2d(3, 1, 1) if stride == 1 else MaxPool2dSame(3, stride)
    return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels)


class Branch(nn.Sequential):
    """One operation of a node, its surrogate if there is one, and its DropPath.

    Args:
        kind: the operation, 0 to 4.
        channels: of input and output.
        stride: 1 or 2.
        depth_share: of the DropPath, see ZooPlugin.build; identities have none.
        surrogate: whether a pooling or identity is followed by a surrogate.
    """

    def __init__(self, kind: int, channels: int, stride: int, depth_share: float, surrogate: bool) -> None:
        super().__init__()
        self.operation = _operation(kind, channels, stride)
        if surrogate and kind not in (SEPARABLE_3, SEPARABLE_5):
            self.surrogate = SurrogateConv2d(channels)
        if kind != IDENTITY:
            self.drop_path = DropPath(0.0)
            self.drop_path.depth_share = depth_share


class Cell(nn.Module):
    """Nodes, each the sum of two branches that read earlier ones; the nodes that none reads are concatenated.

    Args:
        arc: NORMAL or REDUCTION.
        inputs: channels of the two inputs.
        filters: channels of each node.
        stride: of the branches that read the cell's inputs.
        halve: the first input is twice as large as the second and is halved.
        depth_share, surrogates: of every branch.

    Shape: [B, inputs[0], sH, sW], [B, inputs[1], H, W] -> [B, filters * unread nodes, H / stride, W / stride], with
    s = 2 if `halve`.
    """

    def __init__(
        self,
        arc: Arc,
        inputs: tuple[int, int],
        filters: int,
        *,
        stride: int,
        halve: bool,
        depth_share: float,
        surrogates: bool,
    ) -> None:
        super().__init__()
        self.calibrate0: nn.Module = nn.Identity()
        if halve:
            self.calibrate0 = nn.Sequential(nn.ReLU(), FactorizedReduction(inputs[0], filters))
        elif inputs[0] != filters:
            self.calibrate0 = ReLUConvBN(inputs[0], filters)
        self.calibrate1 = ReLUConvBN(inputs[1], filters) if inputs[1] != filters else nn.Identity()
        self.base = ReLUConvBN(filters, filters)
        operands = [pair for node in arc for pair in (node[:2], node[2:])]
        self.sources = [source for source, _ in operands]
        self.branches = nn.ModuleList(
            Branch(kind, filters, stride if source < 2 else 1, depth_share, surrogates) for source, kind in operands
        )
        self.unread = [node for node in range(2, 2 + len(arc)) if node not in self.sources]

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        nodes = [self.calibrate0(before), self.base(self.calibrate1(last))]
        for node in range(0, len(self.sources), 2):
            first, second = self.sources[node], self.sources[node + 1]
            nodes.append(self.branches[node](nodes[first]) + self.branches[node + 1](nodes[second]))
        return torch.cat([nodes[node] for node in self.unread], 1)


class AuxiliaryHead(nn.Module):
    """ReLU, average pool 5x5 stride 3, Conv1x1 to 128, a convolution of the map's size to 768, mean, linear.

    BN and ReLU follow each convolution. A map smaller than 5 pixels is pooled whole.

    Args:
        inputs: channels.
        size: height and width of the map.
        num_classes: logits.

    Shape: [B, inputs, size, size] -> [B, num_classes].
    """

    def __init__(self, inputs: int, size: int, num_classes: int) -> None:
        super().__init__()
        kernel = min(5, size)
        extent = (size - kernel) // 3 + 1
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(kernel, 3)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.pad = nn.ZeroPad2d(((extent - 1) // 2, extent // 2) * 2)
        self.conv2 = nn.Conv2d(128, 768, extent, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.fc = nn.Linear(768, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.pool(self.relu(x)))))
        x = self.relu(self.bn2(self.conv2(self.pad(x))))
        return self.fc(x.mean((2, 3)))


class EnasNet(nn.Module):
    """The network of 15 normal and 2 reduction cells.

    In training mode the logits of the auxiliary head go to `aux_logits`; in evaluation mode that is None.

    Args:
        filters: F, of the first cells (36 in the paper).
        num_classes: logits. The classifier has no bias.
        in_chans: image channels.
        img_size: the auxiliary head is made for images of this size.
        surrogates: put a 1x1 convolution, started as the identity, behind every pooling and identity branch.

    Shape: images [B, in_chans, H, W] -> logits [B, num_classes].
    """

    training_only = ("auxiliary",)

    def __init__(
        self, filters: int, num_classes: int, in_chans: int, img_size: int, *, surrogates: bool = False
    ) -> None:
        super().__init__()
        self.aux_logits: Tensor | None = None
        channels = [3 * filters] * 2
        self.stem = nn.Conv2d(in_chans, channels[0], 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels[0])
        self.cells = nn.ModuleList()
        total = NORMAL_CELLS + len(REDUCTIONS)
        for index in range(total):
            reduces = index in REDUCTIONS
            filters *= 2 if reduces else 1
            cell = Cell(
                REDUCTION if reduces else NORMAL,
                (channels[-2], channels[-1]),
                filters,
                stride=2 if reduces else 1,
                halve=index - 1 in REDUCTIONS,
                depth_share=(index + 1) / total,
                surrogates=surrogates,
            )
            self.cells.append(cell)
            channels.append(filters * len(cell.unread))
        self.auxiliary = AuxiliaryHead(channels[2 + AUXILIARY], -(-img_size // 2 ** len(REDUCTIONS)), num_classes)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], num_classes, bias=False)
        initialise(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without the logits of the last batch: a copy of the network does not hold them."""
        return {**vars(self), "aux_logits": None}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_bn(self.stem(x))
        before, last = x, x
        self.aux_logits = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            if self.training and index == AUXILIARY:
                self.aux_logits = self.auxiliary(last)
        return self.fc(self.pool(self.relu(last)).flatten(1))


def initialise(model: nn.Module) -> None:
    """Weights N(0, 2 / (k k in)), cut off at two standard deviations; surrogates stay the identity.

    A depthwise convolution counts all its channels as `in`, as the ENAS program does.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module, SurrogateConv2d):
            _he_normal(module.weight, module.in_channels * math.prod(module.kernel_size))
        elif isinstance(module, nn.Linear):
            _he_normal(module.weight, module.in_features)


def _he_normal(weight: Tensor, fan_in: int) -> None:
    deviation = math.sqrt(2 / fan_in)
    nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation)
