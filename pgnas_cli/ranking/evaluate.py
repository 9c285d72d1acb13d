"""Evaluating candidates: one persistent supernet, one copy of the data, masks written into the weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.recalibrate import recalibrated
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.data import Data, Split
from pgnas_cli.training.objective import Score, evaluate

BATCH = 256
CACHE_BYTES = 2**30
"""Images are kept on the device, normalised, up to this size, and shared by the candidates."""


@dataclass(frozen=True)
class Way:
    """How the candidates' logits are computed.

    Args:
        channels_last: memory layout of images and weights.
        amp: "" for float32, else the type of torch.autocast: "bfloat16" or "float16".
        repays: a compact network is built for a candidate that sees at least this many images at once; None: never,
            its masks are written into the supernet's weights.
    """

    channels_last: bool = False
    amp: str = ""
    repays: int | None = None


class Evaluator:
    """Scores candidates of one supernet.

    Args:
        net: the trained supernet, on its device.
        data: the data set that it was trained on.
        device: where to evaluate.
        recalibrate: training images for BatchNorm recalibration, the same for every candidate; 0 switches it off.
        batch: images a batch.
        way: how logits are computed.
    """

    def __init__(
        self,
        net: Supernet,
        data: Data,
        device: torch.device,
        *,
        recalibrate: int = 0,
        batch: int = BATCH,
        way: Way | None = None,
    ) -> None:
        self.way = way or Way()
        self._layout = torch.channels_last if self.way.channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self._layout)
        self.data, self.device, self.batch = data, device, batch
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
        if n > self.cached_images:
            return self._laid_out(self.data.eval_batches(split, self.batch, self.device, limit=limit))
        key = f"{split}/{limit}"
        if key not in self._cache:
            self._cache[key] = list(self._laid_out(self.data.eval_batches(split, self.batch, self.device, limit=limit)))
        return self._cache[key]

    @property
    def cached_images(self) -> int:
        """How many images fit into memory at once."""
        return max(self.batch, CACHE_BYTES // (self.data.in_chans * self.data.img_size**2 * 4))

    def _laid_out(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield images.to(memory_format=self._layout), labels

    @contextmanager
    def ready(self, candidate: Candidate, *, recalibrate: bool = True, images: int = 0) -> Iterator[nn.Module]:
        """Inside, the network given computes as the candidate, with its own BatchNorm statistics if recalibrated.

        Args:
            candidate: any of the supernet.
            recalibrate: False leaves the statistics as trained.
            images: how many it will see; with enough of them it is built as a compact network.
        """
        compact = self.way.repays is not None and images >= self.way.repays
        with nullcontext() if compact else self.net.masked(candidate):
            model: nn.Module = self.net.compact(candidate) if compact else self.net
            if compact:
                model = model.to(memory_format=self._layout)
            with self._autocast():
                if self.recalibrate and recalibrate:
                    with recalibrated(model, (x for x, _ in self.batches("train", self.recalibrate))):
                        yield model
                else:
                    yield model

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.way.amp:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.way.amp))

    def score(self, candidate: Candidate, split: Split, *, recalibrate: bool = True) -> Score:
        """Score of a candidate on a whole split."""
        with self.ready(candidate, recalibrate=recalibrate) as model:
            score = evaluate(model, self.batches(split))
        self.images += score.n
        return score

    @torch.inference_mode()
    def outcomes(
        self, candidates: Sequence[Candidate], split: Split, positions: NDArray[np.int64], done: Callable[[], None]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """What candidates answer on some images of a split, each read once for all of them.

        Args:
            candidates: whose answers.
            split: which split.
            positions: of images that can be read (`Data.readable`).
            done: called after each candidate.

        Returns:
            (whether the largest logit is the label's, log-probability of the label in nats), both
            [candidates, positions]. Logits that are not finite count as wrong, with minus infinity.
        """
        right = np.zeros((len(candidates), len(positions)), bool)
        log_prob = np.zeros((len(candidates), len(positions)), np.float32)
        for first in range(0, len(positions), self.cached_images):
            part = slice(first, min(first + self.cached_images, len(positions)))
            batches = list(
                self._laid_out(
                    self.data.eval_batches(split, self.batch, self.device, positions=torch.from_numpy(positions[part]))
                )
            )
            last = part.stop == len(positions)
            for row, candidate in enumerate(candidates):
                with self.ready(candidate, images=part.stop - part.start) as model:
                    answers = [answer(model(images), labels) for images, labels in batches]
                right[row, part] = torch.cat([a for a, _ in answers]).cpu().numpy()
                log_prob[row, part] = torch.cat([b for _, b in answers]).cpu().numpy()
                if last:
                    done()
        self.images += right.size
        return right, log_prob


def answer(logits_BC: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(whether the largest logit is the label's, bool [B]; log-probability of the label, float32 [B])."""
    logits_BC = logits_BC.float()
    finite_B = logits_BC.isfinite().all(1)
    log_prob_B = torch.log_softmax(logits_BC, 1).gather(1, labels[:, None])[:, 0]
    return (logits_BC.argmax(1) == labels) & finite_B, torch.where(finite_B, log_prob_B, -torch.inf)


@torch.inference_mode()
def measured_way(evaluator: Evaluator, candidate: Candidate, *, passes: int = 9) -> int | None:
    """From how many images on it repays to build a compact network, by measurement; None where it never does.

    images = time to build / (time of an image masked - time of an image compact): the median of the times to build
    over the median of the differences, of some passes in turn over one batch of selection images. With
    one thread on the CPU it is the time that this process computes, to which others add little.
    """
    images, _ = next(iter(evaluator.data.eval_batches("selection", evaluator.batch, evaluator.device)))
    images = images.to(memory_format=evaluator._layout)
    alone = evaluator.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds: dict[str, list[float]] = {"build": [], "compact": [], "masked": []}

    def timed(name: str, function: Callable[[], object]) -> object:
        if evaluator.device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        found = function()
        if evaluator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(clock() - started)
        return found

    for _ in range(passes):
        small = timed("build", lambda: evaluator.net.compact(candidate).to(memory_format=evaluator._layout))
        assert isinstance(small, nn.Module)
        with evaluator._autocast():
            timed("compact", lambda small=small: small(images))  # type: ignore[misc]
            with evaluator.net.masked(candidate):
                timed("masked", lambda: evaluator.net(images))
    gain = float(np.median(np.subtract(seconds["masked"], seconds["compact"]))) / len(images)
    return int(np.median(seconds["build"]) / gain) + 1 if gain > 0 else None
