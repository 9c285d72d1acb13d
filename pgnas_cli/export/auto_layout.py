"""--layout auto: which layout of a compact network is faster on this machine, by measurement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.latency import Latency, measure
from pgnas_cli.supernet.supernet import Supernet

BATCH = 64
RUNS = 20
SECONDS = 60.0
"""No further turn starts after so long: large networks are measured less often."""


def measure_layouts(net: Supernet, candidate: Candidate, images: Tensor) -> tuple[str, dict[str, Any]]:
    """The faster layout of a candidate on the CPU, and what was measured.

    Both networks run in turns. Dense is chosen where the upper quartile of its times is below the lower quartile of
    gather's; anything less is noise, and gather has fewer parameters.

    Args:
        net: the supernet.
        candidate: of which both networks are built.
        images: [B, C, H, W], the batch to measure with.

    Returns:
        ("gather" or "dense", the section "layout_choice": batch, threads, runs, and of each layout the median time of
        a batch and its quartiles, in milliseconds).
    """
    networks = {layout: net.compact(candidate, layout=layout) for layout in ("gather", "dense")}
    found = measure(networks, images, runs=RUNS, limit=SECONDS)
    chosen = "dense" if found["dense"].high < found["gather"].low else "gather"
    measured = {layout: _milliseconds(latency) for layout, latency in found.items()}
    return chosen, {
        "batch": len(images),
        "threads": torch.get_num_threads(),
        "runs": found["gather"].runs,
        **measured,
    }


def _milliseconds(latency: Latency) -> dict[str, float]:
    return {
        "median_ms": round(1000 * latency.median, 3),
        "low_ms": round(1000 * latency.low, 3),
        "high_ms": round(1000 * latency.high, 3),
    }
