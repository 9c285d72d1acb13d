"""`pgnas inflate`: a timm name becomes a supernet in a run directory."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands._completion import complete_architecture
from pgnas_cli.commands._options import NewRunOption, SeedOption
from pgnas_cli.console import console, human, seconds
from pgnas_cli.errors import UsageError
from pgnas_cli.inflation import SYMMETRY_NOISE
from pgnas_cli.sizes import Relative, parse_count

if TYPE_CHECKING:
    from pgnas_cli.supernet.supernet import Supernet


def inflate(
    arch: Annotated[
        str,
        typer.Argument(
            metavar="ARCH", help="Architecture, see `pgnas zoo list`.", autocompletion=complete_architecture
        ),
    ],
    width: Annotated[float, typer.Option("--width", help="Inner channels times this.")] = 1.0,
    kernels: Annotated[
        str | None, typer.Option("--kernels", metavar="1,3,5,9", help="Parallel kernels in place of each 3x3.")
    ] = None,
    growth: Annotated[
        int | None, typer.Option("--growth", min=1, help="Growth rate of a DenseNet; --width multiplies it.")
    ] = None,
    surrogate_pools: Annotated[
        bool, typer.Option("--surrogate-pools", help="Gated 1x1 convolutions behind pools and identities of a cell.")
    ] = False,
    params: Annotated[
        str | None, typer.Option("--params", metavar="44M", help="Solve for the width that gives this many parameters.")
    ] = None,
    classes: Annotated[int | None, typer.Option("--classes", help="Classes; default the architecture's own.")] = None,
    in_chans: Annotated[int | None, typer.Option("--in-chans", help="Image channels.")] = None,
    img_size: Annotated[int | None, typer.Option("--img-size", help="Image size in pixels a side.")] = None,
    stem: Annotated[str, typer.Option("--stem", help="auto, small (3x3, stride 1) or backbone.")] = "auto",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's weights; an inflation computes the same logits.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="The same, from a local safetensors file.")
    ] = None,
    symmetry_noise: Annotated[
        float, typer.Option("--symmetry-noise", help="How unevenly readers share copies of a pretrained channel.")
    ] = SYMMETRY_NOISE,
    seed: SeedOption = 0,
    run: NewRunOption = None,
) -> None:
    """Inflate a backbone into a supernet, in a new run directory."""
    sizes = parse_kernels(kernels)
    wanted = None if params is None else parse_count(params, "--params")
    if isinstance(wanted, Relative):
        raise UsageError(f"--params {params!r} is relative", "write a number such as 44M, or use --width")
    from pgnas_cli import inflation, restore

    started = time.perf_counter()
    net = inflation.inflate(
        arch,
        width=width,
        kernels=sizes,
        growth=growth,
        surrogate_pools=surrogate_pools,
        stem=stem,
        params=wanted,
        num_classes=classes,
        in_chans=in_chans,
        img_size=img_size,
        seed=seed,
        pretrained=pretrained,
        weights=weights,
        symmetry_noise=symmetry_noise,
    )
    result = _result(net, wanted)
    given = {"num_classes": classes, "in_chans": in_chans, "img_size": img_size}
    options = _entered(net, given, pretrained=pretrained, weights=weights, symmetry_noise=symmetry_noise)
    created = restore.create_run(net, run, options={**options, "seconds": time.perf_counter() - started})
    result = {"run": str(created.path), **result, "seconds": time.perf_counter() - started}
    console.result(result, lambda: _render(result))
    console.next_command(_following(created.path, result["recipe"], newest=run is None))


def _entered(
    net: Supernet, given: dict[str, int | None], *, pretrained: bool, weights: Path | None, symmetry_noise: float
) -> dict[str, Any]:
    """What the manifest keeps of how the supernet was made, beside its description."""
    return {
        "explicit": [name for name, value in given.items() if value is not None],
        "pretrained": pretrained,
        "weights": None if weights is None else str(weights.absolute()),
        **({} if net.inherited is None else {"symmetry_noise": symmetry_noise, **asdict(net.inherited)}),
    }


def _following(run: Path, recipe: str | None, *, newest: bool) -> str:
    """The command that trains the run; the newest one need not be named, unless the environment names another."""
    typed = "pgnas train" if newest and "PGNAS_RUN" not in os.environ else f"pgnas train --run {run}"
    return f"{typed} --recipe {recipe}" if recipe else typed


def _result(net: Supernet, wanted: int | None) -> dict[str, Any]:
    """What the command tells of a supernet, beside the network that it is an inflation of."""
    from pgnas_cli import registry

    assert net.spec is not None
    spec, cost, posterior = net.spec, net.kept_cost(), net.posterior()
    base = registry.baseline_spec(spec)
    base_params, base_macs = registry.plain_cost(base)
    return {
        "arch": spec.arch,
        "plugin": spec.plugin,
        "width": spec.inflation.width,
        "kernels": list(spec.inflation.kernels),
        "growth": spec.inflation.growth,
        "surrogate_pools": spec.inflation.surrogate_pools,
        "num_classes": spec.num_classes,
        "in_chans": spec.in_chans,
        "img_size": spec.img_size,
        "seed": spec.seed,
        "baseline": {"arch": base.arch, "params": base_params, "macs": base_macs},
        "supernet": {"params": int(cost.params), "macs": int(cost.macs)},
        "params_asked": wanted,
        **({} if net.inherited is None else asdict(net.inherited)),
        "recipe": registry.recipe_of(spec),
        "gates": posterior.groups,
        "gated_layers": len(posterior),
        "gated_channels": posterior.channels,
        "log10_candidates": posterior.log10_candidates(),
    }


def _render(result: dict[str, Any]) -> None:
    form = f"{result['in_chans']} x {result['img_size']} x {result['img_size']}, {result['num_classes']} classes"
    inflated = f"width {result['width']:g}"
    if result["kernels"]:
        inflated += f", kernels {','.join(map(str, result['kernels']))}"
    if result["growth"] is not None:
        inflated += f", growth {result['growth']}"
    if result["surrogate_pools"]:
        inflated += ", surrogate pools"
    rows = [(f"baseline ({result['baseline']['arch']})", "baseline"), (f"supernet ({inflated})", "supernet")]
    console.table(
        f"{result['arch']} ({form})",
        ["network", "parameters", "MACs"],
        [[label, human(result[key]["params"]), human(result[key]["macs"])] for label, key in rows],
        justify=["left", "right", "right"],
    )
    console.line(
        f"{result['gates']} gates over {result['gated_channels']} channels of {result['gated_layers']} layers: "
        f"10^{result['log10_candidates']:.0f} candidates"
    )
    if "logit_difference" in result:
        console.line(f"pretrained: the logits differ from the plain network's by {result['logit_difference']:.1e}")
        if result["started_anew"]:
            console.line(f"starting anew: {', '.join(result['started_anew'])}")
    if (wanted := result["params_asked"]) is not None:
        found = result["supernet"]["params"]
        console.line(
            f"--params {human(wanted)}: width {result['width']:g} gives {found:,}, {100 * (found / wanted - 1):+.2f} %"
        )
    console.line(f"run: {result['run']}  ({seconds(result['seconds'])})")


def parse_kernels(text: str | None) -> tuple[int, ...]:
    """ "1,3,5,9" as numbers.

    Raises:
        UsageError: it is not a list of whole numbers.
    """
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--kernels {text!r} is no list of kernel sizes", "--kernels 1,3,5,9") from None
