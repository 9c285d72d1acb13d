"""Finding plugins, the broken ones among them, and turning what they build into supernets and runs."""

from __future__ import annotations

import importlib.metadata
import re
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pgnas_cli import inflate, inflation, registry, restore
from pgnas_cli.errors import PgnasError, RunError, UsageError
from pgnas_cli.plugin import ArchitectureInfo, Inflation, ZooPlugin
from pgnas_cli.recipe_file import parse_recipe
from pgnas_cli.run import RunDirectory, load_tensors


@dataclass
class Distribution:
    name: str
    version: str = "1.0"


@dataclass
class Entry:
    """What importlib.metadata finds: `load` gives the object, or raises it."""

    name: str
    target: object
    dist: Distribution | None

    @property
    def value(self) -> str:
        return f"{self.name}_module:Plugin"

    def load(self) -> object:
        if isinstance(self.target, BaseException):
            raise self.target
        return self.target


def family(name: str, /, *architectures: str, **attributes: Any) -> type[ZooPlugin]:
    """A plugin class with these architectures: a 1x1 convolution and a classifier, the first gated."""

    class Plugin(ZooPlugin):
        def architectures(self) -> Sequence[ArchitectureInfo]:
            return [ArchitectureInfo(arch, 1, 1, num_classes=2, img_size=8) for arch in architectures]

        def build(self, arch: str, inflation: Inflation, **sizes: Any) -> nn.Module:
            conv = nn.Conv2d(sizes["in_chans"], 4, 1)
            return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, sizes["num_classes"]))

        def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
            return {"3": [4]}

    for key, value in {"name": name, **attributes}.items():
        setattr(Plugin, key, value)
    return Plugin


def fail(error: Exception) -> Callable[..., Any]:
    def method(*_: Any, **__: Any) -> Any:
        raise error

    return method


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """install(name=class, ...) makes these the only plugins."""

    every_entry = importlib.metadata.entry_points

    def entries(*listed: Entry, **found: object) -> None:
        mine = [*listed, *(Entry(name, target, Distribution(f"pgnas-{name}")) for name, target in found.items())]

        def entry_points(**given: str) -> Any:
            return mine if given.get("group") == "pgnas.zoo" else every_entry(**given)

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        registry.plugins.cache_clear()

    yield entries
    monkeypatch.undo()
    registry.plugins.cache_clear()


# ---- finding ----


def test_what_is_installed_loads() -> None:
    assert {s.name: s.problem for s in registry.plugins()} == {s.name: "" for s in registry.plugins()}
    assert {"resnet", "shakeshake"} <= {s.name for s in registry.plugins()}


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (ImportError("no module named acme"), "import of bad_module:Plugin fails: ImportError: no module named acme"),
        (SyntaxError("invalid"), "import of bad_module:Plugin fails: SyntaxError"),
        (AttributeError("Plugin"), "fails: AttributeError"),
        (dict, "bad_module:Plugin is no subclass of pgnas_cli.plugin.ZooPlugin"),
        (family("bad"), None),
        (family("bad")(), "is no subclass"),
        (family("bad", api_version=0), "written for plugin API 0, this pgnas has 1: upgrade pgnas-bad 1.0"),
        (family("bad", api_version=99), "written for plugin API 99"),
        (
            type("Half", (ZooPlugin,), {"name": "bad"}),
            "bad_module:Plugin lacks architectures, build, gate_groups: define ",
        ),
        (family("bad", architectures=fail(OSError("gone"))), r"architectures\(\) fails: OSError: gone"),
        (family("bad", name=None), "has no name"),
        (family("bad", name=""), "has no name"),
    ],
)
def test_a_broken_plugin_is_listed_and_breaks_no_other(install, target: object, problem: str | None) -> None:
    install(bad=target, good=family("good", "net"))
    bad, good = registry.plugins()
    assert (bad.name, bad.distribution) == ("bad", "pgnas-bad 1.0")
    assert good.plugin is not None
    assert registry.find("net")[1] is good.plugin
    if problem is None:
        assert bad.problem == ""
        return
    assert bad.plugin is None
    assert re.search(problem, bad.problem)
    with pytest.raises(UsageError, match=r"the plugin bad of pgnas-bad 1\.0 is broken"):
        registry.find("bad:net")


def test_a_plugin_without_a_name_is_broken(install) -> None:
    nameless = family("x", "net")
    del nameless.name
    install(bad=nameless, good=family("good", "other"))
    assert [status.plugin is None for status in registry.plugins()] == [True, False]


def test_two_plugins_of_one_name_are_both_broken(install) -> None:
    install(one=family("same", "net"), two=family("same", "other"), good=family("good", "third"))
    broken = [status for status in registry.plugins() if status.plugin is None]
    assert [status.name for status in broken] == ["one", "two"]
    for status in broken:
        assert status.problem == "two plugins are called 'same', from pgnas-one 1.0 and pgnas-two 1.0: uninstall one"
    assert [info.name for _, info in registry.architectures()] == ["third"]
    for name in ("net", "same:net"):
        with pytest.raises(UsageError, match="net belongs to a plugin that is left out: two plugins are called"):
            registry.find(name)


