"""Where the answers of candidates come from: processes share the candidates, and a journal keeps what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.errors import Stopped
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.journal import Journal
from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World
from pgnas_cli.training.launch import StopSignal

GROUP = 16
"""Candidates that each process evaluates before their answers are written: what a kill or Ctrl-C can lose."""


class Answers:
    """Evaluates candidates on images of the selection split; see `race.Outcomes`.

    Every process asks for the same candidates in the same order, evaluates its share, and gets all answers. How many
    processes there are does not change them: a candidate's answers depend on its masks and the images alone.

    Args:
        evaluator: of this process.
        candidates: indices refer to them; more may be appended later.
        readable: positions of the images that can be read: image n of the race is the n-th of them.
        journal: the master's; other processes have none.
        world: this process.
        stop: looked at between groups.
        told: called with the number of images (times candidates) that have been answered by all processes so far.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        candidates: Sequence[Candidate],
        readable: NDArray[np.int64],
        journal: Journal | None,
        world: World,
        stop: StopSignal,
        told: Callable[[int], None],
    ) -> None:
        self.evaluator, self.candidates, self.readable = evaluator, candidates, readable
        self.journal, self.world, self.stop, self.told = journal, world, stop, told
        self.answered = self.evaluated = 0

    def __call__(
        self, candidates: Sequence[int], images: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `race.Outcomes`."""
        chosen, positions = [self.candidates[index] for index in candidates], self.readable[images]
        size = GROUP * self.world.size
        groups = [self._group(chosen[first : first + size], positions) for first in range(0, len(chosen), size)]
        empty = np.zeros((0, len(images)))
        right = np.concatenate([a for a, _ in groups] or [empty.astype(bool)])
        return right, np.concatenate([b for _, b in groups] or [empty.astype(np.float32)])

    def _group(
        self, group: list[Candidate], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        self._leave_if_asked()
        world, shape = self.world, (len(group), len(positions))
        key, stored = "", None
        if self.journal is not None:
            key = self.journal.key([candidate.id for candidate in group], positions)
            stored = self.journal.read(key, shape)
        answers = distributed.broadcast_object(stored, world)
        if answers is None:
            answers = self._evaluated(group, positions, shape)
            if self.journal is not None:
                self.journal.write(key, answers)
        self.answered += len(group) * len(positions)
        self.told(self.answered)
        return answers

    def _evaluated(
        self, group: list[Candidate], positions: NDArray[np.int64], shape: tuple[int, int]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        world, before = self.world, self.answered

        def done(number: int = 0) -> None:
            nonlocal before
            before += len(positions) * world.size
            self.told(min(before, self.answered + shape[0] * shape[1]))
            if world.size == 1:  # several can only leave together
                self._leave_if_asked()

        own = self.evaluator.outcomes(group[world.rank :: world.size], "selection", positions, done)
        right, log_prob = np.zeros(shape, bool), np.zeros(shape, np.float32)
        for rank, (a, b) in enumerate(distributed.gather_objects(own, world)):
            right[rank :: world.size], log_prob[rank :: world.size] = a, b
        self.evaluated += right.size
        return right, log_prob

    def _leave_if_asked(self) -> None:
        signum, _ = distributed.agree(self.stop.signum or 0, False, self.world)
        if signum:
            raise Stopped(
                signum,
                f"stopped after {self.answered:,} images: what has been evaluated is kept",
                "the same pgnas rank goes on from there",
            )
