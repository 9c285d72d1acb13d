"""timm's ResNets of many branches or with attention: ResNeXt, Res2Net, ResNeSt, selective kernels, squeeze-excite."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, TimmFamily, UsageError

if TYPE_CHECKING:
    from torch import nn

_ROWS = (
    ("resnext50_32x4d", 4, 25_028_904, 4_230_479_872, 224, "32 groups of 4"),
    ("resnext50d_32x4d", 4, 25_048_136, 4_470_120_448, 224, "32 groups of 4"),
    ("resnext101_32x4d", 4, 44_177_704, 7_969_996_800, 224, "32 groups of 4"),
    ("resnext101_32x8d", 8, 88_791_336, 16_414_015_488, 224, "32 groups of 8"),
    ("resnext101_64x4d", 4, 83_455_272, 15_460_270_080, 224, "64 groups of 4"),
    ("res2net50_14w_8s", 14, 25_059_816, 4_178_898_944, 224, "8 scales of width 14"),
    ("res2net50_26w_4s", 26, 25_699_120, 4_255_166_464, 224, "4 scales of width 26"),
    ("res2net50_26w_6s", 26, 37_051_448, 6_295_523_328, 224, "6 scales of width 26"),
    ("res2net50_26w_8s", 26, 48_403_776, 8_335_880_192, 224, "8 scales of width 26"),
    ("res2net50_48w_2s", 48, 25_287_304, 4_159_832_064, 224, "2 scales of width 48"),
    ("res2net50d", 26, 25_718_352, 4_494_807_040, 224, "4 scales of width 26"),
    ("res2net101_26w_4s", 26, 45_206_688, 8_066_974_464, 224, "4 scales of width 26"),
    ("res2net101d", 26, 45_225_920, 8_306_615_040, 224, "4 scales of width 26"),
    ("res2next50", 4, 24_671_464, 4_172_677_120, 224, "4 scales of width 4, 8 groups"),
    ("resnest14d", 64, 10_611_688, 2_749_405_184, 224, "split attention over 2 branches"),
    ("resnest26d", 64, 17_069_448, 3_623_391_232, 224, "split attention over 2 branches"),
    ("resnest50d", 64, 27_483_240, 5_371_160_576, 224, "split attention over 2 branches"),
    ("resnest50d_1s4x24d", 24, 25_677_000, 4_399_827_456, 224, "split attention in 4 groups"),
    ("resnest50d_4s2x40d", 40, 30_417_592, 4_369_060_736, 224, "split attention over 4 branches, 2 groups"),
    ("resnest101e", 64, 48_275_016, 13_321_472_000, 256, "split attention over 2 branches"),
    ("resnest200e", 64, 70_201_544, 35_519_694_848, 320, "split attention over 2 branches"),
    ("skresnet18", 0, 11_958_056, 1_814_337_536, 224, "basic blocks, selective kernels"),
    ("skresnet34", 0, 22_282_376, 3_664_237_568, 224, "basic blocks, selective kernels"),
    ("skresnet50", 64, 25_803_160, 4_089_422_336, 224, "bottlenecks, selective kernels"),
    ("skresnet50d", 64, 25_822_392, 4_329_062_912, 224, "bottlenecks, selective kernels"),
    ("skresnext50_32x4d", 4, 27_479_784, 4_462_710_784, 224, "32 groups of 4, selective kernels"),
    ("seresnet18", 0, 11_779_624, 1_814_161_408, 224, "basic blocks, squeeze-excite"),
    ("seresnet34", 0, 21_960_416, 3_663_920_128, 224, "basic blocks, squeeze-excite"),
    ("seresnet50", 64, 28_088_024, 4_091_699_200, 224, "bottlenecks, squeeze-excite"),
    ("seresnet101", 64, 49_326_872, 7_806_148_608, 224, "bottlenecks, squeeze-excite"),
    ("seresnet152", 64, 66_821_848, 11_520_204_800, 224, "bottlenecks, squeeze-excite"),
    ("seresnext26d_32x4d", 4, 16_809_512, 2_711_740_416, 224, "32 groups of 4, squeeze-excite"),
    ("seresnext50_32x4d", 4, 27_559_896, 4_232_994_816, 224, "32 groups of 4, squeeze-excite"),
    ("seresnext101_32x4d", 4, 48_955_416, 7_974_739_968, 224, "32 groups of 4, squeeze-excite"),
    ("seresnext101_32x8d", 8, 93_569_048, 16_418_758_656, 224, "32 groups of 8, squeeze-excite"),
)
"""name, base_width, params, macs, img_size, summary."""

BASE_WIDTH = {name: base_width for name, base_width, *_ in _ROWS}
"""timm's base_width of each architecture; 0 where the blocks are basic ones, which have none."""
ARCHITECTURES = tuple(
    ArchitectureInfo(name=name, params=params, macs=macs, img_size=size, summary=summary)
    for name, _, params, macs, size, summary in _ROWS
)


