"""Where every tensor of a widened network comes from: structure only, see `widen` for what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from timm.layers.drop import DropPath
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.compact import ChannelGraph, ChannelNode, Geometry
from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.channel_maps import WHY, Channels, barrier, channel_map, match_classes
from pgnas_cli.supernet.gate import Gate
from pgnas_cli.supernet.surrogate import SurrogateConv2d

_OPERATIONS = ("conv", "linear")
_LINEAR = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)
"""Modules through which a gradient passes where their input is zero."""


@dataclass(frozen=True)
class LayerMap:
    """Which channels of the plain layer those of a layer are; -1 for channels that are new.

    outputs: [channels]. inputs: [inputs] for a convolution or linear layer that mixes channels, else None.
    groups: of the wide convolution.
    """

    outputs: np.ndarray
    inputs: np.ndarray | None = None
    groups: int = 1


@dataclass(frozen=True)
class Plan:
    """Where each tensor of a wide network comes from.

    layers: layer or attribute name -> its channels. sources: tensor of the wide network -> tensor of the plain one;
    what is not named keeps its initial value. silenced: layer name -> [channels] bool, what has to be zeroed.
    """

    layers: dict[str, LayerMap] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    silenced: dict[str, np.ndarray] = field(default_factory=dict)


def plan(
    target: nn.Module, plain: nn.Module, input_size: tuple[int, int, int], *, renamed: Mapping[str, str] | None = None
) -> Plan:
    """Find the place in `target` for everything that `plain` learned.

    Reads no weights but those of surrogates: both networks may lie on the meta device.

    Args:
        target: the wider network; its layers may be gated already.
        plain: the network that was learned.
        input_size: (channels, height, width) of an image.
        renamed: layers of `target` that `plain` has under another name.

    Raises:
        NoRoom: a layer of `target` has fewer channels than `plain` learned.
        UsageError: the networks do not correspond, or a width changes at an operation that cannot be widened.
    """
    return _Planner(target, plain, input_size, renamed or {}).run()


class _Planner:
    """Finds a `Plan`: matches the channels, follows the new ones through the network, then places every tensor."""

    def __init__(
        self, target: nn.Module, plain: nn.Module, input_size: tuple[int, int, int], renamed: Mapping[str, str]
    ) -> None:
        self.target, self.plain, self.renamed = target, plain, renamed
        graphs = [compaction.trace(model, input_size, check=False) for model in (target, plain)]
        layers = [_weighted(graph) for graph in graphs]
        self.new_layers = {name for name in layers[0] if self.plain_name(name) not in layers[1]}
        graphs[0] = graphs[0].folded(name for name in self.new_layers if _starts_as_identity(target, name))
        self.graph = graphs[0]
        if missing := sorted(set(layers[1]) - {self.plain_name(name) for name in layers[0]}):
            raise UsageError(f"the inflated network has no layer for what {missing[0]} learned", WHY)
        depthwise = [{n for n, node in some.items() if _is_depthwise(node)} for some in layers]
        both = {name for name in depthwise[0] if self.plain_name(name) in depthwise[1]}
        self.wide = Channels(self.graph, self.plain_name, lambda node: node.name in both)
        names = {self.plain_name(name) for name in both}
        self.old = Channels(graphs[1], lambda name: name, lambda node: node.name in names)
        self.depthwise = both
        self.found = Plan()

    def plain_name(self, name: str) -> str:
        """The plain name of a layer or tensor; renaming a module renames what is in it."""
        head, rest = name, ""
        while head:
            if head in self.renamed:
                return self.renamed[head] + rest
            head, _, last = head.rpartition(".")
            rest = f".{last}{rest}"
        return name

    def run(self) -> Plan:
        self.classes = match_classes(self.wide, self.old)
        self.new = [np.zeros(0, dtype=bool)] * len(self.graph.nodes)
        for node in self.graph.nodes:
            self.new[node.index] = self._new_channels(node)
        for node in self.graph.nodes:
            self._place(node)
        self._place_tensors()
        return self.found

    # ---- which channels hold nothing that was learned ----

    def _is_new(self, node: ChannelNode) -> bool:
        return self.wide.keys.get(node.index) not in self.old.nodes

    def _new_channels(self, node: ChannelNode) -> np.ndarray:
        """[channels] bool."""
        parts = [self.new[source] for source in node.sources]
        if node.kind in ("conv", "linear", "attr", "barrier") and self._is_new(node):
            return np.ones(node.channels, dtype=bool)
        if node.kind == "norm" and self._is_new(node) and not parts[0].all():
            raise UsageError(f"{node.name} is new and would change channels that were learned", WHY)
        if node.kind == "slice":
            return parts[0][slice(*node.span)]
        if node.kind == "cat":
            return np.concatenate(parts)
        if node.kind == "flatten":
            return parts[0].repeat(node.channels // len(parts[0]))
        if node.kind == "mul" and any((part != parts[0]).any() for part in parts):
            raise UsageError(f"{node.fx_node.name} multiplies learned channels by new ones", WHY)
        if node.kind in ("add", "mix"):
            for source, part in zip(node.sources, parts, strict=True):
                silent = part & ~np.logical_and.reduce(parts)
                if silent.any():
                    self._silence(self.graph.nodes[source], silent)
            return np.logical_and.reduce(parts)
        if node.kind in ("norm", "per", "nonzero", "identity", "mul") or node.name in self.depthwise:
            return parts[0]
        return self.classes[self.wide.labels[node.index]] < 0

    def _silence(self, node: ChannelNode, mask: np.ndarray) -> None:
        """Zero the channels of a node, where they are written last; not in front of a ReLU, which would stay dead."""
        module = dict(self.target.named_modules()).get(node.name)
        passes = node.kind in ("identity", "add", "mix") or (node.kind == "per" and isinstance(module, _LINEAR))
        active = node.kind == "norm" and not isinstance(getattr(module, "act", None), nn.Identity | None)
        if node.kind in ("norm", *_OPERATIONS) and not active:
            self.found.silenced[node.name] = self.found.silenced.get(node.name, False) | mask
        elif passes:
            for source in node.sources:
                self._silence(self.graph.nodes[source], mask)
        elif node.kind == "cat":
            start = 0
            for source in node.sources:
                stop = start + self.graph.nodes[source].channels
                self._silence(self.graph.nodes[source], mask[start:stop])
                start = stop
        else:
            raise UsageError(
                f"the new branch that ends in {node.name or node.fx_node.name} is added to learned channels: it cannot "
                "start as zero and learn",
                WHY,
            )

    # ---- where each layer and tensor comes from ----

    def _map(self, node: ChannelNode, plain: ChannelNode) -> np.ndarray:
        return channel_map(self.wide, node.index, self.classes, self.new[node.index], self.old, plain.index)

    def _place(self, node: ChannelNode) -> None:
        plain = self.old.nodes.get(self.wide.keys.get(node.index, ""))
        if node.kind == "output":
            plain = self.old.graph.nodes[-1]
        if plain is None or node.kind == "slice":
            return
        if node.kind in ("barrier", "output"):
            self._require_equal(node, plain)
        elif node.kind in ("norm", "attr") or node.name in self.depthwise:
            if node.kind != "attr" or node.channels > 1:
                self.found.layers[node.name] = LayerMap(self._map(node, plain))
        elif node.geometry is not None and plain.geometry is not None:
            inputs = self._map(self.graph.nodes[node.sources[0]], self.old.graph.nodes[plain.sources[0]])
            layer = LayerMap(self._map(node, plain), inputs, node.geometry.groups)
            if not _covers(layer, plain.geometry):
                raise UsageError(f"{node.name} does not read, or write, every channel that {plain.name} learned", WHY)
            self.found.layers[node.name] = layer
        else:
            raise UsageError(f"{node.name} is another operation than {plain.name} of the plain network", WHY)

    def _require_equal(self, node: ChannelNode, plain: ChannelNode) -> None:
        """A node of which only the function as a whole is known has to read what it read before."""
        same = len(node.sources) == len(plain.sources)
        for source, other in zip(node.sources, plain.sources, strict=False):
            before, after = self.old.graph.nodes[other], self.graph.nodes[source]
            found = self._map(after, before)
            same = same and len(found) == before.channels and np.array_equal(found, np.arange(len(found)))
        if not same:
            raise barrier(node)

    def _place_tensors(self) -> None:
        own, learned = self.target.state_dict(), self.plain.state_dict()
        anew = _prefixes(self.target) | self.new_layers
        for name in own:
            source = self.plain_name(name)
            if _within(name, anew):
                continue
            if source not in learned:
                raise UsageError(f"{name} of the inflated network is new, and nothing tells what it should be", WHY)
            layer = self.found.layers.get(name.rpartition(".")[0]) or self.found.layers.get(name)
            expected = _shape(learned[source], layer)
            if tuple(own[name].shape) != expected:
                raise UsageError(
                    f"{name} has shape {list(own[name].shape)}, its plain {source} of shape "
                    f"{list(learned[source].shape)} would become {list(expected)}",
                    WHY,
                )
            self.found.sources[name] = source
        unused = set(learned) - set(self.found.sources.values())
        skipped = _prefixes(self.plain)
        if lost := sorted(name for name in unused if not _within(name, skipped)):
            raise UsageError(f"the inflated network has no place for {lost[0]}", WHY)


def _weighted(graph: ChannelGraph) -> dict[str, ChannelNode]:
    """Name -> node of everything that has weights of its own."""
    return {
        node.name: node for node in graph.nodes if node.kind in (*_OPERATIONS, "norm", "attr", "barrier") and node.name
    }


def _is_depthwise(node: ChannelNode) -> bool:
    geometry = node.geometry
    return geometry is not None and geometry.groups == geometry.in_channels == geometry.out_channels > 1


def _starts_as_identity(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name) if name in dict(model.named_modules()) else None
    return isinstance(layer, SurrogateConv2d) and (layer.weight.is_meta or layer.is_identity())


def _covers(layer: LayerMap, plain: Geometry) -> bool:
    """Whether every group does the work of one whole group of the plain layer, and no output is left out."""
    assert layer.inputs is not None
    width, height = plain.in_channels // plain.groups, plain.out_channels // plain.groups
    if set(layer.outputs.tolist()) - {-1} != set(range(plain.out_channels)):
        return False
    grouped = (side.reshape(layer.groups, -1) for side in (layer.inputs, layer.outputs))
    for inputs, outputs in zip(*grouped, strict=True):
        read = set(inputs.tolist()) - {-1}
        for group in {output // height for output in outputs.tolist() if output >= 0}:
            if read != set(range(group * width, (group + 1) * width)):
                return False
    return True


def _prefixes(model: nn.Module) -> set[str]:
    """Modules that widening leaves as they are: heads for training only, and gates."""
    gates = {name for name, module in model.named_modules() if isinstance(module, Gate)}
    return gates | set(getattr(model, "training_only", ()))


def _within(name: str, modules: set[str]) -> bool:
    head = name
    while head:
        if head in modules:
            return True
        head = head.rpartition(".")[0]
    return False


def _shape(old: Tensor, layer: LayerMap | None) -> tuple[int, ...]:
    """The shape of the widened version of a tensor."""
    if layer is None or old.ndim == 0:
        return tuple(old.shape)
    inner = tuple(old.shape[1:])
    if layer.inputs is not None and old.ndim > 1:
        inner = (len(layer.inputs) // layer.groups, *inner[1:])
    return (len(layer.outputs), *inner)
