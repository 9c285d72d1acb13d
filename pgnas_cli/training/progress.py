"""What a training says while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainProgress:
    """What training reports after a step.

    Args:
        epoch, epochs: epochs done and planned.
        step, steps: optimiser steps done and planned.
        metrics: label -> value, for a progress bar.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, float | str]


Report = Callable[[TrainProgress], None]
Notice = Callable[[str], None]


def ignore(_: object) -> None:
    """The progress callback of a caller who wants none."""


@dataclass(frozen=True)
class Callbacks:
    """Where a training speaks to.

    Args:
        report: called after every step.
        notice: called with lines that tell what happens.
        warn: called with lines about what has gone wrong, or may: not to be hidden.
    """

    report: Report = ignore
    notice: Notice = ignore
    warn: Notice = ignore
