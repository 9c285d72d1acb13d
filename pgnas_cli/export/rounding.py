"""Rounding a candidate's widths to multiples of a number, as tensor cores want them.

Two steps. Each gated layer's number of kept inputs goes to the nearest multiple. Then, where several layers read the
same channels, what they keep together - the width of whoever writes those channels - goes to a multiple as well, by
swaps: a layer reads one channel instead of another, and keeps as many as before.

Which channels come and go is decided by a layer's order of its inputs: by drop probability, and where that is the same,
as for all inputs of one gate group, by the norm of the weights that read the channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pgnas_cli import compact as compaction
from pgnas_cli.compact.graph import ChannelGraph
from pgnas_cli.errors import UsageError
from pgnas_cli.export.widths import Reader, Widths, Writer, count_widths, find_traffic
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Masks, Posterior
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.weight_norms import squared_norms

STRATEGY = "rounded"
Places = Mapping[str, NDArray[np.float64]]
"""Gated layer -> place of each input in the layer's order, in [0, 1): the first is the last to be dropped."""
_Changing = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Rounded:
    """A candidate after rounding.

    Args:
        candidate: the same as before where nothing had to change.
        before, after: widths that are multiples.
        left: gated layer -> why the number of its inputs is no multiple.
    """

    candidate: Candidate
    before: Widths
    after: Widths
    left: dict[str, str]


def round_candidate(net: Supernet, candidate: Candidate, multiple: int, posterior: Posterior) -> Rounded:
    """The candidate whose widths are multiples, as far as that is possible.

    A layer keeps the nearest multiple of what it keeps (half way: the larger), at least `multiple` and at most what is
    alive; a layer that has been dropped stays dropped. Where the candidate's masks keep or drop each gate group as a
    whole, groups stay whole. The inputs of grouped convolutions are left as they are.

    Args:
        net: the supernet, whose weights decide between equal probabilities.
        candidate: to round.
        multiple: at least 2.
        posterior: of the supernet; drop probabilities.

    Raises:
        UsageError: multiple is below 2.
    """
    if multiple < 2:
        raise UsageError(f"--round-to {multiple} was given, it should be at least 2", "--round-to 8")
    graph = net.graph.folded(net.untouched(candidate.masks))
    places = input_places(net, posterior)
    sizes = {name: layer.sizes for name, layer in posterior.items()}
    whole = any(max(each) > 1 for each in sizes.values()) and all(
        _keeps_groups(mask, sizes[name]) for name, mask in candidate.masks.items()
    )
    masks = round_inputs(graph, candidate.masks, multiple, places, sizes if whole else {})
    if not whole:
        masks = align_outputs(graph, masks, multiple, places)
    found = net.candidate(masks, STRATEGY)
    return Rounded(
        candidate if found.id == candidate.id else found,
        count_widths(graph, candidate.masks, multiple),
        count_widths(graph, masks, multiple),
        dict(_left(graph, masks, multiple, whole=whole)),
    )


def input_places(net: Supernet, posterior: Posterior) -> dict[str, NDArray[np.float64]]:
    """The order of each gated layer's inputs: smallest drop probability first, then the larger weight norm."""
    places = {}
    for name, layer in net.search_layers.items():
        p, n = posterior[name].per_channel(), posterior[name].channels
        with torch.no_grad():
            norms = squared_norms(layer.weight, [1] * n, torch.arange(n), getattr(layer, "groups", 1))
        places[name] = np.empty(n)
        places[name][np.lexsort((np.arange(n), -norms.double().cpu().numpy(), p))] = np.arange(n) / n
    return places


# ---- inputs ----


def round_inputs(
    graph: ChannelGraph, masks: Masks, multiple: int, places: Places, groups: Mapping[str, tuple[int, ...]]
) -> _Changing:
    """Masks that keep, of what is alive, a multiple; see `round_candidate`.

    Args:
        groups: layer -> sizes of the groups that stay whole; a layer without an entry is rounded channel by channel.
    """
    state, found = compaction.analyse(graph, masks), {name: mask.copy() for name, mask in masks.items()}
    for name, node in graph.operations.items():
        if name not in masks or node.geometry is None or node.geometry.groups > 1:
            continue
        alive = np.asarray(state.alive[node.sources[0]])
        kept = int((masks[name] & alive).sum())
        if kept:
            target = min(max(_nearest(kept, multiple), multiple), int(alive.sum()))
            ends = np.cumsum(groups.get(name, (1,) * len(alive)))
            units = np.split(np.arange(len(alive)), ends[:-1])
            _move(found[name], alive, places[name], units, target)
    return found


def _nearest(n: int, multiple: int) -> int:
    return (2 * n + multiple) // (2 * multiple) * multiple


def _keeps_groups(mask: NDArray[np.bool_], sizes: tuple[int, ...]) -> bool:
    ends = np.cumsum(sizes)
    return all(len(np.unique(group)) == 1 for group in np.split(mask, ends[:-1]))


def _move(
    mask: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    place: NDArray[np.float64],
    units: list[NDArray[np.int64]],
    target: int,
) -> None:
    """Add or remove units, in their order, while that brings the number of kept and alive inputs nearer to `target`."""
    n = int((mask & alive).sum())
    add = target > n
    for unit in sorted(units, key=lambda unit: float(place[unit].mean()), reverse=not add):
        changes = int((alive[unit] & (mask[unit] != add)).sum())
        after = n + changes if add else n - changes
        if changes and after and abs(after - target) < abs(n - target):
            mask[unit] = add
            n = after