def test_a_broken_plugin_takes_nobodys_name(install) -> None:
    install(Entry("good", ImportError("gone"), Distribution("pgnas-bad")), good=family("good", "net"))
    assert [status.plugin is None for status in registry.plugins()] == [True, False]
    assert registry.find("net")[1].name == "good"


def test_the_fallback_is_asked_only_for_what_nobody_else_knows(install) -> None:
    asked = []

    def matches(self, arch: str) -> bool:
        asked.append(arch)
        return arch == "other"

    install(good=family("good", "net"), timm_cnn=family(registry.FALLBACK, matches=matches))
    assert registry.find("net")[1].name == "good"
    assert asked == []
    assert registry.find("other")[1].name == registry.FALLBACK
    assert asked == ["other"]


@pytest.mark.parametrize("name", ["net", "same:net"])
def test_the_fallback_does_not_take_what_a_left_out_family_builds(install, name: str) -> None:
    install(same=family("same", "net"), other=family("same"), timm_cnn=family(registry.FALLBACK, "net", "free"))
    with pytest.raises(UsageError, match=r"left out: two plugins are called 'same'|plugin same of .* is broken: two"):
        registry.find(name)
    assert registry.find("free")[1].name == registry.FALLBACK


def test_a_family_without_named_architectures_has_defaults(install) -> None:
    install(empty=family("empty", architectures=lambda self: [], matches=lambda self, arch: arch == "any"))
    spec = registry.make_spec("any", Inflation())
    assert (spec.num_classes, spec.in_chans, spec.img_size) == (1000, 3, 224)


def test_two_claims_on_one_architecture_are_decided_by_a_prefix(install) -> None:
    install(a=family("a", "net"), b=family("b", "net"))
    with pytest.raises(UsageError, match="2 plugins claim the architecture 'net'") as error:
        registry.find("net")
    assert error.value.hint == "say which: a:net or b:net"
    for name in ("a", "b"):
        assert registry.find(f"{name}:net")[1].name == name
        assert registry.make_spec(f"{name}:net", Inflation()).plugin == name


def test_a_named_family_beats_the_one_for_any_network(install) -> None:
    anything = family("timm_cnn", matches=lambda self, arch: True)
    install(a=family("a", "net"), timm_cnn=anything)
    assert registry.find("net")[1].name == "a"
    assert registry.find("timm_cnn:net")[1].name == "timm_cnn"
    assert registry.find("whatever")[1].name == "timm_cnn"


def test_a_plugin_whose_matches_fails_hides_nobody_else(install) -> None:
    install(bad=family("bad", "own", matches=fail(RuntimeError("odd"))), good=family("good", "net"))
    assert registry.find("net")[1].name == "good"
    with pytest.raises(
        UsageError, match=r"the plugin bad of pgnas-bad 1\.0 is broken: its matches\('own'\) fails: .*odd"
    ):
        registry.find("own")


def test_no_plugin_at_all(install) -> None:
    install()
    assert registry.architectures() == []
    with pytest.raises(UsageError, match="unknown architecture 'net'"):
        registry.find("net")


def test_a_plugin_without_a_distribution(install) -> None:
    install(Entry("a", family("a", "net"), None))
    assert registry.find("net")[0].distribution == "unknown distribution"


# ---- building ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"build": fail(AttributeError("no x"))}, "fails to build net: AttributeError: no x"),
        ({"build": fail(AssertionError("odd"))}, "fails to build net: AssertionError: odd"),
        ({"gate_groups": fail(KeyError("3"))}, "fails to build net: KeyError: '3'"),
        ({"build": lambda self, *_, **__: None, "gate_groups": lambda self, model: {}}, "build returns a NoneType"),
        ({"gate_groups": lambda self, model: ["3"]}, "breaks its contract: gate_groups returns a list, not a Mapping"),
        ({"gate_groups": lambda self, model: {"3": 4}}, "breaks its contract: 'int' object is not iterable"),
    ],
)
def test_a_plugin_that_builds_wrongly_is_named(install, changes: dict, message: str) -> None:
    install(a=family("a", "net", **changes))
    with pytest.raises(PgnasError, match=r"the plugin a of pgnas-a 1\.0 ") as error:
        registry.build(registry.make_spec("net", Inflation()))
    assert message in str(error.value)
    assert error.value.hint


def test_defaults_are_those_of_the_architecture(install) -> None:
    install(a=family("a", "net"))
    spec = registry.make_spec("net", Inflation())
    assert (spec.num_classes, spec.in_chans, spec.img_size, spec.distribution) == (2, 3, 8, "pgnas-a 1.0")
    net = registry.build(registry.make_spec("net", Inflation(), num_classes=5, in_chans=1, img_size=4))
    assert net.input_size == (1, 4, 4)
    assert net(torch.randn(2, 1, 4, 4)).shape == (2, 5)
    assert list(net.gates) == ["3"]


