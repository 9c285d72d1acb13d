"""Training weights and posterior together, on one device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pgnas_cli import restore
from pgnas_cli.errors import RunError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override, to_toml
from pgnas_cli.run import RunDirectory, append_jsonl, remove, replace_folder, write_bytes
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.checkpoint import Checkpoint, cut_log, last_checkpoint, relative
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.setup import choose_device, open_run_data, prepare, with_data
from pgnas_cli.training.trainer import Notice, Report, Trainer, ignore


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
    report: Report = ignore,
    notice: Notice = ignore,
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
