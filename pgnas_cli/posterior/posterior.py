"""The posterior over architectures: an independent Bernoulli per channel, one probability per gate group (Eq. 13).

Shape suffixes: K channels of one layer, G its gate groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.errors import UsageError

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class LayerPosterior:
    """One gated layer.

    Args:
        drop_prob: [G] drop probabilities in [0, 1].
        sizes: channels per group.
    """

    drop_prob: NDArray[np.float64]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.drop_prob.shape != (len(self.sizes),):
            raise ValueError(f"{len(self.sizes)} groups, but drop probabilities of shape {self.drop_prob.shape}")
        if not ((self.drop_prob >= 0) & (self.drop_prob <= 1)).all():
            raise ValueError("drop probabilities should lie in [0, 1]")

    @property
    def channels(self) -> int:
        return sum(self.sizes)

    def per_channel(self) -> NDArray[np.float64]:
        """[K] drop probability of each channel; read-only."""
        return self._tables[0]

    def log_prob(self, mask: NDArray[np.bool_]) -> float:
        """Log-probability of one layer's [K] mask in nats, sum of m log(1-p) + (1-m) log p."""
        _, log_keep, log_drop = self._tables
        return float(np.where(mask, log_keep, log_drop).sum())

    @functools.cached_property
    def _tables(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """[K] p, log(1-p) and log p: the same for every candidate."""
        p = np.repeat(self.drop_prob, self.sizes)
        with np.errstate(divide="ignore"):
            found = p, np.log1p(-p), np.log(p)
        for table in found:
            table.setflags(write=False)
        return found


class Posterior(Mapping[str, LayerPosterior]):
    """Layer name -> LayerPosterior, in the network's order."""

    def __init__(self, layers: Mapping[str, LayerPosterior]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> LayerPosterior:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def channels(self) -> int:
        """Number of binary variables."""
        return sum(layer.channels for layer in self._layers.values())

    @property
    def groups(self) -> int:
        """Number of learned probabilities."""
        return sum(len(layer.sizes) for layer in self._layers.values())

    def log10_candidates(self) -> float:
        """log10 of the number of candidates, 2^channels."""
        return self.channels * math.log10(2)

    def at_rate(self, drop_prob: float) -> Posterior:
        """The same layers at one constant drop probability (the uniform baseline).

        Raises:
            UsageError: the rate is not in [0, 1).
        """
        if not 0.0 <= drop_prob < 1.0:
            raise UsageError(
                f"drop probability {drop_prob} was given, it should be at least 0 and below 1", "--drop-prob 0.4"
            )
        return Posterior(
            {name: LayerPosterior(np.full(len(v.sizes), float(drop_prob)), v.sizes) for name, v in self._layers.items()}
        )

    def draw(self, generator: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """One hard mask per layer, True = kept: independent Bernoulli(1 - p) draws (Algorithm 1, lines 7-8)."""
        return {name: generator.random(v.channels) >= v.per_channel() for name, v in self._layers.items()}

    def mode(self) -> dict[str, NDArray[np.bool_]]:
        """The most probable masks: a channel is kept if p < 1/2 (kept also at exactly 1/2)."""
        return {name: v.per_channel() <= 0.5 for name, v in self._layers.items()}

    def log_prob(self, masks: Masks) -> float:
        """Log-probability of the masks in nats, sum of m log(1-p) + (1-m) log p; -inf if they are impossible."""
        return sum((layer.log_prob(masks[name]) for name, layer in self._layers.items()), 0.0)