@pytest.mark.parametrize(
    ("attributes", "kind", "message"),
    [
        ({"build": fail(RuntimeError("too big"))}, UsageError, r"a \(pgnas-a 1\.0\) cannot build net: too big"),
        ({"build": fail(UsageError("own words"))}, UsageError, "^own words$"),
        ({"gate_groups": fail(TypeError("odd"))}, UsageError, "cannot build net: odd"),
        (
            {"gate_groups": lambda self, model: {"3": [5]}},
            PgnasError,
            "a of pgnas-a 1.0 breaks its contract: gate_groups names '3'",
        ),
        (
            {"gate_groups": lambda self, model: {"9": [4]}},
            PgnasError,
            "a of pgnas-a 1.0 breaks its contract: gate_groups names '9'",
        ),
    ],
)
def test_a_plugin_that_cannot_build_is_named(install, attributes: dict, kind: type, message: str) -> None:
    install(a=family("a", "net", **attributes))
    with pytest.raises(kind, match=message):
        registry.build(registry.make_spec("net", Inflation()))


def test_an_option_of_another_family_is_refused(install) -> None:
    install(a=family("a", "net", options=frozenset({"surrogate_pools"})))
    with pytest.raises(UsageError, match="the a family has no --width") as error:
        registry.make_spec("net", Inflation(width=2.0))
    assert error.value.hint == "it has: --surrogate-pools"
    with pytest.raises(UsageError, match="no --width that --params could solve for"):
        inflation.solve_width(registry.make_spec("net", Inflation()), 100)


def test_the_baseline_keeps_the_stem() -> None:
    spec = registry.make_spec("resnet18", Inflation(width=2.0, kernels=(1, 3), stem="small"))
    assert registry.baseline_spec(spec).inflation == Inflation(stem="small")


def test_versions_name_every_library() -> None:
    found = restore.versions()
    assert {"python", "pgnas", "torch", "timm", "numpy"} <= set(found)
    assert found["torch"] == importlib.metadata.version("torch")


# ---- runs ----


def small_net():
    return inflate("shakeshake26_2x4d", seed=3)


def test_a_run_holds_the_supernet(tmp_path: Path) -> None:
    net = small_net()
    run = restore.create_run(net, tmp_path / "run", options={"width": 1.0})
    again = RunDirectory.open(run.path)
    assert restore.run_spec(again) == net.spec
    record = again.require("inflate")
    assert (record["params"], record["macs"], record["seed"], record["width"]) == (
        net.cost().params,
        net.cost().macs,
        3,
        1.0,
    )
    tensors, _ = load_tensors(run.supernet_path, hint="")
    other = inflate("shakeshake26_2x4d", seed=4)
    restore.load_weights(other, tensors, "file")
    state = net.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("existed", [True, False])
def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    net, folder = small_net(), tmp_path / "run"
    if existed:
        folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            restore.create_run(net, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.rglob("*")) == ([folder] if existed else [])


def test_a_run_with_a_damaged_description_says_so(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_manifest({"arch": "resnet18"}, {})
    with pytest.raises(RunError, match=r"run\.json: model description: key 'plugin' should be str"):
        restore.run_spec(run)


def test_training_adapts_classes_and_channels() -> None:
    spec = registry.make_spec("resnet18", Inflation())
    adapted = restore.adapted_spec(spec, parse_recipe("[adapted]\nnum_classes = 7\nimg_size = 32", "x"))
    assert (adapted.num_classes, adapted.in_chans, adapted.img_size) == (7, 3, 32)
    assert adapted.arch == spec.arch


def test_gates_follow_the_recipe() -> None:
    net = small_net()
    text = "[objective]\ninitial_drop = 0.3\ntemperature = 0.5\ngranularity = 'channel'"
    restore.apply_recipe(net, parse_recipe(text, "x"))
    for gate in net.gates.values():
        assert gate.sizes == (1,) * gate.channels
        assert gate.temperature == 0.5
        assert gate.p.tolist() == pytest.approx([0.3] * gate.channels)


@pytest.mark.parametrize("noise", [True, False])
def test_branch_noise_follows_the_recipe(noise: bool) -> None:
    net = small_net()
    restore.apply_recipe(net, parse_recipe(f"[objective]\nbranch_noise = {str(noise).lower()}", "x"))
    noisy = [m.branch_noise for m in net.modules() if hasattr(m, "branch_noise")]
    assert noisy == [noise] * 12


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors.pop("weight"), "file lacks the tensor weight"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "file has an unknown tensor extra"),
        (lambda tensors: tensors.update(weight=torch.zeros(3, 2)), r"weight has shape \[3, 2\], expected \[2, 3\]"),
    ],
)
def test_weights_of_another_network_are_refused(spoil: Callable[[dict], object], message: str) -> None:
    layer = nn.Linear(3, 2)
    tensors = {name: tensor + 1 for name, tensor in layer.state_dict().items()}
    spoil(tensors)
    before = layer.weight.detach().clone()
    with pytest.raises(RunError, match=message):
        restore.load_weights(layer, tensors, "file")
    assert torch.equal(layer.weight, before)
