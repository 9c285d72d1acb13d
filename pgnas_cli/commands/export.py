"""`pgnas export`: the winner as a small network that anybody can load, and on the Hub if that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands import _pushing
from pgnas_cli.commands._options import RunOption
from pgnas_cli.commands.train import DataDirOption, WorkersOption
from pgnas_cli.console import console, human
from pgnas_cli.errors import UsageError
from pgnas_cli.run import RunDirectory

_HUB = "Hugging Face Hub"
_DEPLOY = "Deployment"


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
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="License of the network, for the card: apache-2.0.")
    ] = None,
    data_dir: DataDirOption = None,
    workers: WorkersOption = None,
    run: RunOption = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout", metavar="gather|dense|auto", rich_help_panel=_DEPLOY,
            help="Gather kept inputs, keep zero columns, or measure which is faster here.",
        ),
    ] = "gather",
    fold_bn: Annotated[
        bool, typer.Option("--fold-bn", rich_help_panel=_DEPLOY, help="Fold BatchNorm into the convolutions.")
    ] = False,
    round_to: Annotated[
        int | None,
        typer.Option(
            "--round-to", metavar="N", min=2, rich_help_panel=_DEPLOY,
            help="Widths in multiples of N: another network, which is ranked again.",
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", rich_help_panel=_DEPLOY, help="Also write model.onnx.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", rich_help_panel=_DEPLOY, help="Also write model.pt2.")] = False,
    push_to_hub: Annotated[
        bool, typer.Option("--push-to-hub", rich_help_panel=_HUB, help="Upload what was written.")
    ] = False,
    repo_id: Annotated[
        str | None,
        typer.Option(
            "--repo-id", metavar="USER/NAME", rich_help_panel=_HUB, help="Default: the token's user, the run's name."
        ),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", rich_help_panel=_HUB, help="Of a new repository; default the Hub's own."),
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", rich_help_panel=_HUB, help="Branch; default main.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="NAME", rich_help_panel=_HUB, help="Tag the commit.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=_HUB, help="List what --push-to-hub would upload.")
    ] = False,
) -> None:  # fmt: skip
    """Write the winner, physically small, with the proof that it computes what was ranked."""
    what: dict[str, Any] = {
        "candidate": candidate, "at": at, "license": license, "data_dir": data_dir, "workers": workers,
        "layout": layout, "fold_bn": fold_bn, "round_to": round_to, "onnx": onnx, "pt2": pt2,
    }  # fmt: skip
    where = {"repo_id": repo_id, "branch": branch, "tag": tag}
    shown = {"private": private is True, "public": private is False}
    if not push_to_hub and (given := [name for name, value in (where | shown | {"dry_run": dry_run}).items() if value]):
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{option} was given without --push-to-hub", f"pgnas export --push-to-hub {option} ...")
    found = RunDirectory.open(run)
    for stage in ("train", "sample", "rank"):  # before torch is imported
        found.require(stage)
    folder = output or found.export_path
    options = destination = None
    before = found.stage("export")
    if push_to_hub:
        from pgnas_cli.export.hub_target import PushOptions

        again = {**what, "layout": layout if layout != "gather" else None, "output": output, "run": run}
        again |= {"push_to_hub": True, **where, **shown}
        again["run"] = run if run is not None else found.path  # by then another may be the newest
        options = PushOptions(
            found.path.resolve().name, repo_id, private, branch, tag, again=_pushing.typed(again),
            elsewhere=_pushing.typed(again | {"repo_id": "USER/NAME"}),
        )  # fmt: skip
        destination = _pushing.look(options, dry_run=dry_run)
    from pgnas_cli.export.export import export as export_run

    record = export_run(found, output=output, **what)
    document: dict[str, Any] = {"run": str(found.path), "folder": str(folder), **record}
    pushed = None
    if options is not None and dry_run:
        document["dry_run"] = _pushing.dry_document(folder, options, destination)
        if before is not None and "hub" in before:  # what was pushed is still there
            found.finish("export", {**record, "hub": before["hub"]})
    elif options is not None:
        pushed = _pushing.push(folder, options)
        _pushing.enter(found, record, pushed)
        document["hub"] = _pushing.pushed_document(pushed)

    def show() -> None:
        render(folder, record)
        if pushed is not None:
            _pushing.render_pushed(pushed)
        elif dry_run:
            _pushing.render_dry(document["dry_run"])

    console.result(document, show)
    named = f" {pushed.name}" if pushed is not None else ""
    if not named:
        named = f" {folder}" if output is not None else f" --run {run}" if run is not None else ""
    console.next_command(f"pgnas verify{named}")


def chosen(record: dict[str, Any]) -> str:
    """How the candidate was chosen, in half a line."""
    if record["chosen_by"] == "at":
        return f"the best-ranked one of at most {record['max_params']:,} parameters"
    if record["chosen_by"] == "rounded":
        return f"made from {record['rounded']['from']['id']}"
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
    if (rounded := record.get("rounded")) is not None:
        _render_rounded(rounded)
    if record["test_accuracy"] is None:
        console.line("not evaluated on the test split: ranking does that for the winner alone")


def _render_rounded(rounded: dict[str, Any]) -> None:
    """How many widths are multiples, and what that did to the accuracy."""
    before, after = rounded["widths"]["before"], rounded["widths"]["after"]
    console.line(
        f"widths that are multiples of {rounded['to']}: {before['multiples']} of {before['widths']} before, "
        f"{after['multiples']} of {after['widths']} now; {rounded['added']} inputs added, {rounded['dropped']} dropped"
    )
    shown = [
        f"{100 * each['value']:.2f} %"
        for each in (rounded["from"]["selection_accuracy"], rounded["selection_accuracy"])
    ]
    console.line(f"selection accuracy {shown[0]} before, {shown[1]} now")
