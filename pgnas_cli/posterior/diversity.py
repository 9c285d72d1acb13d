"""How different the candidates of a set are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import pack
from pgnas_cli.posterior.posterior import Masks

_ROWS = 1024


@dataclass(frozen=True)
class Diversity:
    """Of a set of candidates.

    Args:
        candidates: how many there are.
        distinct: how many different masks they have.
        hamming: mean over all pairs of the number of gated channels that one keeps and the other drops.
        hamming_share: the same as a share of all gated channels, in [0, 1]; at most about 1/2 for a large set.
    """

    candidates: int
    distinct: int
    hamming: float
    hamming_share: float


def diversity(many: Sequence[Masks]) -> Diversity:
    """Distinct masks and mean pairwise Hamming distance of N candidates with K gated channels, in O(N K).

    A channel that c of N candidates keep differs in c (N - c) of the N (N - 1) / 2 pairs, so that the mean distance is
    sum over channels of 2 c (N - c) / (N (N - 1)), exact up to the last division. One candidate has the distance 0.

    Args:
        many: layer name -> bool [K of the layer], for each candidate; repeated ones count as often as they come.

    Raises:
        UsageError: there are no candidates, or they are of different supernets.
    """
    n = len(many)
    if n == 0:
        raise UsageError("the diversity of no candidates was asked for, expected at least 1", "pgnas sample draws them")
    layout = {name: len(mask) for name, mask in many[0].items()}
    if any({name: len(mask) for name, mask in masks.items()} != layout for masks in many):
        raise UsageError(
            "the candidates have masks of different layers or sizes, expected those of one supernet",
            "compare candidates of one run",
        )
    bits = pack([{name: masks[name] for name in layout} for masks in many])
    kept = np.zeros(8 * bits.shape[1], np.int64)  # the bits that fill the last byte are 0: they add no distance
    for start in range(0, n, _ROWS):
        kept += np.unpackbits(bits[start : start + _ROWS], axis=1).sum(0, dtype=np.int64)
    differing = int((kept * (n - kept)).sum())
    hamming = 2 * differing / (n * (n - 1)) if n > 1 else 0.0
    return Diversity(n, len({row.tobytes() for row in bits}), hamming, hamming / sum(layout.values()))
