"""The ENAS micro architecture with any number of filters in its name, and the paper's supnet-e and supnet-ei."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli.plugin import ArchitectureInfo, Inflation, UsageError, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

PATTERN = re.compile(r"enas15_([1-9]\d{0,3})f")
SUPERNETS = {"supnet-e": 36, "supnet-ei": 72}
"""The paper's names -> filters."""


def _info(name: str, params: int, macs: int, summary: str, **published: Any) -> ArchitectureInfo:
    return ArchitectureInfo(name, params, macs, num_classes=10, img_size=32, summary=summary, **published)


ARCHITECTURES = (
    _info("enas15_36f", 3_894_372, 620_907_552, "15 cells of 36 filters, for small images"),
    _info("enas15_72f", 14_784_552, 2_314_115_136, "15 cells of 72 filters, for small images"),
    _info(
        "supnet-e",
        3_894_372,
        620_907_552,
        "enas15_36f, as published",
        published_params=4.6e6,
        published="PGNAS, Table 3: E (the ENAS paper's figure)",
        base="enas15_36f",
        recipe="paper/cifar10-e",
    ),
    _info(
        "supnet-ei",
        14_784_552,
        2_314_115_136,
        "the same inflated to twice the filters",
        published_params=15.3e6,
        published="PGNAS, Table 3: EI",
        base="enas15_36f",
        recipe="paper/cifar10-ei",
    ),
)


class EnasPlugin(ZooPlugin):
    """Pointwise, calibrating and reducing convolutions and surrogates are gated, one group each.

    Depthwise convolutions (their pointwise partner is gated), stem, classifier and auxiliary head are not.

    width: the number of filters, times W.
    surrogate_pools: a gated 1x1 convolution, started as the identity, behind every pooling and identity branch.
    """

    name = "enas"
    options = frozenset({"width", "surrogate_pools"})

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return ARCHITECTURES

    def matches(self, arch: str) -> bool:
        return arch in SUPERNETS or PATTERN.fullmatch(arch) is not None

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
        from pgnas_zoo.enas_net import EnasNet

        if pretrained is True:
            raise UsageError(f"there are no published weights of {arch}", "name a safetensors file with --weights FILE")
        filters = max(1, round(_filters(arch) * inflation.width))
        model = EnasNet(filters, num_classes, in_chans, img_size, surrogates=inflation.surrogate_pools)
        if pretrained:
            from pgnas_cli.supernet.pretrained import load_file

            load_file(model, pretrained)
        return model

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
            and name.startswith("cells.")
            and not name.rpartition(".")[2].startswith("depthwise")
        }


def _filters(arch: str) -> int:
    if arch in SUPERNETS:
        return SUPERNETS[arch]
    match = PATTERN.fullmatch(arch)
    if match is None:
        raise ValueError(f"{arch} is no ENAS architecture: enas15_<F>f with F from 1 to 9999")
    return int(match[1])
