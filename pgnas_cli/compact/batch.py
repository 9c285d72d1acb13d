"""Exact costs of many candidates at once: the passes of `liveness`, each operation for hundreds of candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.compact.graph import ChannelGraph
from pgnas_cli.compact.liveness import analyse_rows, count, reaches_output

MEMORY = 1 << 28
"""Bytes that the intermediate values of one batch may take."""
LARGEST_BATCH = 256
"""Candidates at once; with more, the values of a layer no longer stay in the processor's cache."""
_BYTES_PER_UNIT = 4
"""Bytes that a candidate takes per unit of the graph, at most: 2.6 in NASNet, 1.1 in ResNet-50."""


@dataclass(frozen=True, eq=False)
class CandidateCosts:
    """Of N candidates, in the order given.

    Args:
        params: exact parameters of the compact networks, int64 [N].
        macs: exact multiply-adds of the compact networks for one image, int64 [N].
        depends_on_input: whether any channel of the image reaches the output, bool [N].
    """

    params: NDArray[np.int64]
    macs: NDArray[np.int64]
    depends_on_input: NDArray[np.bool_]


def count_many(graph: ChannelGraph, candidates: Sequence[Mapping[str, np.ndarray]]) -> CandidateCosts:
    """What `count` and `depends_on_input` say of each candidate, the same integers, computed for many at once.

    Args:
        candidates: masks as for `analyse`; they need not name the same layers. May be empty.

    Raises:
        UsageError: as `analyse`.
    """
    n = len(candidates)
    costs = CandidateCosts(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, bool))
    for rows in _batches(graph, candidates):
        names = candidates[rows[0]]
        liveness = analyse_rows(graph, {name: _stack([candidates[row][name] for row in rows]) for name in names})
        cost = count(graph, liveness)
        costs.params[rows] = cost.params
        costs.macs[rows] = cost.macs
        costs.depends_on_input[rows] = reaches_output(graph, liveness)[..., 0]
    return costs


def _batches(graph: ChannelGraph, candidates: Sequence[Mapping[str, np.ndarray]]) -> Iterator[list[int]]:
    """Indices of candidates whose masks can be stacked, as many as memory allows."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, masks in enumerate(candidates):
        alike[(*masks, *map(np.shape, masks.values()))].append(index)
    units = sum(node.channels for node in graph.nodes)
    size = min(LARGEST_BATCH, max(1, MEMORY // (_BYTES_PER_UNIT * units)))
    for indices in alike.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _stack(masks: Sequence[np.ndarray]) -> np.ndarray:
    """[K] each -> [N, K]."""
    return np.concatenate(masks).reshape(len(masks), *np.shape(masks[0]))
