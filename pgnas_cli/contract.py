"""Whether an installed plugin keeps the contract of `pgnas_cli.plugin.ZooPlugin`.

The checks need no torch and build no network, so that listing stays instant. What a plugin builds is checked when it is
built, by `registry.build` and `pgnas zoo check`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from importlib import metadata

from pgnas_cli.errors import PgnasError, nearest
from pgnas_cli.plugin import API_VERSION, ArchitectureInfo, Inflation, ZooPlugin

ARCHITECTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""What an architecture may be called: its name is typed after `plugin:`, and names folders of runs."""

_AT_LEAST = {"params": 0, "macs": 0, "num_classes": 1, "img_size": 1, "in_chans": 1}
_TEXTS = ("summary", "published", "base", "recipe")
_METHODS = tuple(name for name, item in vars(ZooPlugin).items() if inspect.isfunction(item) and name[0] != "_")
_TERMINATED = 128 + signal.SIGTERM


class ContractError(PgnasError):
    """A plugin breaks its contract: the message names the item, the hint the fix."""


def load_plugin(entry: metadata.EntryPoint, distribution: str) -> ZooPlugin:
    """Import the class of an entry point, check it, and make the plugin.

    What the plugin prints while it is imported goes to stderr: stdout may be somebody's JSON document.

    Args:
        entry: of the group pgnas.zoo.
        distribution: "name version" of the package that brings it, for the hint.

    Raises:
        ContractError: it does not import, or breaks the contract.
    """
    with _foreign(f"import of {entry.value} fails", f"install {distribution} again, or uninstall it"):
        kind = entry.load()
    with _foreign(f"{entry.value} cannot be inspected", f"write it as pgnas zoo new does, or uninstall {distribution}"):
        return _checked(kind, entry, distribution)


def _checked(kind: object, entry: metadata.EntryPoint, distribution: str) -> ZooPlugin:
    if not (isinstance(kind, type) and issubclass(kind, ZooPlugin)):
        raise ContractError(
            f"{entry.value} is no subclass of pgnas_cli.plugin.ZooPlugin",
            f"let the entry point {entry.name} name such a class",
        )
    _check_class(kind, entry.value, distribution)
    with _foreign(f"{entry.value}() fails", "let it be made without arguments"):
        plugin = kind()
    _check_methods(plugin)
    listed = _check_architectures(plugin)
    # Asked once: a list that fails or changes the next time would stop every command, also those of other plugins.
    plugin.architectures = lambda: listed  # type: ignore[method-assign]
    return plugin


@contextlib.contextmanager
def _foreign(what: str, fix: str) -> Iterator[None]:
    """Runs the code of others: it prints to stderr, and what it raises becomes a ContractError.

    SystemExit is one of these, unless it is how the program is told to terminate; KeyboardInterrupt is not.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ContractError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == _TERMINATED:
            raise
        raise ContractError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}", fix) from error


def _check_class(kind: type[ZooPlugin], where: str, distribution: str) -> None:
    """The class attributes and the abstract methods. The version comes first: it decides what the rest means."""
    version = kind.api_version
    if type(version) is not int:
        raise ContractError(f"api_version is {version!r}, not a whole number", f"set api_version = {API_VERSION}")
    if version != API_VERSION:
        raise ContractError(
            f"it is written for plugin API {version}, this pgnas has {API_VERSION}",
            "upgrade pgnas" if version > API_VERSION else f"upgrade {distribution}",
        )
    name = getattr(kind, "name", None)
    if not (isinstance(name, str) and name):
        raise ContractError(f"{where} has no name", "set its class attribute `name`")
    if not (name.isidentifier() and name.isascii()):
        raise ContractError(f"name is {name!r}, it should be a plain identifier", "use letters, digits and underscores")
    if missing := sorted(kind.__abstractmethods__):
        raise ContractError(f"{where} lacks {', '.join(missing)}", f"define {', '.join(map(_contract, missing))}")
    _check_options(kind.options)


def _check_options(options: object) -> None:
    known = [field.name for field in fields(Inflation)]
    if isinstance(options, str) or not isinstance(options, Collection):
        raise ContractError(f"options is {options!r}, it should be a set of names", 'options = frozenset({"width"})')
    for option in options:
        if option not in known:
            close = nearest(option, known) if isinstance(option, str) else ""
            raise ContractError(
                f"options names {option!r}, which is no field of Inflation"
                + (f"; did you mean {close}?" if close else ""),
                f"name some of {', '.join(known)}",
            )


def _check_methods(plugin: ZooPlugin) -> None:
    """Each method of the contract takes what pgnas passes."""
    for name in _METHODS:
        own = [p for p in inspect.signature(getattr(ZooPlugin, name)).parameters.values() if p.name != "self"]
        by_position = [p.name for p in own if p.kind is not p.KEYWORD_ONLY]
        by_name = {p.name: None for p in own if p.kind is p.KEYWORD_ONLY}
        method = getattr(plugin, name)
        if not callable(method):
            raise ContractError(f"{name} is {method!r}, it should be a method", f"define {_contract(name)}")
        signature = inspect.signature(method)
        try:
            signature.bind(*by_position, **by_name)
        except TypeError as error:
            raise ContractError(
                f"{name}{_bare(signature)} does not take what pgnas passes ({error})", f"define {_contract(name)}"
            ) from None


def _contract(method: str) -> str:
    """The method's head as the contract has it, without types."""
    return f"{method}{_bare(inspect.signature(getattr(ZooPlugin, method)))}"


def _bare(signature: inspect.Signature) -> inspect.Signature:
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return inspect.Signature(plain)


def _check_architectures(plugin: ZooPlugin) -> tuple[ArchitectureInfo, ...]:
    with _foreign("architectures() fails", "let it return a static list, without importing torch"):
        found = plugin.architectures()
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ContractError(
            f"architectures() returns a {type(found).__name__}, not a sequence of ArchitectureInfo", "return a tuple"
        )
    for info in found:
        if not isinstance(info, ArchitectureInfo):
            raise ContractError(
                f"architectures() returns a {type(info).__name__} among its items: {info!r}",
                "return ArchitectureInfo objects",
            )
        _check_info(info)
    twice = [name for name, times in Counter(info.name for info in found).items() if times > 1]
    if twice:
        raise ContractError(f"architectures() has two of the name {twice[0]!r}", "rename or remove one")
    return tuple(found)


def _check_info(info: ArchitectureInfo) -> None:
    if not (isinstance(info.name, str) and ARCHITECTURE_NAME.fullmatch(info.name)):
        raise ContractError(
            f"an architecture is called {info.name!r}", "use letters, digits and _ . + -, a letter or digit first"
        )
    where = f"the ArchitectureInfo of {info.name}"
    for name, least in _AT_LEAST.items():
        value = getattr(info, name)
        if type(value) is not int or value < least:
            raise ContractError(f"{where} has {name}={value!r}", f"give a whole number of at least {least}")
    figure = info.published_params
    if figure is not None and (isinstance(figure, bool) or not isinstance(figure, int | float)):
        raise ContractError(f"{where} has published_params={figure!r}", "give a number or None")
    for name in _TEXTS:
        text = getattr(info, name)
        if not (isinstance(text, str) and text.isprintable()):
            raise ContractError(f"{where} has {name}={text!r}", "give a string of one line")
