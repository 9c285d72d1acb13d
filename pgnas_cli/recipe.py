"""Recipes: everything that decides how a supernet is trained, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgnas_cli.errors import UsageError
from pgnas_cli.sizes import parse_count

L2_PER_EXAMPLE = 1e-4
"""l2 / N of the published CIFAR-10 runs (50 / 5e5): the default of l2 is this times N."""


def _check(condition: bool, what: str, fix: str) -> None:
    if not condition:
        raise UsageError(what, fix)


@dataclass(frozen=True)
class Objective:
    """The loss (Eq. 11-16).

    Args:
        l2: squared length scale of the weight prior; None means 1e-4 * N.
        num_examples: N; None means the number of training images times augmentation_factor.
        augmentation_factor: how many images an augmented image counts for (10 in the published CIFAR runs).
        prior_drop: u0 of the architecture prior Bern(u0).
        temperature: tau of the relaxation.
        initial_drop: p at the start.
        granularity: "group" (one p per gate group) or "channel" (one p per channel).
        ungated_l2: whether ungated convolutions get l2 / N * ||W||^2 too.
        fixed_drop: one constant drop probability instead of a learned one (the uniform baseline).
        label_smoothing: of the cross-entropy.
        branch_noise: shake-shake's noise between the branches. The published runs of 1800 epochs have it; in runs of
            tens of epochs it costs points.
    """

    l2: float | None = None
    num_examples: float | None = None
    augmentation_factor: float = 10.0
    prior_drop: float = 0.5
    temperature: float = 0.2
    initial_drop: float = 0.1
    granularity: str = "group"
    ungated_l2: bool = True
    fixed_drop: float | None = None
    label_smoothing: float = 0.0
    branch_noise: bool = False

    def __post_init__(self) -> None:
        _check(
            self.l2 is None or self.l2 >= 0,
            f"objective.l2 is {self.l2}, it should be at least 0",
            "leave it out for 1e-4 * N",
        )
        _check(
            self.num_examples is None or self.num_examples > 0,
            f"objective.num_examples is {self.num_examples}, it should be above 0",
            "leave it out for the number of training images",
        )
        _check(
            self.augmentation_factor > 0,
            f"objective.augmentation_factor is {self.augmentation_factor}, it should be above 0",
            "objective.augmentation_factor=1",
        )
        for name in ("prior_drop", "initial_drop"):
            value = getattr(self, name)
            _check(
                0 < value < 1, f"objective.{name} is {value}, it should lie between 0 and 1", f"objective.{name}=0.5"
            )
        _check(
            self.temperature > 0,
            f"objective.temperature is {self.temperature}, it should be above 0",
            "--temperature 0.2",
        )
        _check(
            self.granularity in ("group", "channel"),
            f"objective.granularity is {self.granularity!r}, it should be group or channel",
            "--granularity group",
        )
        _check(
            self.fixed_drop is None or 0 <= self.fixed_drop < 1,
            f"objective.fixed_drop is {self.fixed_drop}, it should be at least 0 and below 1",
            "--fixed-drop 0.4",
        )
        _check(
            0 <= self.label_smoothing < 1,
            f"objective.label_smoothing is {self.label_smoothing}, it should be at least 0 and below 1",
            "objective.label_smoothing=0",
        )


@dataclass(frozen=True)
class Optimizer:
    """SGD with Nesterov momentum for the weights; the gates have an optimiser of their own.

    Args:
        lr: peak rate of the weights.
        momentum: of the weights (and of the gates under sgd).
        nesterov: whether the momentum is Nesterov's.
        clip: largest global gradient norm of the weights; 0 switches it off.
        gate_optimizer: "adam" (does not depend on the gradient's scale) or "sgd" (as published: the weights' rate).
            Under adam, and with a budget, drop logits stay within +-6 (p within 0.0025 .. 0.9975).
        gate_lr: rate of the gates; None means 0.1 for adam and `lr` for sgd.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    clip: float = 5.0
    gate_optimizer: str = "adam"
    gate_lr: float | None = None

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"optimizer.lr is {self.lr}, it should be above 0", "--lr 0.1")
        _check(
            0 <= self.momentum < 1,
            f"optimizer.momentum is {self.momentum}, it should lie in [0, 1)",
            "optimizer.momentum=0.9",
        )
        _check(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov needs a momentum above 0",
            "optimizer.momentum=0.9, or optimizer.nesterov=false",
        )
        _check(self.clip >= 0, f"optimizer.clip is {self.clip}, it should be at least 0", "optimizer.clip=5")
        _check(
            self.gate_optimizer in ("adam", "sgd"),
            f"optimizer.gate_optimizer is {self.gate_optimizer!r}, it should be adam or sgd",
            "--gate-optimizer adam",
        )
        _check(
            self.gate_lr is None or self.gate_lr > 0,
            f"optimizer.gate_lr is {self.gate_lr}, it should be above 0",
            "--gate-lr 0.1",
        )

    def resolved_gate_lr(self) -> float:
        """The gates' rate."""
        if self.gate_lr is not None:
            return self.gate_lr
        return 0.1 if self.gate_optimizer == "adam" else self.lr


