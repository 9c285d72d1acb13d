"""Optimisers and learning rates of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Optimizer:
    """SGD with Nesterov momentum for the weights; the gates have an optimiser of their own.

    Args:
        lr: peak rate of the weights.
        momentum: of the weights (and of the gates under sgd).
        nesterov: whether the momentum is Nesterov's.
        clip: largest global gradient norm of the weights; 0 switches it off.
        ema: decay of an exponential moving average of the weights, which is what is assessed, kept and exported (timm's
            ModelEmaV3); step t uses 1 - (1 + t)^(-2/3) where that is smaller. A commit starts the average anew. 0
            switches it off.
        gate_optimizer: "adam" (does not depend on the gradient's scale) or "sgd" (as published: the weights' rate).
            Under adam, and with a budget, drop logits stay within +-6 (p within 0.0025 .. 0.9975).
        gate_lr: rate of the gates; None means 0.1 for adam and `lr` for sgd.
        gate_schedule: "weights" (the gates' rate follows the same schedule) or "constant" until a commit; without a
            commit it follows the weights' in any case, so that the posterior comes to rest.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    clip: float = 5.0
    ema: float = 0.0
    gate_optimizer: str = "adam"
    gate_lr: float | None = None
    gate_schedule: str = "weights"

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optimizer.lr is {self.lr}, it should be above 0", "--lr 0.1")
        check(
            0 <= self.momentum < 1,
            f"optimizer.momentum is {self.momentum}, it should lie in [0, 1)",
            "optimizer.momentum=0.9",
        )
        check(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov needs a momentum above 0",
            "optimizer.momentum=0.9, or optimizer.nesterov=false",
        )
        check(self.clip >= 0, f"optimizer.clip is {self.clip}, it should be at least 0", "optimizer.clip=5")
        check(0 <= self.ema < 1, f"optimizer.ema is {self.ema}, it should be at least 0 and below 1", "--ema 0.999")
        check(
            self.gate_optimizer in ("adam", "sgd"),
            f"optimizer.gate_optimizer is {self.gate_optimizer!r}, it should be adam or sgd",
            "--gate-optimizer adam",
        )
        check(
            self.gate_schedule in ("weights", "constant"),
            f"optimizer.gate_schedule is {self.gate_schedule!r}, it should be weights or constant",
            "--set optimizer.gate_schedule=constant",
        )
        check(
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
        check(
            self.name in ("cosine", "restarts", "step"),
            f"schedule.name is {self.name!r}, it should be cosine, restarts or step",
            "schedule.name=cosine",
        )
        check(self.epochs >= 1, f"schedule.epochs is {self.epochs}, it should be at least 1", "--epochs 40")
        check(
            self.warmup_epochs >= 0,
            f"schedule.warmup_epochs is {self.warmup_epochs}, it should be at least 0",
            "schedule.warmup_epochs=1",
        )
        check(0 < self.gamma <= 1, f"schedule.gamma is {self.gamma}, it should lie in (0, 1]", "schedule.gamma=0.1")
        check(
            all(before < epoch for before, epoch in zip((0, *self.milestones), self.milestones, strict=False)),
            f"schedule.milestones are {list(self.milestones)}, they should be at least 1 and increase",
            "schedule.milestones=[30,60]",
        )
        for name, usual in (("restart_epochs", 10), ("restart_factor", 2)):
            value = getattr(self, name)
            check(value >= 1, f"schedule.{name} is {value}, it should be at least 1", f"schedule.{name}={usual}")
        check(self.lr_min >= 0, f"schedule.lr_min is {self.lr_min}, it should be at least 0", "schedule.lr_min=0")
