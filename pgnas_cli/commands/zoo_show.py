"""`pgnas zoo show`: what one architecture is, and what of it is gated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pgnas_cli.commands._completion import complete_architecture
from pgnas_cli.commands._gating import Gating
from pgnas_cli.console import console, human
from pgnas_cli.plugin import Inflation

ArchArgument = Annotated[
    str,
    typer.Argument(metavar="ARCH", help="Architecture, see `pgnas zoo list`.", autocompletion=complete_architecture),
]


def show(
    arch: ArchArgument,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer by name, not one row a stage.")] = False,
) -> None:
    """Build an architecture without its weights and show what is gated."""
    from pgnas_cli import registry

    spec = registry.make_spec(arch, Inflation())
    status, plugin, plain = registry.find(arch)
    net = registry.build_on_meta(spec)
    cost, gating, info = net.kept_cost(), Gating.of(net), plugin.info(plain)
    result = {
        "name": plain,
        "plugin": plugin.name,
        "distribution": status.distribution,
        "summary": info.summary if info else "",
        "params": int(cost.params),
        "macs": int(cost.macs),
        "num_classes": spec.num_classes,
        "in_chans": spec.in_chans,
        "img_size": spec.img_size,
        "published_params": info.published_params if info else None,
        "published": info.published if info else "",
        "base": info.base if info else "",
        "recipe": info.recipe if info else "",
        "options": sorted(plugin.options),
        **gating.to_json(),
    }

    def render() -> None:
        _print_head(result, registry.option_names(plugin))
        console.line()
        if layers:
            gating.print_layers()
        else:
            gating.print_stages()
        console.line(f"{gating.groups} groups over {gating.channels:,} inputs of {len(gating.gated)} layers are gated")
        gating.print_rest(all_names=layers)

    console.result(result, render)
    console.next_command(f"pgnas inflate {arch}")


def _print_head(shown: dict[str, Any], options: list[str]) -> None:
    published = shown["published_params"]
    where = f" ({shown['published']})" if shown["published"] else ""
    size = f"{shown['in_chans']} x {shown['img_size']} x {shown['img_size']}"
    lines = {
        "plugin": f"{shown['plugin']} ({shown['distribution']})",
        "parameters": f"{human(shown['params'])} at {shown['num_classes']} classes",
        "MACs": f"{human(shown['macs'])} at {size}",
        "published": "" if published is None else f"{human(published)} parameters{where}",
        "inflation of": shown["base"],
        "recipe": shown["recipe"] and f"pgnas train --recipe {shown['recipe']}",
        "options": " ".join(options) or "none",
    }
    console.line(f"{shown['name']}: {shown['summary']}" if shown["summary"] else shown["name"])
    for label, text in lines.items():
        if text:
            console.line(f"  {label:<13} {text}")