@dataclass(frozen=True)
class Schedule:
    """Learning rates over the epochs.

    Args:
        name: "cosine" (to 0, per step) or "step" (times gamma at each milestone).
        epochs: passes over the training images.
        warmup_epochs: epochs of linear warm-up.
        milestones: epochs at which a step schedule drops.
        gamma: factor of each drop.
    """

    name: str = "cosine"
    epochs: int = 40
    warmup_epochs: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check(
            self.name in ("cosine", "step"),
            f"schedule.name is {self.name!r}, it should be cosine or step",
            "schedule.name=cosine",
        )
        _check(self.epochs >= 1, f"schedule.epochs is {self.epochs}, it should be at least 1", "--epochs 40")
        _check(
            self.warmup_epochs >= 0,
            f"schedule.warmup_epochs is {self.warmup_epochs}, it should be at least 0",
            "schedule.warmup_epochs=1",
        )
        _check(0 < self.gamma <= 1, f"schedule.gamma is {self.gamma}, it should lie in (0, 1]", "schedule.gamma=0.1")
        _check(
            all(epoch >= 1 for epoch in self.milestones),
            f"schedule.milestones are {list(self.milestones)}, they should be at least 1",
            "schedule.milestones=[30,60]",
        )


@dataclass(frozen=True)
class Budget:
    """The size that training holds the expected network at.

    Args:
        target_params: "0.5x" of the supernet, or a number such as "12M"; None leaves the size to the priors.
        start: share of training before the target starts to fall from the initial expectation.
        reached: share of training by which it has reached the target.
    """

    target_params: str | None = None
    start: float = 0.05
    reached: float = 0.5

    def __post_init__(self) -> None:
        if self.target_params is not None:
            parse_count(self.target_params, "budget.target_params (--target-params)")
        _check(
            0 <= self.start <= self.reached <= 1,
            f"budget.start is {self.start} and budget.reached {self.reached}, "
            "they should satisfy 0 <= start <= reached <= 1",
            "budget.start=0.05 and budget.reached=0.5",
        )


@dataclass(frozen=True)
class Data:
    """The images.

    Args:
        name: digits, folder:DIR, torch/NAME; None takes what the command line or the environment says.
        dir: where torchvision sets lie; None means ./data.
        batch_size: images a step.
        cutout: side of a square that is blanked in each training image, in pixels; 0 for none (sets in memory).
        selection: share of the training images kept for selection (above 1: their number).
        limit_train: use only so many training images, cut after the selection split.
    """

    name: str | None = None
    dir: str | None = None
    batch_size: int = 128
    cutout: int = 0
    selection: float = 0.1
    limit_train: int | None = None

    def __post_init__(self) -> None:
        _check(
            self.batch_size >= 2, f"data.batch_size is {self.batch_size}, it should be at least 2", "--batch-size 128"
        )
        _check(self.cutout >= 0, f"data.cutout is {self.cutout}, it should be at least 0", "--set data.cutout=0")
        _check(self.selection > 0, f"data.selection is {self.selection}, it should be above 0", "--selection 0.1")
        _check(
            self.limit_train is None or self.limit_train >= 1,
            f"data.limit_train is {self.limit_train}, it should be at least 1",
            "--limit-train 10000",
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
    adapted: Adapted = field(default_factory=Adapted)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            not (self.objective.fixed_drop is not None and self.budget.target_params is not None),
            "--fixed-drop and --target-params exclude each other: a constant rate cannot be moved to a target",
            "leave one of them out",
        )

    def resolved_num_examples(self, num_train: int) -> float:
        """N of the objective."""
        return self.objective.num_examples or num_train * self.objective.augmentation_factor

    def resolved_l2(self, num_train: int) -> float:
        """l2 of the objective."""
        if self.objective.l2 is not None:
            return self.objective.l2
        return L2_PER_EXAMPLE * self.resolved_num_examples(num_train)
