"""timm's DenseNets with another growth rate, and the paper's supnet-d121 (DenseNet-121 as it is)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, TimmFamily, UsageError

if TYPE_CHECKING:
    from torch import nn

GROWTH = {"densenet121": 32, "densenet161": 48, "densenet169": 32, "densenet201": 32}
NAMED = {"supnet-d121": "densenet121"}


def _info(name: str, params: int, macs: int, layers: str) -> ArchitectureInfo:
    return ArchitectureInfo(name=name, params=params, macs=macs, summary=f"dense blocks of {layers} layers")


ARCHITECTURES = (
    ArchitectureInfo(
        name="supnet-d121",
        params=7_978_856,
        macs=2_834_161_664,
        summary="DenseNet-121, one gate per incoming feature block",
        published_params=7.98e6,
        published="PGNAS, supplement",
        base="densenet121",
        recipe="paper/imagenet-d121",
    ),
    _info("densenet121", 7_978_856, 2_834_161_664, "6, 12, 24 and 16"),
    _info("densenet161", 28_681_000, 7_727_907_072, "6, 12, 36 and 24"),
    _info("densenet169", 14_149_480, 3_359_843_328, "6, 12, 32 and 32"),
    _info("densenet201", 20_013_928, 4_291_365_888, "6, 12, 48 and 32"),
)


class DenseNetPlugin(TimmFamily):
    """Every convolution but the stem is gated.

    What a layer reads is the block's input followed by the output of each layer before it. The first convolution of a
    layer and that of a transition have one gate for each of these; the second of a layer has one.

    width: growth rate = round(growth * W). growth: the growth rate itself, before the width. As in timm the stem has
    twice and a layer's bottleneck four times as many channels as the growth rate.
    stem: for images up to 64 pixels a 3x3 convolution with stride 1, no pooling.
    """

    name = "densenet"
    options = frozenset({"width", "growth", "stem"})

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
        from pgnas_cli.supernet.pretrained import timm_network

        backbone = NAMED.get(arch, arch)
        growth = growth_rate(backbone, inflation)
        stem = _use_small_stem if inflation.small_stem(img_size) else None
        return timm_network(
            backbone, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, stem=stem, growth_rate=growth
        )

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        groups: dict[str, list[int]] = {}
        for name, stage in model.features.named_children():
            if name.startswith("denseblock"):
                incoming = []
                for layer_name, layer in stage.named_children():
                    incoming.append(layer.conv1.in_channels - sum(incoming))
                    groups[f"features.{name}.{layer_name}.conv1"] = list(incoming)
                    groups[f"features.{name}.{layer_name}.conv2"] = [layer.conv2.in_channels]
                incoming.append(layer.conv2.out_channels)
            elif name.startswith("transition"):
                groups[f"features.{name}.conv"] = incoming
        return groups


def growth_rate(backbone: str, inflation: Inflation) -> int:
    """round(growth * width), the growth being timm's unless it is given.

    Raises:
        UsageError: it is below one.
    """
    base = GROWTH[backbone.partition(".")[0]] if inflation.growth is None else inflation.growth
    growth = round(base * inflation.width)
    if growth < 1:
        raise UsageError(
            f"growth {base} times width {inflation.width:g} rounds to {growth}, a layer should add one channel or more",
            "--growth 32",
        )
    return growth


def _use_small_stem(model: nn.Module) -> str:
    """3x3 stem with stride 1 and no pooling; the name of its weight, which starts anew."""
    from torch import nn

    old = model.features.conv0
    model.features.conv0 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)
    model.features.pool0 = nn.Identity()
    return "features.conv0.weight"
