"""Which options of `pgnas train` set which keys of a recipe."""

from __future__ import annotations

KEYS = {
    "data": "data.name",
    "limit_train": "data.limit_train",
    "selection": "data.selection",
    "batch_size": "data.batch_size",
    "mixup": "data.mixup",
    "cutmix": "data.cutmix",
    "rand_augment": "data.rand_augment",
    "random_erasing": "data.random_erasing",
    "cutout": "data.cutout",
    "epochs": "schedule.epochs",
    "schedule": "schedule.name",
    "lr": "optimizer.lr",
    "clip": "optimizer.clip",
    "ema": "optimizer.ema",
    "label_smoothing": "objective.label_smoothing",
    "target_params": "budget.target_params",
    "target_macs": "budget.target_macs",
    "target_latency": "budget.target_latency",
    "granularity": "objective.granularity",
    "prior_drop": "objective.prior_drop",
    "temperature": "objective.temperature",
    "gate_optimizer": "optimizer.gate_optimizer",
    "gate_lr": "optimizer.gate_lr",
    "amp": "compute.amp",
    "channels_last": "compute.channels_last",
    "compile": "compute.compile",
    "accumulate": "compute.accumulate",
    "sync_bn": "compute.sync_bn",
    "seed": "seed",
}
"""Option (as a parameter of the command) -> key of the recipe."""


def flag(key: str) -> str:
    """The option that sets a key of the recipe."""
    return "--" + next(name for name, target in KEYS.items() if target == key).replace("_", "-")
