"""What commands have in common: options, how a command is added to an app, and how sizes are read."""

from __future__ import annotations

import functools
import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.console import console
from pgnas_cli.errors import UsageError

RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Run directory; default $PGNAS_RUN, else the newest in ./runs."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the random generators.")]
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


@dataclass(frozen=True)
class Relative:
    """A size as a factor of another: what `0.5x` means."""

    factor: float

    def of(self, whole: int) -> int:
        """The factor times `whole`, rounded."""
        return round(self.factor * whole)


_COUNT = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?|\.\d+)\s*(?P<unit>[kmgtx]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_count(text: str, option: str = "") -> int | Relative:
    """Read a size: `44M` -> 44_000_000, `1.5G`, `120k`, `193000`, `0.5x` -> Relative(0.5).

    Args:
        text: what the user typed.
        option: the option it was typed for, named in the error (`--target-params`).

    Raises:
        UsageError: it is no such number, or it is not a whole number above zero.
    """
    given = f"{option} {text!r}".lstrip()
    hint = "write a size as 44M, 1.5G, 120k or 193000, or a part of the whole as 0.5x"
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{given} is not a size", hint)
    number, unit = float(match["number"].replace("_", "")), match["unit"].lower()
    if unit == "x":
        if number <= 0 or math.isinf(number):
            raise UsageError(f"{given} is not above zero", hint)
        return Relative(number)
    count = round(number * _UNITS[unit], 6)
    if count < 1 or not float(count).is_integer():
        raise UsageError(f"{given} is not a whole number above zero", hint)
    return int(count)
