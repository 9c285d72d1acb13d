"""ResNet-20 for small images with any width W in its name: resnet20_<W>w, stages of W, 2W and 4W channels.

He, Zhang, Ren, Sun, Deep Residual Learning, CVPR 2016, section 4.2 (where W is 16), with 1x1 convolutions in the
shortcuts that change the shape. timm's ResNets begin at 11 M parameters; two cores need a smaller one. The folder is
no package that is installed: with it on PYTHONPATH, `pgnas` finds the plugin by the .dist-info beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, UsageError, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

PATTERN = re.compile(r"resnet20_([1-9]\d{0,3})w")


class SmallResNetPlugin(ZooPlugin):
    """Every convolution of the blocks and shortcuts is gated, one group each. Stem and classifier are not."""

    name = "small_resnet"
    options = frozenset({"width"})

    def architectures(self) -> Sequence[ArchitectureInfo]:
        summary = "basic blocks for small images, stages of 16, 32 and 64 channels"
        return [ArchitectureInfo("resnet20_16w", 272_474, 40_813_184, num_classes=10, img_size=32, summary=summary)]

    def matches(self, arch: str) -> bool:
        return PATTERN.fullmatch(arch) is not None

    def build(
        self,
        arch: str,
        inflation: Inflation,
        *,
        num_classes: int,
        in_chans: int,
        img_size: int,
        pretrained: bool | Path = False,
    ) -> nn.Module:
        from small_resnet_net import SmallResNet

        if pretrained:
            raise UsageError(f"there are no published weights of {arch}")
        match = PATTERN.fullmatch(arch)
        assert match is not None
        return SmallResNet(max(1, round(int(match[1]) * inflation.width)), num_classes, in_chans)

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name.startswith("stage")
        }
