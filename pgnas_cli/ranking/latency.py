"""Latency, measured: networks in turns, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


@torch.inference_mode()
def measure(
    networks: Mapping[str, nn.Module], images: Tensor, *, runs: int = 20, warmup: int = 3
) -> dict[str, Latency]:
    """Latency of each network on the same images, interleaved: A B C A B C ...

    Args:
        networks: name -> network, in evaluation mode, on the images' device.
        images: [B, C, H, W].
        runs: measured passes each, at least 4.
        warmup: passes before that.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(warmup + runs):
        for name, network in networks.items():
            started = time.perf_counter()
            network(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            if turn >= warmup:
                times[name].append(time.perf_counter() - started)
    found = {}
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        found[name] = Latency(median, low, high, len(images), runs)
    return found