class MultiBranchPlugin(TimmFamily):
    """Every convolution that the channel graph can mask is gated, one group each.

    Not gated: the stem's first convolution, the classifier, and the convolutions of squeeze-excite, split and
    selective attention. Attention over branches (ResNeSt, selective kernels) is a barrier: it is computed in full from
    whatever is left in front of it, and what it returns is not thinned.

    width: timm's base_width times W. A bottleneck then has floor(planes * base_width * W / 64) inner channels in each
    of its groups (ResNeXt, selective kernels), scales (Res2Net) or cardinal groups (ResNeSt). The steps are coarse
    where base_width is small: that of a ResNeXt 32x4d is 4, so that W = 1.25 is the first to widen its first stage.
    ResNeSt and skresnet50 share these channels among branches: there base_width * W is first rounded down to a multiple
    of their number. The basic blocks of seresnet18 and seresnet34 have round(planes * W) inner channels; those of
    skresnet18 and skresnet34 have no width.
    stem: for images up to 64 pixels stride 1 and no pooling, with a 3x3 convolution where the stem is a single one.
    """

    name = "multibranch"
    options = frozenset({"width", "stem"})

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
        from pgnas_zoo.resnet_net import inflate_resnet

        from pgnas_cli.supernet.pretrained import timm_network

        base_width = scaled_base_width(arch, inflation.width)
        options = {} if base_width is None else {"base_width": base_width}
        stem = _use_small_stem if inflation.small_stem(img_size) else None
        model = timm_network(
            arch, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, stem=stem, **options
        )
        if base_width is None:
            inflate_resnet(model, width=inflation.width, kernels=())
        model.traced_size = (in_chans, img_size, img_size)
        return model

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from pgnas_cli.supernet.gating import gate_every_convolution

        return gate_every_convolution(model, model.traced_size)


def scaled_base_width(arch: str, width: float) -> float | None:
    """The base_width that timm is asked for; None where the width is left to `inflate_resnet`, or is 1.

    Raises:
        UsageError: the blocks have no inner width, or it would be below one channel.
    """
    plain = arch.partition(".")[0]
    base_width = BASE_WIDTH[plain]
    if width == 1.0:
        return None
    if not base_width:
        if plain.startswith("sk"):
            raise UsageError(
                f"{plain} has no inner width: its basic blocks are as wide inside as outside",
                "leave --width out, or take skresnet50",
            )
        return None
    step = shared_by(plain)
    if math.floor(base_width * width / step) < 1:
        raise UsageError(
            f"width {width:g} leaves a group of {plain} no channel: it has {base_width} at width 1",
            f"--width {math.ceil(1000 * step / base_width) / 1000:g} or more",
        )
    return base_width * width if step == 1 else step * math.floor(base_width * width / step)


def shared_by(arch: str) -> int:
    """Among how many branches of equal width a bottleneck shares its inner channels: the radix of a ResNeSt, the two
    paths of skresnet50; 1 for all others."""
    if arch.startswith("resnest"):
        radix = re.search(r"_(\d)s", arch)
        return int(radix[1]) if radix else 2
    return 2 if arch.startswith("skresnet") else 1


def _use_small_stem(model: nn.Module) -> str:
    """Stride 1 and no pooling; a single 7x7 convolution becomes a 3x3, of three 3x3 the first loses its stride.

    The name of the weight that starts anew, "" for the three.
    """
    from pgnas_zoo.resnet_net import use_small_stem
    from torch import nn

    if isinstance(model.conv1, nn.Conv2d):
        return use_small_stem(model)
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return ""
