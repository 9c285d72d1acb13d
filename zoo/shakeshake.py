"""Shake-shake 26 2xWd: `shakeshake26_2x96d`, and the same with any width W in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

PATTERN = re.compile(r"shakeshake26_2x([1-9]\d{0,4})d")


def _info(width: int, params: int, macs: int, published: float | None = None, where: str = "") -> ArchitectureInfo:
    return ArchitectureInfo(
        name=f"shakeshake26_2x{width}d",
        params=params,
        macs=macs,
        num_classes=10,
        img_size=32,
        summary=f"two branches of width {width}, for small images",
        published_params=published,
        published=where,
    )


ARCHITECTURES = (
    _info(32, 2_923_162, 426_689_792),
    _info(64, 11_653_978, 1_685_506_560),
    _info(96, 26_192_922, 3_776_892_672, 26.2e6, "PGNAS, supplement: M"),
    _info(160, 72_695_194, 10_457_372_928, 72.7e6, "PGNAS, Table 3: MI"),
)


class ShakeShakePlugin(ZooPlugin):
    """Every convolution but the stem is gated, one group each."""

    name = "shakeshake"
    options = frozenset({"width"})

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return ARCHITECTURES

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
        from pgnas_zoo.shakeshake_net import ShakeShakeNet

        match = PATTERN.fullmatch(arch)
        if match is None:
            raise ValueError(f"{arch} is no shake-shake architecture: shakeshake26_2x<W>d")
        if pretrained:
            raise ValueError(f"there are no pretrained weights of {arch}")
        return ShakeShakeNet(max(2, round(int(match[1]) * inflation.width)), num_classes, in_chans)

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name != "stem"
        }
