"""The loss of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Objective:
    """The loss (Eq. 11-16).

    Args:
        l2: squared length scale of the weight prior; None means 1e-4 * N.
        num_examples: N; None means the number of training images times augmentation_factor.
        augmentation_factor: how many images an augmented image counts for (10 in the published CIFAR runs).
        prior_drop: u0 of the architecture prior Bern(u0).
        temperature: tau of the relaxation.
        noise: "example" (each example draws its own masks) or "batch" (all examples of a step share them).
        initial_drop: p at the start.
        granularity: "group" (one p per gate group) or "channel" (one p per channel).
        ungated_l2: whether ungated convolutions get l2 / N * ||W||^2 too.
        constant_l2: whether the weight prior is l2 * ||W||^2, whatever p is: an ordinary penalty in the place of
            l2 * (1 - p) * ||W||^2, the ablation of the paper's Table 2.
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
    noise: str = "example"
    initial_drop: float = 0.1
    granularity: str = "group"
    ungated_l2: bool = True
    constant_l2: bool = False
    fixed_drop: float | None = None
    label_smoothing: float = 0.0
    branch_noise: bool = False
    gate_stem: bool = False
    gate_classifier: bool = False
    auxiliary_weight: float = 0.4
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check(
            self.l2 is None or self.l2 >= 0,
            f"objective.l2 is {self.l2}, it should be at least 0",
            "leave it out for 1e-4 * N",
        )
        check(
            self.num_examples is None or self.num_examples > 0,
            f"objective.num_examples is {self.num_examples}, it should be above 0",
            "leave it out for the number of training images",
        )
        check(
            self.augmentation_factor > 0,
            f"objective.augmentation_factor is {self.augmentation_factor}, it should be above 0",
            "objective.augmentation_factor=1",
        )
        for name in ("prior_drop", "initial_drop"):
            value = getattr(self, name)
            check(0 < value < 1, f"objective.{name} is {value}, it should lie between 0 and 1", f"objective.{name}=0.5")
        check(
            self.temperature > 0,
            f"objective.temperature is {self.temperature}, it should be above 0",
            "--temperature 0.2",
        )
        check(
            self.noise in ("example", "batch"),
            f"objective.noise is {self.noise!r}, it should be example or batch",
            "--set objective.noise=example",
        )
        check(
            self.granularity in ("group", "channel"),
            f"objective.granularity is {self.granularity!r}, it should be group or channel",
            "--granularity group",
        )
        check(
            self.fixed_drop is None or 0 <= self.fixed_drop < 1,
            f"objective.fixed_drop is {self.fixed_drop}, it should be at least 0 and below 1",
            "--fixed-drop 0.4",
        )
        check(
            0 <= self.label_smoothing < 1,
            f"objective.label_smoothing is {self.label_smoothing}, it should be at least 0 and below 1",
            "objective.label_smoothing=0",
        )
        check(
            self.auxiliary_weight >= 0,
            f"objective.auxiliary_weight is {self.auxiliary_weight}, it should be at least 0",
            "objective.auxiliary_weight=0.4",
        )
        check(
            0 <= self.drop_path < 1,
            f"objective.drop_path is {self.drop_path}, it should be at least 0 and below 1",
            "objective.drop_path=0",
        )
