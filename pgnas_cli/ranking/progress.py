"""What a ranking says while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.race import Look


@dataclass(frozen=True)
class Leader:
    """One of the best so far.

    Args:
        id: of the candidate.
        accuracy: on the selection split, an estimate where it has seen a part.
        seen: images of the split that it has seen.
        params: exact parameters.
        macs: exact multiply-adds of one image.
    """

    id: str
    accuracy: float
    seen: int
    params: int
    macs: int


@dataclass(frozen=True)
class RankProgress:
    """What ranking reports.

    Args:
        done, total: images (times candidates) answered so far, and the most that there will be.
        racing: candidates that can still win.
        leader: id of the best so far; empty before the first look.
        accuracy: its accuracy on the selection split, an estimate where it has seen a part.
        leaders: the best so far, best first.
    """

    done: int
    total: int
    racing: int
    leader: str
    accuracy: float
    leaders: tuple[Leader, ...] = ()


Report = Callable[[RankProgress], None]


def ignore(progress: RankProgress) -> None:
    """A report that nobody reads."""


class Told:
    """Turns numbers of images and looks into progress.

    Args:
        report: told.
        candidates: what the looks' indices refer to; more may be appended later.
        looks: the looks so far; new ones are appended.
        total: the most images that there will be.
    """

    def __init__(self, report: Report, candidates: Sequence[Candidate], looks: list[Look], total: int) -> None:
        self.report, self.candidates, self.looks, self.total = report, candidates, looks, total
        self.done = 0

    def __call__(self, done: int) -> None:
        """So many images have been answered."""
        self.done = done
        if not self.looks:
            self.report(RankProgress(done, self.total, len(self.candidates), "", math.nan))
            return
        last = self.looks[-1]
        leaders = tuple(
            Leader(chosen.id, standing.accuracy, standing.seen, chosen.params, chosen.macs)
            for standing in last.top
            for chosen in [self.candidates[standing.index]]
        )
        leader = self.candidates[last.leader].id
        self.report(RankProgress(done, self.total, last.staying, leader, last.accuracy, leaders))

    def look(self, look: Look) -> None:
        """A slice is over."""
        self.looks.append(look)
        self(self.done)
