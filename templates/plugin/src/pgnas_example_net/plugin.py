"""The plugin: what `pgnas zoo list` shows of example_net, how it is built, and what is gated.

Listing has to be instant, so that torch is imported only inside the methods that need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli.plugin import ArchitectureInfo, Inflation, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

# One row for each architecture. `params` and `macs` are those of the network without inflation at these sizes; when the
# network changes, the tests say what they have become.
ARCHITECTURES = (
    ArchitectureInfo(
        "example_net", params=175_066, macs=26_657_408, num_classes=10, img_size=32, summary="small residual network"
    ),
)


class Plugin(ZooPlugin):
    """Gates every convolution of every block, one group each; the stem and the classifier are left."""

    name = "example_net"
    # The fields of Inflation that `build` makes use of. pgnas refuses all others before it comes to `build`.
    options = frozenset({"width"})

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
        from pgnas_example_net.network import Network

        if pretrained:  # what a ValueError says is shown to the user
            raise ValueError(f"there are no pretrained weights of {arch}")
        return Network(num_classes, in_chans, width=inflation.width)

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        from torch import nn

        # Layer name -> sizes of its groups of inputs. The channels of a group share one drop probability; each is kept
        # or dropped by itself. A layer that reads a concatenation gets a group for each part: [32, 32] instead of [64].
        return {
            name: [module.in_channels]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name.startswith("blocks.")
        }
