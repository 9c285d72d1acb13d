"""Build the small network of a candidate: slice the weights, keep the forward pass."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from pgnas_cli.compact.graph import ChannelGraph, ChannelNode
from pgnas_cli.compact.layers import copy_layer, copy_module, cut_weight, plan_cut, select
from pgnas_cli.compact.layout import Layout
from pgnas_cli.compact.liveness import analyse
from pgnas_cli.compact.network import ChannelAdd, CompactNetwork
from pgnas_cli.compact.rules import RULES, Liveness, geometry_of
from pgnas_cli.errors import UsageError

LAYOUTS = ("gather", "dense")


def compact(
    graph: ChannelGraph, model: nn.Module, masks: Mapping[str, np.ndarray], *, layout: str = "gather"
) -> CompactNetwork:
    """The network that computes what `model` computes under `masks`, without the dropped and the dead.

    Args:
        graph: `trace` of the same architecture; one trace serves while the weights change.
        model: gives the weights; may lie on the meta device, as for loading: the result's weights are then meta
            tensors to be filled by `load_state_dict(strict=True, assign=True)`, while its index buffers are real.
        masks: as for `analyse`.
        layout: "gather": every convolution holds exactly the inputs that it keeps, behind an index_select where
            that is not all that is alive. "dense": ungrouped convolutions and linear layers read everything that is
            alive, with columns of zeros for what they drop; more parameters, fewer copies.

    Returns:
        The network in evaluation mode, with parameters of its own. An architecture that works at several image
        sizes still does, unless a barrier or the output reads a wholly dead map, which then has the traced size.

    Raises:
        UsageError: as `analyse`, or for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}", f"choose {' or '.join(LAYOUTS)}")
    builder = _Builder(graph, model, analyse(graph, masks), dense=layout == "dense")
    for node in graph.nodes:
        EMIT[node.kind](builder, node)
    return builder.finish()


class _Builder:
    """Writes the graph of the small network, node by node."""

    def __init__(self, graph: ChannelGraph, model: nn.Module, state: Liveness[np.ndarray], *, dense: bool) -> None:
        self.graph, self.model, self.state, self.dense = graph, model, state, dense
        self.node_of = {node.fx_node: node for node in graph.nodes}
        self.layout = Layout(graph, model)
        self.out, self.root = self.layout.out, self.layout.root

    def finish(self) -> CompactNetwork:
        for n in reversed(list(self.out.nodes)):
            if not n.users and n.op not in ("output", "placeholder"):
                self.out.erase_node(n)
        network = CompactNetwork(self.root, self.out, class_name="CompactNetwork")
        return network.eval()

    def live(self, node: ChannelNode) -> np.ndarray:
        return np.flatnonzero(self.state.live(node.index))

    def set(self, node: ChannelNode, value: Any, present: np.ndarray) -> None:
        self.layout.set(node.index, value, present)

    def module_of(self, node: ChannelNode) -> nn.Module:
        return self.model.get_submodule(node.name)

    def call(self, node: ChannelNode, module: nn.Module, *args: Any, **kwargs: Any) -> fx.Node:
        self.layout.put(node.name, module)
        return self.out.call_module(node.name, args, kwargs)

    def whole(self, arg: fx.Node) -> Any:
        """The value of an argument with all its channels, zeros where they are dead."""
        node = self.node_of[arg]
        if node.is_map or node.kind == "attr":
            return self.layout.fit(node, np.arange(node.channels), arg.name)
        return self.layout.values[node.index]

    def replay(self, node: ChannelNode, argument: Callable[[fx.Node], Any]) -> fx.Node:
        """The node's own operation on new arguments, never in place."""
        n = node.fx_node
        args, kwargs = fx.node.map_arg(n.args, argument), fx.node.map_arg(n.kwargs, argument)
        if n.op == "call_module":
            if not self.layout.has(node.name):
                return self.call(node, copy_module(self.module_of(node)), *args, **kwargs)
            return self.out.call_module(node.name, args, kwargs)
        target, args, kwargs = out_of_place(n.target, args, kwargs)
        if target is F.dropout and not _option(args, kwargs, 2, "training", True):
            return self._dropout(node, args, kwargs)
        return self.out.create_node(n.op, target, args, kwargs)

    def _dropout(self, node: ChannelNode, args: Any, kwargs: Any) -> fx.Node:
        """The trace in evaluation mode has fixed `training`; as a module it works again when fine-tuned."""
        name = self.layout.private_name(node.fx_node.name)
        self.layout.put(name, nn.Dropout(_option(args, kwargs, 1, "p", 0.5)))
        return self.out.call_module(name, (args[0],))


