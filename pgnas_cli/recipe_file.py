"""Recipes as TOML: read strictly, overridden by dotted keys, written back.

A file has a section for each part of a Recipe, with any of its keys; what it leaves out keeps its default.
Unknown keys and values of the wrong type are errors that name the file, the key and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pgnas_cli.errors import UsageError, nearest
from pgnas_cli.recipe import Recipe


def load_recipe(name_or_file: str | None) -> Recipe:
    """A recipe that comes with pgnas, by name, or one from a file; the default recipe for None.

    Raises:
        UsageError: there is none of that name, or it has a bad key or value.
    """
    if name_or_file is None:
        name_or_file = "default"
    file = Path(name_or_file)
    if file.suffix == ".toml":
        if not file.is_file():
            raise UsageError(
                f"no such recipe file: {file}", f"recipes that come with pgnas: {', '.join(recipe_names())}"
            )
        try:
            return parse_recipe(file.read_text(encoding="utf-8"), str(file))
        except UnicodeDecodeError as error:
            raise UsageError(f"{file} is not valid TOML: {error}", "see https://toml.io") from None
    if name_or_file not in recipe_names():
        inside = [name for name in recipe_names() if name.rpartition("/")[2] == name_or_file]
        close = " or ".join(inside) or nearest(name_or_file, recipe_names())
        raise UsageError(
            f"no recipe is called {name_or_file!r}" + (f"; did you mean {close}?" if close else ""),
            f"one of {', '.join(recipe_names())}, or a file FILE.toml",
        )
    text = resources.files("pgnas_cli.templates").joinpath("recipes", *f"{name_or_file}.toml".split("/")).read_text()
    return parse_recipe(text, f"recipe {name_or_file}")


def recipe_names() -> list[str]:
    """Names of the recipes that come with pgnas; one in a folder is FOLDER/NAME."""
    return sorted(_names_in(resources.files("pgnas_cli.templates").joinpath("recipes"), ""))


def _names_in(folder: Traversable, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _names_in(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".toml"):
            yield prefix + entry.name.removesuffix(".toml")


def parse_recipe(text: str, source: str) -> Recipe:
    """A recipe from TOML text; `source` names it in errors."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}", "see https://toml.io") from None
    return _build(Recipe, document, source, "")


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A copy with dotted keys replaced, such as {"schedule.epochs": 20}."""
    document = to_document(recipe)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = document
        for part in path:
            found = section.get(part)
            if not isinstance(found, dict):
                raise UsageError(f"unknown recipe key {key!r}{_did_you_mean(key)}", "--set schedule.epochs=40")
            section = found
        if value is None and key in all_keys():
            section.pop(last, None)
        else:
            section[last] = value
    return _build(Recipe, document, "--set", "")


def parse_setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE of --set; the value is read as TOML, and as a plain string where it is none."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes KEY=VALUE, not {text!r}", "--set schedule.epochs=40")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def to_document(recipe: Recipe) -> dict[str, Any]:
    """Nested dictionaries without the keys that are None."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if v is not None}
        return list(value) if isinstance(value, tuple) else value

    document: dict[str, Any] = clean(dataclasses.asdict(recipe))
    return document


def to_toml(recipe: Recipe, header: str = "") -> str:
    """TOML text that `parse_recipe` reads back to an equal recipe."""
    document = to_document(recipe)
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    lines += [f"{key} = {_toml(value)}" for key, value in document.items() if not isinstance(value, dict)]
    for name, section in document.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]"] + [f"{key} = {_toml(value)}" for key, value in section.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # TOML forbids the surrogate pairs that JSON would escape to, and a bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def all_keys() -> list[str]:
    """Every dotted key of a recipe."""
    keys = []
    for outer in fields(Recipe):
        kind = typing.get_type_hints(Recipe)[outer.name]
        keys += [f"{outer.name}.{inner.name}" for inner in fields(kind)] if is_dataclass(kind) else [outer.name]
    return keys


def _did_you_mean(key: str) -> str:
    close = nearest(key, all_keys())
    return f"; did you mean {close}?" if close else ""


def _build(kind: type[Any], document: Mapping[str, Any], source: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in document.items():
        full = f"{prefix}{key}"
        if key not in hints:
            raise UsageError(f"{source}: unknown key {full!r}{_did_you_mean(full)}", f"valid keys: {', '.join(hints)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UsageError(f"{source}: {full} should be a section [{full}]", "see the recipe default.toml")
            values[key] = _build(typing.cast(type[Any], hints[key]), value, source, f"{full}.")
        else:
            values[key] = _convert(hints[key], value, f"{source}: {full}")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type of a field; an int passes for a float, a list for a tuple of ints."""
    kinds: Iterable[Any] = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        if kind is float:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        elif typing.get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(type(item) is int for item in value):
                return tuple(value)
        elif isinstance(kind, type) and type(value) is kind:
            return value
    names = " or ".join(
        "list of int" if typing.get_origin(kind) is tuple else kind.__name__ for kind in kinds if kind is not type(None)
    )
    raise UsageError(f"{where} should be {names}, not {value!r}", "see the recipe default.toml")
