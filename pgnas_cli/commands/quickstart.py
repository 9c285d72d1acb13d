"""`pgnas quickstart`: the whole way once, on images that come with the package."""

from __future__ import annotations

import contextlib
import io
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands._options import NewRunOption, SeedOption
from pgnas_cli.commands._ranking import interval
from pgnas_cli.console import console, human, percent, seconds
from pgnas_cli.run import RunDirectory, read_json

ARCH = "shakeshake26_2x12d"
RECIPE = "digits"
TARGET = "0.5x"
CANDIDATES = 100


def quickstart(
    context: typer.Context,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="One epoch on a narrow network: seconds, and no accuracy.")
    ] = False,
    seed: SeedOption = 0,
    run: NewRunOption = None,
) -> None:
    """Inflate, train, sample, rank and export on the embedded digits, beside a plain and a uniform baseline."""
    started = time.perf_counter()
    typed = _Typed(context)
    found = _search(typed, tiny=tiny, seed=seed, run=run)
    expected = found.require("sample")["params"]["mean"]
    plain = _baseline(typed, found, "plain", "0", 1, tiny=tiny, seed=seed)
    uniform = _baseline(typed, found, "uniform", str(round(expected)), CANDIDATES, tiny=tiny, seed=seed)
    rows = _compare({"full supernet": plain, "uniform candidates": uniform, "found network": found})
    result = {"run": str(found.path), "seconds": time.perf_counter() - started, "networks": rows}
    console.result(result, lambda: _render(found, rows, time.perf_counter() - started))
    console.next_command(f"pgnas status --run {found.path}")


class _Typed:
    """Runs command lines exactly as they are shown."""

    def __init__(self, context: typer.Context) -> None:
        self.program = context.find_root().command

    def __call__(self, line: str, *, silent: bool = False) -> None:
        """Show `line` and run it; with `silent` its table is left out."""
        console.note(f"\n$ {line}")
        json, quiet, debug = console.json, console.quiet, console.debug
        arguments = shlex.split(line)[1:]
        hidden = io.StringIO()
        try:
            with contextlib.redirect_stdout(hidden) if silent or json else contextlib.nullcontext():
                console.configure(json=False, quiet=quiet, debug=debug, hints=False)
                with self.program.make_context("pgnas", arguments) as inner:
                    self.program.invoke(inner)
        finally:
            console.configure(json=json, quiet=quiet, debug=debug, hints=True)


def _inflate_line(tiny: bool, seed: int, run: Path | None) -> str:
    arch = "shakeshake26_2x4d" if tiny else ARCH
    named = "" if run is None else f" --run {shlex.quote(str(run))}"
    return f"pgnas inflate {arch} --in-chans 1 --img-size 8 --seed {seed}{named}"


def _train_line(size: str, tiny: bool, seed: int, run: Path) -> str:
    epochs = " --epochs 1" if tiny else ""
    return f"pgnas train --data digits --recipe {RECIPE}{epochs} {size} --seed {seed} --run {shlex.quote(str(run))}"


def _search(typed: _Typed, *, tiny: bool, seed: int, run: Path | None) -> RunDirectory:
    """The five commands of the main job."""
    typed(_inflate_line(tiny, seed, run))
    found = RunDirectory.open(run, environ={})  # the one just made, whatever $PGNAS_RUN says
    where = f"--run {shlex.quote(str(found.path))}"
    typed(_train_line(f"--target-params {TARGET}", tiny, seed, found.path))
    typed(f"pgnas sample -n {10 if tiny else CANDIDATES} --seed {seed} {where}")
    typed(f"pgnas rank {where}")
    typed(f"pgnas export {where}")
    return found


def _baseline(
    typed: _Typed, found: RunDirectory, name: str, rate: str, candidates: int, *, tiny: bool, seed: int
) -> RunDirectory:
    """The same supernet, recipe and seed at one constant drop rate, in a run of its own inside the run."""
    path = found.baseline_path(name)
    where = f"--run {shlex.quote(str(path))}"
    typed(_inflate_line(tiny, seed, path), silent=True)
    typed(_train_line(f"--fixed-drop {rate}", tiny, seed, path), silent=True)
    typed(
        f"pgnas sample -n {min(candidates, 10) if tiny else candidates} --strategy uniform --seed {seed} {where}",
        silent=True,
    )
    typed(f"pgnas rank {where}", silent=True)
    typed(f"pgnas export {where}", silent=True)
    return RunDirectory(path)


def _compare(runs: dict[str, RunDirectory]) -> list[dict[str, Any]]:
    """One row a network: size, latency and test accuracy of each run's winner."""
    import torch

    from pgnas_cli.export.reading import load_artifact, read_artifact
    from pgnas_cli.ranking.latency import measure

    networks = {name: load_artifact(run.export_path) for name, run in runs.items()}
    shape = read_artifact(next(iter(runs.values())).export_path).images.shape[1:]
    images = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    latency = measure(networks, images)
    rows = []
    for name, run in runs.items():
        ranking = read_json(run.rank_path / "ranking.json")
        rows.append(
            {
                "network": name,
                "params": ranking["params"],
                "macs": ranking["macs"],
                "latency": latency[name],
                "test_accuracy": ranking["test_accuracy"],
                "candidates": ranking["candidates"],
                "selection_distribution": ranking["distribution"],
            }
        )
    return rows


def _render(found: RunDirectory, rows: list[dict[str, Any]], duration: float) -> None:
    whole = rows[0]["params"]
    shown = [
        [row["network"], human(row["params"]), f"{row['params'] / whole:.2f}x", human(row["macs"]),
         f"{1e3 * row['latency'].median:.1f} ms ({1e3 * row['latency'].low:.1f}-{1e3 * row['latency'].high:.1f})",
         interval(row["test_accuracy"])]
        for row in rows
    ]  # fmt: skip
    latency = rows[0]["latency"]
    console.line()
    console.table(
        f"{found.path}: digits, {rows[0]['test_accuracy']['n']} test images, 95 % intervals; "
        f"latency of {latency.batch} images, median and quartiles of {latency.runs}, interleaved",
        ["network", "parameters", "", "MACs", "latency", "test accuracy"],
        shown,
        justify=["left", "right", "right", "right", "right", "right"],
    )
    for row in rows[1:]:
        spread = row["selection_distribution"]
        console.line(
            f"{row['network']}, all {row['candidates']} on the selection split: {percent(spread['mean'])} "
            f"+- {100 * spread['std']:.2f} (standard deviation)"
        )
    console.line(
        "full supernet: the same network trained without drops; uniform: trained and drawn at one constant rate"
    )
    console.line(f"done in {seconds(duration)}")
