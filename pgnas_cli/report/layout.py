"""Places for the nodes of a small directed graph: layers from top to bottom, few crossings, straight lines.

The usual four steps (Sugiyama, Tagawa and Toda, IEEE Transactions on Systems, Man and Cybernetics 11, 1981): layers by
the longest path, a pass-through point wherever an edge crosses a layer, an order within each layer by the mean place
of the neighbours, and coordinates that come as near to those means as the nodes' widths allow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pgnas_cli.report.drawing import Point

_SWEEPS = 8
_LANE = 8.0
"""Width that an edge takes where it passes a layer."""


class _Bend(NamedTuple):
    """Where an edge passes a layer."""

    source: Hashable
    target: Hashable
    layer: int


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Args:
        centres: node -> (x, y) of its centre; x from 0.
        routes: (source, target) -> points from the source's lower end to the target's upper end.
        width, height: of the whole.
    """

    centres: Mapping[Hashable, Point]
    routes: Mapping[tuple[Hashable, Hashable], tuple[Point, ...]]
    width: float
    height: float


def layered(
    sizes: Mapping[Hashable, tuple[float, float]],
    edges: Iterable[tuple[Hashable, Hashable]],
    *,
    gap_x: float,
    gap_y: float,
) -> Layout:
    """Lay out a graph without cycles.

    Args:
        sizes: node -> (width, height), sources before their targets.
        edges: (source, target), both in `sizes`; repeated ones count once.
        gap_x, gap_y: between neighbours of a layer, and between layers.
    """
    unique = list(dict.fromkeys(edges))
    depth = _depths(list(sizes), unique)
    chains = {edge: _chain(edge, depth) for edge in unique}
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    layers: list[list[Hashable]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for node, layer in depth.items():
        layers[layer].append(node)
    for chain in chains.values():
        for point in chain:
            if isinstance(point, _Bend):
                layers[point.layer].append(point)
    above, below = _neighbours(links)
    widths = {node: sizes[node][0] if node in sizes else _LANE for layer in layers for node in layer}
    _order(layers, above, below)
    x = _abscissas(layers, above, below, widths, gap_x)
    left = min((x[node] - widths[node] / 2 for node in x), default=0.0)
    heights = [max((sizes[node][1] for node in layer if node in sizes), default=0.0) for layer in layers]
    tops = [sum(heights[:index]) + index * gap_y for index in range(len(layers))]
    y = {node: tops[i] + heights[i] / 2 for i, layer in enumerate(layers) for node in layer}
    centres: dict[Hashable, Point] = {node: (x[node] - left, y[node]) for node in sizes}
    routes = {}
    for (source, target), chain in chains.items():
        bends = [
            (x[point] - left, y[point] + side * heights[point.layer] / 2)
            for point in chain
            if isinstance(point, _Bend)
            for side in (-1, 1)
        ]
        start = (centres[source][0], y[source] + sizes[source][1] / 2)
        end = (centres[target][0], y[target] - sizes[target][1] / 2)
        routes[source, target] = (start, *bends, end)
    right = max((x[node] - left + widths[node] / 2 for node in x), default=0.0)
    return Layout(centres, routes, right, (tops[-1] + heights[-1]) if layers else 0.0)


def _depths(nodes: Sequence[Hashable], edges: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """Layer of each node: the length of the longest path to it."""
    sources: dict[Hashable, list[Hashable]] = {node: [] for node in nodes}
    for source, target in edges:
        sources[target].append(source)
    depth: dict[Hashable, int] = {}
    for node in nodes:
        depth[node] = max((1 + depth[source] for source in sources[node]), default=0)
    return depth


def _chain(edge: tuple[Hashable, Hashable], depth: Mapping[Hashable, int]) -> list[Hashable]:
    """The edge's ends, and between them a bend for every layer that it passes."""
    source, target = edge
    return [source, *(_Bend(source, target, layer) for layer in range(depth[source] + 1, depth[target])), target]


def _neighbours(
    links: Iterable[tuple[Hashable, Hashable]],
) -> tuple[dict[Hashable, list[Hashable]], dict[Hashable, list[Hashable]]]:
    above: dict[Hashable, list[Hashable]] = {}
    below: dict[Hashable, list[Hashable]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _order(
    layers: list[list[Hashable]],
    above: Mapping[Hashable, list[Hashable]],
    below: Mapping[Hashable, list[Hashable]],
) -> None:
    """Sort each layer by the mean place of its nodes' neighbours, downwards and upwards in turns; best of all."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, below)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        near = above if downwards else below
        for index in range(1, len(layers)) if downwards else range(len(layers) - 2, -1, -1):
            place = {node: at for at, node in enumerate(layers[index - 1 if downwards else index + 1])}
            own = {node: float(at) for at, node in enumerate(layers[index])}
            layers[index].sort(key=lambda node: _mean([float(place[n]) for n in near.get(node, ())], own[node]))
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best


def _crossings(layers: Sequence[Sequence[Hashable]], below: Mapping[Hashable, list[Hashable]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {node: at for at, node in enumerate(lower)}
        ends = [place[target] for node in upper for target in sorted(below.get(node, ()), key=place.__getitem__)]
        total += sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))
    return total


def _abscissas(
    layers: Sequence[Sequence[Hashable]],
    above: Mapping[Hashable, list[Hashable]],
    below: Mapping[Hashable, list[Hashable]],
    widths: Mapping[Hashable, float],
    gap: float,
) -> dict[Hashable, float]:
    """x of every node's centre: as near to the mean of its neighbours as order, widths and gap allow."""
    x: dict[Hashable, float] = {}
    for layer in layers:
        place = 0.0
        for node in layer:
            x[node] = place + widths[node] / 2
            place += widths[node] + gap
        for node in layer:
            x[node] -= (place - gap) / 2
    for sweep in range(2 * _SWEEPS):
        near = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [_mean([x[n] for n in near.get(node, ())], x[node]) for node in layer]
            x.update(zip(layer, spaced(wanted, [widths[node] for node in layer], gap), strict=True))
    return x


def spaced(wanted: Sequence[float], widths: Sequence[float], gap: float) -> list[float]:
    """Centres in their order, `gap` apart at least, with the least sum of squared distances from `wanted`.

    With offsets o_i, the least distances from the first, x_i - o_i must not fall: isotonic regression of wanted - o,
    by pooling adjacent violators.
    """
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + gap)
    pools: list[tuple[float, int]] = []  # (sum, number)
    for place, offset in zip(wanted, offsets, strict=False):
        total, count = place - offset, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / count:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    level = [total / count for total, count in pools for _ in range(count)]
    return [value + offset for value, offset in zip(level, offsets, strict=False)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
