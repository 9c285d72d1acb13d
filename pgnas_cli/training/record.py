"""What run.json keeps of a finished training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.training.checkpoint import Checkpoint, relative
from pgnas_cli.training.cost_target import sampled_cost
from pgnas_cli.training.trainer import Trainer


def training_record(trainer: Trainer, checkpoint: Checkpoint, last: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the stage.

    Where there were targets: them, the expectations, and under "sampled" what candidates drawn from the posterior cost.
    After a commit these are those of the one candidate, and "soft" holds the same of the posterior just before.

    Args:
        trainer: after its last epoch.
        checkpoint: its last.
        last: the row of that epoch, for log.jsonl.
    """
    recipe = trainer.recipe
    kept = trainer.net.kept_cost()
    return {
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "images": trainer.epoch * min(trainer.steps_per_epoch * recipe.data.batch_size, trainer.data.num_train),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "checkpoint": relative(checkpoint.weights_path, trainer.run),
        "params": int(kept.params),
        "macs": int(kept.macs),
        "processes": trainer.world.size,
        **_targets(trainer),
        "sampled": sampled_cost(trainer.net, trainer.table, seed=recipe.seed) if trainer.goals else None,
        "soft": trainer.soft,
        "fixed_drop": recipe.objective.fixed_drop,
        **{name: last[name] for name in ("expected_params", "expected_macs", "selection_accuracy", "p")},
        "data": trainer.data.describe(),
    }


def _targets(trainer: Trainer) -> dict[str, float | None]:
    """The three costs that may have had a target, and the expectation of one that is no plain count."""
    found: dict[str, float | None] = {f"target_{unit}": None for unit in UNITS}
    for goal in trainer.goals:
        found[f"target_{goal.unit}"] = goal.value
        if goal.unit == "latency":
            with torch.no_grad():
                found["expected_latency"] = float(goal.expectation(trainer.net))
    return found


def unreadable(names: Mapping[str, Sequence[str]]) -> str:
    """The line about images that could not be read, by split; there is at least one."""
    total, first = sum(map(len, names.values())), next(iter(names.values()))[0]
    what = f"{total} image{'s' if total > 1 else ''} could not be read, such as {first}"
    return f"{what}: others are shown in their places in training, and assessment leaves them out"
