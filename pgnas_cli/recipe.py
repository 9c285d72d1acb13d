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
        gate_stem: whether the convolutions that read the image are gated too.
        gate_classifier: whether the layers that write the logits, and those of an auxiliary head, are gated too.
        auxiliary_weight: the loss gets this times the cross-entropy of the auxiliary head, where the network has one
            (0.4 in the ENAS authors' program).
        drop_path: drop probability of a branch in the last cell at the last step; a branch at depth share d of step t
            (from 0) of T has drop_path * d * (t + 1) / T (the ENAS authors' program ends at 0.4). Only networks with
            such branches (ENAS) have it.
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
    gate_stem: bool = False
    gate_classifier: bool = False
    auxiliary_weight: float = 0.4
    drop_path: float = 0.0

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
        _check(
            self.auxiliary_weight >= 0,
            f"objective.auxiliary_weight is {self.auxiliary_weight}, it should be at least 0",
            "objective.auxiliary_weight=0.4",
        )
        _check(
            0 <= self.drop_path < 1,
            f"objective.drop_path is {self.drop_path}, it should be at least 0 and below 1",
            "objective.drop_path=0",
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

    "cosine" and "restarts" fall from lr to lr_min along

        lr_min + (lr - lr_min) / 2 * (1 + cos(pi * T_cur / T_i))

    "cosine" once, T_cur and T_i counting steps; "restarts" again and again, T_cur counting the whole epochs since the
    last restart and T_i the epochs of the cycle (Loshchilov and Hutter, SGDR, ICLR 2017, Eq. 5), so that the rate is
    constant within an epoch, as in the ENAS authors' program. The gates follow with their own rate in the place of lr
    and with lr_min scaled by the same factor.

    Args:
        name: "cosine", "restarts" or "step" (times gamma at each milestone).
        epochs: passes over the training images.
        warmup_epochs: epochs of linear warm-up; cosine and restarts begin after it, milestones count it.
        milestones: epochs at which a step schedule drops.
        gamma: factor of each drop.
        restart_epochs: epochs of the first cycle of restarts.
        restart_factor: how many times longer each cycle is than the one before it.
        lr_min: where cosine and restarts end, for the weights.
    """

    name: str = "cosine"
    epochs: int = 40
    warmup_epochs: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    restart_epochs: int = 10
    restart_factor: int = 2
    lr_min: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self.name in ("cosine", "restarts", "step"),
            f"schedule.name is {self.name!r}, it should be cosine, restarts or step",
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
            all(before < epoch for before, epoch in zip((0, *self.milestones), self.milestones, strict=False)),
            f"schedule.milestones are {list(self.milestones)}, they should be at least 1 and increase",
            "schedule.milestones=[30,60]",
        )
        for name, usual in (("restart_epochs", 10), ("restart_factor", 2)):
            value = getattr(self, name)
            _check(value >= 1, f"schedule.{name} is {value}, it should be at least 1", f"schedule.{name}={usual}")
        _check(self.lr_min >= 0, f"schedule.lr_min is {self.lr_min}, it should be at least 0", "schedule.lr_min=0")


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
class Augmentation:
    """What happens to training images besides the crop and the flip, which every set gets as it suits it.

    All draws depend on (seed, epoch, place in the epoch) only. Sets in memory are augmented in this order before they
    are cropped and flipped, image files after it; cutout comes last in both. AutoAugment and colour jitter keep grey
    images grey: what changes their saturation leaves them as they are.

    Args:
        cutout: side of a square that is blanked in each training image, in pixels; 0 for none (DeVries and Taylor,
            2017).
        auto_augment: AutoAugment's policies found on "cifar10", "imagenet" or "svhn", one of them on every image
            (Cubuk et al., CVPR 2019, as in torchvision); empty for none.
        color_jitter: s: brightness, contrast and saturation, in an order drawn for each image, are multiplied by
            factors drawn from [max(0, 1 - s), 1 + s]; 0 for none. None means 0.4 for image files above 64 pixels and
            none for all others.
        rotation: degrees: each image is turned by an angle drawn from [-rotation, rotation], bilinear, with black
            corners; 0 for none.
    """

    cutout: int = 0
    auto_augment: str = ""
    color_jitter: float | None = None
    rotation: float = 0.0

    def __post_init__(self) -> None:
        _check(self.cutout >= 0, f"data.cutout is {self.cutout}, it should be at least 0", "--set data.cutout=0")
        _check(
            self.auto_augment in ("", "cifar10", "imagenet", "svhn"),
            f"data.auto_augment is {self.auto_augment!r}, it should be cifar10, imagenet, svhn or empty",
            "--set data.auto_augment=cifar10",
        )
        _check(
            self.color_jitter is None or self.color_jitter >= 0,
            f"data.color_jitter is {self.color_jitter}, it should be at least 0",
            "--set data.color_jitter=0.4",
        )
        _check(
            0 <= self.rotation <= 180,
            f"data.rotation is {self.rotation}, it should be at least 0 and at most 180 degrees",
            "--set data.rotation=10",
        )


@dataclass(frozen=True)
class Data(Augmentation):
    """The images, and how they are augmented (see Augmentation).

    Args:
        name: digits, folder:DIR, torch/NAME; None takes what the command line or the environment says.
        dir: where torchvision sets lie; None means ./data.
        batch_size: images a step.
        selection: share of the training images kept for selection (above 1: their number).
        limit_train: use only so many training images, cut after the selection split.
    """

    name: str | None = None
    dir: str | None = None
    batch_size: int = 128
    selection: float = 0.1
    limit_train: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            self.batch_size >= 2, f"data.batch_size is {self.batch_size}, it should be at least 2", "--batch-size 128"
        )
        _check(self.selection > 0, f"data.selection is {self.selection}, it should be above 0", "--selection 0.1")
        _check(
            self.limit_train is None or self.limit_train >= 1,
            f"data.limit_train is {self.limit_train}, it should be at least 1",
            "--limit-train 10000",
        )


@dataclass(frozen=True)
class Sampling:
    """Drawing candidates.

    Args:
        candidates: how many `pgnas sample` draws where -n does not say.
    """

    candidates: int = 100

    def __post_init__(self) -> None:
        _check(
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
    sampling: Sampling = field(default_factory=Sampling)
    adapted: Adapted = field(default_factory=Adapted)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            not (self.objective.fixed_drop is not None and self.budget.target_params is not None),
            "--fixed-drop and --target-params exclude each other: a constant rate cannot be moved to a target",
            "leave one of them out",
        )
        _check(
            self.schedule.lr_min <= self.optimizer.lr,
            f"schedule.lr_min is {self.schedule.lr_min} and optimizer.lr {self.optimizer.lr}: rates fall to lr_min",
            "--set schedule.lr_min=0",
        )

    def resolved_num_examples(self, num_train: int) -> float:
        """N of the objective."""
        return self.objective.num_examples or num_train * self.objective.augmentation_factor

    def resolved_l2(self, num_train: int) -> float:
        """l2 of the objective."""
        if self.objective.l2 is not None:
            return self.objective.l2
        return L2_PER_EXAMPLE * self.resolved_num_examples(num_train)
