"""Evaluating candidates: one persistent supernet, one copy of the data, masks written into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.recalibrate import recalibrated
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.data import Data, Split
from pgnas_cli.training.objective import Score, evaluate

BATCH = 256
CACHE_BYTES = 2**30
"""A split is kept on the device, normalised, up to this size; larger ones are read anew for each candidate."""


class Evaluator:
    """Scores candidates of one supernet.

    Args:
        net: the trained supernet, on its device.
        data: the data set that it was trained on.
        device: where to evaluate.
        recalibrate: training images for BatchNorm recalibration, the same for every candidate; 0 switches it off.
        batch: images a batch.
    """

    def __init__(
        self, net: Supernet, data: Data, device: torch.device, *, recalibrate: int = 0, batch: int = BATCH
    ) -> None:
        self.net, self.data, self.device, self.batch = net, data, device, batch
        self.recalibrate = min(recalibrate, data.num_train)
        self._cache: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.images = 0
        """Images evaluated so far, recalibration not counted."""

    def batches(self, split: Split, limit: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches of a split, from memory where they fit."""
        n = (
            limit
            or {"train": self.data.num_train, "selection": self.data.num_selection, "test": self.data.num_test}[split]
        )
        if n * self.data.in_chans * self.data.img_size**2 * 4 > CACHE_BYTES:
            return self.data.eval_batches(split, self.batch, self.device, limit=limit)
        key = f"{split}/{limit}"
        if key not in self._cache:
            self._cache[key] = list(self.data.eval_batches(split, self.batch, self.device, limit=limit))
        return self._cache[key]

    @contextmanager
    def ready(self, candidate: Candidate, *, recalibrate: bool = True) -> Iterator[None]:
        """Inside, the supernet computes as the candidate, with its own BatchNorm statistics if recalibration is on."""
        with self.net.masked(candidate):
            if self.recalibrate and recalibrate:
                images = (x for x, _ in self.batches("train", self.recalibrate))
                with recalibrated(self.net, images):
                    yield
            else:
                yield

    def score(self, candidate: Candidate, split: Split, *, recalibrate: bool = True) -> Score:
        """Score of a candidate on a whole split."""
        with self.ready(candidate, recalibrate=recalibrate):
            score = evaluate(self.net, self.batches(split))
        self.images += score.n
        return score
