"""Which channel of a network is which channel of its wider version.

Channels that an addition or a product brings together, over a whole network, form a *class*: what is done to one of
them has to be done to all. A class is known by its *signature*: which layers write its channels, and in which group of
a grouped convolution they stand. Classes of the wider network belong to the classes of the plain one with the same
signature, in their order; where they are more, they repeat them. So every constraint (a sum of branches whose one
operand is a concatenation, channels that must stay in their group) is kept without being named.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from pgnas_cli.compact import ChannelGraph, ChannelNode
from pgnas_cli.errors import UsageError

Tag = tuple[str, str, int]
"""(what happens to the channel, in which layer, in which group or at which position)."""

WHY = "leave --pretrained out, or the inflation"


class NoRoom(UsageError):  # noqa: N818 - it is a request that is too small, whatever the reason
    """A layer of the wider network has fewer channels than were learned.

    Args:
        layer: its name in the wider network.
        have: channels it has for those that were learned.
        need: channels that were learned.
    """

    def __init__(self, layer: str, have: int, need: int) -> None:
        super().__init__(f"{layer} has {have} channels for the {need} that were learned", "ask for a larger --width")
        self.layer, self.have, self.need = layer, have, need

    def __reduce__(self) -> tuple[type[NoRoom], tuple[str, int, int]]:  # type: ignore[override]
        return type(self), (self.layer, self.have, self.need)


class Channels:
    """The channels of a graph by class.

    labels: for each node the class of each channel [C]. spots: its position in a flattened map [C], else 0.
    keys: node -> name that the same node has in both networks, of all that hold weights, are barriers or slices.
    """

    def __init__(self, graph: ChannelGraph, name: Callable[[str], str], follows: Callable[[ChannelNode], bool]) -> None:
        self.graph, self.keys = graph, _keys(graph, name)
        self.follows = follows
        self.labels: list[np.ndarray] = []
        self.spots: list[np.ndarray] = []
        self._count, self._pairs = 0, list[tuple[np.ndarray, np.ndarray]]()
        for node in graph.nodes:
            labels, spots = self._number(node)
            self.labels.append(labels)
            self.spots.append(spots)
        self.classes = _components(self._count, self._pairs)
        self.labels = [self.classes[labels] for labels in self.labels]

    @cached_property
    def nodes(self) -> dict[str, ChannelNode]:
        """Key -> node."""
        return {key: self.graph.nodes[index] for index, key in self.keys.items()}

    def _number(self, node: ChannelNode) -> tuple[np.ndarray, np.ndarray]:
        parts = [(self.labels[s], self.spots[s]) for s in node.sources]
        if node.kind in ("norm", "per", "nonzero", "identity") or (node.kind == "conv" and self.follows(node)):
            return parts[0]
        if node.kind == "slice":
            return parts[0][0][slice(*node.span)], parts[0][1][slice(*node.span)]
        if node.kind == "cat":
            return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        if node.kind == "flatten":
            positions = node.channels // len(parts[0][0])
            spots = parts[0][1].repeat(positions) * positions + np.tile(np.arange(positions), len(parts[0][0]))
            return parts[0][0].repeat(positions), spots
        if node.kind in ("add", "mix", "mul"):
            for labels, spots in parts[1:]:
                if not np.array_equal(spots, parts[0][1]):
                    raise UsageError(
                        f"{node.fx_node.name} joins flattened and other features: they cannot be widened together", WHY
                    )
                self._pairs.append((parts[0][0], labels))
            return parts[0]
        self._count += node.channels
        return np.arange(self._count - node.channels, self._count), np.zeros(node.channels, int)

    def signatures(self, known: Callable[[str], bool]) -> dict[int, list[Tag]]:
        """Class -> its tags, of the nodes whose key is `known`."""
        tags: defaultdict[int, list[Tag]] = defaultdict(list)

        def mark(labels: np.ndarray, what: str, key: str, groups: np.ndarray) -> None:
            for label, group in zip(labels.tolist(), groups.tolist(), strict=True):
                tags[label].append((what, key, group))

        for node in self.graph.nodes:
            key, labels = self.keys.get(node.index, node.kind), self.labels[node.index]
            each = np.arange(len(labels))
            if node.kind == "input":
                mark(labels, "image", key, each)
            elif node.kind == "output" or (node.kind == "barrier" and known(key)):
                for place, source in enumerate(node.sources):
                    into = self.labels[source]
                    mark(into, f"into {place}", key, np.arange(len(into)))
                if node.kind == "barrier":
                    mark(labels, "writes", key, each)
            elif node.kind == "attr" and known(key):
                mark(labels, "writes", key, 0 * each)
            elif node.kind == "slice" and known(key):
                mark(labels, "part", key, 0 * each)
            elif node.geometry is not None and known(key) and not self.follows(node):
                groups = node.geometry.groups
                mark(labels, "writes", key, each * groups // len(each))
                if groups > 1:
                    read = self.labels[node.sources[0]]
                    mark(read, "reads", key, np.arange(len(read)) * groups // len(read))
        return tags


def _keys(graph: ChannelGraph, name: Callable[[str], str]) -> dict[int, str]:
    """Node -> what it is called in both networks: its plain name, with a number where that is not unique."""
    calls: Counter[str] = Counter()
    keys = {}
    for node in graph.nodes:
        if node.kind in ("barrier", "slice"):
            target: Any = node.fx_node.target
            base = name(node.name) if node.name else f"{getattr(target, '__name__', target)}()"
            calls[base] += 1
            keys[node.index] = f"{base} [{calls[base]}]"
        elif node.geometry is not None or node.kind in ("norm", "attr"):
            keys[node.index] = name(node.name)
    return keys


def _components(count: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[count] the smallest element that each is connected to."""
    found = np.arange(count)
    if not pairs:
        return found
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        least = np.minimum(found[a], found[b])
        np.minimum.at(found, found[a], least)
        np.minimum.at(found, found[b], least)
        np.minimum.at(found, a, least)
        np.minimum.at(found, b, least)
        found = found[found]
        if np.array_equal(found[a], found[b]):
            return found


