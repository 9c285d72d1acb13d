"""Writes the reference of all commands, options and recipe keys, from the parser and the recipes themselves.

    python -m pgnas_cli.reference > pgnas_cli/commands/REFERENCE.md

It depends on neither the terminal nor the environment, and imports nothing heavy. A test fails where the file in the
repository is not what this prints.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer
from typer.main import get_command

from pgnas_cli import errors
from pgnas_cli.app import app
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe.options import KEYS, flag
from pgnas_cli.recipe_file import load_recipe, recipe_names

COMMAND = "python -m pgnas_cli.reference > pgnas_cli/commands/REFERENCE.md"
COMMON = "Output"
"""Panel of the options that every command takes."""
_KINDS = {"str": "text", "int": "whole number", "float": "number", "bool": "flag", "Path": "path"}
_LARGEST = 2**63 - 1
_ADAPTED = "adapted"  # a section that train writes and nobody sets

_HEAD = f"""\
# Reference

Every command, option and recipe key; the [README](../../README.md) is the guide. Not to be edited:

    {COMMAND}

"""

_EVERYWHERE = """\
## What holds for every command

**Which run.** `--run DIR`, else the environment variable `PGNAS_RUN`, else the newest run under `./runs`. `inflate` and
`quickstart` make a new one there. **Which data.** `--data NAME`, else the recipe's `data.name`, else `PGNAS_DATA`, else
`./data` if it holds `train/` and `val/`, else the embedded digits; later stages read what the training read.

**Output.** Results go to stdout, progress, hints and errors to stderr: an error is a line `error: ...`, mostly with a
line `hint: ...` that says what to type. These options are taken before a command and after it:

"""


def reference() -> str:
    """The whole reference, as Markdown."""
    program: Any = get_command(app)
    paths = list(_paths(program, ("pgnas",)))
    common = [parameter for parameter in program.params if parameter.rich_help_panel == COMMON]
    shared = [_row(parameter) for parameter in common]
    parts = [_HEAD, _contents(paths), _EVERYWHERE, _table(_HEADINGS, shared), _exit_codes()]
    parts += [_command(path, command, shared) for path, command in paths]
    return "".join([*parts, _recipes(), _keys()]).rstrip("\n") + "\n"


def _paths(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, in the order of the help."""
    yield path, command
    commands = getattr(command, "commands", {})
    for name in command.list_commands(typer.Context(command)) if commands else ():
        yield from _paths(commands[name], (*path, name))


def _contents(paths: Sequence[tuple[tuple[str, ...], Any]]) -> str:
    lines = ["- [What holds for every command](#what-holds-for-every-command)"]
    for path, command in paths:
        summary = inspect.cleandoc(command.help).split("\n\n")[0].split(". ")[0].removesuffix(".")
        lines.append(f"- [`{' '.join(path)}`](#{'-'.join(path)}): {_joined(summary)}")
    lines += ["- [Recipes](#recipes)", "- [Recipe keys](#recipe-keys)"]
    return "\n".join(lines) + "\n\n"


def _exit_codes() -> str:
    kinds = (errors.UsageError, errors.RunError, errors.DataError, errors.HubError)
    rows = [["0", "Done."], ["1", "Anything else, such as a proof of `pgnas verify` that does not hold."]]
    rows += [[str(kind.exit_code), _joined(kind.__doc__ or "")] for kind in kinds]
    rows.append(["128 + n", "Signal n: 130 after Ctrl-C, 143 after SIGTERM."])
    return "**Exit codes.**\n\n" + _table(("code", "meaning"), rows)


# ---- commands ----------------------------------------------------------------------------------------------

_HEADINGS = ("option", "value", "default", "what it does")


def _command(path: tuple[str, ...], command: Any, shared: Sequence[Sequence[str]]) -> str:
    """A section: the usage line, the help, the arguments, and the options panel by panel."""
    panels: dict[str, list[list[str]]] = {}
    pieces = ["[OPTIONS]"]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            pieces.append(parameter.metavar if parameter.required else f"[{parameter.metavar}]")
            panels.setdefault("Arguments", []).append(_row(parameter))
        elif (row := _row(parameter)) not in shared:
            panels.setdefault(parameter.rich_help_panel or "Options", []).append(row)
    if hasattr(command, "commands"):
        pieces.append("COMMAND [ARGS]...")
    text = f"## {' '.join(path)}\n\n    {' '.join([*path, *pieces])}\n\n{inspect.cleandoc(command.help)}\n\n"
    for panel, rows in panels.items():
        headings = ("argument", *_HEADINGS[1:]) if panel == "Arguments" else _HEADINGS
        text += (f"**{panel}**\n\n" if len(panels) > 1 or panel != "Options" else "") + _table(headings, rows)
    return text


