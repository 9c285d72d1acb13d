"""Reads the structure of a candidate off the channel graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pgnas_cli.compact.liveness import analyse, operation_cost
from pgnas_cli.report.blocks import stages as split_into_stages
from pgnas_cli.report.structure import Block, Edge, Join, Operation, Port, Stage

if TYPE_CHECKING:
    from torch import nn

    from pgnas_cli.compact.graph import ChannelGraph, ChannelNode
    from pgnas_cli.compact.rules import Liveness
    from pgnas_cli.posterior.posterior import Masks

_JOINS = {"add": "+", "mix": "+", "cat": "concat", "mul": "x"}
_ENDS = ("input", "output")
_ALWAYS_SHOWN = frozenset({"conv", "linear", "identity", *_ENDS})


def stages(graph: ChannelGraph, model: nn.Module, masks: Masks) -> tuple[Stage, ...]:
    """The stages of a network, with what `masks` keep of it.

    Args:
        graph: of the network, without the surrogates that compaction leaves out.
        model: the network itself; may lie on the meta device.
        masks: as for `compact.analyse`; their layers count as gated.
    """
    return _Reader(graph, model, analyse(graph, masks), masks).stages()


class _Reader:
    """Reads one candidate off the channel graph."""

    def __init__(
        self, graph: ChannelGraph, model: nn.Module, liveness: Liveness[np.ndarray], masks: Mapping[str, Any]
    ) -> None:
        self.graph, self.model, self.liveness, self.masks = graph, model, liveness, masks
        self.kept = [int(liveness.live(node.index).sum()) for node in graph.nodes]
        self.visible = [node for node in graph.nodes if self._is_visible(node)]
        self.sources = self._contracted()
        self.readers: dict[int, list[int]] = {node.index: [] for node in self.visible}
        for node in self.visible:
            for source in self.sources[node.index]:
                self.readers[source].append(node.index)

    def _is_visible(self, node: ChannelNode) -> bool:
        if node.kind in _JOINS:
            return len(set(node.sources)) > 1
        if node.kind == "barrier":
            return node.params + node.macs > 0
        return node.kind in _ALWAYS_SHOWN or (node.kind == "per" and _pooling(node, self.model) != "")

    def _contracted(self) -> dict[int, list[int]]:
        """Index of a visible node -> the visible nodes that it reads, through whatever is not drawn."""
        shown = {node.index for node in self.visible}
        reached: list[list[int]] = []
        found: dict[int, list[int]] = {}
        for node in self.graph.nodes:
            merged = list(dict.fromkeys(index for source in node.sources for index in reached[source]))
            if node.index in shown:
                found[node.index] = merged
                reached.append([node.index])
            else:
                reached.append(merged)
        return found

    def stages(self) -> tuple[Stage, ...]:
        named = [node for node in self.visible if node.kind not in (*_JOINS, *_ENDS)]
        places = {node.index: place for place, node in enumerate(named)}
        bits: dict[int, int] = {}
        for node in self.visible:
            bits[node.index] = 0
            for source in self.sources[node.index]:
                bits[node.index] |= bits[source] | (1 << places[source] if source in places else 0)
        split = split_into_stages([_path(node) for node in named], {places[n.index]: bits[n.index] for n in named})
        paths = [path for _, blocks in split for path in blocks]
        home = self._homes(paths)
        members: dict[str, list[ChannelNode]] = {path: [] for path in paths}
        for node in self.visible:
            if node.kind not in _ENDS:
                members[home[node.index]].append(node)
        return tuple(Stage(stage, tuple(self._block(p, members[p], home) for p in blocks)) for stage, blocks in split)

    def _homes(self, paths: list[str]) -> dict[int, str]:
        """Index of a visible node -> path of the block that it is drawn in; "image" and "" for the ends.

        A join outside every block belongs to the block of the last value that it reads, and one in front of its
        block's own module, such as a concatenation of everything before, to the block that its module names.
        """
        known, home = set(paths), {}
        for node in self.visible:
            if node.kind in _ENDS:
                home[node.index] = "image" if node.kind == "input" else ""
                continue
            parts = _path(node).split(".")
            prefixes = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
            own = next((prefix for prefix in prefixes if prefix in known), None)
            if own is None:
                before = [source for source in self.sources[node.index] if home[source] in known]
                own = home[max(before)] if before else paths[0]
            home[node.index] = own
        return home

    def _block(self, path: str, members: list[ChannelNode], home: Mapping[int, str]) -> Block:
        inside = {node.index for node in members}
        edges: list[Edge] = []
        ports: dict[int, Port] = {}
        for node in members:
            for source in self.sources[node.index]:
                if source not in inside:
                    ports.setdefault(source, Port(source, home[source]))
                edges.append(Edge(source, node.index, self._alive(source, node)))
        outputs = [n for n in members if any(reader not in inside for reader in self.readers[n.index])] or members[-1:]
        last = outputs[-1]
        size = last.shape[2:] if last.shape is not None and len(last.shape) == 4 else None
        return Block(
            name=path.rpartition(".")[2],
            path=path,
            nodes=tuple(self._node(node) for node in members),
            edges=tuple(edges),
            ports=tuple(ports.values()),
            outputs=tuple(node.index for node in outputs),
            channels=last.channels,
            kept_channels=self.kept[last.index],
            size=None if size is None else (size[0], size[1]),
        )

    def _alive(self, source: int, target: ChannelNode) -> bool:
        if not (self.kept[source] and self.kept[target.index]):
            return False
        return target.geometry is None or bool(self.liveness.kept(target.index).any())

    def _node(self, node: ChannelNode) -> Operation | Join:
        if node.kind in _JOINS:
            return Join(node.index, _JOINS[node.kind], self.kept[node.index] / node.channels)
        return self._operation(node)

    def _operation(self, node: ChannelNode) -> Operation:
        geometry, kept_outputs = node.geometry, self.kept[node.index]
        if geometry is None:  # a pooling, a surrogate that is the identity, a barrier
            used = kept_outputs > 0
            inputs = self.graph.nodes[node.sources[0]].channels if node.sources else node.channels
            kept_inputs = self.kept[node.sources[0]] if node.sources else kept_outputs
            params, kept_params = node.params, node.params if used else 0
        else:
            inputs, kept_inputs = geometry.in_channels, int(self.liveness.kept(node.index).sum())
            demanded = self.liveness.demand[node.index]
            used = demanded is not None and kept_inputs > 0 and kept_outputs > 0
            kept_params = operation_cost(node, self.liveness)[0] if demanded is not None else 0
            params = geometry.in_channels // geometry.groups * geometry.out_channels * geometry.taps
            params += geometry.out_channels if geometry.bias else 0
        return Operation(
            index=node.index,
            name=_path(node),
            label=_label(node, self.model),
            inputs=inputs,
            kept_inputs=kept_inputs if used else 0,
            outputs=node.channels,
            kept_outputs=kept_outputs if used else 0,
            params=params,
            kept_params=int(kept_params),
            gated=node.name in self.masks,
            dropped=not used,
        )


def _path(node: ChannelNode) -> str:
    """Module path of an operation, its own or, of a function, the calling module's with the function's name; of a
    join, the module that joins."""
    if node.name:
        return node.name if node.kind not in _JOINS else node.name.rpartition(".")[0] or node.name
    stack = list(node.fx_node.meta.get("nn_module_stack") or [])
    caller = str(stack[-1]).partition("@")[0] if stack else ""
    if node.kind in _JOINS:
        return caller
    return f"{caller}.{node.fx_node.name}" if caller else node.fx_node.name


def _pooling(node: ChannelNode, model: nn.Module) -> str:
    """What kind of pooling a node is: "max" or "avg" with its kernel; "" for anything else, also for kernels of 1."""
    target = node.fx_node.target
    if node.fx_node.op != "call_module":
        name = getattr(target, "__name__", str(target))
        return "" if "pool" not in name else "max" if "max" in name else "avg"
    module = model.get_submodule(str(target))
    name = type(module).__name__
    if "Pool" not in name:
        return ""
    kernel = getattr(module, "kernel_size", None)
    kernel = kernel[0] if isinstance(kernel, tuple) else kernel
    if kernel == 1:
        return ""
    return f"{'max' if 'Max' in name else 'avg'} {f'{kernel}x{kernel}' if kernel else 'all'}"


def _label(node: ChannelNode, model: nn.Module) -> str:
    if node.kind == "linear":
        return "linear"
    if node.kind == "per":
        return _pooling(node, model)
    if node.kind == "identity":
        return "as is"
    if node.geometry is None:
        return node.name.rpartition(".")[2] or node.fx_node.name
    module: Any = model.get_submodule(node.name)
    height, width = module.kernel_size
    depthwise = 1 < node.geometry.groups == node.geometry.in_channels
    groups = " dw" if depthwise else f" g{node.geometry.groups}" if node.geometry.groups > 1 else ""
    stride = "" if module.stride[0] == 1 else f" /{module.stride[0]}"
    return f"{height}x{width}{groups}{stride}"
