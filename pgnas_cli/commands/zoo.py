"""`pgnas zoo`: what can be inflated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pgnas_cli.commands._options import command, group
from pgnas_cli.console import console, human
from pgnas_cli.plugin import ArchitectureInfo, Inflation

zoo_app = group("zoo", "The architectures that can be inflated.")


def _list() -> None:
    """List the architectures and the plugins that bring them."""
    from pgnas_cli import registry

    rows = [_row(status.plugin.name, info) for status, info in registry.architectures() if status.plugin]
    broken = [status for status in registry.plugins() if status.plugin is None]

    def render() -> None:
        console.table(
            "",
            ["architecture", "plugin", "parameters", "MACs", "image", "classes", "published", ""],
            [
                [row["name"], row["plugin"], human(row["params"]), human(row["macs"]), row["img_size"],
                 row["num_classes"], row["published_params"] and human(row["published_params"]), row["summary"]]
                for row in rows
            ],
            justify=["left", "left", "right", "right", "right", "right", "right"],
        )  # fmt: skip

    console.result(rows, render)
    for status in broken:
        console.warn(f"plugin {status.name} of {status.distribution} is left out: {status.problem}")


def _row(plugin: str, info: ArchitectureInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "plugin": plugin,
        "params": info.params,
        "macs": info.macs,
        "published_params": info.published_params,
        "published": info.published,
        "num_classes": info.num_classes,
        "img_size": info.img_size,
        "in_chans": info.in_chans,
        "summary": info.summary,
    }


def show(
    arch: Annotated[str, typer.Argument(metavar="ARCH", help="Architecture, see `pgnas zoo list`.")],
) -> None:
    """Build an architecture without its weights and show what is gated."""
    from pgnas_cli import registry

    spec = registry.make_spec(arch, Inflation())
    status, plugin, plain = registry.find(arch)
    net = registry.build_on_meta(spec)
    cost, posterior = net.kept_cost(), {name: gate.sizes for name, gate in net.gates.items()}
    operations = net.graph.operations
    ungated = [name for name in operations if name not in posterior]
    result = {
        "name": plain,
        "plugin": plugin.name,
        "distribution": status.distribution,
        "params": int(cost.params),
        "macs": int(cost.macs),
        "num_classes": spec.num_classes,
        "in_chans": spec.in_chans,
        "img_size": spec.img_size,
        "options": sorted(plugin.options),
        "gated": {name: list(sizes) for name, sizes in posterior.items()},
        "ungated": ungated,
        "barriers": list(net.graph.barriers),
    }

    def render() -> None:
        info = plugin.info(plain)
        console.table(
            f"{plain}: {human(cost.params)} parameters, {human(cost.macs)} MACs at {spec.img_size} x {spec.img_size}, "
            f"{spec.num_classes} classes ({plugin.name}, {status.distribution})",
            ["gated layer", "channels", "gates"],
            [[name, sum(sizes), len(sizes)] for name, sizes in posterior.items()],
            justify=["left", "right", "right"],
        )
        console.line(f"not gated: {', '.join(ungated) or 'nothing'}")
        if net.graph.barriers:
            console.line(f"barriers (correct, not thinned): {', '.join(net.graph.barriers)}")
        console.line(f"inflation: {', '.join(registry.option_names(plugin)) or 'none'}")
        if info is not None and info.published:
            console.line(f"published: {human(info.published_params or 0)} parameters ({info.published})")

    console.result(result, render)
    console.next_command(f"pgnas inflate {arch}")


command(zoo_app, _list, "list")
command(zoo_app, show)