def match_classes(target: Channels, plain: Channels) -> np.ndarray:
    """[elements of target] the class of the plain network that each class stands for, -1 for a new one.

    Group g of a convolution with more groups than before stands for group floor(g * before / now), so that groups that
    are nested in those of another convolution stay so.

    Raises:
        NoRoom: of the layers with too few channels the one that lacks most.
        UsageError: channels of the plain network stand nowhere in the target.
    """
    before: defaultdict[tuple[Tag, ...], list[int]] = defaultdict(list)
    for label, marks in sorted(plain.signatures(lambda key: True).items()):
        before[tuple(sorted(marks))].append(label)
    after: defaultdict[tuple[Tag, ...], list[int]] = defaultdict(list)
    for label, marks in sorted(target.signatures(plain.nodes.__contains__).items()):
        after[tuple(sorted(marks))].append(label)

    def old_tag(tag: Tag) -> Tag:
        old, new = (
            channels.nodes[tag[1]].geometry if tag[1] in channels.nodes else None for channels in (plain, target)
        )
        if old is None or new is None:
            return tag
        return (*tag[:2], tag[2] * old.groups // new.groups)

    found = np.full(len(target.classes), -1)
    missing, crowded = set(before), list[NoRoom]()
    for tags, labels in after.items():
        wanted = tuple(sorted(map(old_tag, tags)))
        if wanted not in before:
            continue
        missing.discard(wanted)
        old = before[wanted]
        if len(labels) < len(old):
            crowded.append(NoRoom(_layer(target, tags), len(labels), len(old)))
        found[labels] = np.resize(old, len(labels))
    if crowded:
        raise max(crowded, key=lambda error: error.need / error.have)
    for lost in sorted(missing):
        layers = dict.fromkeys(key for _, key, _ in lost)
        for node in (plain.nodes[key] for key in layers if key in plain.nodes):
            if node.kind == "barrier":
                raise barrier(node)
        raise UsageError(f"the inflated network has no channels for what {' and '.join(layers)} learned", WHY)
    return found


def barrier(node: ChannelNode) -> UsageError:
    """The error of a width that changes at an operation of which only the function as a whole is known."""
    name = node.name or node.fx_node.name
    return UsageError(f"pretrained weights cannot be kept through {name}: it cannot be widened", WHY)


def _layer(target: Channels, tags: tuple[Tag, ...]) -> str:
    """The name, in the target, of a layer that the tags name."""
    writers = [key for what, key, _ in tags if what == "writes"]
    node = target.nodes.get(writers[0] if writers else tags[0][1])
    return node.name or node.fx_node.name if node is not None else "the image"


def channel_map(
    target: Channels, index: int, classes: np.ndarray, new: np.ndarray, plain: Channels, plain_index: int
) -> np.ndarray:
    """[C] for each channel of a node of the target the channel of a node of the plain network, -1 for a new one.

    Args:
        classes: from `match_classes`.
        new: [C] bool, channels of the node that hold nothing learned although their class does.
    """
    before = _ranked(plain.labels[plain_index], plain.labels[plain_index], plain.spots[plain_index])
    position = {key: channel for channel, key in enumerate(before)}
    labels = target.labels[index]
    after = _ranked(np.where(new, -1, classes[labels]), labels, target.spots[index])
    return np.array([position.get(key, -1) for key in after], dtype=np.int64)


def _ranked(values: np.ndarray, labels: np.ndarray, spots: np.ndarray) -> list[tuple[int, int, int]]:
    """(value, spot, how often the same label and spot stood before): one map may hold a class several times."""
    seen: Counter[tuple[int, int]] = Counter()
    keys = []
    for value, label, spot in zip(values.tolist(), labels.tolist(), spots.tolist(), strict=True):
        keys.append((value, spot, seen[label, spot]))
        seen[label, spot] += 1
    return keys
