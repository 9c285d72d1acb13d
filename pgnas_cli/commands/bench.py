"""`pgnas bench`: how fast an exported network is, beside its baseline and its supernet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgnas_cli.commands.verify import TrustPluginsOption
from pgnas_cli.console import console, human

if TYPE_CHECKING:
    from pgnas_cli.export.bench import Benchmark, Timing


def bench(
    path: Annotated[
        str, typer.Argument(metavar="PATH|USER/REPO", help="Exported folder, or USER/REPO[@REVISION] of the Hub.")
    ],
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, help="Images in a batch; may be repeated.  [default: 1, 64]"),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="On the CPU; default torch's.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "cpu",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Measured turns, at most.")] = 20,
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Also through torch.compile.")] = True,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="Also in ONNX Runtime, on the CPU.")] = True,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Maps as NHWC, in eager and compiled.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the JSON document there.")
    ] = None,
    trust_plugins: TrustPluginsOption = False,
) -> None:
    """Measure latency and throughput of baseline, supernet and found network, in turns, on this machine."""
    from pgnas_cli.export.bench import BATCHES
    from pgnas_cli.export.bench import bench as measure
    from pgnas_cli.run import write_json

    result = measure(
        path, batch_sizes=batch_size or BATCHES, threads=threads, device=device, repeats=repeats, compiled=compile,
        onnx=onnx, channels_last=channels_last, trust_plugins=trust_plugins, say=console.note,
    )  # fmt: skip
    if output is not None:
        write_json(output, result.to_json())
    console.result(result.to_json(), lambda: render(result))


def render(result: Benchmark) -> None:
    """The networks, then a table for each batch size."""
    place = result.environment
    size = "x".join(map(str, place["image"]))
    versions = ", ".join(f"{name} {place[name]}" for name in ("torch", "onnxruntime") if name in place)
    layout = ", channels last" if place["channels_last"] else ""
    console.line(
        f"{place.get('gpu', place['processor'])}, {place['threads']} threads, {versions}; images {size}{layout}"
    )
    rows = [[name, human(cost["params"]), human(cost["macs"])] for name, cost in result.networks.items()]
    console.table(result.path, ["network", "parameters", "MACs"], rows, justify=["left", "right", "right"])
    for batch in dict.fromkeys(timing.batch_size for timing in result.timings):
        console.line()
        timings = [timing for timing in result.timings if timing.batch_size == batch]
        console.table(
            f"batches of {batch}, {timings[0].n} turns: median and quartiles{_heading(timings)}",
            ["runtime", "network", "ms", "quartiles", "images/s", "of baseline", "interval"],
            map(_row, timings),
            justify=["left", "left", "right", "right", "right", "right", "right"],
        )
    for what, reason in result.skipped.items():
        console.line(f"not measured: {what}: {reason}")


def _heading(timings: Sequence[Timing]) -> str:
    """What the last two columns of a table are; all its rows have as many turns, so that they reach one level."""
    from pgnas_cli.export.bench import CONFIDENCE

    levels = [timing.ratio.level for timing in timings if timing.ratio is not None]
    if not levels:
        return ""
    if levels[0] < CONFIDENCE:
        return f"; times over the baseline's, too few turns for a {100 * CONFIDENCE:.0f} % interval"
    return f"; times over the baseline's, {100 * levels[0]:.1f} % interval"


def _row(timing: Timing) -> list[str]:
    from pgnas_cli.export.bench import CONFIDENCE

    ratio = timing.ratio
    return [
        timing.runtime,
        timing.network,
        f"{timing.median_ms:.3g}",
        f"{timing.low_ms:.3g}-{timing.high_ms:.3g}",
        f"{timing.images_per_second:.4g}",
        "-" if ratio is None else f"{ratio.value:.2f}",
        "-" if ratio is None or ratio.level < CONFIDENCE else f"{ratio.low:.2f}-{ratio.high:.2f}",
    ]
