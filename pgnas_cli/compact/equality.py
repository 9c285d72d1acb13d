"""When two forms of one network count as equal."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference relative to max(1, max |logit|) between two forms of one network, in float32."""


def relative_difference(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max(1, max |b|); infinite for other shapes or values that are not finite."""
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1.0))
