"""Training weights and posterior together, on one device."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgnas_cli import restore
from pgnas_cli.errors import PgnasError, RunError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override, to_toml
from pgnas_cli.run import RunDirectory, append_jsonl, remove, replace_folder, write_bytes
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.budget import ParameterBudget, clamp_logits, resolve_target
from pgnas_cli.training.checkpoint import (
    Checkpoint,
    cut_log,
    last_checkpoint,
    read_weights,
    relative,
    save_checkpoint,
)
from pgnas_cli.training.memory import seed_from
from pgnas_cli.training.objective import Objective, evaluate
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.setup import Prepared, choose_device, open_run_data, prepare, with_data

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


def _ignore(_: object) -> None:
    """The progress callback of a caller who wants none."""


def seed_everything(seed: int, epoch: int) -> None:
    """Noise of an epoch depends on (seed, epoch) alone, so that a resumed run draws what the first would have drawn."""
    value = seed_from(f"{seed}/noise/{epoch}")
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


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
        sums = {"loss": 0.0, "cross_entropy": 0.0, "kl": 0.0}
        images = correct = 0
        for batch, labels in self.data.train_batches(self.epoch, self.recipe.data.batch_size, self.device):
            losses, right = self._train_step(batch, labels)
            images += len(labels)
            correct += right
            for name in sums:
                sums[name] += losses[name] * len(labels)
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
        self.optimizers.zero_grad()
        logits = self.net(images)
        losses = self.objective(self.net, logits, labels)
        values = {"loss": float(losses.total.detach()), "cross_entropy": float(losses.cross_entropy.detach()),
                  "kl": float(losses.kl.detach())}  # fmt: skip
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


def train(
    run: RunDirectory,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    gpus: str | None = None,
    workers: int | None = None,
    data_dir: Path | None = None,
    fixed_drop: str | None = None,
    resume: bool = False,
    force: bool = False,
    report: Report = _ignore,
    notice: Notice = _ignore,
) -> dict[str, Any]:
    """Train a run's supernet: weights and drop probabilities together.

    Args:
        run: an inflated run.
        recipe: what to do; the default recipe if None. Ignored with `resume`, which goes on with the run's own.
        device, gpus: see `choose_device`.
        workers: loader processes for image files.
        data_dir: where torchvision sets lie now, where that is not what the recipe says.
        fixed_drop: train the uniform baseline instead, at this rate or at the rate that gives this size ("0.5x").
        resume: go on after the last valid checkpoint.
        force: train although later stages have used the last result, or over an unfinished training.
        report: called after every step.
        notice: called with lines for the user.

    Returns:
        The record that run.json keeps of the stage.

    Raises:
        RunError: the stage cannot run now, or there is nothing to resume.
        DataError, UsageError: the data or the recipe do not fit.
        PgnasError: the loss is not finite.
    """
    run.begin("train", force=force or resume)
    chosen = choose_device(device, gpus)
    trainer, done = _resumed(run, chosen, workers, data_dir, force, notice) if resume else (None, None)
    if done is not None:
        notice(f"{run.path} has finished its {done['epochs']} epochs: nothing to resume")
        return done
    if trainer is None:
        recipe = recipe or load_recipe(None)
        if data_dir is not None:
            recipe = override(recipe, {"data.dir": str(data_dir)})
        trainer = _started(run, recipe, chosen, workers, fixed_drop, force, notice)
    row: dict[str, Any] | None = None
    checkpoint = None
    while trainer.epoch < trainer.recipe.schedule.epochs:
        row = {**trainer.train_epoch(report), **trainer.assess()}
        append_jsonl(run.train_path / "log.jsonl", row)
        append_jsonl(run.train_path / "posterior.jsonl", trainer.posterior_row())
        checkpoint = trainer.save()
    checkpoint = checkpoint or last_checkpoint(run)[0]
    assert checkpoint is not None
    record = _record(trainer, checkpoint, row or trainer.assess())
    run.finish("train", record)
    return record


def _started(
    run: RunDirectory,
    recipe: Recipe,
    device: torch.device,
    workers: int | None,
    fixed_drop: str | None,
    force: bool,
    notice: Notice,
) -> Trainer:
    """A training from the first step. Nothing old is removed before everything that can be refused has been checked."""
    unfinished = last_checkpoint(run)[0] is not None and run.stage("train") is None
    if unfinished and not force:
        raise RunError(
            f"{run.path} holds an unfinished training",
            "pgnas train --resume goes on with it, pgnas train --force starts again",
        )
    recipe = with_data(recipe, notice)
    data = open_run_data(run, recipe, workers=workers)
    prepared = prepare(run, recipe, data, fixed_drop)
    for line in prepared.notices:
        notice(line)
    trainer = Trainer(run, prepared, device)
    header = "Resolved recipe of this run: what train used, and what --resume goes on with."
    text = to_toml(_resolved(prepared.recipe, trainer.objective), header)
    folder = run.path / ".train.tmp"
    remove(folder)
    try:
        write_bytes(folder / "recipe.toml", text.encode())
        run.forget("train")
        replace_folder(folder, run.train_path)
    finally:
        remove(folder)
    return trainer


def _resolved(recipe: Recipe, objective: Objective) -> Recipe:
    """The recipe with everything that depended on the data filled in."""
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(recipe.objective, l2=objective.l2, num_examples=objective.num_examples),
        optimizer=dataclasses.replace(recipe.optimizer, gate_lr=recipe.optimizer.resolved_gate_lr()),
    )


def _resumed(
    run: RunDirectory, device: torch.device, workers: int | None, data_dir: Path | None, force: bool, notice: Notice
) -> tuple[Trainer | None, dict[str, Any] | None]:
    """A training at its last valid checkpoint; or the record of one that is finished."""
    checkpoint, damaged = last_checkpoint(run)
    for folder in damaged:
        notice(f"checkpoint {folder} is damaged: it is passed over")
    done = run.stage("train")
    if done is not None:
        if checkpoint is not None and relative(checkpoint.weights_path, run) == done.get("checkpoint"):
            return None, done
        run.begin("train", force=force, typed="train --resume")
    if not (run.train_path / "recipe.toml").is_file():
        raise RunError(f"{run.path} has no training to resume", f"pgnas train --run {run.path}")
    recipe = restore.run_recipe(run)
    data = open_run_data(run, recipe, data_dir=data_dir, workers=workers)
    trainer = Trainer(run, prepare(run, recipe, data), device)
    run.forget("train")
    if checkpoint is None:
        notice("no checkpoint was written yet: starting from the first epoch")
        for name in ("log.jsonl", "posterior.jsonl"):
            cut_log(run.train_path / name, 0)
    else:
        trainer.resume(checkpoint)
        notice(f"resuming after epoch {checkpoint.epoch} of {recipe.schedule.epochs}")
    for folder in damaged:
        remove(folder)
    return trainer, None


def _record(trainer: Trainer, checkpoint: Checkpoint, last: dict[str, Any]) -> dict[str, Any]:
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
        "target_params": None if trainer.budget is None else trainer.budget.target,
        "fixed_drop": recipe.objective.fixed_drop,
        **{name: last[name] for name in ("expected_params", "expected_macs", "selection_accuracy", "p")},
        "data": trainer.data.describe(),
    }


def trained_supernet(run: RunDirectory, device: torch.device | str = "cpu") -> Supernet:
    """The trained supernet of a run, in evaluation mode.

    Raises:
        RunError: the run has not been trained, or its weights are damaged.
    """
    record = run.require("train")
    checkpoint = record.get("checkpoint")
    if not isinstance(checkpoint, str):
        raise RunError(f"{run.manifest_path}: stages.train names no checkpoint", "pgnas train --force trains again")
    return restore.load_trained(run, checkpoint).to(device)
