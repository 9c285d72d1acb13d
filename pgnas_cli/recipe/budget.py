"""The size or speed that a recipe holds the expected network at."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check
from pgnas_cli.sizes import parse_count, parse_seconds

UNITS = ("params", "macs", "latency")
"""What a target may be in: parameters, multiply-adds of one image, seconds."""


@dataclass(frozen=True)
class Budget:
    """The costs that training holds the expected network at.

    One target is held. Of several, none is exceeded, and the one that is hardest to keep is held.

    Args:
        target_params: "0.5x" of the supernet, or a number such as "12M"; None leaves the size to the priors.
        target_macs: the same in multiply-adds of one image.
        target_latency: "0.5x" of the supernet's, or a time such as "3ms", by a table measured on the machine that
            trains.
        start: share of training before the targets of the moment leave the initial expectations.
        reached: share of training by which they have reached the targets.
    """

    target_params: str | None = None
    target_macs: str | None = None
    target_latency: str | None = None
    start: float = 0.05
    reached: float = 0.5

    def __post_init__(self) -> None:
        for text, option in (
            (self.target_params, "budget.target_params (--target-params)"),
            (self.target_macs, "budget.target_macs (--target-macs)"),
        ):
            if text is not None:
                parse_count(text, option)
        if self.target_latency is not None:
            parse_seconds(self.target_latency, "budget.target_latency (--target-latency)")
        check(
            0 <= self.start <= self.reached <= 1,
            f"budget.start is {self.start} and budget.reached {self.reached}, "
            "they should satisfy 0 <= start <= reached <= 1",
            "budget.start=0.05 and budget.reached=0.5",
        )

    @property
    def units(self) -> tuple[str, ...]:
        """What has a target, of "params", "macs" and "latency"; empty without a budget."""
        return tuple(unit for unit in UNITS if getattr(self, f"target_{unit}") is not None)