def _option(args: Any, kwargs: Mapping[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


_PLAIN_OPERATORS: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name if name not in ("and", "or") else f"{name}_")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
} | {torch.relu_: torch.relu, F.relu_: torch.relu}


def out_of_place(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The same operation without changing its input."""
    if isinstance(target, str):
        plain = target[:-1] if target.endswith("_") and not target.endswith("__") else target
        return (plain if hasattr(torch.Tensor, plain) else target), args, kwargs
    target = _PLAIN_OPERATORS.get(target, target)
    if inspect.isfunction(target):
        place = list(inspect.signature(target).parameters).index("inplace") if _has_inplace(target) else len(args)
        args = tuple(False if i == place else a for i, a in enumerate(args))
        if "inplace" in kwargs:
            kwargs = {**kwargs, "inplace": False}
    return target, args, kwargs


def _has_inplace(function: Any) -> bool:
    return "inplace" in inspect.signature(function).parameters


# one emitter for each kind of rules.RULES -----------------------------------------------------------------------


def _emit_input(b: _Builder, node: ChannelNode) -> None:
    b.set(node, b.out.placeholder(str(node.fx_node.target)), np.arange(node.channels))


def _emit_output(b: _Builder, node: ChannelNode) -> None:
    b.out.output(fx.node.map_arg(node.fx_node.args[0], b.whole))


def _emit_nothing(b: _Builder, node: ChannelNode) -> None:
    """The parts of a split are slices of its source."""


def _emit_attr(b: _Builder, node: ChannelNode) -> None:
    live = b.live(node)
    if not len(live):
        return
    value = operator.attrgetter(node.name)(b.model)
    tensor = select(value, 0, live) if node.channels > 1 else value.detach().clone()
    b.layout.put_tensor(node.name, nn.Parameter(tensor) if isinstance(value, nn.Parameter) else tensor)
    b.set(node, b.out.get_attr(node.name), live)


def _emit_meta(b: _Builder, node: ChannelNode) -> None:
    if len(b.live(node)):
        b.set(node, b.replay(node, lambda a: b.layout.any_layout(b.node_of[a])), np.arange(1))


def _emit_operation(b: _Builder, node: ChannelNode) -> None:
    """A convolution or linear layer: rows that are live, columns that are kept."""
    live, kept = b.state.live(node.index), b.state.kept(node.index)
    if not live.any():
        return
    source, geometry, module = b.graph.nodes[node.sources[0]], geometry_of(node), b.module_of(node)
    zero_columns = b.dense and geometry.groups == 1
    read = kept.copy()
    if zero_columns:
        read[b.layout.present[source.index]] = True
    cut = plan_cut(geometry, read, live)
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    sliced = cut_weight(weight, cut)
    if zero_columns and not kept[cut.inputs].all():
        factor = torch.from_numpy(kept[cut.inputs]).to(sliced.device, sliced.dtype)
        sliced = sliced * factor.view(1, -1, *(1,) * (sliced.dim() - 2))
    tensors = {"weight": sliced, "bias": None if bias is None else select(bias, 0, cut.outputs)}
    sizes = ("in_channels", "out_channels") if node.kind == "conv" else ("in_features", "out_features")
    attributes = {sizes[0]: len(cut.inputs), sizes[1]: len(cut.outputs)}
    if node.kind == "conv":
        attributes["groups"] = len(cut.columns)
    x = b.layout.take(source, cut.inputs, node.fx_node.name)
    b.set(node, b.call(node, copy_layer(module, tensors, **attributes), x), cut.outputs)


def _emit_norm(b: _Builder, node: ChannelNode) -> None:
    """A normalisation holds what is needed behind it: a gather moves in front of it (pre-activation networks).

    Never more than is alive: a zero in front of a normalisation is not a zero behind it.
    """
    live, source, module = b.live(node), b.graph.nodes[node.sources[0]], b.module_of(node)
    if not len(live):
        return
    present = b.layout.present[source.index] if b.dense else live
    tensors: dict[str, torch.Tensor | None] = {}
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        per_channel = tensor is not None and tensor.dim() == 1
        tensors[name] = None if tensor is None else select(tensor, 0, present) if per_channel else tensor.clone()
    layer = copy_layer(module, tensors, num_features=len(present))
    b.set(node, b.call(node, layer, b.layout.take(source, present, node.fx_node.name)), present)


def _emit_per(b: _Builder, node: ChannelNode) -> None:
    if not len(b.live(node)):
        return
    source = node.sources[0]
    x, others = b.layout.values[source], b.layout.any_layout
    value = b.replay(node, lambda a: x if b.node_of[a].index == source else others(b.node_of[a]))
    b.set(node, value, b.layout.present[source])


def _emit_identity(b: _Builder, node: ChannelNode) -> None:
    source = node.sources[0]
    if len(b.live(node)):
        b.set(node, b.layout.values[source], b.layout.present[source])


def _emit_nonzero(b: _Builder, node: ChannelNode) -> None:
    live, source = b.live(node), b.graph.nodes[node.sources[0]]
    if not len(live):
        return
    x = b.layout.fit(source, live, node.fx_node.name)
    b.set(node, b.replay(node, lambda a: x if b.node_of[a] is source else b.layout.any_layout(b.node_of[a])), live)


def _emit_flatten(b: _Builder, node: ChannelNode) -> None:
    if not len(b.live(node)):
        return
    source = b.graph.nodes[node.sources[0]]
    each = node.channels // source.channels
    present = (b.layout.present[source.index][:, None] * each + np.arange(each)).reshape(-1)
    b.set(node, b.out.call_function(torch.flatten, (b.layout.values[source.index], 1)), present)


def _emit_slice(b: _Builder, node: ChannelNode) -> None:
    live = b.live(node)
    if len(live):
        value = b.layout.fit(b.graph.nodes[node.sources[0]], live + node.span[0], node.fx_node.name)
        b.set(node, value, live)


def _emit_add(b: _Builder, node: ChannelNode) -> None:
    """Wholly dead operands are left out; one that is dead in part is added where it is alive."""
    live, name = b.live(node), node.fx_node.name
    if not len(live):
        return
    operands = [b.node_of[a] for a in node.fx_node.args if isinstance(a, fx.Node)]
    shares = [np.intersect1d(b.layout.present[o.index], live, assume_unique=True) for o in operands]
    parts = [(o, share) for o, share in zip(operands, shares, strict=True) if len(share)]
    parts.sort(key=lambda part: len(part[1]) < len(live))
    value = b.layout.fit(parts[0][0], live, name)
    for operand, share in parts[1:]:
        x = b.layout.fit(operand, share, name)
        if len(share) == len(live):
            value = b.out.call_function(operator.add, (value, x))
        else:
            value = b.layout.index_layer(name, ChannelAdd, np.searchsorted(live, share), value, x)
    b.set(node, value, live)


def _emit_mix(b: _Builder, node: ChannelNode) -> None:
    live = b.live(node)
    if not len(live):
        return
    args = [
        b.layout.fit(b.node_of[a], live, node.fx_node.name)
        if np.isin(live, b.layout.present[b.node_of[a].index]).any()
        else None
        for a in node.fx_node.all_input_nodes
    ]
    b.set(node, b.call(node, copy_module(b.module_of(node)), *args), live)


def _emit_mul(b: _Builder, node: ChannelNode) -> None:
    live = b.live(node)
    if len(live):
        value = b.replay(node, lambda a: b.layout.fit(b.node_of[a], live, node.fx_node.name))
        b.set(node, value, live)


def _emit_cat(b: _Builder, node: ChannelNode) -> None:
    """Operands keep their layout; those that nobody needs are left out."""
    live = b.state.live(node.index)
    values, present, start = [], [], 0
    for source in node.sources:
        ids = b.layout.present[source] + start
        if live[ids].any():
            values.append(b.layout.values[source])
            present.append(ids)
        start += b.graph.nodes[source].channels
    if values:
        value = values[0] if len(values) == 1 else b.out.call_function(torch.cat, (values, 1))
        b.set(node, value, np.concatenate(present))


def _emit_barrier(b: _Builder, node: ChannelNode) -> None:
    if len(b.live(node)):
        b.set(node, b.replay(node, b.whole), np.arange(node.channels))


EMIT: Mapping[str, Callable[[_Builder, ChannelNode], None]] = {
    "input": _emit_input,
    "output": _emit_output,
    "attr": _emit_attr,
    "meta": _emit_meta,
    "conv": _emit_operation,
    "linear": _emit_operation,
    "norm": _emit_norm,
    "per": _emit_per,
    "identity": _emit_identity,
    "nonzero": _emit_nonzero,
    "flatten": _emit_flatten,
    "split": _emit_nothing,
    "slice": _emit_slice,
    "add": _emit_add,
    "mix": _emit_mix,
    "mul": _emit_mul,
    "cat": _emit_cat,
    "barrier": _emit_barrier,
}
assert EMIT.keys() == RULES.keys(), "every kind has one rule and one emitter"
