"""A new zoo plugin from the template in templates/plugin, which is itself a distribution that works.

Its plugin is called `example_net`. A copy is the same files with that word replaced, in their text and in their paths:
`example_net` by the name, `example-net` by the name as distributions spell it.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from pgnas_cli import registry
from pgnas_cli.errors import UsageError

EXAMPLE = "example_net"
"""The name of the template's plugin, and of its architecture."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 64


@dataclass(frozen=True)
class Scaffold:
    """A distribution that was written.

    Args:
        name: of the plugin and of its architecture.
        distribution: what pip calls it.
        path: its folder.
        files: what is in it, relative to `path`.
    """

    name: str
    distribution: str
    path: Path
    files: tuple[str, ...]


def new_plugin(name: str, directory: Path | None = None) -> Scaffold:
    """Write a complete distribution with a plugin called `name`; it appears whole or not at all.

    Args:
        name: letters, digits, dashes and underscores; "Tiny-Net" and "pgnas-tiny-net" are the plugin tiny_net.
        directory: the folder to make; default ./pgnas-<name>. It may exist if it is empty.

    Raises:
        UsageError: the name does not serve or is taken, or the folder is not empty.
    """
    plugin = plugin_name(name)
    _check_free(plugin)
    distribution = "pgnas-" + plugin.replace("_", "-")
    path = Path(distribution) if directory is None else directory
    target = path.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{path} exists and is not an empty folder", "name another one: --directory DIR")
    if target == Path.cwd():
        raise UsageError(f"{path} is the current folder, a new one is made", "leave --directory out")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        files = _write(temporary, plugin)
        os.replace(temporary, target)
    except OSError as error:  # named by the folder that was asked for, not by the one it was prepared in
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Scaffold(plugin, distribution, path, files)


def plugin_name(name: str) -> str:
    """The plugin that a typed name means: lower case, underscores, without the prefix of distributions.

    Raises:
        UsageError: Python or pip would not accept it.
    """
    plugin = name.lower().replace("-", "_").removeprefix("pgnas_")
    if not _NAME.fullmatch(plugin) or len(plugin) > _LONGEST:
        raise UsageError(
            f"{name!r} is no name for a plugin: up to {_LONGEST} letters and digits, words joined by - or _",
            "pgnas zoo new tiny-net",
        )
    if keyword.iskeyword(plugin):
        raise UsageError(f"{name!r} is a word of the Python language", f"pgnas zoo new {plugin}-net")
    return plugin


def _check_free(plugin: str) -> None:
    owner = next((s.distribution for s in registry.plugins() if plugin in (s.name, s.plugin and s.plugin.name)), None)
    if owner is not None:
        raise UsageError(f"{owner} has a plugin called {plugin!r}", "choose another name, or uninstall it")
    for status, info in registry.architectures():
        if info.name.replace("-", "_") == plugin:
            raise UsageError(f"{status.distribution} has an architecture called {info.name!r}", "choose another name")
    module = f"pgnas_{plugin}"
    if importlib.util.find_spec(module) is not None:
        raise UsageError(f"a package {module} is installed", "choose another name")


def _write(folder: Path, plugin: str) -> tuple[str, ...]:
    words = {EXAMPLE: plugin, EXAMPLE.replace("_", "-"): plugin.replace("_", "-")}
    pattern = re.compile("|".join(words))

    def renamed(text: str) -> str:
        return pattern.sub(lambda found: words[found[0]], text)

    written = []
    for place, file in _template_files(resources.files("pgnas_cli.templates") / "plugin", PurePosixPath()):
        name = renamed(str(place))
        destination = folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(renamed(file.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(name)
    return tuple(written)


def _template_files(folder: Traversable, place: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    """Every file below `folder` with its relative path; without what Python compiles beside the sources."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file():
            yield place / entry.name, entry
        elif entry.name != "__pycache__" and not entry.name.endswith(".egg-info"):
            yield from _template_files(entry, place / entry.name)
