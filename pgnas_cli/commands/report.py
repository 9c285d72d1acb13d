"""`pgnas report`: a run, or two of them, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands import _standing
from pgnas_cli.commands._options import RunOption
from pgnas_cli.console import console, human
from pgnas_cli.errors import UsageError
from pgnas_cli.run import RunDirectory


def report(
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="RUN RUN", help="Two runs on one page, instead of one run."),
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Write every figure as SVG and PNG too.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page; default report.html in the run, of two runs report-A-vs-B.html here.",
        ),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    run: RunOption = None,
) -> None:
    """Write what a run holds as one HTML page that needs no network, also while it trains."""
    if compare is not None and run is not None:
        raise UsageError("--compare names its two runs: it excludes --run", "pgnas report --compare RUN RUN")
    runs = [RunDirectory.open(run)] if compare is None else [RunDirectory.open(path) for path in compare]
    written = write(runs, output, figures=figures)
    for warning in written["warnings"]:
        console.warn(warning)
    console.result({"runs": [str(found.path) for found in runs], **written}, lambda: _render(written))
    if open and not _open(Path(written["path"])):
        console.warn(f"no browser was found to show {written['path']}")
    if compare is None:
        upcoming = _next(runs[0], named=run is not None)
        if upcoming is not None:
            console.next_command(upcoming)


def write(runs: list[RunDirectory], output: Path | None, *, figures: bool) -> dict[str, Any]:
    """Write the page of one run, or of two."""
    if len(runs) == 1:
        from pgnas_cli.report.report import report as write_report

        return write_report(runs[0], figures=figures, output=output)
    from pgnas_cli.report.compare import compare as write_comparison

    return write_comparison(runs[0], runs[1], output, figures=figures)


def _next(found: RunDirectory, *, named: bool) -> str | None:
    """The command to type next, as `pgnas status` names it."""
    begun = _standing.training(found, found.manifest()["stages"], _standing.log_rows(found))
    return _standing.following(found, begun, named=named)


def _open(path: Path) -> bool:
    import webbrowser

    return webbrowser.open(path.absolute().as_uri())


def _render(written: dict[str, Any]) -> None:
    console.line(f"{written['path']}  ({human(written['bytes'])}B)")
    if written["figures"]:
        console.line(f"{len(written['figures'])} files in {Path(written['figures'][0]).parent}")
