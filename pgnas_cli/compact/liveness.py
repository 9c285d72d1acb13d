"""Which channels are dead, which are needed, and what the small network will cost: exactly, or in expectation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pgnas_cli.compact.algebra import Algebra, BooleanRows, Booleans, Probabilities
from pgnas_cli.compact.graph import ChannelGraph, ChannelNode
from pgnas_cli.compact.rules import RULES, Gate, Liveness, geometry_of
from pgnas_cli.errors import UsageError

T = TypeVar("T")
Number = TypeVar("Number", int, Tensor)


@dataclass(frozen=True)
class Cost(Generic[Number]):
    """Size of a compact network in the gathered layout.

    params: parameters. macs: multiply-adds of convolutions and linear layers for one image of the traced size
    (barriers included, with the matrix products in them). int, or scalar tensors for an expectation.
    """

    params: Number
    macs: Number


def analyse(graph: ChannelGraph, masks: Mapping[str, np.ndarray]) -> Liveness[np.ndarray]:
    """Alive and needed channels of the candidate that `masks` describe.

    Args:
        masks: convolution or linear layer name -> bool [in_channels], or [groups] for a grouped convolution; True
            keeps the input. A layer without an entry keeps everything.

    Raises:
        UsageError: a name cannot carry a mask, a length is wrong, a mask is not boolean, or one drops inputs of a
            convolution that has been folded away.
    """
    return _passes(graph, Booleans(), _hard_gates(graph, masks, axes=1))


def analyse_rows(graph: ChannelGraph, masks: Mapping[str, np.ndarray]) -> Liveness[np.ndarray]:
    """`analyse` for N candidates at once.

    Args:
        masks: name -> bool [N, in_channels] or [N, groups]; row i belongs to candidate i.

    Returns:
        Values [N, units], whose row i is what `analyse` gives for candidate i; [units] where all candidates agree.

    Raises:
        UsageError: as `analyse`.
    """
    return _passes(graph, BooleanRows(), _hard_gates(graph, masks, axes=2))


def expected(graph: ChannelGraph, keep_probs: Mapping[str, Tensor]) -> Liveness[Tensor]:
    """The same two passes on probabilities, for independent gates; differentiable in `keep_probs`.

    P(alive) of an output = 1 - prod over inputs (1 - keep_k P(alive_k)); P(needed) of an input, given that it is
    alive, = 1 - prod over readers (1 - keep_k P(some output of the reader is needed)). In truth the outputs of one
    operation die together. That shows only where operations with few inputs are often wholly dropped: with three
    gated stem inputs of keep 0.5 the whole network is dead in one candidate of eight, and the sum is too high.

    Args:
        keep_probs: name -> probability that an input is kept, [in_channels] or, for the groups of a grouped
            convolution as wholes, [groups]; floating point, one dtype and device. A layer without an entry keeps
            everything.

    Raises:
        UsageError: a name cannot carry a mask, or a length is wrong.
    """
    like = next(iter(keep_probs.values()), torch.zeros(()))
    return expected_with(graph, Probabilities(like), keep_probs)


def expected_with(graph: ChannelGraph, algebra: Algebra[T], keep_probs: Mapping[str, Any]) -> Liveness[T]:
    """`expected` in an algebra of probabilities, whose values have a length and a `shape`."""
    gates = {}
    for name, keep in keep_probs.items():
        node = graph.masked_node(name, keep)
        gates[node.index] = _gate(node, keep)
    return _passes(graph, algebra, gates)


def _hard_gates(graph: ChannelGraph, masks: Mapping[str, np.ndarray], *, axes: int) -> dict[int, Gate[np.ndarray]]:
    """Node index -> gate, of masks with `axes` axes, whose last is over the inputs."""
    gates = {}
    for name, mask in masks.items():
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.ndim != axes:
            raise UsageError(
                f"the mask of {name!r} is {array.dtype} of shape {array.shape[axes - 1 :]}; expected a vector of bool",
                "masks say which input channels are kept: compare your scores with a threshold",
            )
        node = graph.masked_node(name, array.T)
        if node.kind != "identity" or not array.all():
            gates[node.index] = _gate(node, array)
    return gates


def _gate(node: ChannelNode, mask: Any) -> Gate[Any]:
    if node.geometry is None:
        raise UsageError(
            f"{node.name!r} has been folded away: its mask should keep every input",
            "fold only what the mask keeps whole",
        )
    whole = mask.shape[-1] != node.geometry.in_channels
    return Gate(groups=mask) if whole else Gate(channels=mask)


def _passes(graph: ChannelGraph, algebra: Algebra[T], gates: Mapping[int, Gate[T]]) -> Liveness[T]:
    state = Liveness(graph, algebra, gates)
    for node in graph.nodes:
        state.alive.append(RULES[node.kind].alive(node, state))
    demand: list[T | None] = [None] * len(graph.nodes)
    state.demand = demand
    for node in reversed(graph.nodes):
        units = algebra.ones(1) if node.kind == "output" else demand[node.index]
        if units is None:
            continue
        for source, wanted in RULES[node.kind].demand(node, units, state):
            present = demand[source]
            demand[source] = wanted if present is None else algebra.either(present, wanted)
        for read in node.reads:
            if not graph.nodes[read].is_map:
                present, used = demand[read], algebra.any_of(state.live(node.index), 1)
                demand[read] = used if present is None else algebra.either(present, used)
    return state


def depends_on_input(graph: ChannelGraph, liveness: Liveness[np.ndarray]) -> bool:
    """Whether any channel of the image reaches the output. If not, the logits are the same for every image."""
    return bool(reaches_output(graph, liveness)[0])


def reaches_output(graph: ChannelGraph, liveness: Liveness[T]) -> T:
    """`depends_on_input` as one unit: [1], or [N, 1] for `analyse_rows`."""
    algebra = liveness.algebra
    reaches = algebra.zeros(1)
    for node in graph.nodes:
        if node.kind == "input":
            reaches = algebra.either(reaches, algebra.any_of(liveness.live(node.index), 1))
    return reaches


def count(graph: ChannelGraph, liveness: Liveness[T]) -> Cost[Any]:
    """Parameters and MACs of the compact network in the gathered layout; of an expectation, expected ones.

    params = sum over convolutions  s^2 * sum_k kept_k * sum_j needed_j  + bias, norms, linear layers, barriers;
    macs the same times the output's height x width. kept_k implies that the output is alive, hence needed_j is
    conditional on that. A grouped convolution has as many rows and columns in every group as its fullest group,
    because all groups of a torch convolution are equally large. A barrier that somebody needs counts in full.

    Returns:
        Cost of int for `analyse`, of int64 arrays [N] or scalars for `analyse_rows`, of scalar tensors for `expected`.
    """
    algebra = liveness.algebra
    params, macs = algebra.total(algebra.zeros(1)), algebra.total(algebra.zeros(1))
    shared: dict[str, tuple[int, T]] = {}
    for node in graph.nodes:
        demand = liveness.demand[node.index]
        if demand is None:
            continue
        if node.geometry is not None:
            operation_params, operation_macs = operation_cost(node, liveness)
            params, macs = params + operation_params, macs + operation_macs
        elif node.kind in ("norm", "attr"):
            if node.params:
                params = params + algebra.total(liveness.live(node.index)) * node.params
        elif node.params or node.macs:
            used = algebra.any_of(liveness.live(node.index), 1)
            macs = macs + algebra.total(used) * node.macs
            previous = shared.get(node.name)
            shared[node.name] = (node.params, used if previous is None else algebra.either(previous[1], used))
    for size, used in shared.values():
        params = params + algebra.total(used) * size
    return Cost(params, macs)


def operation_cost(node: ChannelNode, liveness: Liveness[T]) -> tuple[Any, Any]:
    """(parameters, MACs) of one convolution or linear layer that somebody needs, without the norm behind it."""
    geometry, demand = geometry_of(node), liveness.demand[node.index]
    assert demand is not None, node
    weights, biases = _operation_size(node, demand, liveness)
    return weights * geometry.taps + biases, weights * (geometry.taps * geometry.positions)


def _operation_size(node: ChannelNode, demand: Any, state: Liveness[Any]) -> tuple[Any, Any]:
    """(pairs of input and output channel, biases) of a convolution or linear layer."""
    algebra, geometry, index = state.algebra, geometry_of(node), node.index
    if geometry.groups == 1:
        live = algebra.total(state.live(index)) if geometry.bias else 0
        return algebra.total(state.kept(index)) * algebra.total(demand), live
    operation, needed = state.operation[index], state.needed[index]
    groups = algebra.total(algebra.both(operation, needed))
    rows: Any = 1
    columns: Any = 1
    if geometry.out_channels > geometry.groups:
        rows = algebra.largest(demand, operation, geometry.groups)
    if geometry.in_channels > geometry.groups:
        gate = state.gates.get(index)
        asked = needed if gate is None or gate.groups is None else algebra.both(gate.groups, needed)
        columns = algebra.largest(state.reached[index], asked, geometry.groups)
    return groups * rows * columns, groups * rows if geometry.bias else 0
