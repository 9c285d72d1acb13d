"""`pgnas export`: the winner as a small network that anybody can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands._options import RunOption
from pgnas_cli.commands.train import DataDirOption, WorkersOption
from pgnas_cli.console import console, human
from pgnas_cli.run import RunDirectory


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder; default export/ in the run.")
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="ID", help="Another candidate than the winner: the beginning of its id."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="SIZE", help="The best-ranked candidate of at most 10M parameters, or 0.5x."),
    ] = None,
    layout: Annotated[
        str, typer.Option("--layout", metavar="gather|dense", help="Gather kept inputs, or keep zero columns.")
    ] = "gather",
    data_dir: DataDirOption = None,
    workers: WorkersOption = None,
    run: RunOption = None,
) -> None:
    """Write the winner, physically small, with the proof that it computes what was ranked."""
    found = RunDirectory.open(run)
    options = {"candidate": candidate, "at": at, "layout": layout, "data_dir": data_dir, "workers": workers}
    record = write(found, output=output, **options)
    folder = output or found.export_path
    console.result({"run": str(found.path), "folder": str(folder), **record}, lambda: render(folder, record))
    named = f" {folder}" if output is not None else f" --run {run}" if run is not None else ""
    console.next_command(f"pgnas verify{named}")


def write(found: RunDirectory, **options: Any) -> dict[str, Any]:
    """Export after the checks that need no torch."""
    found.require("train")
    found.require("sample")
    found.require("rank")
    from pgnas_cli.export.export import export as export_run

    return export_run(found, **options)


def chosen(record: dict[str, Any]) -> str:
    """How the candidate was chosen, in half a line."""
    if record["chosen_by"] == "at":
        return f"the best-ranked one of at most {record['max_params']:,} parameters"
    return "the winner" if record["chosen_by"] == "winner" else "chosen by its id"


def render(folder: Path, record: dict[str, Any]) -> None:
    """What was written."""
    rows = [[file.name, f"{human(file.stat().st_size)}B"] for file in sorted(folder.iterdir())]
    console.table(
        f"{folder}: candidate {record['candidate']} ({chosen(record)})",
        ["file", "size"],
        rows,
        justify=["left", "right"],
    )
    console.line(
        f"{record['params']:,} parameters ({record['sizes']['masked']:,} masked, {record['sizes']['dense']:,} dense), "
        f"{record['macs']:,} MACs; "
        f"masked = compact to {record['masked_difference']:.1e} (relative)"
    )
    if record["test_accuracy"] is None:
        console.line("not evaluated on the test split: ranking does that for the winner alone")
