"""The channel graph: what a traced network does to its channels, without any weights.

A *unit* is what can be dead or needed: a channel of a feature map ([B, C, H, W] or [B, C]), or, for a value that
has no channel dimension (a size, a tuple), the value as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx

from pgnas_cli.errors import UsageError, nearest

_PASSING = frozenset({"per", "norm", "nonzero", "slice", "identity"})
_ENDING = frozenset({"per", "norm", "nonzero", "flatten", "add", "identity"})


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a convolution or linear layer (taps = positions = groups = 1).

    taps: weights per pair of input and output channel (kernel height x width).
    positions: output height x width at the traced image size, so that MACs = weights x positions.
    """

    in_channels: int
    out_channels: int
    groups: int
    taps: int
    positions: int
    bias: bool


@dataclass(frozen=True, slots=True)
class ChannelNode:
    """One value of the network.

    kind: a key of `rules.RULES`.
    channels: number of units; for a flattened map channels x height x width.
    sources: the nodes whose channels it reads, in the operands' order; reads: those of which only a size is read.
    name: module or attribute name, if it has one.
    shape: the traced shape, its batch being `trace.PROBE_BATCH`; None if the value is not one tensor.
    span: the channels [start, stop) that a "slice" takes.
    params, macs: of a norm or attribute per unit, of any other module as a whole; 0 where `geometry` tells.
    """

    index: int
    kind: str
    channels: int
    sources: tuple[int, ...]
    fx_node: fx.Node
    reads: tuple[int, ...] = ()
    name: str = ""
    shape: tuple[int, ...] | None = None
    geometry: Geometry | None = None
    span: tuple[int, int] = (0, 0)
    params: int = 0
    macs: int = 0

    @property
    def is_map(self) -> bool:
        """Whether the value is a tensor with a channel dimension."""
        return self.kind != "attr" and self.shape is not None and len(self.shape) >= 2


@dataclass(frozen=True, eq=False, repr=False)
class ChannelGraph:
    """Structure of a network; weights are read from a model given at each call.

    nodes: in the order of execution. fx_graph: the torch.fx graph they come from.
    input_size: (channels, height, width) of the traced image.
    """

    nodes: tuple[ChannelNode, ...]
    fx_graph: fx.Graph
    input_size: tuple[int, int, int]

    def __repr__(self) -> str:
        return f"ChannelGraph(nodes={len(self.nodes)}, convs={len(self.convs)}, barriers={len(self.barriers)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ChannelGraph:
        """Itself: nothing in it changes, so that a copy of a model may keep its trace."""
        return self

    @cached_property
    def operations(self) -> dict[str, ChannelNode]:
        """Name -> node of every convolution and linear layer that is not a barrier, in the order of execution."""
        return {node.name: node for node in self.nodes if node.geometry is not None}

    @cached_property
    def convs(self) -> dict[str, Geometry]:
        """Name -> geometry of every convolution that can carry a mask."""
        return {n.name: n.geometry for n in self.operations.values() if n.kind == "conv" and n.geometry is not None}

    @cached_property
    def searchable(self) -> dict[str, int]:
        """Name -> number of input channels of everything that can carry a mask: convolutions and linear layers."""
        return {n.name: n.geometry.in_channels for n in self.operations.values() if n.geometry is not None}

    @cached_property
    def identities(self) -> dict[str, ChannelNode]:
        """Name -> node of every convolution that has been folded away."""
        return {node.name: node for node in self.nodes if node.kind == "identity"}

    def folded(self, names: Iterable[str]) -> ChannelGraph:
        """The same graph without these convolutions: what they read is passed on to their readers, channel by channel.

        For convolutions whose weight is the identity; the caller knows the weights, the graph does not. Their masks
        must keep everything, or be left out.

        Args:
            names: of 1x1 convolutions without bias that keep the shape; none gives the graph itself.

        Raises:
            UsageError: a name is of another operation, or of none.
        """
        chosen = set(names)
        if not chosen:
            return self
        if wrong := sorted(name for name in chosen if not self._foldable(name)):
            raise UsageError(
                f"{wrong[0]!r} cannot be folded away: it is no 1x1 convolution without bias that keeps the shape",
                "name surrogates only",
            )
        nodes = (
            replace(node, kind="identity", geometry=None) if node.geometry is not None and node.name in chosen else node
            for node in self.nodes
        )
        return replace(self, nodes=tuple(nodes))

    def _foldable(self, name: str) -> bool:
        geometry = self.convs.get(name)
        if geometry is None or geometry.bias or geometry.taps > 1 or geometry.groups > 1:
            return False
        node = self.operations[name]
        return node.shape == self.nodes[node.sources[0]].shape

    @cached_property
    def barriers(self) -> tuple[str, ...]:
        """The operations that are correct but not thinned, by module name or torch.fx node name."""
        return tuple(node.name or node.fx_node.name for node in self.nodes if node.kind == "barrier")

    @cached_property
    def reads_image(self) -> tuple[str, ...]:
        """Names of the operations (stems) that read the image, with nothing but per-channel functions before them."""
        return tuple(n.name for n in self.operations.values() if self._origin(n.sources[0]) == "input")

    @cached_property
    def writes_output(self) -> tuple[str, ...]:
        """Names of the operations (classifiers) that write the output, with no other operation behind them."""
        found, waiting = set(), [s for node in self.nodes if node.kind == "output" for s in node.sources]
        while waiting:
            node = self.nodes[waiting.pop()]
            if node.geometry is not None:
                found.add(node.name)
            elif node.kind in _ENDING:
                waiting.extend(node.sources)
        return tuple(name for name in self.operations if name in found)

    def _origin(self, index: int) -> str:
        """Kind of the first node that is not a function of one channel, going back from node `index`."""
        while self.nodes[index].kind in _PASSING:
            index = self.nodes[index].sources[0]
        return self.nodes[index].kind

    def masked_node(self, name: str, mask: Sized) -> ChannelNode:
        """The node that `mask` belongs to.

        Raises:
            UsageError: `name` cannot carry a mask, or the mask is neither [in_channels] nor, grouped, [groups].
        """
        node = self.operations.get(name) or self.identities.get(name)
        if node is None:
            if name in self.barriers:
                why = "is a barrier: shared, called more than once, or of a kind that cannot be thinned"
            else:
                why = "is not a convolution or linear layer that the network calls"
            near = nearest(name, self.searchable)
            raise UsageError(
                f"{name!r} cannot carry a mask: it {why}",
                f"did you mean {near}?" if near else "graph.searchable lists the names that can",
            )
        inputs, groups = (
            (node.channels, 1) if node.geometry is None else (node.geometry.in_channels, node.geometry.groups)
        )
        if len(mask) != inputs and not (groups > 1 and len(mask) == groups):
            allowed = f"{inputs}" if groups == 1 else f"{inputs} (input channels) or {groups} (groups)"
            raise UsageError(
                f"the mask of {name!r} has {len(mask)} entries; expected {allowed}",
                "masks hold one entry per input channel; draw them for the same network that was traced",
            )
        return node
