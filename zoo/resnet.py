"""timm's ResNets, wider or with parallel kernels, and the paper's supnet-r50."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, TimmFamily

if TYPE_CHECKING:
    from torch import nn


def _info(name: str, params: int, macs: int, summary: str) -> ArchitectureInfo:
    return ArchitectureInfo(name=name, params=params, macs=macs, summary=summary)


NAMED = {"supnet-r50": ("resnet50", 1.38, (1, 3, 5, 9))}
"""Named supernets: (backbone, width, kernels). As described it holds 28.1 M; the tables' 44.0 M are reached at 1.38."""

ARCHITECTURES = (
    ArchitectureInfo(
        name="supnet-r50",
        params=44_138_184,
        macs=7_185_546_000,
        summary="ResNet-50, each 3x3 as 1x1, 3x3, 5x5 and 9x9 in parallel, width 1.38",
        published_params=44.0e6,
        published="PGNAS, Table 4: R-50",
        base="resnet50",
        recipe="paper/imagenet-r50",
    ),
    _info("resnet18", 11_689_512, 1_814_073_344, "basic blocks"),
    _info("resnet26", 15_995_176, 2_342_256_640, "bottlenecks"),
    _info("resnet34", 21_797_672, 3_663_761_408, "basic blocks"),
    _info("resnet50", 25_557_032, 4_089_184_256, "bottlenecks"),
    _info("resnet101", 44_549_160, 7_801_405_440, "bottlenecks"),
    _info("resnet152", 60_192_808, 11_513_626_624, "bottlenecks"),
    _info("wide_resnet50_2", 68_883_240, 11_398_021_120, "bottlenecks of twice the inner width"),
    _info("wide_resnet101_2", 126_886_696, 22_753_050_624, "bottlenecks of twice the inner width"),
)


class ResNetPlugin(TimmFamily):
    """Every convolution of every block, and of every shortcut, is gated, one group each. Stem and classifier are not.

    width: the inner channels of each block, times W, rounded to a multiple of the number of kernels.
    kernels: every 3x3 convolution becomes parallel convolutions that share its outputs, concatenated.
    stem: for images up to 64 pixels a 3x3 convolution with stride 1, no pooling.
    """

    name = "resnet"
    options = frozenset({"width", "kernels", "stem"})

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return ARCHITECTURES

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
        from pgnas_zoo.resnet_net import inflate_resnet, use_small_stem

        from pgnas_cli.supernet.pretrained import timm_network

        backbone, width, kernels = NAMED.get(arch, (arch, 1.0, ()))
        stem = use_small_stem if inflation.small_stem(img_size) else None
        model = timm_network(backbone, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, stem=stem)
        inflate_resnet(model, width=width * inflation.width, kernels=inflation.kernels or kernels)
        return model

    def renamed(self, model: nn.Module) -> Mapping[str, str]:
        from pgnas_zoo.resnet_net import plain_names

        return plain_names(model)

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name.startswith("layer")
        }
