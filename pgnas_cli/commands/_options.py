"""What commands have in common: options, and how a command is added to an app."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.console import console

RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Run directory; default $PGNAS_RUN, else the newest in ./runs."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the random generators.")]
NewRunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Run directory to make; default a new folder in ./runs.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace results that later stages have used.")]

_PANEL = "Output"
_OUTPUT_OPTIONS: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.", rich_help_panel=_PANEL)],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress and hints.", rich_help_panel=_PANEL)],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_PANEL)],
}


def command(app: typer.Typer, function: Callable[..., None], name: str | None = None) -> None:
    """Add `function` to `app` as a command that also takes --json, --quiet and --debug.

    The command is called `name`, else as the function. The console is configured before the body runs, so the
    body neither takes nor passes on the three options.
    """
    app.command(name or function.__name__.replace("_", "-"))(with_output_options(function))


def group(name: str, help: str) -> typer.Typer:
    """An app of commands, such as `pgnas zoo`; typed without a command it prints its help."""
    app = typer.Typer(name=name, help=help)

    @app.callback(invoke_without_command=True)
    @with_output_options
    def show_help(context: typer.Context) -> None:
        print_help_if_alone(context)

    return app


def print_help_if_alone(context: typer.Context) -> None:
    """Print the help of a group that was typed without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def with_output_options(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with --json, --quiet and --debug added to its signature; they configure the console.

    An option given before the command (`pgnas --debug train`) stays on.
    """

    @functools.wraps(function)
    def wrapper(*, json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
        console.configure(json=json or console.json, quiet=quiet or console.quiet, debug=debug or console.debug)
        function(**arguments)

    hints = typing.get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(function).parameters.values()
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _OUTPUT_OPTIONS.items()
    ]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(wrapper)["__signature__"] = inspect.Signature(parameters)
    return wrapper
