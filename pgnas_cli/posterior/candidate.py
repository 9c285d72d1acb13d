"""A candidate: one hard mask per gated layer. Identified by its masks, never by a random seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.errors import RunError

GateLayout = Mapping[str, int]
"""Gated layer -> number of its input channels, in the network's order."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An architecture; with the supernet's weights, a network.

    Args:
        masks: layer name -> bool [K], True = kept, in the network's order.
        strategy: how it was drawn.
        params: exact parameters of the compact network.
        macs: exact multiply-adds of the compact network for one image.
        log_prob: log-probability under the distribution that it was drawn from, in nats.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    strategy: str
    params: int
    macs: int
    log_prob: float = field(default=float("nan"))

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the layer names and the masks."""
        return masks_id(self.masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def kept_share(self) -> float:
        """Share of all gated channels that is kept."""
        return float(np.concatenate(list(self.masks.values())).mean())

    def dropped_operations(self) -> list[str]:
        """Layers with no input channel left."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def summary(self) -> dict[str, Any]:
        """What candidates.jsonl holds of it."""
        log_prob = self.log_prob if np.isfinite(self.log_prob) else None
        return {
            "id": self.id,
            "strategy": self.strategy,
            "params": self.params,
            "macs": self.macs,
            "log_prob": log_prob,
        }


def masks_id(masks: Mapping[str, NDArray[np.bool_]]) -> str:
    """The identity of a set of masks: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    digest.update(json.dumps({name: len(mask) for name, mask in masks.items()}).encode())
    digest.update(pack([masks])[0].tobytes())
    return digest.hexdigest()[:16]


def pack(many: Sequence[Mapping[str, NDArray[np.bool_]]]) -> NDArray[np.uint8]:
    """Masks as bits: uint8 [N, ceil(channels / 8)], layers one after the other in the order of the mapping."""
    return np.stack([np.packbits(np.concatenate([masks[name] for name in masks])) for masks in many])


def unpack(bits: NDArray[np.uint8], layout: GateLayout) -> list[dict[str, NDArray[np.bool_]]]:
    """The inverse of `pack` for layers of the given sizes.

    Raises:
        RunError: the bits do not fit the layout.
    """
    channels = sum(layout.values())
    if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != (channels + 7) // 8:
        raise RunError(
            f"masks of shape {list(bits.shape)} do not fit {channels} gated channels", "pgnas sample draws them anew"
        )
    flat = np.unpackbits(bits, axis=1, count=channels).astype(bool)
    ends = np.cumsum(list(layout.values()))
    return [{name: row[end - layout[name] : end] for name, end in zip(layout, ends, strict=True)} for row in flat]
