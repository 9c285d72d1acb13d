"""Measuring a `LatencyTable`: every operation of the network by itself, on a grid of widths, in turns.

Operations of equal description share one measurement. The weights and inputs of the narrower copies are views of the
full ones' memory, so that the table takes no more of it than the network. Before an operation's weights are read again
as much memory is read as the network has parameters: each call finds them where it would in the network, in the cache
or not. Whole compact networks of five sizes are measured in the same turns; they calibrate the sum.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pgnas_cli import compact as compaction
from pgnas_cli.compact.build import out_of_place
from pgnas_cli.compact.graph import ChannelNode
from pgnas_cli.compact.layers import copy_layer, copy_module
from pgnas_cli.compact.network import ChannelGather
from pgnas_cli.compact.rules import geometry_of
from pgnas_cli.compact.trace import meta_twin
from pgnas_cli.supernet.latency import FITTED, Entry, LatencyTable
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.timing import interleaved

SHARES = (1 / 16, 1 / 4, 1 / 2, 3 / 4, 1)
GROUPED_SHARES = (1 / 4, 1 / 2, 1)
CALIBRATED = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Shares of kept inputs of the networks that are measured whole; the last keeps everything."""
RUNS = 9
TIME_LIMIT = 30.0
"""Seconds after which a table is finished with the turns it has, at least three."""
ASYNCHRONOUS_REPEATS = 10
_SILENT = frozenset({"input", "output", "attr", "meta", "split", "identity"})
_Axes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Item:
    """One operation to measure: sizes for each axis, and (groups, inputs, outputs) -> a call of that size."""

    axes: _Axes
    make: Callable[[int, int, int], Callable[[], object]]

    def calls(self) -> list[Callable[[], object]]:
        return [self.make(*sizes) for sizes in product(*self.axes)]


