"""`pgnas rank`: candidates on the selection split, the winner on the test split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands import _train_options as options
from pgnas_cli.commands._options import ForceOption, RunOption
from pgnas_cli.commands.train import DataDirOption, DeviceOption, GpusOption, WorkersOption
from pgnas_cli.console import console, human, percent, seconds
from pgnas_cli.run import RunDirectory, read_jsonl

SHOWN = 5

RACE = "Racing"


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
        int, typer.Option("--seed", help="Of the order in which a race draws the images.", rich_help_panel=RACE)
    ] = 0,
    recalibrate: Annotated[
        int,
        typer.Option(
            "--recalibrate", metavar="N", help="Recalibrate BatchNorm on N training images a candidate; 0 is off."
        ),
    ] = 0,
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
    """Rank with a progress bar."""
    found.require("train")
    found.require("sample")
    from pgnas_cli.ranking.rank import RankProgress
    from pgnas_cli.ranking.rank import rank as rank_run

    with console.progress("rank", 1.0, unit="of the images") as bar:

        def report(progress: RankProgress) -> None:
            metrics: dict[str, float | str] = {"racing": str(progress.racing)}
            if progress.leader:
                metrics |= {"leader": progress.leader, "accuracy": percent(progress.accuracy)}
            bar.update(completed=round(progress.done / progress.total, 3), metrics=metrics)

        return rank_run(found, report=report, **options)


def interval(proportion: dict[str, Any]) -> str:
    """A share with its interval, in percent."""
    return percent(proportion["value"], proportion["low"], proportion["high"])


def render(folder: Path, ranking: dict[str, Any]) -> None:
    """The head of the leaderboard, and what the winner scores."""
    rows = [
        [row["rank"], row["id"], percent(row["accuracy"]), f"{row['n']:,}",
         None if row["log_likelihood"] is None else f"{row['log_likelihood']:.4f}",
         human(row["params"]), human(row["macs"])]
        for row in read_jsonl(folder / "leaderboard.jsonl")[:SHOWN]
    ]  # fmt: skip
    where = f"{ranking['processes']} x {ranking['device']}" if ranking["processes"] > 1 else ranking["device"]
    cost = f"{ranking['images']:,} images, {seconds(ranking['seconds'])} on {where}"
    console.table(
        f"{ranking['candidates']} candidates, {cost}",
        ["rank", "candidate", "selection accuracy", "images", "log-likelihood", "parameters", "MACs"],
        rows,
        justify=["right", "left", "right", "right", "right", "right", "right"],
    )
    if ranking["method"] == "race":
        console.line(_race(ranking))
    spread = ranking["distribution"]
    estimated = ", estimated" if ranking["method"] == "race" else ""
    console.line(f"all candidates{estimated}: {percent(spread['mean'])} +- {100 * spread['std']:.2f} "
                 f"(standard deviation), {percent(spread['min'])} to {percent(spread['max'])}")  # fmt: skip
    effect = ranking["recalibration_effect"]
    if effect is not None:
        console.line(
            f"recalibration on {ranking['recalibrate']} images: {100 * effect['mean']:+.2f} points of accuracy "
            f"(standard deviation {100 * effect['std']:.2f}, {effect['candidates']} candidates)"
        )
    console.line(f"winner {ranking['winner']}: selection {interval(ranking['selection_accuracy'])}, "
                 f"test {interval(ranking['test_accuracy'])}, n = {ranking['test_accuracy']['n']}")  # fmt: skip


def _race(ranking: dict[str, Any]) -> str:
    """What a race cost, and what it certifies."""
    share = ranking["images"] / ranking["images_exhaustive"]
    return (
        f"race: {100 * share:.1f} % of the images of an exhaustive ranking; no candidate is more than "
        f"{100 * ranking['margin']:.2f} points above the winner on the selection split "
        f"({100 * ranking['confidence']:g} % confidence)"
    )
