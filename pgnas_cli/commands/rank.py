"""`pgnas rank`: candidates on the selection split, the winner on the test split."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands import _train_options as options
from pgnas_cli.commands._options import ForceOption, RunOption
from pgnas_cli.commands._ranking import render
from pgnas_cli.commands.train import DataDirOption, DeviceOption, GpusOption, WorkersOption
from pgnas_cli.console import Bar, Grid, console, human, percent
from pgnas_cli.run import RunDirectory

if TYPE_CHECKING:
    from pgnas_cli.ranking.progress import RankProgress
    from pgnas_cli.training.progress import TrainProgress

RACE, MORE = "Racing", "Besides"


def rank(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="auto|exhaustive|race",
            help="How candidates are compared; auto races with 100 candidates and 1000 selection images or more.",
        ),
    ] = "auto",
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="P", help="Of the margin and the intervals.", rich_help_panel=RACE)
    ] = 0.95,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="POINTS",
            help="Race until the winner is within so many points of accuracy of the best candidate.",
            rich_help_panel=RACE,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SHARE",
            help="Race within this share of the images of an exhaustive ranking (0.15 if --margin is not given).",
            rich_help_panel=RACE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Of the order in which a race draws the images, and of evolution.")
    ] = 0,
    recalibrate: Annotated[
        int,
        typer.Option(
            "--recalibrate", metavar="N", help="Recalibrate BatchNorm on N training images a candidate; 0 is off."
        ),
    ] = 0,
    evolve: Annotated[
        int,
        typer.Option(
            "--evolve", metavar="N", help="Add N candidates by evolution, from the best of those that were sampled."
        ),
    ] = 0,
    front: Annotated[
        bool,
        typer.Option("--front", help="Accuracy against parameters, MACs and measured latency.", rich_help_panel=MORE),
    ] = False,
    certify: Annotated[
        int | None,
        typer.Option(
            "--certify",
            metavar="K",
            help="Train K candidates from scratch: is their order that of the ranking?",
            rich_help_panel=MORE,
        ),
    ] = None,
    certify_epochs: Annotated[
        int | None,
        typer.Option(
            "--certify-epochs", metavar="N", help="Epochs of each of them; default the recipe's.", rich_help_panel=MORE
        ),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            "--finetune",
            metavar="N",
            help="Train the winner on for N epochs, and report it beside what it was.",
            rich_help_panel=MORE,
        ),
    ] = None,
    gpus: GpusOption = None,
    device: DeviceOption = "auto",
    procs: options.Procs = None,
    data_dir: DataDirOption = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    run: RunOption = None,
) -> None:
    """Compare the candidates on the selection split; evaluate the winner once on the test split."""
    found = RunDirectory.open(run)
    follows = os.environ.get("RANK", "0") != "0"  # torchrun started this process, and it is not the master
    console.quiet = console.quiet or follows
    ranking = compare(
        found,
        method=method,
        confidence=confidence,
        margin=None if margin is None else margin / 100,
        budget=budget,
        seed=seed,
        recalibrate=recalibrate,
        evolve=evolve,
        front=front,
        certify=certify,
        certify_epochs=certify_epochs,
        finetune=finetune,
        gpus=gpus,
        device=device,
        procs=procs,
        data_dir=data_dir,
        workers=workers,
        force=force,
    )
    if follows:
        return
    console.result({"run": str(found.path), **ranking}, lambda: render(found.rank_path, ranking))
    console.next_command(f"pgnas export --run {run}" if run is not None else "pgnas export")


def compare(found: RunDirectory, **options: Any) -> dict[str, Any]:
    """Rank with progress bars: of the comparison, and of what is trained after it."""
    found.require("train")
    found.require("sample")
    from pgnas_cli.ranking.rank import rank as rank_run

    with ExitStack() as shown:
        bar: Bar | None = None
        title = ""

        def begin(name: str, total: float, unit: str) -> Bar:
            nonlocal bar, title
            if bar is None or title != name:
                shown.close()
                bar, title = shown.enter_context(console.progress(name, total, unit=unit)), name
            return bar

        def report(progress: RankProgress) -> None:
            metrics: dict[str, float | str] = {"images": f"{progress.done:,}", "racing": str(progress.racing)}
            if progress.leader:
                metrics |= {"leader": progress.leader, "accuracy": percent(progress.accuracy)}
            share = round(progress.done / progress.total, 3)
            begin("rank", 1.0, "of the images").update(completed=share, metrics=metrics, below=_leaders(progress))

        def report_training(name: str, progress: TrainProgress) -> None:
            begin(name, progress.steps, "steps").update(completed=progress.step, metrics=progress.metrics)

        return rank_run(found, report=report, report_training=report_training, **options)


def _leaders(progress: RankProgress) -> Grid:
    """Who leads."""
    rows = [
        [str(place), leader.id, percent(leader.accuracy), f"{leader.seen:,}", human(leader.params), human(leader.macs)]
        for place, leader in enumerate(progress.leaders, 1)
    ]
    return ["rank", "candidate", "accuracy", "images seen", "parameters", "MACs"], rows