def _left(graph: ChannelGraph, masks: Masks, multiple: int, *, whole: bool) -> Iterator[tuple[str, str]]:
    """The gated layers that do not read a multiple, and why."""
    state = compaction.analyse(graph, masks)
    for name, node in graph.operations.items():
        if name not in masks or node.geometry is None or not state.live(node.index).any():
            continue
        n, most = int(state.kept(node.index).sum()), int(np.asarray(state.alive[node.sources[0]]).sum())
        if n % multiple == 0:
            continue
        if node.geometry.groups > 1:
            yield name, f"a convolution of {node.geometry.groups} groups keeps its {n} inputs"
        elif n == most:
            yield name, f"it keeps all {n} inputs that there are"
        else:
            assert whole, name
            yield name, f"{n} inputs is the nearest that whole groups give"


# ---- outputs ----


def align_outputs(graph: ChannelGraph, masks: Masks, multiple: int, places: Places) -> _Changing:
    """Masks that keep as many inputs of each layer, but read a multiple of the channels that a convolution writes.

    What cannot be brought to a multiple, because somebody reads all of it or nothing is left to swap with, is left as
    it is, and so is what would cost another convolution its multiple.
    """
    writers, readers = find_traffic(graph, masks)
    current = {name: mask.copy() for name, mask in masks.items()}
    score, before = count_widths(graph, current, multiple).multiples, -1
    while score > before:
        before = score
        for writer in reversed(writers):
            for trial in _attempts(writer, readers, current, multiple, places):
                found = count_widths(graph, trial, multiple).multiples
                if found > score:
                    current, score = trial, found
    return current


def _attempts(
    writer: Writer, readers: Sequence[Reader], masks: _Changing, multiple: int, places: Places
) -> Iterator[_Changing]:
    """Masks under which a multiple of the writer's channels is read: by those behind it, or by all on its stream."""
    behind = [reader for reader in readers if writer.index in reader.sees]
    low, rest = divmod(int((_read_by(behind, writer, masks) > 0).sum()), multiple)
    if not low or not rest:
        return
    stream = [reader for reader in readers if np.isin(reader.inputs, writer.classes).any()]
    for those in (stream, behind) if len(stream) > len(behind) else (behind,):
        for goal in sorted((low, low + 1), key=lambda goal: abs(goal * multiple - low * multiple - rest)):
            if goal * multiple <= len(writer.classes):
                trial = _reach(those, writer, masks, goal * multiple, places)
                if trial is not None:
                    yield trial


def _read_by(readers: Sequence[Reader], writer: Writer, masks: Masks) -> NDArray[np.int64]:
    """[classes of the writer] how many readers keep each."""
    counts = np.zeros(len(writer.classes), np.int64)
    for reader in readers:
        counts += np.isin(writer.classes, reader.inputs[reader.kept(masks)])
    return counts


def _reach(readers: Sequence[Reader], writer: Writer, masks: _Changing, goal: int, places: Places) -> _Changing | None:
    """Masks under which `goal` channels of the writer are read; None if swaps do not lead there."""
    trial = {name: mask.copy() for name, mask in masks.items()}
    while True:
        counts = _read_by(readers, writer, trial)
        width = int((counts > 0).sum())
        if width == goal:
            return trial
        swaps = (_grow if width < goal else _shrink)(readers, writer, counts, trial, places)
        if not swaps:
            return None
        for name, dropped, read in swaps:
            trial[name][dropped], trial[name][read] = False, True


_Swap = tuple[str, int, int]
"""Layer, the input that it drops, the input that it reads instead."""


def _readers_of(reader: Reader, writer: Writer, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[K] how many readers keep the channel of each input; -1 where it is none of the writer's."""
    position = np.searchsorted(writer.classes, reader.inputs).clip(max=len(writer.classes) - 1)
    return np.where(writer.classes[position] == reader.inputs, counts[position], -1)


def _grow(
    readers: Sequence[Reader], writer: Writer, counts: NDArray[np.int64], masks: Masks, places: Places
) -> list[_Swap]:
    """The cheapest swap by which one more of the writer's channels is read, and none less; empty if there is none."""
    best: tuple[float, _Swap] | None = None
    for reader in (reader for reader in readers if reader.free):
        place, found = places[reader.name], _readers_of(reader, writer, counts)
        unread, spare = np.flatnonzero(found == 0), np.flatnonzero(reader.kept(masks) & (found > 1))
        if len(unread) and len(spare):
            read, dropped = int(unread[place[unread].argmin()]), int(spare[place[spare].argmax()])
            cost = float(place[read] - place[dropped])
            if best is None or cost < best[0]:
                best = (cost, (reader.name, dropped, read))
    return [] if best is None else [best[1]]


def _shrink(
    readers: Sequence[Reader], writer: Writer, counts: NDArray[np.int64], masks: Masks, places: Places
) -> list[_Swap]:
    """The cheapest swaps, one by each of its readers, by which nobody reads one of the writer's channels any more."""
    cost = np.where(counts > 0, 0.0, np.inf)
    instead: dict[str, int] = {}
    for reader in readers:
        kept, found = reader.kept(masks), _readers_of(reader, writer, counts)
        others = np.flatnonzero(~kept & (found > 0))
        mine = np.flatnonzero(kept & (found > 0))
        position = np.searchsorted(writer.classes, reader.inputs[mine])
        if not reader.free or not len(others):
            cost[position] = np.inf
            continue
        place = places[reader.name]
        instead[reader.name] = int(others[place[others].argmin()])
        cost[position] += place[instead[reader.name]] - place[mine]
    gone = int(cost.argmin())
    if not np.isfinite(cost[gone]):
        return []
    swaps = []
    for reader in (reader for reader in readers if reader.free):
        for dropped in np.flatnonzero(reader.kept(masks) & (reader.inputs == writer.classes[gone])).tolist():
            swaps.append((reader.name, dropped, instead[reader.name]))
    return swaps
