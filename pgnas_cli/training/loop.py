"""Training weights and posterior together, on one device or several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgnas_cli import restore
from pgnas_cli.errors import RunError, Stopped, UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override, to_toml
from pgnas_cli.run import RunDirectory, remove, replace_folder, write_bytes
from pgnas_cli.supernet.latency import LatencyTable
from pgnas_cli.supernet.latency_measure import measure_table
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed
from pgnas_cli.training.allocator import keep_freed_memory
from pgnas_cli.training.cadence import Cadence
from pgnas_cli.training.checkpoint import last_checkpoint, relative
from pgnas_cli.training.devices import choose_devices
from pgnas_cli.training.distributed import World
from pgnas_cli.training.latency_table import TABLE, read_table, write_table
from pgnas_cli.training.launch import StopSignal, launch
from pgnas_cli.training.logs import Logs, require_tensorboard
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.progress import Callbacks, Notice, Report, ignore
from pgnas_cli.training.record import training_record, unreadable
from pgnas_cli.training.setup import Prepared, open_run_data, prepare, with_data
from pgnas_cli.training.trainer import Trainer


@dataclass(frozen=True)
class Request:
    """What every process of a training is told; see `train`."""

    recipe: Recipe | None
    workers: int | None
    data_dir: Path | None
    fixed_drop: str | None
    resume: bool
    force: bool
    tensorboard: bool
    cadence: Cadence


def train(
    run: RunDirectory,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    gpus: str | None = None,
    procs: int | None = None,
    workers: int | None = None,
    data_dir: Path | None = None,
    fixed_drop: str | None = None,
    resume: bool = False,
    force: bool = False,
    tensorboard: bool = False,
    checkpoint_every: str = "10m",
    report: Report = ignore,
    notice: Notice = ignore,
    warn: Notice = ignore,
) -> dict[str, Any]:
    """Train a run's supernet: weights and drop probabilities together.

    Args:
        run: an inflated run.
        recipe: what to do; the default recipe if None. Ignored with `resume`, which goes on with the run's own.
        device, gpus, procs: see `choose_devices`; several devices have one process each.
        workers: loader processes for image files, per process.
        data_dir: where torchvision sets lie now, where that is not what the recipe says.
        fixed_drop: train the uniform baseline instead, at this rate or at the rate that gives this size ("0.5x").
        resume: go on after the last valid checkpoint.
        force: train although later stages have used the last result, or over an unfinished training.
        tensorboard: write train/tensorboard too.
        checkpoint_every: how often a checkpoint is written inside an epoch, besides the one after every epoch: a time
            ("10m", "90s") or a number of steps ("500").
        report: called after every step, from another thread where there are several devices.
        notice: called with lines that tell what happens, likewise.
        warn: called with lines about what has gone wrong, or may: gates that are not well, images that could not be
            read, damaged checkpoints; likewise.

    Returns:
        The record that run.json keeps of the stage.

    Raises:
        RunError: the stage cannot run now, or there is nothing to resume.
        DataError, UsageError: the data or the recipe do not fit.
        Stopped: SIGINT or SIGTERM arrived; a checkpoint was written.
        PgnasError: the loss is not finite.
    """
    run.begin("train", force=force or resume)
    devices = choose_devices(device, gpus, procs)
    request = Request(
        None if resume else recipe or load_recipe(None),
        workers, data_dir, fixed_drop, resume, force, tensorboard, Cadence.parse(checkpoint_every),
    )  # fmt: skip
    callbacks = Callbacks(report, notice, warn)
    if devices.procs == 1 and not distributed.is_launched():
        return _train(run, request, World(device=devices.single), callbacks)
    arguments = (run.path, request, devices.kind, devices.indices)
    found: dict[str, Any] = launch(
        _worker, arguments, procs=devices.procs, hear=lambda channel, message: getattr(callbacks, channel)(message)
    )
    return found


def _worker(
    path: Path, request: Request, kind: str, indices: tuple[int, ...], say: Callable[[str, Any], None]
) -> dict[str, Any]:
    """One process of several: joins the others, and only the master speaks and writes."""
    world = distributed.join(kind, indices)
    try:
        channels = [field.name for field in dataclasses.fields(Callbacks)] if world.is_master else []
        callbacks = Callbacks(**{channel: functools.partial(say, channel) for channel in channels})
        return _train(RunDirectory(path), request, world, callbacks)
    finally:
        distributed.leave()


def _train(run: RunDirectory, request: Request, world: World, callbacks: Callbacks) -> dict[str, Any]:
    if world.device.type == "cpu":
        keep_freed_memory()
    if request.resume:
        trainer, done = _resumed(run, request, world, callbacks)
        if done is not None:
            callbacks.notice(f"{run.path} has finished its {done['epochs']} epochs: nothing to resume")
            return done
        assert trainer is not None
    else:
        trainer = _started(run, request, world, callbacks.notice)
    logs = Logs(run, tensorboard=request.tensorboard, resume_epoch=trainer.epoch) if world.is_master else None
    row: dict[str, Any] | None = None
    checkpoint = None
    with StopSignal() as stop:
        between = _BetweenSteps(trainer, stop, request.cadence)
        while trainer.epoch < trainer.recipe.schedule.epochs:
            if trainer.commit_is_due():
                found = trainer.commit()
                callbacks.notice(f"committed to a candidate of {found.params:,} parameters after epoch {trainer.epoch}")
            row = {**trainer.train_epoch(callbacks.report, between), **trainer.assess()}
            warnings = trainer.check_health(row)
            for warning in warnings:
                callbacks.warn(f"{warning.message}; {warning.hint}")
            row["warnings"] = [warning.row() for warning in warnings]
            if logs is not None:
                logs.epoch(row, trainer.posterior_row())
            checkpoint = trainer.save()
            if trainer.epoch < trainer.recipe.schedule.epochs:
                between.after_epoch()
    if logs is not None:
        logs.close()
    row = row or trainer.assess()
    trainer.data.share_unreadable(functools.partial(distributed.union, world=world))
    if names := trainer.data.corrupt:
        callbacks.warn(unreadable(names))
    record: dict[str, Any] | None = None
    if world.is_master:
        checkpoint = checkpoint or last_checkpoint(run)[0]
        assert checkpoint is not None
        record = training_record(trainer, checkpoint, row)
        run.finish("train", record)
    record = distributed.broadcast_object(record, world)
    assert record is not None
    return record


class _BetweenSteps:
    """What happens between two steps: checkpoints when they are due, and stopping when that was asked for."""

    def __init__(self, trainer: Trainer, stop: StopSignal, cadence: Cadence) -> None:
        self.trainer, self.stop, self.clock = trainer, stop, cadence.start(trainer.step)

    def __call__(self) -> None:
        world = self.trainer.world
        due = world.is_master and self.clock.due(self.trainer.step)
        signum = self.stop.signum or 0
        if world.size > 1:
            signum, due = distributed.agree(signum, due, world)
        if signum or due:
            self.trainer.save()
            self.clock.saved(self.trainer.step)
        if signum:
            self._leave(signum)

    def after_epoch(self) -> None:
        """The same after an epoch, whose checkpoint has just been written."""
        self.clock.saved(self.trainer.step)
        signum, _ = distributed.agree(self.stop.signum or 0, False, self.trainer.world)
        if signum:
            self._leave(signum)

    def _leave(self, signum: int) -> None:
        trainer = self.trainer
        raise Stopped(
            signum,
            f"stopped after step {trainer.step} of {trainer.steps}: a checkpoint was saved",
            f"pgnas train --resume --run {trainer.run.path} goes on",
        )


def _started(run: RunDirectory, request: Request, world: World, notice: Notice) -> Trainer:
    """A training from the first step. Nothing old is removed before everything that can be refused has been checked."""
    recipe = request.recipe
    assert recipe is not None
    unfinished = last_checkpoint(run)[0] is not None and run.stage("train") is None
    if unfinished and not request.force:
        raise RunError(
            f"{run.path} holds an unfinished training",
            "pgnas train --resume goes on with it, pgnas train --force starts again",
        )
    if request.data_dir is not None:
        recipe = override(recipe, {"data.dir": str(request.data_dir)})
    recipe = with_data(recipe, notice)
    data = open_run_data(run, recipe, workers=request.workers)
    prepared = prepare(run, recipe, data, request.fixed_drop)
    for line in prepared.notices:
        notice(line)
    table = _measured(prepared, world, notice)
    trainer = Trainer(run, prepared, world, table)
    if request.tensorboard:
        require_tensorboard()
    distributed.barrier(world)
    if world.is_master:
        _begin_folder(trainer, table)
    distributed.barrier(world)
    return trainer


def _measured(prepared: Prepared, world: World, notice: Notice) -> LatencyTable | None:
    """What layers take on the master's device, where the recipe holds a latency."""
    if prepared.recipe.budget.target_latency is None:
        return None
    table: LatencyTable | None = None
    if world.is_master:
        notice("measuring the time of every layer, for --target-latency")
        net = prepared.net.to(world.device)
        table = measure_table(net, channels_last=prepared.recipe.compute.channels_last)
    return distributed.broadcast_object(table, world)


