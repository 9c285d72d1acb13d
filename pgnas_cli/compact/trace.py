"""Capture a network with torch.fx and describe what it does to its channels."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from typing import Any

import torch
from timm.layers import BatchNormAct2d, get_notrace_functions, get_notrace_modules  # type: ignore[attr-defined]
from timm.layers.drop import DropBlock2d, DropPath
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from pgnas_cli.compact.classify import classify
from pgnas_cli.compact.graph import ChannelGraph
from pgnas_cli.compact.layers import copy_plain
from pgnas_cli.errors import PgnasError

PROBE_BATCH = 13
"""Batch size of the shape propagation. A prime: a first dimension it divides is recognisably the batch."""

_NORMS = (nn.BatchNorm2d.forward, BatchNormAct2d.forward)
_LEAVES = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, DropPath, DropBlock2d)


class ChannelTracer(fx.Tracer):
    """torch.fx tracer that keeps whole what has a channel rule of its own or must stay random in training."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._leaves = (*_LEAVES, *get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` becomes one node of the graph."""
        if isinstance(m, self._leaves) or hasattr(type(m), "channel_rule"):
            return True
        return super().is_leaf_module(m, module_qualified_name)


class _ShapeProbe(fx.Interpreter):
    """Runs the graph on meta tensors and notes the shape of every value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.shapes: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = self._same_shape(n)
        value = super().run_node(n) if value is None else value
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
        elif isinstance(value, (tuple, list)) and value and all(isinstance(v, torch.Tensor) for v in value):
            self.shapes[n] = [tuple(v.shape) for v in value]
        return value

    def _same_shape(self, n: fx.Node) -> torch.Tensor | None:
        """The input of a batch normalisation in place of its output, whose shape it has; None for other nodes.

        On the meta device torch computes one by a dozen operations written in Python, a third of a trace's time.
        """
        if n.op != "call_module" or type(self.fetch_attr(str(n.target))).forward not in _NORMS:
            return None
        args, _ = self.fetch_args_kwargs_from_env(n)
        return args[0] if args and isinstance(args[0], torch.Tensor) else None


class _MacsProbe(fx.Interpreter):
    """Runs the graph on meta tensors and notes the multiply-adds per image of the nodes asked for."""

    def __init__(self, module: nn.Module, graph: fx.Graph, wanted: set[fx.Node]) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.wanted = wanted
        self.macs: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.wanted:
            return super().run_node(n)
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.macs[n] = counter.get_total_flops() // (2 * PROBE_BATCH)
        return value


class _OutOfPlace(fx.Interpreter):
    """Runs the graph so that no operation can change the inputs of another, as in the compact network."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("call_module", "call_function", "call_method"):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            clone = lambda x: x.clone() if isinstance(x, torch.Tensor) else x  # noqa: E731
            args, kwargs = fx.node.map_aggregate(args, clone), fx.node.map_aggregate(kwargs, clone)
            return getattr(self, n.op)(n.target, args, kwargs)
        return super().run_node(n)


def meta_twin(model: nn.Module) -> nn.Module:
    """A deep copy of `model` in evaluation mode whose tensors are empty ones on the meta device: nothing large is
    copied, and tensors that were shared stay shared."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    plain = (v for m in model.modules() for v in vars(m).values() if isinstance(v, torch.Tensor))
    for tensor in (*model.buffers(), *plain):
        memo.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
    for module in reversed(list(model.modules())):  # children first
        twin = copy_plain(module, memo)
        if twin is not None:
            memo[id(module)] = twin
    return copy.deepcopy(model, memo).eval()


def trace(model: nn.Module, input_size: tuple[int, int, int], *, check: bool = True) -> ChannelGraph:
    """Trace `model` once; the result serves for any weights and any masks.

    The network is captured in evaluation mode (`model` and its training flags are left as they are). Convolutions,
    linear layers, batch normalisations, dropout-like modules and modules whose class has a `channel_rule` stay
    whole: "add" is a module of two tensors, linear in each, whose output channel is dead iff both are, and which
    accepts None for a wholly dead operand; "per" works on each channel by itself with f(0) = 0 and holds no
    parameters per channel. Whatever is not on the closed list of `classify` is a barrier.

    Args:
        model: any network that torch.fx can capture; may lie on the meta device.
        input_size: (channels, height, width) of one image.
        check: compare the captured graph with `model` on random images (left out on the meta device).

    Raises:
        PgnasError: torch.fx cannot capture the network, or captures constants that are no part of it, or what it
            captured computes something else.
    """
    twin = meta_twin(model)
    try:
        graph = ChannelTracer().trace(twin)
    except Exception as error:
        raise PgnasError(
            f"torch.fx cannot trace {type(model).__name__}: {error}",
            "give a module with data-dependent control flow a class attribute channel_rule, so that it stays whole",
        ) from error
    if made := [n.target for n in graph.nodes if n.op == "get_attr" and not _has(model, str(n.target))]:
        raise PgnasError(
            f"{type(model).__name__} makes a constant tensor in its forward pass ({made[0]})",
            "register it as a buffer, so that it is part of the network",
        )
    images = torch.empty(PROBE_BATCH, *input_size, device="meta", dtype=_float_dtype(model))
    with torch.no_grad():
        shapes = _ShapeProbe(twin, graph)
        shapes.run(images)
        nodes = classify(twin, graph, shapes.shapes)
        barriers = {node.fx_node for node in nodes if node.kind == "barrier"}
        macs: dict[fx.Node, int] = {}
        if barriers:
            probe = _MacsProbe(twin, graph, barriers)
            probe.run(images)
            macs = probe.macs
    nodes = tuple(replace(node, macs=macs.get(node.fx_node, 0)) for node in nodes)
    if check and all(p.device.type != "meta" for p in model.parameters()):
        _check_equal(model, graph, input_size)
    return ChannelGraph(nodes, graph, input_size)


def _has(model: nn.Module, name: str) -> bool:
    try:
        operator.attrgetter(name)(model)
    except AttributeError:
        return False
    return True


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


def _check_equal(model: nn.Module, graph: fx.Graph, input_size: tuple[int, int, int]) -> None:
    """Raise unless graph and model agree to 1e-5 relative to max(1, max |output|) on two random images."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *input_size, generator=generator).to(device, _float_dtype(model))
    flags = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            eager = _tensors(model(images.clone()))
            traced = _tensors(_OutOfPlace(model, graph=graph).run(images))
    finally:
        for module, training in flags.items():
            module.training = training
    same = len(eager) == len(traced) and all(
        a.shape == b.shape and (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))
        for a, b in zip(eager, traced, strict=True)
    )
    if not same:
        raise PgnasError(
            f"the traced graph of {type(model).__name__} does not compute what the network computes",
            "look for control flow that depends on the data, in-place operations on a tensor that is read again, "
            "or randomness in evaluation mode",
        )


def _tensors(output: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    fx.node.map_aggregate(output, lambda x: found.append(x) if isinstance(x, torch.Tensor) else None)
    return found
