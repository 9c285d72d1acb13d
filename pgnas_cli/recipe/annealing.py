"""How the relaxation changes while a supernet trains."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Annealing:
    """What changes about the gates over the course of a training, in shares of its steps (those before a commit).

    The temperature falls geometrically from objective.temperature to temperature_end, between the end of the warm-up
    and the last step.

    Args:
        warmup: share of the steps in which nothing is dropped: the weights train alone, the drop probabilities wait.
        temperature_end: temperature at the last step; None, or one above objective.temperature, keeps that.
    """

    warmup: float = 0.0
    temperature_end: float | None = None

    def __post_init__(self) -> None:
        check(
            0 <= self.warmup < 1,
            f"annealing.warmup is {self.warmup}, it should be at least 0 and below 1",
            "--set annealing.warmup=0.1",
        )
        check(
            self.temperature_end is None or self.temperature_end > 0,
            f"annealing.temperature_end is {self.temperature_end}, it should be above 0",
            "--set annealing.temperature_end=0.1",
        )

    def temperature(self, first: float, share: float) -> float:
        """first^(1 - share) * end^share, after a share of the way from `first`; it never rises above `first`."""
        end = first if self.temperature_end is None else min(first, self.temperature_end)
        return first * (end / first) ** share
