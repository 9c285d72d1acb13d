"""Shake-shake 26 2xWd with any width W in its name, and the paper's supnet-m (W = 96) and supnet-mi (W = 160)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli.plugin import ArchitectureInfo, Inflation, UsageError, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

PATTERN = re.compile(r"shakeshake26_2x([1-9]\d{0,4})d")


BASE = "shakeshake26_2x96d"
NAMED = {"supnet-m": 96, "supnet-mi": 160}


def _info(width: int, params: int, macs: int, name: str = "", **more: Any) -> ArchitectureInfo:
    return ArchitectureInfo(
        name=name or f"shakeshake26_2x{width}d",
        params=params,
        macs=macs,
        num_classes=10,
        img_size=32,
        summary=more.pop("summary", f"two branches of width {width}, for small images"),
        **more,
    )


ARCHITECTURES = (
    _info(
        *(96, 26_192_922, 3_776_892_672, "supnet-m"),
        summary="shake-shake 26 2x96d, as published",
        published_params=26.2e6,
        published="PGNAS, Table 3: M",
        base=BASE,
        recipe="paper/cifar10-m",
    ),
    _info(
        *(160, 72_695_194, 10_457_372_928, "supnet-mi"),
        summary="the same inflated to 2x160d",
        published_params=72.7e6,
        published="PGNAS, Table 3: MI",
        base=BASE,
        recipe="paper/cifar10-mi",
    ),
    _info(32, 2_923_162, 426_689_792),
    _info(64, 11_653_978, 1_685_506_560),
    _info(96, 26_192_922, 3_776_892_672),
    _info(160, 72_695_194, 10_457_372_928),
)


def branch_width(arch: str) -> int | None:
    """W of an architecture; None if the name is none of this family."""
    match = PATTERN.fullmatch(arch)
    return int(match[1]) if match else NAMED.get(arch)


class ShakeShakePlugin(ZooPlugin):
    """Every convolution but the stem is gated, one group each."""

    name = "shakeshake"
    options = frozenset({"width"})

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return ARCHITECTURES

    def matches(self, arch: str) -> bool:
        return branch_width(arch) is not None

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

        from pgnas_cli.supernet.pretrained import load_file

        width = branch_width(arch)
        if width is None:
            raise ValueError(f"{arch} is no shake-shake architecture: shakeshake26_2x<W>d")
        model = ShakeShakeNet(max(2, round(width * inflation.width)), num_classes, in_chans)
        if pretrained is True:
            raise UsageError(f"there are no published weights of {arch}", "--weights FILE takes your own")
        if pretrained:
            load_file(model, pretrained)
        return model

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name != "stem"
        }