class _Values(fx.Interpreter):
    """Runs the graph on meta tensors and keeps every value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def points(full: int, shares: tuple[float, ...] = SHARES) -> tuple[int, ...]:
    """Sizes at which something of up to `full` channels is measured, ascending and distinct.

    Kernels are fastest at multiples of 8, where a candidate seldom is: below the full size every multiple of 8 gives
    way to the number 3 below it, and the last step is short, so that it alone holds the advantage of the full size.
    """
    sizes = {max(1, round(full * share)) for share in shares if share < 1}
    if full % 8 == 0 and full > 8:
        sizes.add(full - 3)
    return tuple(sorted({size - 3 if size % 8 == 0 else size for size in sizes} | {full}))


class _Network:
    """The operations of a supernet as items."""

    def __init__(self, net: Supernet, batch: int, channels_last: bool) -> None:
        self.model, self.graph, self.channels_last = net.backbone, net.graph, channels_last
        like = next(net.parameters())
        self.device, self.dtype = like.device, like.dtype
        probe = _Values(meta_twin(self.model), self.graph.fx_graph)
        with torch.no_grad():
            probe.run(torch.empty(batch, *net.input_size, device="meta", dtype=self.dtype))
        self.values = probe.values
        self.node_of = {node.fx_node: node for node in self.graph.nodes}
        sizes = [v.numel() for v in probe.values.values() if isinstance(v, Tensor)]
        generator = torch.Generator().manual_seed(0)
        self.memory = torch.randn(2 * max(sizes), generator=generator).to(self.device, self.dtype)

    def items(self) -> tuple[dict[str, _Item], dict[str, str], dict[str, str]]:
        """Description -> item; node name -> description of its operation, and of selecting from its channels."""
        items: dict[str, _Item] = {}
        operations: dict[str, str] = {}
        gathers: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.kind not in _SILENT:
                key, item = self._operation(node)
                operations[node.fx_node.name] = key
                items.setdefault(key, item)
            for source in (self.graph.nodes[s] for s in node.sources if node.kind in FITTED):
                if source.is_map:
                    key, item = self._gather(source)
                    gathers[source.fx_node.name] = key
                    items.setdefault(key, item)
        return items, operations, gathers

    def shape(self, node: ChannelNode) -> tuple[int, ...]:
        return tuple(self.values[node.fx_node].shape)

    def tensor(self, shape: tuple[int, ...], memory: Tensor | None = None, start: int = 0) -> Tensor:
        """A tensor in the layout of the run that lies in `memory`, from `start` on."""
        flat = (self.memory if memory is None else memory)[start : start + math.prod(shape)]
        if self.channels_last and len(shape) == 4:
            return flat.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
        return flat.view(shape)

    def map(self, node: ChannelNode, channels: int, start: int = 0) -> Tensor:
        """A value of `node` with fewer channels."""
        shape = self.shape(node)
        return self.tensor((shape[0], channels, *shape[2:]), start=start)

    def _operation(self, node: ChannelNode) -> tuple[str, _Item]:
        if node.geometry is not None:
            return self._layer(node)
        if node.kind == "norm":
            return self._norm(node)
        source = self.graph.nodes[node.sources[0]] if node.sources else node
        if node.kind == "slice":
            return self._gather(source)
        if node.kind == "cat":
            return self._cat(node)
        if node.kind in ("flatten", "barrier"):
            call = self._replay(node, None)
            return self._describe(node), _Item(((1,), (1,), (node.channels,)), lambda g, i, o: call)
        return self._describe(node), _Item(((1,), (1,), points(node.channels)), lambda g, i, o: self._replay(node, o))

    def _describe(self, node: ChannelNode) -> str:
        n = node.fx_node
        if node.kind == "barrier":
            return f"{n.name} (whole)"
        if n.op == "call_module":
            what = " ".join(repr(self.model.get_submodule(node.name)).split())
        else:
            what = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))

        def shown(a: fx.Node) -> Any:
            return str(tuple(self.values[a].shape)) if isinstance(self.values[a], Tensor) else self.values[a]

        args = fx.node.map_arg(n.args, shown)
        options = fx.node.map_arg(n.kwargs, shown)
        return f"{what} {args} {options or ''}".rstrip()

    def _layer(self, node: ChannelNode) -> tuple[str, _Item]:
        geometry, source = geometry_of(node), self.graph.nodes[node.sources[0]]
        module = self.model.get_submodule(node.name)
        weight: Tensor = module.get_parameter("weight")
        memory = torch.full((weight.numel(),), 0.01, device=self.device, dtype=self.dtype)
        names = ("in_channels", "out_channels") if node.kind == "conv" else ("in_features", "out_features")

        def make(groups: int, inputs: int, outputs: int) -> Callable[[], object]:
            rows = groups * outputs
            tensors: dict[str, Tensor | None] = {"bias": None}
            tensors["weight"] = self.tensor((rows, inputs, *weight.shape[2:]), memory)
            if geometry.bias:
                tensors["bias"] = self.memory[:rows]
            attributes = {names[0]: groups * inputs, names[1]: rows}
            if node.kind == "conv":
                attributes["groups"] = groups
            layer = copy_layer(module, tensors, **attributes).eval()
            return partial(layer, self.map(source, groups * inputs))

        kind = getattr(type(module), "plain_class", type(module)).__name__
        sizes = (geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups)
        if geometry.groups == 1:
            axes: _Axes = ((1,), points(sizes[0]), points(sizes[1]))
        else:
            shares = SHARES if sizes == (1, 1) else GROUPED_SHARES
            axes = (points(geometry.groups, shares), points(sizes[0], shares), points(sizes[1], shares))
        return f"{kind}({nn.Module.extra_repr(module) or module.extra_repr()}) {self.shape(source)}", _Item(axes, make)

    def _norm(self, node: ChannelNode) -> tuple[str, _Item]:
        module, source = self.model.get_submodule(node.name), self.graph.nodes[node.sources[0]]

        def make(groups: int, inputs: int, outputs: int) -> Callable[[], object]:
            tensors = {
                name: tensor.detach()[:outputs] if tensor is not None and tensor.dim() == 1 else tensor
                for name, tensor in (*module._parameters.items(), *module._buffers.items())
            }
            layer = copy_layer(module, tensors, num_features=outputs).eval()
            return partial(layer, self.map(source, outputs))

        what = " ".join(repr(module).split())
        return f"{what} {self.shape(source)}", _Item(((1,), (1,), points(node.channels)), make)

    def _gather(self, source: ChannelNode) -> tuple[str, _Item]:
        full = self.map(source, source.channels)

        def make(groups: int, inputs: int, outputs: int) -> Callable[[], object]:
            index = torch.arange(outputs) * source.channels // outputs
            if outputs == source.channels:
                index = index.roll(1)  # else it is a view
            return partial(ChannelGather(index.to(self.device)), full)

        return f"select channels {self.shape(source)}", _Item(((1,), (1,), points(source.channels)), make)

    def _cat(self, node: ChannelNode) -> tuple[str, _Item]:
        sources = [self.graph.nodes[source] for source in node.sources]

        def make(groups: int, inputs: int, outputs: int) -> Callable[[], object]:
            shares = [max(1, round(outputs * source.channels / node.channels)) for source in sources]
            parts = [self.map(source, share) for source, share in zip(sources, shares, strict=True)]
            return partial(torch.cat, parts, 1)

        return self._describe(node), _Item(((1,), (1,), points(node.channels)), make)

    def _replay(self, node: ChannelNode, channels: int | None) -> Callable[[], object]:
        """The node's own operation with `channels` units in all that it reads by channel; None: whole."""
        n = node.fx_node
        starts: Iterator[int] = iter(range(0, len(self.memory) // 2 + 1, max(1, len(self.memory) // 2)))

        def argument(a: fx.Node) -> Any:
            value, read = self.values[a], self.node_of[a]
            if not isinstance(value, Tensor):
                return value
            if not value.is_floating_point():
                return torch.zeros(value.shape, dtype=value.dtype, device=self.device)
            if channels is None or read.index not in node.sources:
                return self.tensor(tuple(value.shape))
            if read.is_map:
                return self.map(read, channels, next(starts, 0))
            return self.tensor((channels if read.channels > 1 else 1, *value.shape[1:]))

        args, kwargs = fx.node.map_arg(n.args, argument), fx.node.map_arg(n.kwargs, argument)
        if n.op == "call_module":
            return partial(copy_module(self.model.get_submodule(node.name)).eval(), *args, **kwargs)
        target, args, kwargs = out_of_place(n.target, args, kwargs)
        if isinstance(target, str):
            return partial(getattr(args[0], target), *args[1:], **kwargs)
        return partial(target, *args, **kwargs)


def _nothing() -> nn.Module:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    return fx.GraphModule(nn.Module(), graph)


def measure_table(
    net: Supernet, *, batch: int = 1, channels_last: bool = False, runs: int = RUNS, limit: float = TIME_LIMIT
) -> LatencyTable:
    """Measure every operation of a supernet's compact networks, and the network with everything kept.

    In evaluation mode, without autocast, on the device where the supernet lies.

    Args:
        net: the supernet; it stays as it is.
        batch: images in a batch.
        channels_last: whether maps and weights lie in memory as NHWC.
        runs: turns; a time is the lower quartile over them, since interruptions only add.
        limit: seconds after which no further turn starts.
    """
    network = _Network(net, batch, channels_last)
    items, operations, gathers = network.items()
    whole = _calibration_networks(net, channels_last)
    images = network.tensor((batch, *net.input_size))
    calls: list[Callable[[], object]] = [partial(module, images) for _, module in whole]
    calls.append(partial(_nothing(), images))
    placed: list[tuple[str, int]] = []
    own = {key: item.calls() for key, item in items.items()}
    elsewhere = network.memory.new_zeros(sum(p.numel() for p in net.backbone.parameters()))
    for place in range(max(map(len, own.values()))):
        calls.append(elsewhere.sum)
        here = [key for key in own if place < len(own[key])]
        placed.extend((key, len(calls) + index) for index, key in enumerate(here))
        calls.extend(own[key][place] for key in here)
    repeats = 1 if network.device.type == "cpu" else ASYNCHRONOUS_REPEATS
    times = interleaved(calls, network.device, runs=runs, warmup=1, repeats=repeats, limit=limit)
    typical = [float(np.quantile(seconds, 0.25)) for seconds in times]
    found: dict[str, list[float]] = {key: [] for key in items}
    for key, index in placed:
        found[key].append(typical[index])
    entries = {key: Entry(item.axes, tuple(found[key])) for key, item in items.items()}
    where = environment(network.device, batch, channels_last)
    table = LatencyTable(where, typical[len(whole)], (1.0, 1.0), (), entries, operations, gathers)
    sums = [float(table.seconds(compaction.expected(net.graph, keep))) for keep, _ in whole]
    pairs = list(zip(sums, typical[: len(whole)], strict=True))
    return replace(table, whole=pairs[-1], calibration=rising(pairs))


def rising(pairs: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """(sum, seconds) that rise in both, the last of `pairs` among them; others that break the order are left out."""
    below, above = [pairs[-1]], [pairs[-1]]
    for total, seconds in sorted(pairs[:-1], reverse=True):
        if total < below[-1][0] and seconds < below[-1][1]:
            below.append((total, seconds))
    for total, seconds in sorted(pairs[:-1]):
        if total > above[-1][0] and seconds > above[-1][1]:
            above.append((total, seconds))
    return (*reversed(below), *above[1:])


def _calibration_networks(net: Supernet, channels_last: bool) -> list[tuple[dict[str, Tensor], nn.Module]]:
    """Keep probabilities (0 and 1) and compact network, for draws of masks at each rate of CALIBRATED."""
    generator, found = np.random.default_rng(0), []
    for rate in CALIBRATED:
        masks = {name: generator.random(gate.channels) < rate for name, gate in net.gates.items()}
        module: nn.Module = compaction.compact(net.graph, net.backbone, masks)
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        found.append(({name: torch.from_numpy(mask).to(torch.float64) for name, mask in masks.items()}, module))
    return found


def environment(device: torch.device, batch: int, channels_last: bool) -> dict[str, str | int | bool]:
    """Where and how a table is measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": device.type, "machine": f"{name}, {os.cpu_count()} cores", "threads": torch.get_num_threads(),
            "torch": torch.__version__, "batch": batch, "channels_last": channels_last}  # fmt: skip
