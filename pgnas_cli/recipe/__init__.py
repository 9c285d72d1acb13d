"""Recipes: everything that decides how a supernet is trained, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgnas_cli.recipe.annealing import Annealing
from pgnas_cli.recipe.budget import Budget
from pgnas_cli.recipe.check import check
from pgnas_cli.recipe.commit import Commit
from pgnas_cli.recipe.compute import Compute
from pgnas_cli.recipe.data import Augmentation, Data
from pgnas_cli.recipe.objective import Objective
from pgnas_cli.recipe.optimizer import Optimizer, Schedule

__all__ = [
    "L2_PER_EXAMPLE",
    "Adapted",
    "Annealing",
    "Augmentation",
    "Budget",
    "Commit",
    "Compute",
    "Data",
    "Objective",
    "Optimizer",
    "Recipe",
    "Sampling",
    "Schedule",
]

L2_PER_EXAMPLE = 1e-4
"""l2 / N of the published CIFAR-10 runs (50 / 5e5): the default of l2 is this times N."""


@dataclass(frozen=True)
class Sampling:
    """Drawing candidates.

    Args:
        candidates: how many `pgnas sample` draws where -n does not say.
    """

    candidates: int = 100

    def __post_init__(self) -> None:
        check(
            self.candidates >= 1,
            f"sampling.candidates is {self.candidates}, it should be at least 1",
            "pgnas sample -n 100",
        )


@dataclass(frozen=True)
class Adapted:
    """What train changed in the supernet to fit the data; None where the supernet fitted."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A whole training recipe."""

    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    budget: Budget = field(default_factory=Budget)
    data: Data = field(default_factory=Data)
    annealing: Annealing = field(default_factory=Annealing)
    commit: Commit = field(default_factory=Commit)
    compute: Compute = field(default_factory=Compute)
    sampling: Sampling = field(default_factory=Sampling)
    adapted: Adapted = field(default_factory=Adapted)
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self.objective.fixed_drop is None or not self.budget.units,
            f"--fixed-drop and --target-{'/'.join(self.budget.units)} exclude each other: "
            "a constant rate cannot be moved to a target",
            "leave one of them out",
        )
        check(
            self.schedule.lr_min <= self.optimizer.lr,
            f"schedule.lr_min is {self.schedule.lr_min} and optimizer.lr {self.optimizer.lr}: rates fall to lr_min",
            "--set schedule.lr_min=0",
        )

    @property
    def commit_epoch(self) -> int | None:
        """Epochs before the commit, at least one, and one is left after it; None where there is no commit."""
        if self.commit.at is None or not self.budget.units or self.schedule.epochs < 2:
            return None
        return min(self.schedule.epochs - 1, max(1, round(self.commit.at * self.schedule.epochs)))

    def resolved_num_examples(self, num_train: int) -> float:
        """N of the objective."""
        return self.objective.num_examples or num_train * self.objective.augmentation_factor

    def resolved_l2(self, num_train: int) -> float:
        """l2 of the objective."""
        if self.objective.l2 is not None:
            return self.objective.l2
        return L2_PER_EXAMPLE * self.resolved_num_examples(num_train)
