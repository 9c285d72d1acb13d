"""Assembles the commands, in the order of the workflow.

A new command is one import and one line in `_COMMANDS`; a group of commands (`pgnas zoo`) is a typer.Typer.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pgnas_cli.commands._options import command, print_help_if_alone, with_output_options
from pgnas_cli.commands.bench import bench
from pgnas_cli.commands.doctor import doctor
from pgnas_cli.commands.export import export
from pgnas_cli.commands.inflate import inflate
from pgnas_cli.commands.quickstart import quickstart
from pgnas_cli.commands.rank import rank
from pgnas_cli.commands.report import report
from pgnas_cli.commands.sample import sample
from pgnas_cli.commands.show import show
from pgnas_cli.commands.status import status
from pgnas_cli.commands.train import train
from pgnas_cli.commands.verify import verify
from pgnas_cli.commands.zoo import zoo_app

_COMMANDS: dict[str, Any] = {
    "quickstart": quickstart,
    "inflate": inflate,
    "train": train,
    "sample": sample,
    "rank": rank,
    "report": report,
    "export": export,
    "verify": verify,
    "bench": bench,
    "status": status,
    "show": show,
    "zoo": zoo_app,
    "doctor": doctor,
}


class _InOrder(TyperGroup):
    """Lists the commands as `_COMMANDS` does; Typer alone would list groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pgnas {version('pgnas')}")
        raise typer.Exit


app = typer.Typer(name="pgnas", cls=_InOrder, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
@with_output_options
def pgnas(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Posterior-guided neural architecture search for CNNs.

    Inflate a timm backbone into a supernet, train its weights and the posterior of its gates together, sample
    candidates from the posterior, rank them, and export the winner as a compact network.
    """
    print_help_if_alone(context)


for _name, _command in _COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        command(app, _command, _name)
