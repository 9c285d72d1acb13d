"""`pgnas zoo`: what can be inflated, and how to add to it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pgnas_cli.commands._options import command, group
from pgnas_cli.commands.zoo_check import check
from pgnas_cli.commands.zoo_list import list_architectures
from pgnas_cli.commands.zoo_show import show
from pgnas_cli.console import console

zoo_app = group("zoo", "The architectures that can be inflated.")


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin and of its architecture.")],
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="Folder to make; default ./pgnas-NAME.")
    ] = None,
) -> None:
    """Write a small distribution with a zoo plugin that works, to start from."""
    from pgnas_cli.scaffold import new_plugin

    made = new_plugin(name, directory)

    def render() -> None:
        console.line(f"{made.path}: the distribution {made.distribution} with the plugin {made.name}")
        for file in made.files:
            console.line(f"  {file}")

    console.result(made, render)
    folder = shlex.quote(str(made.path))
    console.next_command(f"pip install -e {shlex.quote(f'{made.path}[test]')}")
    console.next_command(f"pytest {folder}")
    console.next_command(f"pgnas zoo list {made.name}")
    console.next_command(f"pgnas zoo check {made.name}")
    console.next_command(f"pgnas inflate {made.name}")


command(zoo_app, list_architectures, "list")
command(zoo_app, show)
command(zoo_app, check)
command(zoo_app, new)
