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
        str,
        typer.Option("--strategy", metavar="posterior|uniform|tilted|stratified", help="How they are drawn."),
    ] = "posterior",
    source: Annotated[
        str,
        typer.Option("--from", metavar="final|soft", help="The posterior at the end, or before it committed."),
    ] = "final",
    drop_prob: Annotated[
        float | None,
        typer.Option("--drop-prob", help="Rate of the uniform strategy; default the rate of --fixed-drop."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option("--params", metavar="20M|0.5x|LOW..HIGH", help="Mean size of tilted draws, range of stratified."),
    ] = None,
    macs: Annotated[
        str | None, typer.Option("--macs", metavar="1G|0.5x|LOW..HIGH", help="The same in multiply-adds.")
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
    wanted = {
        name: parse_range(text, f"--{name}") for name, text in (("params", params), ("macs", macs)) if text is not None
    }
    record = draw(
        found, n, limits, wanted, strategy=strategy, source=source, drop_prob=drop_prob, seed=seed, force=force
    )
    for warning in record["warnings"]:
        console.warn(warning)
    console.result({"run": str(found.path), **record}, lambda: render(record))
    # away from the size that was trained for, BatchNorm's statistics do not fit
    ranking = "pgnas rank --recalibrate 512" if tilts(record) else "pgnas rank"
    console.next_command(f"{ranking} --run {run}" if run is not None else ranking)


def parse_range(text: str, option: str) -> tuple[int | Relative, ...]:
    """One size, or the two of LOW..HIGH."""
    return tuple(parse_count(part, option) for part in text.split("..", 1))


def draw(
    found: RunDirectory,
    n: int | None,
    limits: dict[str, int | Relative],
    wanted: dict[str, tuple[int | Relative, ...]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Sample with a progress bar, `n` or what the run's recipe says; relative sizes are shares of the supernet."""
    train = found.require("train")
    from pgnas_cli.ranking.candidates import sample as sample_run
    from pgnas_cli.restore import default_candidates

    n = default_candidates(found, options["source"]) if n is None else n

    def absolute(size: int | Relative, name: str) -> float:
        return size.of(train[name]) if isinstance(size, Relative) else size

    most: dict[str, Any] = {f"max_{name}": absolute(limit, name) for name, limit in limits.items()}
    for name, sizes in (wanted or {}).items():
        ends = tuple(float(absolute(size, name)) for size in sizes)
        most[name] = ends if len(ends) == 2 else ends[0]
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
    diversity = record["diversity"]
    console.line(
        f"two of them differ in {diversity['hamming']:.1f} channels on average, "
        f"{100 * diversity['hamming_share']:.1f} % of those with gates"
    )
    for facts in tilts(record):
        console.line(
            f"tilted to {human(facts['target'])} {facts['unit']}: "
            + ("no candidate" if facts["sampled"] is None else
               f"mean {human(facts['sampled'])} of {facts['candidates']} ({100 * facts['relative_error']:+.2f} %)")
        )  # fmt: skip


def tilts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What the record says of each tilt that was drawn at."""
    facts = record["strategy_facts"]
    if "strata" in facts:
        return list(facts["strata"])
    return [facts] if "lambda" in facts else []