def _row(parameter: Any) -> list[str]:
    """One line of a table: the names, the kind of value, the default, the help."""
    argument = parameter.param_type_name == "argument"
    kind, value = _value(parameter), "" if parameter.metavar is None or argument else f" {parameter.metavar}"
    names = [parameter.metavar] if argument else [*parameter.opts, *parameter.secondary_opts]
    return [", ".join(f"`{name}{value}`" for name in names), kind, _default(parameter), _joined(parameter.help or "")]


def _default(parameter: Any) -> str:
    """What holds where a parameter is left out; empty where that is nothing, or where the help says it."""
    if parameter.required:
        return "required"
    if parameter.default is None or (parameter.default is False and not parameter.secondary_opts):
        return ""
    if isinstance(parameter.default, bool):
        return f"`{(parameter.opts if parameter.default else parameter.secondary_opts)[0]}`"
    return f"`{parameter.default}`"


def _value(parameter: Any) -> str:
    """What is given: its type, its range, and how often."""
    annotation = parameter.type_descriptor.annotation
    inner = typing.get_args(annotation)
    kind = _KINDS[(inner[0] if inner else annotation).__name__]
    low, high = parameter.min, parameter.max
    if low is not None:
        kind += f", {low} to {high}" if high not in (None, _LARGEST) else f", at least {low}"
    if parameter.multiple:
        kind += ", repeatable"
    return f"{kind}, {parameter.nargs} of them" if parameter.nargs > 1 else kind


# ---- recipes -----------------------------------------------------------------------------------------------


_RECIPES = """\
## Recipes

For `pgnas train --recipe NAME`; without it `default`. The head of each file says the command, the cost, the score, the
source, and what differs from the published recipe. The files are in [templates/recipes](../../templates/recipes).

"""

_RECIPE_KEYS = """\
## Recipe keys

A recipe is a TOML file with these keys, section by section; `pgnas train --set KEY=VALUE` changes one. What a file
leaves out has the default that stands here.

"""


def _recipes() -> str:
    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        rows.append([f"`{name}`", str(recipe.schedule.epochs), str(recipe.data.batch_size), recipe.data.name or ""])
    return _RECIPES + _table(("recipe", "epochs", "batch", "data"), rows)


def _keys() -> str:
    """Every key of a recipe, from the dataclasses and their docstrings."""
    text = _RECIPE_KEYS
    hints = typing.get_type_hints(Recipe)
    for outer in dataclasses.fields(Recipe):
        if outer.name == _ADAPTED:
            continue
        kind = hints[outer.name]
        if dataclasses.is_dataclass(kind):
            text += f"**[{outer.name}]**\n\n" + _table(
                _KEY_HEADINGS, _section(typing.cast(type[Any], kind), outer.name)
            )
        else:
            row = _key(outer, kind, outer.name, "of splits, order, augmentation and noise.")
            text += "**Before the first section**\n\n" + _table(_KEY_HEADINGS, [row])
    return text


_KEY_HEADINGS = ("key", "value", "default", "option of `train`", "what it is")


def _section(kind: type[Any], prefix: str) -> list[list[str]]:
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        described |= _described(base.__doc__ or "")
    hints = typing.get_type_hints(kind)
    own = [field for field in dataclasses.fields(kind) if field.name in kind.__annotations__]  # those first
    fields = dict.fromkeys([*own, *dataclasses.fields(kind)])
    return [_key(field, hints[field.name], f"{prefix}.{field.name}", described[field.name]) for field in fields]


def _key(field: dataclasses.Field[Any], hint: Any, key: str, meaning: str) -> list[str]:
    """One line of a table: the key, the kind of value, the default as TOML has it, the option, the meaning."""
    kinds: Iterable[Any] = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    names = " or ".join(_kind(kind) for kind in kinds if kind is not type(None))
    shown = "none" if field.default is None else f"`{json.dumps(field.default)}`"
    return [f"`{key}`", names, shown, f"`{flag(key)}`" if key in KEYS.values() else "", meaning]


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return "list of whole numbers"
    return "true or false" if hint is bool else _KINDS[hint.__name__]


def _described(docstring: str) -> dict[str, str]:
    """{name: text} of the section `Args:`."""
    arguments = inspect.cleandoc(docstring).partition("\nArgs:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments, re.MULTILINE)
    return {name: _joined(text) for name, text in found}


# ---- Markdown ----------------------------------------------------------------------------------------------


def _joined(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without the columns that are empty."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    filled = [column for column in range(len(headings)) if any(row[column] for row in cells)]
    lines = [[headings[column] for column in filled], ["---"] * len(filled)]
    lines += [[row[column] for column in filled] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


if __name__ == "__main__":
    print(reference(), end="")
