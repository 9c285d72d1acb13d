"""Latency, measured: networks in turns, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from pgnas_cli.supernet.timing import interleaved


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Args:
        median: seconds.
        low, high: quartiles, seconds.
        batch: images in the batch.
        runs: measured passes.
    """

    median: float
    low: float
    high: float
    batch: int
    runs: int


def measure(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    *,
    runs: int = 20,
    warmup: int = 3,
    limit: float = float("inf"),
) -> dict[str, Latency]:
    """Latency of each network on the same images, interleaved: A B C A B C ...

    Args:
        networks: name -> network, in evaluation mode, on the images' device.
        images: [B, C, H, W].
        runs: measured passes each, at least 4.
        warmup: passes before that.
        limit: seconds after which no further turn starts, though three are always measured.
    """
    calls = [partial(network, images) for network in networks.values()]
    found = {}
    times = interleaved(calls, images.device, runs=runs, warmup=warmup, limit=limit)
    for name, seconds in zip(networks, times, strict=True):
        low, median, high = statistics.quantiles(seconds, n=4)
        found[name] = Latency(median, low, high, len(images), len(seconds))
    return found