def _begin_folder(trainer: Trainer, table: LatencyTable | None) -> None:
    """Begin the folder train/ anew, with the resolved recipe and the latency table."""
    run = trainer.run
    header = "Resolved recipe of this run: what train used, and what --resume goes on with."
    text = to_toml(_resolved(trainer.recipe, trainer.objective), header)
    folder = run.path / ".train.tmp"
    remove(folder)
    try:
        write_bytes(folder / "recipe.toml", text.encode())
        if table is not None:
            write_table(folder / TABLE, table)
        run.forget("train")
        replace_folder(folder, run.train_path)
    finally:
        remove(folder)


def _resolved(recipe: Recipe, objective: Objective) -> Recipe:
    """The recipe with everything that depended on the data filled in."""
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(recipe.objective, l2=objective.l2, num_examples=objective.num_examples),
        optimizer=dataclasses.replace(recipe.optimizer, gate_lr=recipe.optimizer.resolved_gate_lr()),
    )


def _resumed(
    run: RunDirectory, request: Request, world: World, callbacks: Callbacks
) -> tuple[Trainer | None, dict[str, Any] | None]:
    """A training at its last valid checkpoint; or the record of one that is finished."""
    checkpoint, damaged = last_checkpoint(run)
    for folder in damaged:
        callbacks.warn(f"checkpoint {folder} is damaged: it is passed over")
    done = run.stage("train")
    if done is not None:
        if checkpoint is not None and relative(checkpoint.weights_path, run) == done.get("checkpoint"):
            return None, done
        run.begin("train", force=request.force, typed="train --resume")
    if not (run.train_path / "recipe.toml").is_file():
        raise RunError(f"{run.path} has no training to resume", f"pgnas train --run {run.path}")
    recipe = restore.run_recipe(run)
    data = open_run_data(run, recipe, data_dir=request.data_dir, workers=request.workers)
    prepared = prepare(run, recipe, data)
    table = None if recipe.budget.target_latency is None else read_table(run.train_path / TABLE, prepared.net)
    trainer = Trainer(run, prepared, world, table)
    if checkpoint is None:
        callbacks.notice("no checkpoint was written yet: starting from the first epoch")
    else:
        trainer.resume(checkpoint)
        at = f"after epoch {checkpoint.epoch} of {recipe.schedule.epochs}"
        callbacks.notice(f"resuming {at}" + (f", step {checkpoint.step} of {trainer.steps}" if trainer.batch else ""))
    distributed.barrier(world)
    if world.is_master:
        run.forget("train")
        for folder in damaged:
            remove(folder)
    return trainer, None


def trained_supernet(run: RunDirectory, device: torch.device | str = "cpu", *, source: str = "final") -> Supernet:
    """The trained supernet of a run, in evaluation mode.

    Args:
        run: a trained run.
        device: where it is wanted.
        source: "final", or "soft": as it was before it committed to one candidate.

    Raises:
        RunError: the run has not been trained, or its weights are damaged.
        UsageError: another source, or the run has not committed to a candidate.
    """
    record = run.require("train")
    if source not in ("final", "soft"):
        raise UsageError(f"--from {source!r}, it should be final or soft", "--from final")
    if source == "soft":
        if not record.get("soft"):
            raise UsageError(
                f"{run.path} has not committed to one candidate: its last posterior is the only one", "--from final"
            )
        record = record["soft"]
    checkpoint = record.get("checkpoint")
    if not isinstance(checkpoint, str):
        raise RunError(f"{run.manifest_path}: stages.train names no checkpoint", "pgnas train --force trains again")
    return restore.load_trained(run, checkpoint).to(device)
