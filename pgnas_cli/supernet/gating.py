"""Which convolutions of a network that nobody described can be gated: read off its channel graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pgnas_cli.compact import ChannelGraph, ChannelNode, trace

_POOL_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_POOL_FUNCTIONS: set[Any] = {torch.mean, torch.amax, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, "mean", "amax"}


def gate_every_convolution(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, list[int]]:
    """Layer name -> [in_channels], one group of inputs each, for every convolution that is worth a gate.

    Those are all that the channel graph can mask, except

    * stems, which read the image: with three channels at p = 0.5 one candidate in eight would see nothing;
    * convolutions that write the logits;
    * depthwise convolutions: the gate of the pointwise one behind already decides, and liveness takes the channel;
    * convolutions of an attention branch (squeeze-excite and its kin), which read a globally pooled map and whose
      result scales another: they hold next to none of the multiply-adds, without inputs they are a constant factor
      and no missing operation, and liveness thins them together with the map that they scale.

    What cannot be masked is a barrier of the graph, or reads one only: `pgnas zoo show` names them.

    Args:
        model: any network that torch.fx can capture; may lie on the meta device, and is left as it is.
        input_size: (channels, height, width) of an image.

    Raises:
        PgnasError: torch.fx cannot capture the network.
    """
    graph = trace(model, input_size, check=False)
    left_out = {*_stems(graph), *graph.writes_output, *attention_convolutions(model, graph)}
    return {
        name: [geometry.in_channels]
        for name, geometry in graph.convs.items()
        if name not in left_out and not 1 < geometry.groups == geometry.in_channels
    }


def _stems(graph: ChannelGraph) -> set[str]:
    """Operations with no other in front of them, also behind a space-to-depth or another reordering of pixels."""
    raw: set[int] = set()
    for node in graph.nodes:
        if node.geometry is None and node.macs == 0 and raw.issuperset(node.sources):
            raw.add(node.index)
    return {name for name, node in graph.operations.items() if raw.issuperset(node.sources)}


def attention_convolutions(model: nn.Module, graph: ChannelGraph) -> set[str]:
    """Names of the convolutions between a global pooling and the product of its result with an unpooled map."""
    modules = dict(model.named_modules(remove_duplicate=False))
    pooled: set[int] = set()
    for node in graph.nodes:
        maps = [source for source in node.sources if graph.nodes[source].kind != "attr"]
        if _pools_globally(node, modules) or (maps and pooled.issuperset(maps)):
            pooled.add(node.index)
    scaling: set[int] = set()
    for node in reversed(graph.nodes):
        scales = node.kind in ("mul", "barrier") and node.index not in pooled
        if scales or node.index in scaling:
            scaling.update(pooled.intersection(node.sources))
    return {name for name, node in graph.operations.items() if node.index in scaling}


def _pools_globally(node: ChannelNode, modules: dict[str, nn.Module]) -> bool:
    """Whether a node reduces a map to one value a channel, by its kind: any map may be 1x1 already."""
    if node.shape is None or any(size != 1 for size in node.shape[2:]):
        return False
    if node.fx_node.op == "call_module":
        return isinstance(modules[node.name], _POOL_MODULES)
    return node.fx_node.target in _POOL_FUNCTIONS
