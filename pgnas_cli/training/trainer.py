"""What a training does in an epoch: steps, schedules, the accuracy of the most probable masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgnas_cli import restore
from pgnas_cli.errors import PgnasError
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.budget import ParameterBudget, clamp_logits, resolve_target
from pgnas_cli.training.checkpoint import Checkpoint, cut_log, read_weights, save_checkpoint
from pgnas_cli.training.objective import Objective, evaluate
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.seeds import seed_everything
from pgnas_cli.training.setup import Prepared

EVAL_BATCH = 512
BUDGET_INTERVAL = 4
"""Steps between two corrections of the expected size, which the last step always ends with."""


@dataclass(frozen=True)
class TrainProgress:
    """What training reports after a step.

    Args:
        epoch, epochs: epochs done and planned.
        step, steps: optimiser steps done and planned.
        metrics: label -> value, for a progress bar.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, float | str]


Report = Callable[[TrainProgress], None]
Notice = Callable[[str], None]


def ignore(_: object) -> None:
    """The progress callback of a caller who wants none."""


class Trainer:
    """One training: its state, and what it does in an epoch."""

    def __init__(self, run: RunDirectory, prepared: Prepared, device: torch.device) -> None:
        self.run, self.data, self.recipe, self.device = run, prepared.data, prepared.recipe, device
        self.net = prepared.net.to(device)
        self.steps_per_epoch = self.data.num_train_batches(self.recipe.data.batch_size)
        self.objective = Objective(self.recipe, self.data.num_train)
        self.optimizers = Optimizers(self.net, self.recipe, self.steps_per_epoch)
        target = self.recipe.budget.target_params
        self.budget = None
        if target is not None and self.optimizers.learned:
            wanted = resolve_target(target, self.net.kept_cost().params)
            self.budget = ParameterBudget(
                self.net, wanted, start=self.recipe.budget.start, reached=self.recipe.budget.reached
            )
        self._seen_expected: float | None = None
        self.epoch = self.step = 0
        self.seconds = 0.0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.recipe.schedule.epochs

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after a checkpoint; the logs are cut back to it."""
        restore.load_weights(self.net, read_weights(checkpoint), str(checkpoint.weights_path))
        state = checkpoint.state()
        self.optimizers.load_state(state["optimizers"])
        if self.budget is not None:
            self.budget.load_state(state["budget"])
        self.epoch, self.step, self.seconds = checkpoint.epoch, checkpoint.step, float(state["seconds"])
        for name in ("log.jsonl", "posterior.jsonl"):
            cut_log(self.run.train_path / name, self.epoch)

    def save(self) -> Checkpoint:
        """Checkpoint the state between two epochs."""
        budget = self.budget.state() if self.budget is not None else None
        state = {"optimizers": self.optimizers.state(), "budget": budget, "seconds": self.seconds}
        return save_checkpoint(self.run, self.net, state, epoch=self.epoch, step=self.step)

    def train_epoch(self, report: Report) -> dict[str, Any]:
        """One pass over the training images; what log.jsonl will hold of it."""
        seed_everything(self.recipe.seed, self.epoch)
        started = time.perf_counter()
        self.net.train()
        sums: dict[str, float] = {}
        images = correct = 0
        for batch, labels in self.data.train_batches(self.epoch, self.recipe.data.batch_size, self.device):
            losses, right = self._train_step(batch, labels)
            images += len(labels)
            correct += right
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * len(labels)
            rate = images / (time.perf_counter() - started)
            shown: dict[str, float | str] = {"loss": losses["loss"], "ce": losses["cross_entropy"], "kl": losses["kl"]}
            shown["E[params]"] = self._expected()
            report(
                TrainProgress(
                    self.epoch, self.recipe.schedule.epochs, self.step, self.steps, {**shown, "images/s": rate}
                )
            )
        floats = (tensor for tensor in self.net.state_dict().values() if tensor.is_floating_point())
        if not all(bool(tensor.isfinite().all()) for tensor in floats):
            raise self._diverged(f"the weights are not finite after step {self.step}")
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        self.epoch += 1
        means = {name: total / images for name, total in sums.items()}
        return {"epoch": self.epoch, "step": self.step, **means, "train_accuracy": correct / images,
                "lr": self.optimizers.lr, "images_per_second": images / elapsed, "seconds": elapsed}  # fmt: skip

    def _train_step(self, images: Tensor, labels: Tensor) -> tuple[dict[str, float], int]:
        if self.recipe.objective.drop_path:
            self.net.set_drop_path(self.recipe.objective.drop_path * (self.step + 1) / self.steps)
        self.optimizers.zero_grad()
        logits = self.net(images)
        losses = self.objective(self.net, logits, labels)
        values = losses.values()
        if not np.isfinite(values["loss"]):
            terms = f"cross-entropy {values['cross_entropy']:g}, KL {values['kl']:g}"
            raise self._diverged(f"the loss is {values['loss']} at step {self.step} ({terms})")
        torch.autograd.backward(losses.total)
        self.optimizers.step(self.step)
        self.step += 1
        if self.optimizers.learned and (self.budget is not None or self.recipe.optimizer.gate_optimizer == "adam"):
            clamp_logits(self.net.gate_parameters())
        if self.budget is not None and (self.step % BUDGET_INTERVAL == 0 or self.step == self.steps):
            travelled = BUDGET_INTERVAL * self.optimizers.gate_lr
            self.budget.correct(self.step / self.steps, self.optimizers.gate_metric, travelled=travelled)
        return values, int((logits.detach().argmax(1) == labels).sum())

    def _expected(self) -> float:
        """E[parameters], computed anew every few steps where no budget computes it anyway."""
        if self.budget is not None:
            return self.budget.expected
        if self._seen_expected is None or self.step % BUDGET_INTERVAL == 0:
            with torch.no_grad():
                self._seen_expected = float(self.net.cost().expected_params)
        return self._seen_expected

    def _diverged(self, what: str) -> PgnasError:
        """The error of a training that cannot go on; checkpoints written before it are good and stay."""
        lower = f"pgnas train --force --lr {self.recipe.optimizer.lr / 10:g} starts again with a lower rate"
        return PgnasError(what, lower)

    def assess(self) -> dict[str, Any]:
        """State of the posterior, and accuracy of the most probable masks on the selection split."""
        self.net.eval()
        mode = self.net.mode()
        accuracy = None
        if self.net.assess(mode.masks).usable:
            with self.net.masked(mode):
                accuracy = evaluate(self.net, self.data.eval_batches("selection", EVAL_BATCH, self.device)).accuracy
        with torch.no_grad():
            cost = self.net.cost()
        p = np.concatenate([layer.per_channel() for layer in self.net.posterior().values()])
        budget = {} if self.budget is None else {
            "target_params": self.budget.target_at(self.step / self.steps), "multiplier": self.budget.multiplier
        }  # fmt: skip
        return {
            "selection_accuracy": accuracy,
            "mode_params": mode.params,
            "expected_params": float(cost.expected_params),
            "expected_macs": float(cost.expected_macs),
            **budget,
            "p": {"mean": float(p.mean()), "min": float(p.min()), "max": float(p.max()),
                  "above_0.95": float((p > 0.95).mean())},
        }  # fmt: skip

    def posterior_row(self) -> dict[str, Any]:
        """p of every group, for posterior.jsonl."""
        p = {name: [round(float(v), 6) for v in layer.drop_prob] for name, layer in self.net.posterior().items()}
        return {"epoch": self.epoch, "p": p}
