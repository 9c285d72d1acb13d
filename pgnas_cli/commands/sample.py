"""`pgnas sample`: candidates from the posterior."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pgnas_cli.commands._options import ForceOption, RunOption, SeedOption
from pgnas_cli.console import console, human, seconds
from pgnas_cli.run import RunDirectory
from pgnas_cli.sizes import Relative, parse_count


def sample(
    n: Annotated[
        int | None,
        typer.Option("-n", "--number", help="How many distinct candidates; default what the run's recipe says."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="posterior|uniform", help="How they are drawn.")
    ] = "posterior",
    source: Annotated[
        str,
        typer.Option("--from", metavar="final|soft", help="The posterior at the end, or before it committed."),
    ] = "final",
    drop_prob: Annotated[
        float | None,
        typer.Option("--drop-prob", help="Rate of the uniform strategy; default the rate of --fixed-drop."),
    ] = None,
    max_params: Annotated[str | None, typer.Option("--max-params", metavar="20M|0.5x", help="Largest size.")] = None,
    max_macs: Annotated[str | None, typer.Option("--max-macs", metavar="1G|0.5x", help="Most multiply-adds.")] = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    run: RunOption = None,
) -> None:
    """Draw distinct candidates from the posterior."""
    found = RunDirectory.open(run)
    given = {"params": (max_params, "--max-params"), "macs": (max_macs, "--max-macs")}
    limits = {name: parse_count(text, option) for name, (text, option) in given.items() if text is not None}
    record = draw(found, n, limits, strategy=strategy, source=source, drop_prob=drop_prob, seed=seed, force=force)
    for warning in record["warnings"]:
        console.warn(warning)
    console.result({"run": str(found.path), **record}, lambda: render(record))
    console.next_command(f"pgnas rank --run {run}" if run is not None else "pgnas rank")


def draw(found: RunDirectory, n: int | None, limits: dict[str, int | Relative], **options: Any) -> dict[str, Any]:
    """Sample with a progress bar, `n` or what the run's recipe says; relative limits are shares of the supernet."""
    train = found.require("train")
    from pgnas_cli.ranking.candidates import sample as sample_run
    from pgnas_cli.restore import default_candidates

    n = default_candidates(found, options["source"]) if n is None else n
    most: dict[str, Any] = {
        f"max_{name}": limit.of(train[name]) if isinstance(limit, Relative) else limit for name, limit in limits.items()
    }
    with console.progress("sample", n, unit="candidates") as bar:
        return sample_run(found, n, progress=lambda count: bar.update(completed=count), **most, **options)


def render(record: dict[str, Any]) -> None:
    """The table of a finished sampling."""
    rows = [
        [name, human(record[key]["mean"]), human(record[key]["min"]), human(record[key]["max"])]
        for key, name in (("params", "parameters"), ("macs", "MACs"))
    ]
    how = f"{record['draws']} draws ({record['strategy']}, {seconds(record['seconds'])})"
    console.table(
        f"{record['candidates']} distinct candidate{'s' if record['candidates'] > 1 else ''} in {how}",
        ["", "mean", "min", "max"],
        rows,
        justify=["left", "right", "right", "right"],
    )
