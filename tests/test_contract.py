"""What a plugin may get wrong: each is named with the item and the fix, and nothing it does stops the others."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pgnas_cli.contract import ContractError, load_plugin
from pgnas_cli.plugin import API_VERSION, ArchitectureInfo, ZooPlugin

INFO = ArchitectureInfo("net", params=1, macs=1)


@dataclass
class Entry:
    """An entry point; `target` is loaded, or called for what it does on import."""

    target: Any
    name: str = "acme"
    value: str = "acme_zoo:Plugin"

    def load(self) -> object:
        return self.target if isinstance(self.target, type) else self.target()


def plugin(**changes: Any) -> type[ZooPlugin]:
    """A plugin that keeps the contract but for `changes`; None takes an item away."""

    def build(self, arch, inflation, *, num_classes, in_chans, img_size, pretrained=False): ...

    kept: dict[str, Any] = {
        "name": "acme",
        "architectures": lambda self: (INFO,),
        "build": build,
        "gate_groups": lambda self, model: {},
    }
    return type("Plugin", (ZooPlugin,), {key: value for key, value in (kept | changes).items() if value is not None})


def problem(target: object) -> str:
    with pytest.raises(ContractError) as error:
        load_plugin(Entry(target), "pgnas-acme 1.0")
    text = f"{error.value}: {error.value.hint}"
    assert error.value.hint
    assert "\n" not in text
    return text


def listing(*infos: object) -> type[ZooPlugin]:
    return plugin(architectures=lambda self: infos)


def info(**changes: Any) -> ArchitectureInfo:
    return ArchitectureInfo(**{"name": "net", "params": 1, "macs": 1, **changes})


def raising(error: BaseException) -> Callable[..., Any]:
    def method(*_: Any, **__: Any) -> Any:
        raise error

    return method


BUILD = "define build(self, arch, inflation, *, num_classes, in_chans, img_size, pretrained=False)"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"build": lambda self, arch, inflation, **sizes: None},
        {"build": lambda self, name, how, *, img_size, in_chans, num_classes, pretrained, extra=1: None},
        {"architectures": lambda self: []},
        {"architectures": lambda self: [INFO, info(name="net.v2_b+c-d", published_params=2.5e6)]},
        {"architectures": staticmethod(lambda: (INFO,))},
        {"options": frozenset()},
        {"options": ("width", "kernels", "stem", "branches", "growth", "surrogate_pools")},
    ],
)
def test_what_the_contract_allows(changes: dict[str, Any]) -> None:
    assert isinstance(load_plugin(Entry(plugin(**changes)), "pgnas-acme 1.0"), ZooPlugin)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"build": None}, f"acme_zoo:Plugin lacks build: {BUILD}"),
        ({"build": None, "gate_groups": None}, f"lacks build, gate_groups: {BUILD}, gate_groups(self, model)"),
        (
            {"build": lambda self, arch, inflation, *, num_classes, in_chans, img_size: None},
            "build(arch, inflation, *, num_classes, in_chans, img_size) does not take what pgnas passes (got an "
            f"unexpected keyword argument 'pretrained'): {BUILD}",
        ),
        ({"build": lambda self, arch, **sizes: None}, f"(too many positional arguments): {BUILD}"),
        ({"build": lambda self, arch, inflation, depth, **sizes: None}, "(missing a required argument: 'depth')"),
        ({"gate_groups": lambda self: {}}, "gate_groups() does not take what pgnas passes"),
        ({"architectures": lambda self, kind: ()}, "define architectures(self)"),
        ({"matches": lambda self: True}, "define matches(self, arch)"),
        ({"info": lambda self: None}, "define info(self, arch)"),
        ({"renamed": lambda self, old, new: {}}, "define renamed(self, model)"),
        ({"matches": "net*"}, "matches is 'net*', it should be a method"),
        ({"name": 3}, "acme_zoo:Plugin has no name: set its class attribute `name`"),
        ({"name": "acme zoo"}, "name is 'acme zoo', it should be a plain identifier"),
        ({"name": "acme-zoo"}, "use letters, digits and underscores"),
        ({"name": "ácme"}, "it should be a plain identifier"),
        ({"options": "width"}, "options is 'width', it should be a set of names"),
        ({"options": 3}, "options is 3"),
        ({"options": {"widht"}}, "'widht', which is no field of Inflation; did you mean width?: name some of width, "),
        ({"options": {7}}, "options names 7, which is no field"),
        ({"api_version": "1"}, f"api_version is '1', not a whole number: set api_version = {API_VERSION}"),
        ({"api_version": True}, "api_version is True"),
        ({"api_version": API_VERSION - 1}, "it is written for plugin API 0, this pgnas has 1: upgrade pgnas-acme 1.0"),
        ({"api_version": API_VERSION + 1}, "it is written for plugin API 2, this pgnas has 1: upgrade pgnas"),
        ({"api_version": 9, "build": None}, "upgrade pgnas"),
        ({"__init__": lambda self, path: None}, "acme_zoo:Plugin() fails: TypeError"),
        ({"__init__": raising(SystemExit(3))}, "acme_zoo:Plugin() fails: SystemExit: 3"),
        ({"matches": property(raising(OSError("odd")))}, "acme_zoo:Plugin cannot be inspected: OSError: odd"),
    ],
)
def test_a_broken_class_is_explained(changes: dict[str, Any], message: str) -> None:
    assert message in problem(plugin(**changes))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (plugin(architectures=lambda self: (info for info in [INFO])), "returns a generator, not a sequence"),
        (plugin(architectures=lambda self: None), "returns a NoneType"),
        (plugin(architectures=lambda self: "net"), "returns a str"),
        (listing(INFO, "other"), "returns a str among its items: 'other'"),
        (listing(INFO, info(name="b"), info(params=2)), "architectures() has two of the name 'net': rename"),
        (plugin(architectures=raising(ImportError("no\n torch"))), "architectures() fails: ImportError: no torch"),
        (plugin(architectures=raising(SystemExit("bye"))), "architectures() fails: SystemExit: bye"),
        (listing(info(name="a/b")), "an architecture is called 'a/b'"),
        (listing(info(name="a:b")), "an architecture is called 'a:b'"),
        (listing(info(name="")), "an architecture is called ''"),
        (listing(info(name=None)), "an architecture is called None"),
        (listing(info(params=1.5)), "the ArchitectureInfo of net has params=1.5: give a whole number of at least 0"),
        (listing(info(macs=None)), "has macs=None"),
        (listing(info(num_classes=0)), "has num_classes=0: give a whole number of at least 1"),
        (listing(info(img_size=(32, 32))), "has img_size=(32, 32)"),
        (listing(info(published_params="26M")), "has published_params='26M': give a number or None"),
        (listing(info(summary=None)), "has summary=None: give a string of one line"),
        (listing(info(recipe=3)), "has recipe=3"),
        (listing(info(summary="two\nlines")), "has summary='two\\nlines': give a string of one line"),
        (listing(info(summary="\x1b[2J")), "has summary='\\x1b[2J'"),
    ],
)
def test_a_broken_list_is_explained(target: type, message: str) -> None:
    assert message in problem(target)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ImportError("cannot import\nname"),
            "import of acme_zoo:Plugin fails: ImportError: cannot import name: install",
        ),
        (OSError("libtorch_cpu.so"), "OSError: libtorch_cpu.so: install pgnas-acme 1.0 again, or uninstall it"),
        (SystemExit("no licence"), "SystemExit: no licence"),
        (SystemExit(0), "SystemExit: 0"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_an_import_that_fails_is_explained(error: BaseException, message: str) -> None:
    assert message in problem(raising(error))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(128 + signal.SIGTERM)])
def test_a_user_who_stops_the_program_is_obeyed(error: BaseException) -> None:
    with pytest.raises(type(error)):
        load_plugin(Entry(raising(error)), "pgnas-acme 1.0")


@pytest.mark.parametrize(
    "target", [dict, int, lambda: 3, lambda: None, lambda: plugin()()], ids=["dict", "int", "three", "none", "plugin"]
)
def test_something_else_is_no_plugin(target: object) -> None:
    assert "acme_zoo:Plugin is no subclass of pgnas_cli.plugin.ZooPlugin: let the entry point acme" in problem(target)


def test_what_a_plugin_prints_on_import_stays_off_stdout(capsys) -> None:
    def load() -> type[ZooPlugin]:
        print("hello")
        return plugin(__init__=lambda self: print("there"))

    load_plugin(Entry(load), "pgnas-acme 1.0")
    assert capsys.readouterr() == ("", "hello\nthere\n")


def test_the_list_is_asked_for_once() -> None:
    """Every command reads it: one that fails later would stop them all."""
    answers = iter([[INFO]])
    loaded = load_plugin(Entry(plugin(architectures=lambda self: next(answers))), "pgnas-acme 1.0")
    assert [*loaded.architectures(), *loaded.architectures()] == [INFO, INFO]
    assert loaded.matches("net")
    assert loaded.info("net") is INFO
