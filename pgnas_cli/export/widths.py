"""Widths of a compact network, and who reads what its operations write.

The width of an operation's input is what it keeps; that of its output is what *any* reader keeps. In a residual stream
several operations write the same channels and several read them: rounding what each reader keeps does not round what
all of them keep together. `find_traffic` tells which channels are one and the same, who writes and who reads them.

Channels that are added, multiplied or passed on one by one are one *class*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgnas_cli import compact as compaction
from pgnas_cli.compact.graph import ChannelGraph, ChannelNode
from pgnas_cli.posterior.posterior import Masks

_PASSING = ("norm", "per", "identity", "nonzero")
_JOINING = ("add", "mix", "mul")
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Widths:
    """How many widths of the convolutions of a compact network are multiples of a number.

    Counted are inputs and outputs of every ungrouped convolution that is left, but for the image.

    Args:
        multiples: those that are.
        widths: all.
    """

    multiples: int
    widths: int

    def to_json(self) -> dict[str, int]:
        return {"multiples": self.multiples, "widths": self.widths}


def count_widths(graph: ChannelGraph, masks: Masks, multiple: int) -> Widths:
    """The widths of the network that masks describe, in the gathered layout."""
    state = compaction.analyse(graph, masks)
    widths = []
    for node in graph.operations.values():
        geometry = node.geometry
        if node.kind != "conv" or geometry is None or geometry.groups > 1 or not state.live(node.index).any():
            continue
        if graph.nodes[node.sources[0]].kind != "input":
            widths.append(int(state.kept(node.index).sum()))
        widths.append(int(state.live(node.index).sum()))
    return Widths(sum(width % multiple == 0 for width in widths), len(widths))


def channel_classes(graph: ChannelGraph) -> dict[int, Classes]:
    """Node index -> the class of each of its channels; maps only."""
    found: dict[int, Classes] = {}
    parent: list[int] = []

    def fresh(n: int) -> Classes:
        parent.extend(range(len(parent), len(parent) + n))
        return np.arange(len(parent) - n, len(parent))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for node in graph.nodes:
        if not node.is_map or node.kind == "output":
            continue
        sources = [found[s] for s in node.sources if s in found]
        if node.kind in _JOINING and all(len(s) == node.channels for s in sources):
            for other in sources[1:]:
                for a, b in zip(sources[0].tolist(), other.tolist(), strict=True):
                    parent[root(b)] = root(a)
        found[node.index] = _classes(node, sources) if _moves(node, sources) else fresh(node.channels)
    return {index: np.array([root(one) for one in classes.tolist()], np.int64) for index, classes in found.items()}


def _moves(node: ChannelNode, sources: list[Classes]) -> bool:
    """Whether the channels of a node are those of its sources."""
    depthwise = node.geometry is not None and node.geometry.groups == node.geometry.in_channels == node.channels
    return bool(sources) and (
        depthwise
        or node.kind in ("cat", "slice", "flatten", *_PASSING)
        or (node.kind in _JOINING and all(len(s) == node.channels for s in sources))
    )


def _classes(node: ChannelNode, sources: list[Classes]) -> Classes:
    if node.kind == "cat":
        return np.concatenate(sources)
    if node.kind == "slice":
        return sources[0][slice(*node.span)]
    return np.repeat(sources[0], node.channels // len(sources[0]))


@dataclass(frozen=True)
class Writer:
    """A convolution that writes channels.

    Args:
        index: of its node.
        classes: of its outputs that are alive.
    """

    index: int
    classes: Classes


@dataclass(frozen=True)
class Reader:
    """An operation, or another node, that reads channels.

    Args:
        name: the gated layer whose mask says which; empty where it takes them all.
        inputs: class of each input, [K]; -1 where the input is dead.
        sees: indices of the writers whose outputs are among the inputs, added to others or not.
        free: whether it may read other inputs instead.
    """

    name: str
    inputs: Classes
    sees: frozenset[int]
    free: bool = False

    def kept(self, masks: Masks) -> NDArray[np.bool_]:
        """Which inputs it reads, [K]."""
        alive = self.inputs >= 0
        return alive & masks[self.name] if self.name else alive


def find_traffic(graph: ChannelGraph, masks: Masks) -> tuple[list[Writer], list[Reader]]:
    """The ungrouped convolutions of a candidate that are needed, in the order of execution, and all that reads."""
    classes, state = channel_classes(graph), compaction.analyse(graph, masks)
    writers: list[Writer] = []
    readers: list[Reader] = []
    flows: dict[int, frozenset[int]] = {}
    for node in graph.nodes:
        sources = [source for source in node.sources if source in classes]
        moves = _moves(node, [classes[source] for source in sources])
        flows[node.index] = frozenset().union(*(flows[s] for s in sources)) if moves else frozenset({node.index})
        needed = node.kind == "output" or bool(state.live(node.index).any())
        geometry = node.geometry
        if not needed or moves:
            continue
        if geometry is None:
            if node.kind in ("barrier", "output"):
                readers += [Reader("", classes[source], flows[source]) for source in sources]
            continue
        source = sources[0]
        inputs = np.where(state.alive[source], classes[source], -1)
        distinct = len(np.unique(inputs[inputs >= 0])) == int((inputs >= 0).sum())
        name = node.name if node.name in masks else ""
        free = bool(name) and geometry.groups == 1 and distinct
        readers.append(Reader(name, inputs, flows[source], free))
        if node.kind == "conv" and geometry.groups == 1:
            writers.append(Writer(node.index, np.unique(classes[node.index][state.alive[node.index]])))
    return writers, readers
