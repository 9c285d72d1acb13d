"""`pgnas train`: weights and posterior together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands import _train_options as options
from pgnas_cli.commands._options import ForceOption, RunOption
from pgnas_cli.console import Bar, Grid, console, human, percent, seconds
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.recipe_file import load_recipe, override, parse_setting
from pgnas_cli.run import RunDirectory, read_jsonl

if TYPE_CHECKING:
    from pgnas_cli.training.progress import TrainProgress

DataDirOption = options.DataDir
DeviceOption = options.Device
GpusOption = options.Gpus
WorkersOption = options.Workers

EPOCHS = 6
"""Rows of the live table."""


def train(
    context: typer.Context,
    run: RunOption = None,
    recipe: options.RecipeName = None,
    settings: options.Settings = None,
    seed: options.Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last checkpoint.")] = False,
    force: ForceOption = False,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    limit_train: options.LimitTrain = None,
    selection: options.Selection = None,
    batch_size: options.BatchSize = None,
    mixup: options.Mixup = None,
    cutmix: options.Cutmix = None,
    rand_augment: options.RandAugment = None,
    random_erasing: options.RandomErasing = None,
    cutout: options.Cutout = None,
    workers: options.Workers = None,
    epochs: options.Epochs = None,
    lr: options.Rate = None,
    schedule: options.ScheduleName = None,
    clip: options.Clip = None,
    label_smoothing: options.LabelSmoothing = None,
    ema: options.Ema = None,
    target_params: options.TargetParams = None,
    target_macs: options.TargetMacs = None,
    target_latency: options.TargetLatency = None,
    granularity: options.Granularity = None,
    prior_drop: options.PriorDrop = None,
    temperature: options.Temperature = None,
    gate_optimizer: options.GateOptimizer = None,
    gate_lr: options.GateRate = None,
    fixed_drop: options.FixedDrop = None,
    gpus: options.Gpus = None,
    device: options.Device = "auto",
    procs: options.Procs = None,
    amp: options.Amp = None,
    channels_last: options.ChannelsLast = None,
    compile: options.Compile = None,
    accumulate: options.Accumulate = None,
    sync_bn: options.SyncBn = None,
    checkpoint_every: options.CheckpointEvery = "10m",
    tensorboard: options.TensorBoard = False,
) -> None:
    """Train weights and drop probabilities together, on one device or several."""
    found = RunDirectory.open(run)
    follows = os.environ.get("RANK", "0") != "0"  # torchrun started this process, and it is not the master
    console.quiet = console.quiet or follows
    given = options.changes(context.params)
    if resume:
        _refuse_changes(given, recipe=recipe, set=settings, fixed_drop=fixed_drop)
    chosen = None if resume else make_recipe(recipe, given, settings or [], fixed_drop)
    record = run_training(
        found,
        chosen,
        device=device,
        gpus=gpus,
        procs=procs,
        workers=workers,
        data_dir=None if data_dir is None else data_dir.absolute(),
        fixed_drop=fixed_drop,
        resume=resume,
        force=force,
        tensorboard=tensorboard,
        checkpoint_every=checkpoint_every,
    )
    if follows:
        return
    console.result({"run": str(found.path), **record}, lambda: render(record))
    console.next_command(f"pgnas sample --run {run}" if run is not None else "pgnas sample")


def _refuse_changes(given: dict[str, Any], **others: object) -> None:
    """What decides the result cannot be changed when a training goes on."""
    typed = [options.flag(key) for key in given]
    typed += ["--" + name.replace("_", "-") for name, value in others.items() if value]
    if typed:
        raise UsageError(f"--resume goes on with the run's own recipe: {typed[0]} cannot be changed", "leave it out")


def make_recipe(name: str | None, given: dict[str, Any], settings: list[str], fixed_drop: str | None = None) -> Recipe:
    """The recipe that the options describe: file or name, then --set, then the named options."""
    targets = [options.flag(key) for key in given if key.startswith("budget.target")]
    if fixed_drop is not None and targets:
        raise UsageError(f"--fixed-drop and {targets[0]} exclude each other", "leave one of them out")
    return override(load_recipe(name), {**dict(parse_setting(text) for text in settings), **given})


def run_training(found: RunDirectory, recipe: Recipe | None, **options: Any) -> dict[str, Any]:
    """Train with a progress bar; returns the record of the stage."""
    from pgnas_cli.training.loop import train as train_run

    if recipe is not None:
        total = recipe.schedule.epochs
    else:
        try:
            total = load_recipe(str(found.train_path / "recipe.toml")).schedule.epochs
        except UsageError:
            raise RunError(f"{found.path} has no training to resume", f"pgnas train --run {found.path}") from None
    with console.progress("train", total, unit="epochs") as bar:
        return train_run(
            found, recipe, report=EpochReporter(bar, found), notice=console.note, warn=console.warn, **options
        )


class EpochReporter:
    """Moves the bar by fractions of an epoch; under it stand the last epochs, as train/log.jsonl has them."""

    def __init__(self, bar: Bar, run: RunDirectory) -> None:
        self.bar, self.log = bar, run.train_path / "log.jsonl"
        self.shown = 0

    def __call__(self, progress: TrainProgress) -> None:
        done = round(progress.epochs * progress.step / progress.steps, 2)
        below = None
        if progress.epoch > self.shown and self.log.is_file():
            self.shown = progress.epoch
            below = epoch_table(read_jsonl(self.log, whole_lines=True)[-EPOCHS:])
        self.bar.update(completed=done, metrics=progress.metrics, below=below)


def epoch_table(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """The table of epochs, from rows of train/log.jsonl; with the costs that have targets, else with the parameters."""
    held = [unit for unit in UNITS if any(f"target_{unit}" in row for row in rows)]
    several = len(held) > 1
    named = [name for unit in held for name in (f"E[{unit}]", f"target {unit}" if several else "target")] or [
        "E[params]"
    ]
    keys = [key for unit in held for key in ((unit, f"expected_{unit}"), (unit, f"target_{unit}"))]
    columns = ["epoch", "loss", "selection", *named, "mean p", "images/s"]
    shown = []
    for row in rows:
        costs = [(unit, row.get(key)) for unit, key in keys or [("params", "expected_params")]]
        accuracy = row["selection_accuracy"]
        shown.append([
            str(row["epoch"]), f"{row['loss']:.4g}", "-" if accuracy is None else percent(accuracy),
            *("-" if cost is None else _cost(unit)(cost) for unit, cost in costs), f"{row['p']['mean']:.3f}",
            human(row["images_per_second"]),
        ])  # fmt: skip
    return columns, shown


def _cost(unit: str) -> Callable[[float], str]:
    """How a cost is written."""
    return _milliseconds if unit == "latency" else human


def render(record: dict[str, Any]) -> None:
    """The table of a finished training."""
    expected, whole = record["expected_params"], record["params"]
    where = f"{record['processes']} x {record['device']}" if record["processes"] > 1 else record["device"]
    rows = [
        ["trained", f"{record['epochs']} epochs, {record['images']:,} images, {seconds(record['seconds'])} on {where}"],
        ["supernet", f"{human(whole)} parameters"],
        ["E[parameters]", f"{human(expected)}, {expected / whole:.3f} of the supernet"],
    ]
    for unit in UNITS:
        if record[f"target_{unit}"] is not None:
            rows += _target(record, unit)
    p = record["p"]
    rows.append(["p of the channels", f"mean {p['mean']:.3f}, {100 * p['above_0.95']:.1f} % above 0.95"])
    accuracy = record["selection_accuracy"]
    shown = (
        "the logits of the most probable masks do not depend on the image" if accuracy is None else percent(accuracy)
    )
    rows.append(["most probable masks", f"{shown} of the selection split" if accuracy is not None else shown])
    console.table("", ["training", ""], rows)


def _target(record: dict[str, Any], unit: str) -> list[list[str]]:
    """A target and how far the posterior is from it; after a commit the candidate, and the posterior before it."""
    shown = _cost(unit)
    target, soft = record[f"target_{unit}"], record["soft"]
    name = {"params": "parameters", "macs": "MACs", "latency": "an image"}[unit]
    label = f"{shown(target)} {name}"
    if soft is None:
        return [["target", f"{label}: {_posterior(record, unit, target, shown)}"]]
    committed = f"{label}: committed to {_off(record[f'expected_{unit}'], target)}"
    return [["target", committed], ["before the commit", _posterior(soft, unit, target, shown)]]


def _posterior(found: dict[str, Any], unit: str, target: float, shown: Callable[[float], str]) -> str:
    """How far the expectation is from a target, and what candidates drawn from the posterior cost."""
    expected = f"expected {_off(found[f'expected_{unit}'], target)}"
    sampled = (found["sampled"] or {}).get(unit)
    if not sampled:
        return expected
    off = _off(sampled["mean"], target)
    return f"{expected}; {sampled['n']} sampled {off}: {shown(sampled['mean'])} +- {shown(sampled['sd'])}"


def _off(value: float, target: float) -> str:
    return f"{100 * (value / target - 1):+.2f} %"


def _milliseconds(duration: float) -> str:
    return f"{1e3 * duration:.3g} ms"
