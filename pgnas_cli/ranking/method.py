"""How candidates are compared: what --method, --margin, --budget and their like say together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pgnas_cli.errors import UsageError

METHODS = ("auto", "exhaustive", "race")
CONFIDENCE = 0.95
BUDGET = 0.15
AUTO_CANDIDATES, AUTO_IMAGES = 100, 1000
"""With at least so many candidates and selection images "auto" races; fewer are evaluated in full."""


@dataclass(frozen=True)
class Method:
    """How candidates are compared.

    Args:
        name: "auto", "exhaustive" (every candidate sees the whole selection split) or "race" (`race`).
        confidence: of the margin and of the intervals, in (0, 1).
        margin: race until the winner is within so much accuracy of the best candidate.
        budget: instead: race within this share of the images of an exhaustive ranking.
        recalibrate: training images for BatchNorm recalibration of each candidate; 0 is off.
        seed: of the order of the images, and of what evolution proposes.
        evolve: candidates that evolution adds to those that were sampled (`evolve`).
    """

    name: str = "auto"
    confidence: float = CONFIDENCE
    margin: float | None = None
    budget: float | None = None
    recalibrate: int = 0
    seed: int = 0
    evolve: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(
                f"--method {self.name!r} was given, it should be one of {', '.join(METHODS)}", "--method race"
            )
        if self.recalibrate < 0:
            raise UsageError(
                f"--recalibrate {self.recalibrate} was given, it should be at least 0", "--recalibrate 512"
            )
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} was given, it should be at least 0", "--seed 0")
        if self.evolve < 0:
            raise UsageError(f"--evolve {self.evolve} was given, it should be at least 0", "--evolve 100")
        if not 0 < self.confidence < 1:
            raise UsageError(
                f"--confidence {self.confidence:g} was given, it should lie between 0 and 1", "--confidence 0.95"
            )
        if self.margin is not None and self.budget is not None:
            raise UsageError(
                "--margin and --budget exclude each other: one says when a race ends, the other what it may cost",
                "leave one of them out",
            )
        if self.margin is not None and not 0 <= self.margin < 1:
            raise UsageError(
                f"a margin of {100 * self.margin:g} points was given, it should be at least 0 and below 100",
                "--margin 0.1",
            )
        if self.budget is not None and not 0 < self.budget <= 1:
            raise UsageError(f"--budget {self.budget:g} was given, it should lie between 0 and 1", "--budget 0.15")
        if self.name == "exhaustive" and (self.margin is not None or self.budget is not None):
            option = "--margin" if self.margin is not None else "--budget"
            raise UsageError(f"{option} belongs to a race", "--method race")

    def resolved(self, candidates: int, images: int) -> Method:
        """What "auto" means for so many candidates, all included, and selection images.

        A race without an end gets the budget.
        """
        asked = self.margin is not None or self.budget is not None
        large = candidates >= AUTO_CANDIDATES and images >= AUTO_IMAGES
        name = self.name if self.name != "auto" else "race" if asked or large else "exhaustive"
        budget = BUDGET if name == "race" and not asked else self.budget
        return replace(self, name=name, budget=budget)
