"""One rule for every kind of operation: which of its channels are dead, and what it needs from its sources.

`alive` is the forward rule: the units of the result that are not dead. `demand` is the backward rule: given the
demand for the result, that for each source. A demand is conditional: "needed, given that it is alive" - so that
on probabilities no event is counted twice; it is joined with `alive` where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from pgnas_cli.compact.algebra import Algebra
from pgnas_cli.compact.graph import ChannelGraph, ChannelNode, Geometry

T = TypeVar("T")


@dataclass(frozen=True)
class Gate(Generic[T]):
    """What a mask keeps of one operation: input channels [in_channels], or whole groups [groups]; None keeps all."""

    channels: T | None = None
    groups: T | None = None


@dataclass(repr=False, eq=False)
class Liveness(Generic[T]):
    """Result of the two passes; vectors over units, by node index.

    alive: not dead. demand: needed by somebody, given that it is alive (None: by nobody).
    gates: the masks. reached, operation, needed: of each convolution or linear layer the inputs that are kept and
    alive [in_channels] (not counting a mask over groups), whether each group has an input [groups], and whether
    somebody needs the group's output, given that it has one [groups].
    """

    graph: ChannelGraph
    algebra: Algebra[T]
    gates: Mapping[int, Gate[T]]
    alive: list[T] = field(default_factory=list)
    demand: list[T | None] = field(default_factory=list)
    reached: dict[int, T] = field(default_factory=dict)
    operation: dict[int, T] = field(default_factory=dict)
    needed: dict[int, T] = field(default_factory=dict)

    def live(self, index: int) -> T:
        """The units of a node that are alive and needed: those that the compact network computes."""
        demand = self.demand[index]
        if demand is None:
            return self.algebra.zeros(self.graph.nodes[index].channels)
        return self.algebra.both(demand, self.alive[index])

    def kept(self, index: int) -> T:
        """The inputs of a convolution or linear layer that are kept and alive, [in_channels]."""
        geometry = geometry_of(self.graph.nodes[index])
        groups = self.gates[index].groups if index in self.gates else None
        if groups is None:
            return self.reached[index]
        whole = self.algebra.repeat(groups, geometry.in_channels // geometry.groups)
        return self.algebra.both(whole, self.reached[index])


Demands = Iterator[tuple[int, Any]]


class Rule(NamedTuple):
    """alive(node, state) -> units; demand(node, units, state) -> (source index, units of the source) ..."""

    alive: Callable[[ChannelNode, Liveness[Any]], Any]
    demand: Callable[[ChannelNode, Any, Liveness[Any]], Demands]


def geometry_of(node: ChannelNode) -> Geometry:
    """The geometry of a convolution or linear node."""
    assert node.geometry is not None, node
    return node.geometry


# forward: alive -------------------------------------------------------------------------------------------------


def _all_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    return state.algebra.ones(node.channels)


def _as_source(node: ChannelNode, state: Liveness[Any]) -> Any:
    return state.alive[node.sources[0]]


def _conv_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    """A group's outputs are alive iff one of its inputs is kept and alive."""
    algebra, geometry = state.algebra, geometry_of(node)
    gate = state.gates.get(node.index)
    reached = state.alive[node.sources[0]]
    if gate is not None and gate.channels is not None:
        reached = algebra.both(gate.channels, reached)
    operation = algebra.any_of(reached, geometry.groups)
    if gate is not None and gate.groups is not None:
        operation = algebra.both(gate.groups, operation)
    state.reached[node.index], state.operation[node.index] = reached, operation
    return algebra.repeat(operation, geometry.out_channels // geometry.groups)


def _linear_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    """A linear layer keeps its bias: without one it dies like a convolution."""
    alive = _conv_alive(node, state)
    return state.algebra.ones(node.channels) if geometry_of(node).bias else alive


def _flatten_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    source = node.sources[0]
    return state.algebra.repeat(state.alive[source], node.channels // state.graph.nodes[source].channels)


def _slice_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    return state.algebra.cut(state.alive[node.sources[0]], *node.span)


def _add_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    alive = state.alive[node.sources[0]]
    for source in node.sources[1:]:
        alive = state.algebra.either(alive, state.alive[source])
    return alive


def _mul_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    alive = state.alive[node.sources[0]]
    for source in node.sources[1:]:
        alive = state.algebra.both(alive, state.alive[source])
    return alive


def _cat_alive(node: ChannelNode, state: Liveness[Any]) -> Any:
    return state.algebra.concat([state.alive[source] for source in node.sources])


# backward: demand -----------------------------------------------------------------------------------------------


def _no_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    return iter(())


def _pass_on(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    for source in node.sources:
        yield source, units


def _everything(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    """Whoever needs any unit of the result needs every unit of every source."""
    needed = state.algebra.any_of(units, 1)
    for source in node.sources:
        yield source, state.algebra.repeat(needed, state.graph.nodes[source].channels)


def _conv_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    """Input k is needed iff it is kept and somebody needs an output of its group."""
    algebra, geometry = state.algebra, geometry_of(node)
    gate = state.gates.get(node.index)
    needed = algebra.any_of(units, geometry.groups)
    state.needed[node.index] = needed
    if gate is not None and gate.groups is not None:
        needed = algebra.both(gate.groups, needed)
    demand = algebra.repeat(needed, geometry.in_channels // geometry.groups)
    if gate is not None and gate.channels is not None:
        demand = algebra.both(gate.channels, demand)
    yield node.sources[0], demand


def _flatten_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    source = node.sources[0]
    yield source, state.algebra.any_of(units, state.graph.nodes[source].channels)


def _slice_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    (source,), (start, stop) = node.sources, node.span
    before, after = state.algebra.zeros(start), state.algebra.zeros(state.graph.nodes[source].channels - stop)
    yield source, state.algebra.concat([before, units, after])


def _mul_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    """A factor is needed where the product is and the other factors are alive."""
    for source in node.sources:
        demand = units
        for other in node.sources:
            if other != source:
                demand = state.algebra.both(demand, state.alive[other])
        yield source, demand


def _cat_demand(node: ChannelNode, units: Any, state: Liveness[Any]) -> Demands:
    start = 0
    for source in node.sources:
        stop = start + state.graph.nodes[source].channels
        yield source, state.algebra.cut(units, start, stop)
        start = stop


RULES: Mapping[str, Rule] = {
    # the image
    "input": Rule(_all_alive, _no_demand),
    # what the network returns
    "output": Rule(_all_alive, _everything),
    # a parameter or buffer that the network reads by itself
    "attr": Rule(_all_alive, _no_demand),
    # sizes, and numbers computed from sizes: reading one asks for no channel
    "meta": Rule(_all_alive, _no_demand),
    "conv": Rule(_conv_alive, _conv_demand),
    "linear": Rule(_linear_alive, _conv_demand),
    # per-channel BatchNorm: shift and scale of a dead channel are zeroed
    "norm": Rule(_as_source, _pass_on),
    # per channel with f(0) = 0: activations, pooling, scaling, spatial mean, dropout
    "per": Rule(_as_source, _pass_on),
    # a convolution that is the identity and has been folded away
    "identity": Rule(_as_source, _pass_on),
    # per channel with f(0) != 0, such as sigmoid: sees exact zeros, returns living channels
    "nonzero": Rule(_all_alive, _pass_on),
    # [B, C, H, W] -> [B, C x H x W]
    "flatten": Rule(_flatten_alive, _flatten_demand),
    # a tuple of channel ranges; its parts are slices of its source
    "split": Rule(_all_alive, _no_demand),
    "slice": Rule(_slice_alive, _slice_demand),
    "add": Rule(_add_alive, _pass_on),
    # a module with channel_rule "add"
    "mix": Rule(_add_alive, _pass_on),
    "mul": Rule(_mul_alive, _mul_demand),
    "cat": Rule(_cat_alive, _cat_demand),
    # anything else: sees exact zeros, returns living channels, needs everything
    "barrier": Rule(_all_alive, _everything),
}
