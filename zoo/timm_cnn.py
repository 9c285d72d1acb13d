"""Any other convolutional network of timm, by its name, as it is: the fallback behind the named families."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_zoo.timm_cnn_table import ROWS

from pgnas_cli.plugin import ArchitectureInfo, Inflation, UsageError, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = tuple(
    ArchitectureInfo(name=name, params=params, macs=macs, img_size=size, summary=summary)
    for name, params, macs, size, summary in ROWS
)
OPTIONS = {"convnext": {"conv_mlp": True}}
"""Prefix of a name -> timm's options: a ConvNeXt's linear layers over the last dimension become 1x1 convolutions, which
compute the same from the same weights and can be gated."""


class TimmCNNPlugin(ZooPlugin):
    """Any network of timm that torch.fx captures, also under a tag (resnet50d.ra2_in1k). It is not widened.

    Every convolution that the channel graph can mask is gated, one group each, except the stem's first, the classifier,
    depthwise ones, and those of squeeze-excite; what cannot be thinned is a barrier. The listed architectures are those
    for which masked = compact is tested.
    """

    name = "timm_cnn"
    options: frozenset[str] = frozenset()

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return ARCHITECTURES

    def matches(self, arch: str) -> bool:
        import timm

        if not timm.is_model(arch):
            return False
        try:
            timm.get_pretrained_cfg(arch)
        except RuntimeError:  # there is no such tag
            return False
        return True

    def info(self, arch: str) -> ArchitectureInfo | None:
        return super().info(arch) or _describe(self, arch)

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

        options: dict[str, Any] = next((more for name, more in OPTIONS.items() if arch.startswith(name)), {})
        model = timm_network(arch, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, **options)
        model.traced_size = (in_chans, img_size, img_size)
        return model

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        """Raises UsageError if the network cannot be captured at its image size, or has nothing to gate."""
        from pgnas_cli.supernet.gating import gate_every_convolution

        size, kind = model.traced_size, type(model).__name__
        try:
            groups = gate_every_convolution(model, size)
        except Exception as error:  # whatever a network's own code raises when it is captured
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UsageError(
                f"this {kind} cannot be captured at {size[1]} x {size[2]} pixels: {reason}",
                "try the --img-size that it was made for; pgnas zoo list shows networks that work",
            ) from error
        if not groups:
            raise UsageError(
                f"nothing in this {kind} can be gated: it has no plain convolution besides the stem",
                "pgnas zoo list shows networks that work",
            )
        return groups


@functools.cache
def _describe(plugin: TimmCNNPlugin, arch: str) -> ArchitectureInfo | None:
    """What timm says of an architecture that is not listed, and what its structure says; None if timm has none."""
    if not plugin.matches(arch):
        return None
    import timm
    import torch

    from pgnas_cli.supernet.supernet import Supernet

    cfg = timm.get_pretrained_cfg(arch)
    channels, size, _ = cfg.input_size if cfg else (3, 224, 224)
    classes = (cfg.num_classes if cfg else 0) or 1000
    with torch.device("meta"):
        model = plugin.build(arch, Inflation(), num_classes=classes, in_chans=channels, img_size=size)
        net = Supernet(model, plugin.gate_groups(model), input_size=(channels, size, size))
    cost = net.kept_cost()
    return ArchitectureInfo(
        arch, int(cost.params), int(cost.macs), num_classes=classes, img_size=size, in_chans=channels, summary="timm"
    )
