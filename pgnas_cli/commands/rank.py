"""`pgnas rank`: candidates on the selection split, the winner on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands._options import ForceOption, RunOption
from pgnas_cli.commands.train import DataDirOption, DeviceOption, GpusOption, WorkersOption
from pgnas_cli.console import console, human, percent, seconds
from pgnas_cli.run import RunDirectory, read_jsonl

SHOWN = 5


def rank(
    method: Annotated[
        str, typer.Option("--method", metavar="exhaustive", help="How candidates are compared.")
    ] = "exhaustive",
    recalibrate: Annotated[
        int,
        typer.Option(
            "--recalibrate", metavar="N", help="Recalibrate BatchNorm on N training images a candidate; 0 is off."
        ),
    ] = 0,
    gpus: GpusOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    run: RunOption = None,
) -> None:
    """Rank the candidates on the selection split; evaluate the winner once on the test split."""
    found = RunDirectory.open(run)
    ranking = compare(
        found,
        method=method,
        recalibrate=recalibrate,
        gpus=gpus,
        device=device,
        data_dir=data_dir,
        workers=workers,
        force=force,
    )
    console.result({"run": str(found.path), **ranking}, lambda: render(found.rank_path, ranking))
    console.next_command(f"pgnas export --run {run}" if run is not None else "pgnas export")


def compare(found: RunDirectory, **options: Any) -> dict[str, Any]:
    """Rank with a progress bar."""
    found.require("train")
    count = found.require("sample")["candidates"]
    from pgnas_cli.ranking.rank import RankProgress
    from pgnas_cli.ranking.rank import rank as rank_run

    with console.progress("rank", count, unit="candidates") as bar:

        def report(progress: RankProgress) -> None:
            bar.update(
                completed=progress.done, metrics={"leader": progress.leader, "accuracy": percent(progress.accuracy)}
            )

        return rank_run(found, report=report, **options)


def interval(proportion: dict[str, Any]) -> str:
    """A share with its interval, in percent."""
    return percent(proportion["value"], proportion["low"], proportion["high"])


def render(folder: Path, ranking: dict[str, Any]) -> None:
    """The head of the leaderboard, and what the winner scores."""
    rows = [
        [row["rank"], row["id"], percent(row["accuracy"]),
         None if row["log_likelihood"] is None else f"{row['log_likelihood']:.4f}",
         human(row["params"]), human(row["macs"])]
        for row in read_jsonl(folder / "leaderboard.jsonl")[:SHOWN]
    ]  # fmt: skip
    cost = f"{ranking['images']:,} images, {seconds(ranking['seconds'])} on {ranking['device']}"
    console.table(
        f"{ranking['candidates']} candidates, {cost}",
        ["rank", "candidate", "selection accuracy", "log-likelihood", "parameters", "MACs"],
        rows,
        justify=["right", "left", "right", "right", "right", "right"],
    )
    spread = ranking["distribution"]
    console.line(f"all candidates: {percent(spread['mean'])} +- {100 * spread['std']:.2f} (standard deviation), "
                 f"{percent(spread['min'])} to {percent(spread['max'])}")  # fmt: skip
    effect = ranking["recalibration_effect"]
    if effect is not None:
        console.line(
            f"recalibration on {ranking['recalibrate']} images: {100 * effect['mean']:+.2f} points of accuracy "
            f"(standard deviation {100 * effect['std']:.2f}, {effect['candidates']} candidates)"
        )
    console.line(f"winner {ranking['winner']}: selection {interval(ranking['selection_accuracy'])}, "
                 f"test {interval(ranking['test_accuracy'])}, n = {ranking['test_accuracy']['n']}")  # fmt: skip
