"""`pgnas zoo check`: the proof that masked = compact on one architecture."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands._gating import Gating
from pgnas_cli.commands._options import SeedOption
from pgnas_cli.commands.inflate import parse_kernels
from pgnas_cli.commands.zoo_show import ArchArgument
from pgnas_cli.console import console, human, seconds
from pgnas_cli.errors import PgnasError

if TYPE_CHECKING:
    from pgnas_cli.supernet.proof import Proof


def check(
    arch: ArchArgument,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many random candidates.")] = 20,
    width: Annotated[float, typer.Option("--width", help="As for `pgnas inflate`, like the next three.")] = 1.0,
    kernels: Annotated[str | None, typer.Option("--kernels", metavar="1,3,5,9", help="Parallel kernels.")] = None,
    growth: Annotated[int | None, typer.Option("--growth", min=1, help="Growth rate of a DenseNet.")] = None,
    surrogate_pools: Annotated[bool, typer.Option("--surrogate-pools", help="Gated pools of a cell.")] = False,
    img_size: Annotated[int | None, typer.Option("--img-size", help="Image size in pixels a side.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Build an architecture and prove that its candidates compute the same masked and as compact networks."""
    sizes = parse_kernels(kernels)
    from pgnas_cli import inflation
    from pgnas_cli.supernet.proof import prove

    started = time.perf_counter()
    net = inflation.inflate(
        arch,
        width=width,
        kernels=sizes,
        growth=growth,
        surrogate_pools=surrogate_pools,
        img_size=img_size,
        seed=seed,
    )
    assert net.spec is not None
    spec, cost, gating = net.spec, net.kept_cost(), Gating.of(net)
    console.note(f"{spec.arch}: {human(cost.params)} parameters, comparing candidates")
    proof = prove(net, candidates=n, seed=seed)
    result = {
        "name": spec.arch,
        "plugin": spec.plugin,
        "distribution": spec.distribution,
        "params": int(cost.params),
        "macs": int(cost.macs),
        "img_size": spec.img_size,
        **gating.to_json(),
        "comparisons": proof.comparisons,
        "worst": proof.worst,
        "tolerance": proof.tolerance,
        "passed": proof.passed,
        "seconds": time.perf_counter() - started,
    }
    console.result(result, lambda: _render(result, gating, proof))
    if not proof.passed:
        worst = max(proof.comparisons, key=lambda comparison: comparison.worst)
        raise PgnasError(
            f"{spec.arch} of {spec.distribution} fails: masked and compact logits differ by {worst.worst:.1e} "
            f"({worst.kind}), at most {proof.tolerance:g} was expected",
            f"leave layers out of gate_groups of the plugin {spec.plugin} until it passes, and report it",
        )
    options = {
        "--width": width if width != 1.0 else None,
        "--kernels": kernels,
        "--growth": growth,
        "--img-size": img_size,
    }
    typed = [f"{name} {value}" for name, value in options.items() if value is not None]
    typed += ["--surrogate-pools"] if surrogate_pools else []
    console.next_command(" ".join(["pgnas inflate", arch, *typed]))


def _render(result: dict[str, Any], gating: Gating, proof: Proof) -> None:
    total = len(gating.gated) + len(gating.ungated)
    console.line(
        f"{result['name']}: {len(gating.gated)} of {total} convolutions and linear layers are searchable, "
        f"{gating.channels:,} inputs in {gating.groups} groups"
    )
    gating.print_rest()
    console.line()
    rows = [[c.kind, c.n, f"{c.worst:.1e}", "" if c.worst <= proof.tolerance else "differs"] for c in proof.comparisons]
    columns = ["masks", "comparisons", "worst difference", ""]
    console.table("masked = compact", columns, rows, justify=["left", "right", "right"])
    verdict = "passed" if proof.passed else "failed"
    console.line(
        f"{verdict}: {proof.worst:.1e}, at most {proof.tolerance:g} counts as equal ({seconds(result['seconds'])})"
    )
