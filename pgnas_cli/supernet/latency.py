"""Latency of a compact network by a table of its operations: exact sizes or expected ones, differentiable.

    T = f(constant + sum over operations  P(it is there) * t(groups, inputs, outputs))

t is interpolated in the table, trilinearly, at the expected sizes of the operation given that it is there. Two things
are approximate. First, E[t(size)] is taken as t(E[size]): exact where t is linear between two points of the grid and
independent gates do not carry the size across one; with tens of channels they hardly do. Second, the events are
those of `compact.expected`, which takes the inputs of an operation as independent of each other. What is dropped as a
whole is counted as absent, not as an operation without channels: its fixed cost goes with it.

Shape suffixes: N operations of the network, A = 3 axes (groups, inputs per group, outputs per group), P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

from pgnas_cli import compact as compaction
from pgnas_cli.compact.algebra import none_of
from pgnas_cli.compact.graph import ChannelNode
from pgnas_cli.compact.rules import geometry_of
from pgnas_cli.posterior.posterior import Masks
from pgnas_cli.supernet.supernet import Supernet

SMALLEST = 1e-6
"""Probabilities that are divided by are taken to be at least this."""
AXES = ("groups", "inputs", "outputs")
FITTED = frozenset({"conv", "linear", "norm", "add", "mix", "mul", "nonzero"})
"""Kinds that read exactly the channels they want, through a gather where their source holds more."""


@dataclass(frozen=True)
class Entry:
    """Measured times of one operation.

    Args:
        axes: ascending sizes at which it was measured, for each of AXES: groups, inputs and outputs of a group. What
            works channel by channel has only outputs; a size that cannot change has one point.
        seconds: one time per point of the grid, the last axis running fastest.
    """

    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class LatencyTable:
    """Times of all operations of one network on one device.

    Args:
        environment: where and how they were measured: device, threads, versions, batch, layout.
        constant: seconds of a network that does nothing.
        whole: (sum, measured seconds) of the network with everything kept.
        calibration: the same of compact networks of several sizes, ascending in both. f is linear between them and
            proportional outside; without any, f is the identity.
        entries: description -> times; operations of equal description share them.
        operations: torch.fx node name -> description of the operation.
        gathers: torch.fx node name -> description of selecting channels of that value for one of its readers.
    """

    environment: Mapping[str, str | int | bool]
    constant: float
    whole: tuple[float, float]
    calibration: tuple[tuple[float, float], ...]
    entries: Mapping[str, Entry]
    operations: Mapping[str, str]
    gathers: Mapping[str, str]

    @property
    def full_seconds(self) -> float:
        """Measured latency of the network with everything kept."""
        return self.whole[1]

    @property
    def scale(self) -> float:
        """What the sum of that network's operations is multiplied by to give its measured latency."""
        return self.whole[1] / self.whole[0]

    def _calibrated(self, total: Tensor) -> Tensor:
        """f of a scalar."""
        value = float(total.detach())
        pairs = ((0.0, 0.0), *self.calibration)
        for (low, start), (high, end) in pairwise(pairs):
            if value <= high:
                return start + (total - low) * ((end - start) / (high - low))
        (high, end) = pairs[-1]
        return total * (end / high) if self.calibration else total

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.entries)}

    @cached_property
    def _grids(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}

    def _grid(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Points [E, A, P] and times [E, P, P, P] of all entries; short axes repeat their last point."""
        if (device, dtype) not in self._grids:
            entries = list(self.entries.values())
            most = max(len(axis) for entry in entries for axis in entry.axes)
            points = [[[*axis, *[axis[-1]] * (most - len(axis))] for axis in entry.axes] for entry in entries]
            times = []
            for entry in entries:
                known = torch.tensor(entry.seconds, dtype=dtype).reshape([len(axis) for axis in entry.axes])
                for axis, sizes in enumerate(entry.axes):
                    known = known.index_select(axis, torch.arange(most).clamp(max=len(sizes) - 1))
                times.append(known)
            grid = torch.tensor(points, dtype=dtype), torch.stack(times)
            self._grids[device, dtype] = grid[0].to(device), grid[1].to(device)
        return self._grids[device, dtype]

    def seconds(self, liveness: compaction.Liveness[Tensor]) -> Tensor:
        """Expected latency of the compact network, a scalar tensor that is differentiable in the keep probabilities.

        Args:
            liveness: of `compact.expected`, for the graph that was measured or one folded from it. Probabilities of 0
                and 1 give the latency of one candidate.
        """
        uses = _uses(liveness, self)
        if not uses:
            return self._calibrated(torch.tensor(self.constant))
        there_N = torch.stack([use.there.reshape(()) for use in uses])
        sizes_NA = torch.stack([torch.stack([size.reshape(()) for size in use.sizes]) for use in uses])
        rows = torch.tensor([self._rows[use.key] for use in uses], device=there_N.device)
        points, times = (tensor[rows] for tensor in self._grid(there_N.device, there_N.dtype))
        return self._calibrated(self.constant + (there_N * interpolate(points, times, sizes_NA)).sum())


def interpolate(points_NAP: Tensor, times: Tensor, sizes_NA: Tensor) -> Tensor:
    """Trilinear interpolation in N grids at once; outside a grid the value at its border.

    Args:
        points_NAP: ascending coordinates; a shorter axis repeats its last.
        times: [N, P, P, P], the values.
        sizes_NA: where to interpolate.

    Returns:
        [N], differentiable in `sizes_NA`.
    """
    last = points_NAP.shape[2] - 1
    below = ((points_NAP <= sizes_NA.detach().unsqueeze(2)).sum(2) - 1).clamp(0, last)
    above = (below + 1).clamp(max=last)
    low, high = (points_NAP.gather(2, index.unsqueeze(2)).squeeze(2) for index in (below, above))
    share_NA = ((sizes_NA - low) / (high - low).clamp_min(1.0)).clamp(0.0, 1.0)
    n = torch.arange(len(times), device=times.device)
    total = times.new_zeros(len(times))
    for corner in product((0, 1), repeat=len(AXES)):
        index = [above[:, axis] if up else below[:, axis] for axis, up in enumerate(corner)]
        weight = torch.ones_like(total)
        for axis, up in enumerate(corner):
            weight = weight * (share_NA[:, axis] if up else 1 - share_NA[:, axis])
        total = total + weight * times[(n, *index)]
    return total


class _Use(NamedTuple):
    """One operation of the compact network: P(it is there), and its expected sizes given that."""

    key: str
    there: Tensor
    sizes: tuple[Tensor, Tensor, Tensor]


def _uses(liveness: compaction.Liveness[Tensor], table: LatencyTable) -> list[_Use]:
    graph, algebra = liveness.graph, liveness.algebra
    one = algebra.ones(1)
    reached: list[Tensor] = []
    found = []
    for node in graph.nodes:
        reached.append(_reached(node, reached, liveness))
        demand = liveness.demand[node.index]
        if demand is None or node.kind == "identity":
            continue
        needed = algebra.any_of(demand, 1)
        there = reached[-1] * needed
        floor = there.clamp_min(SMALLEST)
        live = liveness.live(node.index)
        name = node.fx_node.name
        if name in table.operations:
            if node.geometry is None:
                sizes = (one, one, live.sum() / floor)
            else:
                sizes = _operation_sizes(node, demand, liveness)
            if node.kind == "add":  # an operand that is dead as a whole is left out, and the sum with it
                there = torch.stack([reached[source] for source in node.sources]).prod(0) * needed
            found.append(_Use(table.operations[name], there, sizes))
        if node.kind in FITTED:
            wanted = live if node.geometry is None else liveness.kept(node.index)
            for source in node.sources:
                key = table.gathers.get(graph.nodes[source].fx_node.name)
                if key is not None:
                    unread = (liveness.live(source) - wanted).clamp(0.0, 1.0)
                    selected = there * (1 - none_of(unread))
                    found.append(_Use(key, selected, (one, one, wanted.sum() / floor)))
    return found


def _reached(node: ChannelNode, reached: list[Tensor], liveness: compaction.Liveness[Tensor]) -> Tensor:
    """P(some unit of the node is alive), [1]. The outputs of one operation are alive together."""
    algebra = liveness.algebra
    sources = [reached[source] for source in node.sources]
    if node.kind == "conv" or (node.kind == "linear" and not geometry_of(node).bias):
        return algebra.any_of(liveness.operation[node.index], 1)
    if node.kind in ("norm", "per", "identity", "flatten", "slice"):
        return sources[0]
    if node.kind in ("add", "mix", "cat"):
        return 1 - none_of(torch.cat(sources)).reshape(1)
    return torch.stack(sources).prod(0) if node.kind == "mul" else algebra.ones(1)


def _operation_sizes(
    node: ChannelNode, demand: Tensor, liveness: compaction.Liveness[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """E[groups, inputs of a group, outputs of a group] of a convolution or linear layer, given that it is there.

    A group is as large as the fullest, as `compact.count` has it.
    """
    algebra, geometry, index = liveness.algebra, geometry_of(node), node.index
    operation, one = liveness.operation[index], algebra.ones(1)
    alive = algebra.any_of(operation, 1).clamp_min(SMALLEST)
    needed = algebra.any_of(demand, 1).clamp_min(SMALLEST)
    if geometry.groups == 1:
        return one, liveness.kept(index).sum() / alive, demand.sum() / needed
    groups = algebra.both(operation, liveness.needed[index]).sum() / (alive * needed)
    inputs = outputs = one
    if geometry.in_channels > geometry.groups:
        inputs = algebra.largest(liveness.kept(index), liveness.needed[index], geometry.groups) / (alive * needed)
    if geometry.out_channels > geometry.groups:
        outputs = algebra.largest(demand, operation, geometry.groups) / (alive * needed)
    return groups, inputs, outputs


def expected_liveness(net: Supernet, keep: Mapping[str, Tensor] | None = None) -> compaction.Liveness[Tensor]:
    """What the posterior of a supernet expects to live, differentiable in the drop logits; or what `keep` does."""
    return compaction.expected(net.graph, net.keep_probabilities() if keep is None else keep)


def expected_latency(net: Supernet, table: LatencyTable, keep: Mapping[str, Tensor] | None = None) -> Tensor:
    """E[latency] in seconds of the compact network, a scalar tensor that is differentiable in the drop logits.

    Counts every surrogate, also those that compaction would fold away. With `keep`, under those probabilities instead.
    """
    return table.seconds(expected_liveness(net, keep))


def candidate_latency(net: Supernet, masks: Masks, table: LatencyTable) -> float:
    """Latency in seconds of the compact network of a candidate, by the table."""
    keep = {name: torch.from_numpy(mask).to(torch.float64) for name, mask in masks.items()}
    graph = net.graph.folded(net.untouched(masks))
    return float(table.seconds(compaction.expected(graph, keep)))
