"""The feature maps of an exported network: a backbone for detection and segmentation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from pgnas_cli.compact.network import CompactNetwork
from pgnas_cli.errors import UsageError
from pgnas_cli.export.network import ExportedNetwork


class FeatureMaps(nn.Module):
    """The feature maps of a network, finest first: [B, C, H, W] -> list of [B, C_i, H / r_i, W / r_i].

    Args:
        network: an exported network; its layers are shared. The layers behind the last map are left out.
        out_indices: which maps, by their place in `network.feature_info`; negative ones count from the end.

    Attributes:
        feature_info: timm's FeatureInfo: channels(), reduction(), module_name().

    Raises:
        UsageError: an index is out of range, or there is none.
    """

    def __init__(self, network: ExportedNetwork, out_indices: Sequence[int] | int | None = None) -> None:
        from timm.models import FeatureInfo

        super().__init__()
        info = network.feature_info
        count = len(info)
        indices = _indices(out_indices, count)
        chosen = sorted({i % count for i in indices})
        self.feature_info = FeatureInfo([dict(entry) for entry in info], tuple(chosen))
        nodes = {node.name: node for node in network.graph.nodes}
        self.network = _ending_at(network, [nodes[info[i]["node"]] for i in chosen])
        self.pretrained_cfg = self.default_cfg = network.pretrained_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.network(x))


def _indices(asked: Sequence[int] | int | None, count: int) -> list[int]:
    """The places of the wanted maps among `count`; see `FeatureMaps`."""
    hint = f"use 0 to {count - 1}, or a number of maps from the end, 1 to {count}"
    if isinstance(asked, int) and not 1 <= asked <= count:
        raise UsageError(f"out_indices={asked}: the network has {count} feature maps", hint)
    wanted = range(count) if asked is None else range(-asked, 0) if isinstance(asked, int) else asked
    indices = list(wanted)
    wrong = [i for i in indices if not isinstance(i, int) or not -count <= i < count]
    if wrong or not indices:
        found = f"has {wrong[0]!r}" if wrong else "is empty"
        raise UsageError(f"out_indices {found}: the network has {count} feature maps", hint)
    return indices


def _ending_at(network: ExportedNetwork, ends: list[fx.Node]) -> fx.GraphModule:
    """The part of a network that leads to some nodes, sharing its layers."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda old: copies[old])
    graph.output(tuple(copies[end] for end in ends))
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return CompactNetwork(network, graph, "FeatureMaps").train(network.training)
