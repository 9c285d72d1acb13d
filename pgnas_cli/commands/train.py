"""`pgnas train`: weights and posterior together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands._completion import complete_recipe
from pgnas_cli.commands._options import ForceOption, RunOption
from pgnas_cli.console import Bar, console, human, percent, seconds
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override, parse_setting
from pgnas_cli.run import RunDirectory

if TYPE_CHECKING:
    from pgnas_cli.training.trainer import TrainProgress

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
GpusOption = Annotated[str | None, typer.Option("--gpus", metavar="0,1", help="Indices of the GPUs to use.")]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Where torchvision sets lie.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes for image files.")]


def train(
    run: RunOption = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="digits, folder:DIR or torch/fashion_mnist, ...")
    ] = None,
    data_dir: DataDirOption = None,
    limit_train: Annotated[int | None, typer.Option("--limit-train", help="Use only so many training images.")] = None,
    selection: Annotated[
        float | None, typer.Option("--selection", help="Share of the training images kept for ranking.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Recipe by name, or a TOML file.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate of the weights.")] = None,
    target_params: Annotated[
        str | None, typer.Option("--target-params", metavar="0.5x|12M", help="Hold the expected size at this target.")
    ] = None,
    granularity: Annotated[
        str | None, typer.Option("--granularity", metavar="group|channel", help="What shares one drop probability.")
    ] = None,
    prior_drop: Annotated[float | None, typer.Option("--prior-drop", help="u0 of the architecture prior.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Temperature of the relaxation.")] = None,
    gate_optimizer: Annotated[
        str | None, typer.Option("--gate-optimizer", metavar="adam|sgd", help="Optimiser of the drop probabilities.")
    ] = None,
    gate_lr: Annotated[float | None, typer.Option("--gate-lr", help="Learning rate of the drop probabilities.")] = None,
    fixed_drop: Annotated[
        str | None,
        typer.Option(
            "--fixed-drop", metavar="P|0.5x", help="Uniform baseline: one constant rate, or the rate of a size."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of splits, order, augmentation and noise.")
    ] = None,
    gpus: GpusOption = None,
    device: DeviceOption = "auto",
    procs: Annotated[int, typer.Option("--procs", min=1, help="Processes; this version trains in one.")] = 1,
    workers: WorkersOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last checkpoint.")] = False,
    force: ForceOption = False,
) -> None:
    """Train weights and drop probabilities together."""
    if procs != 1:
        raise UsageError(f"--procs {procs}: this version trains in one process", "leave --procs out")
    found = RunDirectory.open(run)
    changes = {
        "data.name": data,
        "data.dir": None if data_dir is None else str(data_dir.absolute()),
        "data.limit_train": limit_train,
        "data.selection": selection,
        "schedule.epochs": epochs,
        "data.batch_size": batch_size,
        "optimizer.lr": lr,
        "budget.target_params": target_params,
        "objective.granularity": granularity,
        "objective.prior_drop": prior_drop,
        "objective.temperature": temperature,
        "optimizer.gate_optimizer": gate_optimizer,
        "optimizer.gate_lr": gate_lr,
        "seed": seed,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    chosen = None
    if resume:
        given.pop("data.dir", None)  # data may have moved
        if given or recipe or settings or fixed_drop:
            typed = ["--" + key.rpartition(".")[2].replace("_", "-").replace("name", "data") for key in given]
            flags = {"--recipe": recipe, "--set": settings, "--fixed-drop": fixed_drop}
            first = [*typed, *(flag for flag, value in flags.items() if value)][0]
            raise UsageError(f"--resume goes on with the run's own recipe: {first} cannot be changed", "leave it out")
    else:
        chosen = make_recipe(recipe, given, settings or [], fixed_drop)
    record = run_training(
        found,
        chosen,
        device=device,
        gpus=gpus,
        workers=workers,
        data_dir=data_dir,
        fixed_drop=fixed_drop,
        resume=resume,
        force=force,
    )
    console.result({"run": str(found.path), **record}, lambda: render(record))
    console.next_command(f"pgnas sample --run {run}" if run is not None else "pgnas sample")


def make_recipe(name: str | None, given: dict[str, Any], settings: list[str], fixed_drop: str | None = None) -> Recipe:
    """The recipe that the options describe: file or name, then --set, then the named options."""
    if fixed_drop is not None and "budget.target_params" in given:
        raise UsageError("--fixed-drop and --target-params exclude each other", "leave one of them out")
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
        return train_run(found, recipe, report=_Reporter(bar), notice=console.note, **options)


class _Reporter:
    """Moves the bar by fractions of an epoch."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def __call__(self, progress: TrainProgress) -> None:
        done = round(progress.epochs * progress.step / progress.steps, 2)
        self.bar.update(completed=done, metrics=progress.metrics)


def render(record: dict[str, Any]) -> None:
    """The table of a finished training."""
    expected, whole = record["expected_params"], record["params"]
    rows = [
        [
            "trained",
            f"{record['epochs']} epochs, {record['images']:,} images, "
            f"{seconds(record['seconds'])} on {record['device']}",
        ],
        ["supernet", f"{human(whole)} parameters"],
        ["E[parameters]", f"{human(expected)}, {expected / whole:.3f} of the supernet"],
    ]
    if record["target_params"] is not None:
        rows.append(
            [
                "target",
                f"{human(record['target_params'])}: missed by {100 * (expected / record['target_params'] - 1):+.2f} %",
            ]
        )
    p = record["p"]
    rows.append(["p of the channels", f"mean {p['mean']:.3f}, {100 * p['above_0.95']:.1f} % above 0.95"])
    accuracy = record["selection_accuracy"]
    shown = (
        "the logits of the most probable masks do not depend on the image" if accuracy is None else percent(accuracy)
    )
    rows.append(["most probable masks", f"{shown} of the selection split" if accuracy is not None else shown])
    console.table("", ["training", ""], rows)
