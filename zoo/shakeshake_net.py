"""Shake-Shake 26 2xWd (Gastaldi, Shake-Shake regularization, arXiv 1705.07485), as the PGNAS authors train it.

3x3 stem to 16 channels and BatchNorm; three stages of four blocks at W, 2W, 4W channels, the second and third
starting with stride 2. A block: two parallel branches ReLU-Conv3x3-BN-ReLU-Conv3x3-BN, mixed, plus the skip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _ShakeNoise(torch.autograd.Function):
    """forward * x in the forward pass, backward * gradient in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(backward)
        return x * forward

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def,override]
        (backward,) = ctx.saved_tensors
        return grad * backward, None, None


def _share(x: Tensor) -> Tensor:
    """[B, 1, 1, 1] shares u1 / (u1 + u2), one per example, in float32 and then in the dtype of x."""
    u1, u2 = torch.rand(2, x.shape[0], 1, 1, 1, device=x.device).clamp_min_(1e-6)
    return (u1 / (u1 + u2)).to(x.dtype)


class ShakeShake(nn.Module):
    """Mixes two branches: alpha * a + (1 - alpha) * b.

    Training with `branch_noise`: alpha = u1 / (u1 + u2) per example, drawn independently for the forward and the
    backward pass. Otherwise 1/2 each. A branch of which nothing is left may be None.

    Shape: a, b and the result [B, C, H, W].
    """

    channel_rule = "add"

    def __init__(self) -> None:
        super().__init__()
        self.branch_noise = True

    def forward(self, a: Tensor | None, b: Tensor | None) -> Tensor:
        some = a if a is not None else b
        if some is None:
            raise ValueError("both branches are None")
        if not (self.training and self.branch_noise):
            return some * 0.5 if a is None or b is None else (a + b) * 0.5
        forward, backward = _share(some), _share(some)
        parts = [
            _ShakeNoise.apply(x, f, g)
            for x, f, g in ((a, forward, backward), (b, 1 - forward, 1 - backward))
            if x is not None
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class Branch(nn.Sequential):
    """ReLU-Conv3x3-BN-ReLU-Conv3x3-BN."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)


class Shortcut(nn.Module):
    """Two paths, the second shifted by one pixel, each pool 1x1 stride 2 then Conv1x1 to half the channels; one BN."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(1, stride)
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))
        self.conv2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        straight = self.conv1(self.pool(x))
        shifted = self.conv2(self.pool(self.shift(x)))
        return self.bn(torch.cat([straight, shifted], 1))


class Block(nn.Module):
    """skip(x) + mix(branch1(x), branch2(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch1 = Branch(inputs, outputs, stride)
        self.branch2 = Branch(inputs, outputs, stride)
        self.mix = ShakeShake()
        self.skip = nn.Identity() if inputs == outputs and stride == 1 else Shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.mix(self.branch1(x), self.branch2(x))


class ShakeShakeNet(nn.Module):
    """Shake-shake network of depth 26 for small images.

    Args:
        width: channels of the first stage (96 in 26 2x96d).
        num_classes: logits.
        in_chans: image channels.
        blocks: blocks a stage (4: depth 26).

    Shape: images [B, in_chans, H, W] -> logits [B, num_classes].
    """

    def __init__(self, width: int, num_classes: int, in_chans: int, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(16)
        stages, inputs = [], 16
        for index in range(3):
            outputs = width * 2**index
            members = []
            for block in range(blocks):
                members.append(Block(inputs, outputs, 2 if block == 0 and index else 1))
                inputs = outputs
            stages.append(nn.Sequential(*members))
        self.stage1, self.stage2, self.stage3 = stages
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan))
            elif isinstance(module, nn.Linear):
                bound = 1.0 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_bn(self.stem(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        x = self.pool(self.relu(x)).flatten(1)
        return self.fc(x)
