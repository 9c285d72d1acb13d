"""Where the random numbers of the gates come from: the default generator, or a seed and the index of the example.

Shape suffixes: B examples, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

ROWS = 16
"""Examples that share a generator: a batch that does not start and end at a multiple draws up to 30 rows too many."""


@dataclass(frozen=True)
class Noise:
    """Uniform draws for a batch.

    Args:
        seed: with a seed, example i of the global batch gets numbers that depend on the seed, i and the device's type
            alone, however the batch is spread over processes or accumulated; None: torch's default generator.
        start: index of the batch's first example in the global batch.
        stop: index behind its last example; None leaves the number of examples open.
    """

    seed: int | None = None
    start: int = 0
    stop: int | None = None

    @classmethod
    def of_rows(cls, seed: int | None, rows: slice, total: int | None) -> Self:
        """The noise of `rows` of a global batch of `total` examples.

        Raises:
            ValueError: the rows are not a contiguous part of the global batch.
        """
        start, stop = rows.start or 0, total if rows.stop is None else rows.stop
        order = [0, start, *(end for end in (stop, total) if end is not None)]
        if rows.step not in (None, 1) or order != sorted(order):
            raise ValueError(f"rows is {rows}, it should be a contiguous part of the global batch of {total} examples")
        return cls(seed, start, stop)

    def uniform(self, batch: int, channels: int, device: torch.device | str, *, shared: bool = False) -> Tensor:
        """[batch, channels] draws from Uniform[0, 1), float32; [1, channels] where all examples share one draw.

        Raises:
            ValueError: the batch has another number of examples than was announced.
        """
        start = self.start
        if self.stop is not None and self.stop - start != batch:
            raise ValueError(f"the batch has {batch} examples, set_noise was told rows {start} to {self.stop}")
        if self.seed is None:
            return torch.rand(1 if shared else batch, channels, device=device, dtype=torch.float32)
        if shared:
            return self._block(0, channels, device)[:1]
        first = start // ROWS
        blocks = [self._block(index, channels, device) for index in range(first, -(-(start + batch) // ROWS))]
        drawn = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return drawn[start - first * ROWS : start - first * ROWS + batch]

    def _block(self, index: int, channels: int, device: torch.device | str) -> Tensor:
        """[ROWS, channels]: the draws of the examples index * ROWS ... of the global batch."""
        assert self.seed is not None
        # numpy's SeedSequence takes any non-negative integer, and mixes it well
        state = np.random.SeedSequence([abs(self.seed), int(self.seed < 0), index]).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(state[0]) >> 1)
        return torch.rand(ROWS, channels, device=device, dtype=torch.float32, generator=generator)
