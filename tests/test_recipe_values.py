"""Values of a recipe: which are refused, and what follows from those that are left open."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Annealing, Budget, Commit, Compute, Data, Objective, Optimizer, Recipe, Sampling, Schedule
from pgnas_cli.recipe_file import override, to_document

# ---- values out of range ----

SECTIONS = {
    "objective": Objective, "optimizer": Optimizer, "schedule": Schedule, "budget": Budget, "data": Data,
    "annealing": Annealing, "commit": Commit, "compute": Compute, "sampling": Sampling,
}  # fmt: skip
REFUSED = {
    "budget.target_params": ("", "much", "-1x", "0"),
    "budget.target_macs": ("", "much", "-1x", "0"),
    "budget.target_latency": ("", "3", "3h", "0ms", "-1ms"),
    "annealing.warmup": (-0.1, 1.0, math.nan),
    "annealing.temperature_end": (0.0, -0.1, math.nan),
    "commit.at": (0.0, 1.0, -0.1, math.nan),
    "compute.amp": ("bf16", "", "fp16"),
    "compute.accumulate": (0, -1),
    "data.rand_augment": ("m9", "original-m9"),
    "data.random_erasing": (-0.1, 1.1, math.nan),
    "data.mixup": (-0.1, math.nan),
    "data.cutmix": (-0.1, math.nan),
    "data.mixup_prob": (-0.1, 1.1),
    "data.mixup_switch_prob": (-0.1, 1.1),
    "data.mixup_off_epoch": (-1,),
    "data.cutout": (-1,),
    "data.auto_augment": ("cifar", "v0", "original"),
    "data.color_jitter": (-0.1, math.nan),
    "data.rotation": (-1.0, 181.0, math.nan),
    "sampling.candidates": (0, -1),
    "objective.l2": (-1.0, -1e-9, math.nan),
    "objective.num_examples": (0.0, -5.0),
    "objective.augmentation_factor": (0.0, -1.0),
    "objective.prior_drop": (0.0, 1.0, -0.1, 1.1, math.nan),
    "objective.initial_drop": (0.0, 1.0, 2.0),
    "objective.temperature": (0.0, -0.2),
    "objective.noise": ("layer", ""),
    "objective.granularity": ("layer", ""),
    "objective.fixed_drop": (-0.1, 1.0),
    "objective.label_smoothing": (-0.1, 1.0),
    "objective.auxiliary_weight": (-0.1, math.nan),
    "objective.drop_path": (-0.1, 1.0),
    "optimizer.lr": (0.0, -0.1, math.nan),
    "optimizer.momentum": (-0.1, 1.0, 0.0),  # 0 does not go with Nesterov
    "optimizer.clip": (-1.0,),
    "optimizer.ema": (-0.1, 1.0, math.nan),
    "optimizer.gate_optimizer": ("lion",),
    "optimizer.gate_lr": (0.0, -0.1),
    "optimizer.gate_schedule": ("cosine", ""),
    "schedule.name": ("linear",),
    "schedule.epochs": (0, -1),
    "schedule.warmup_epochs": (-1.0,),
    "schedule.gamma": (0.0, 1.1),
    "schedule.milestones": ([0], [30, -1], [60, 30], [30, 30]),
    "schedule.restart_epochs": (0, -1),
    "schedule.restart_factor": (0, -1),
    "schedule.lr_min": (-1e-9, 0.2),  # above the rate
    "budget.start": (-0.1, 0.6),  # after `reached`
    "budget.reached": (0.01, 1.1),
    "data.batch_size": (1, 0),
    "data.selection": (0.0, -0.1),
    "data.limit_train": (0, -1),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_values_out_of_range_name_the_key_and_a_fix(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key.split(".")[0]) as error:
        override(Recipe(), {key: value})
    assert key.split(".")[1].removeprefix("nesterov") in str(error.value)
    assert error.value.hint


def test_every_number_and_word_has_a_range() -> None:
    """A new field of a recipe has to be checked, or stand here: any value of these types will do."""
    unchecked = {
        f"{name}.{field.name}"
        for name, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
        if typing.get_type_hints(kind)[field.name] is not bool
    } - set(REFUSED)
    assert unchecked == {"data.name", "data.dir"}


@pytest.mark.parametrize(
    "changes",
    [
        {"objective.l2": 0},
        {"objective.fixed_drop": 0},
        {"optimizer.nesterov": False, "optimizer.momentum": 0},
        {"optimizer.clip": 0},
        {"objective.auxiliary_weight": 0, "objective.drop_path": 0},
        {"schedule.lr_min": 0.1, "schedule.restart_epochs": 1, "schedule.restart_factor": 1},
        {"data.color_jitter": 0, "data.rotation": 180, "data.auto_augment": ""},
        {"sampling.candidates": 1},
        {"schedule.gamma": 1, "schedule.warmup_epochs": 0},
        {"budget.start": 0, "budget.reached": 0},
        {"budget.start": 1, "budget.reached": 1},
        {"data.batch_size": 2, "data.limit_train": 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes: dict) -> None:
    document = to_document(override(Recipe(), changes))
    for key, value in changes.items():
        section, name = key.split(".")
        assert document[section][name] == value


# ---- what is resolved ----


@pytest.mark.parametrize(
    ("objective", "num_examples", "l2"),
    [
        (Objective(), 12000.0, 1.2),
        (Objective(augmentation_factor=10.0), 12_000.0, 1.2),
        (Objective(num_examples=5e5), 5e5, 50.0),
        (Objective(num_examples=5e5, augmentation_factor=10.0), 5e5, 50.0),
        (Objective(l2=80.0), 12000.0, 80.0),
        (Objective(l2=0.0), 12000.0, 0.0),
    ],
)
def test_l2_and_n_follow_the_training_images(objective: Objective, num_examples: float, l2: float) -> None:
    recipe = Recipe(objective=objective)
    assert recipe.resolved_num_examples(1200) == num_examples
    assert recipe.resolved_l2(1200) == pytest.approx(l2)


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (Optimizer(), 0.1),
        (Optimizer(gate_optimizer="sgd", lr=0.3), 0.3),
        (Optimizer(gate_lr=0.5), 0.5),
        (Optimizer(gate_optimizer="sgd", gate_lr=0.5), 0.5),
    ],
)
def test_the_rate_of_the_gates(optimizer: Optimizer, rate: float) -> None:
    assert optimizer.resolved_gate_lr() == rate
