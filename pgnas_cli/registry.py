"""Finds, validates and lists zoo plugins, and wraps what they build into supernets."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli.contract import ContractError, load_plugin
from pgnas_cli.errors import PgnasError, UsageError, nearest
from pgnas_cli.plugin import ArchitectureInfo, BuildSpec, Inflation, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

    from pgnas_cli.supernet.supernet import Supernet

GROUP = "pgnas.zoo"
OWN = "pgnas"
"""The distribution whose plugins are pgnas's own."""
FALLBACK = "timm_cnn"
"""A named family beats this plugin, which takes any other timm network."""


@dataclass(frozen=True)
class PluginStatus:
    """An installed plugin: loaded, or broken with the reason and the fix.

    Args:
        name: of its entry point.
        distribution: "name version" of the package that brings it.
        plugin: the plugin, None if it is broken.
        problem: what is wrong, naming the contract item; empty if nothing is.
        left_out: the plugin that loads, but shares its name with another.
    """

    name: str
    distribution: str
    plugin: ZooPlugin | None
    problem: str = ""
    left_out: ZooPlugin | None = None

    @property
    def own(self) -> bool:
        """Whether pgnas itself brings it."""
        return self.distribution.partition(" ")[0] == OWN


@functools.cache
def plugins() -> tuple[PluginStatus, ...]:
    """Every plugin of the entry-point group pgnas.zoo. A broken one is listed as broken and breaks nothing else."""
    found = [_load(entry) for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value))]
    by_name: dict[str, list[PluginStatus]] = {}
    for status in found:
        if status.plugin is not None:  # one that does not load takes nobody's name
            by_name.setdefault(status.plugin.name, []).append(status)
    result = []
    for status in found:
        if status.plugin is not None and len(rivals := by_name[status.plugin.name]) > 1:
            names = " and ".join(sorted(rival.distribution for rival in rivals))
            problem = f"two plugins are called {status.plugin.name!r}, from {names}: uninstall one"
            status = PluginStatus(status.name, status.distribution, None, problem, left_out=status.plugin)
        result.append(status)
    return tuple(result)


def _load(entry: metadata.EntryPoint) -> PluginStatus:
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
    try:
        plugin = load_plugin(entry, distribution)
    except ContractError as error:
        return PluginStatus(entry.name, distribution, None, f"{error}: {error.hint}")
    return PluginStatus(entry.name, distribution, plugin)


def architectures() -> list[tuple[PluginStatus, ArchitectureInfo]]:
    """Every named architecture with its plugin."""
    return [(status, info) for status in plugins() if status.plugin for info in status.plugin.architectures()]


def find(arch: str) -> tuple[PluginStatus, ZooPlugin, str]:
    """The plugin for an architecture name, `arch` or `plugin:arch`, and the name without the prefix.

    Raises:
        UsageError: no plugin knows it (with the nearest names), two claim it (with the prefixes to type), or its family
            is broken or left out.
    """
    chosen, _, plain = arch.rpartition(":")
    for status in plugins():
        if chosen and status.plugin is None and status.name == chosen:
            raise UsageError(
                f"the plugin {chosen} of {status.distribution} is broken: {status.problem}", "pgnas zoo list"
            )
    known = [(status, status.plugin) for status in plugins() if status.plugin and chosen in ("", status.plugin.name)]
    families = [(status, plugin) for status, plugin in known if plugin.name != FALLBACK]
    claims = [(status, plugin) for status, plugin in families if _claims(status, plugin, plain)]
    if not claims:
        for status in plugins():  # the fallback must not take over what a left-out family would have built
            left_out = status.left_out
            if left_out and chosen in ("", left_out.name) and _claims(status, left_out, plain):
                raise UsageError(f"{plain} belongs to a plugin that is left out: {status.problem}", "pgnas zoo list")
        claims = [pair for pair in known if pair not in families and _claims(*pair, plain)]
    if len(claims) > 1:
        prefixed = " or ".join(f"{plugin.name}:{plain}" for _, plugin in claims)
        raise UsageError(f"{len(claims)} plugins claim the architecture {plain!r}", f"say which: {prefixed}")
    if not claims:
        close = nearest(plain, [info.name for _, info in architectures()])
        raise UsageError(
            f"unknown architecture {arch!r}" + (f"; did you mean {close}?" if close else ""),
            "pgnas zoo list shows every architecture",
        )
    return claims[0][0], claims[0][1], plain


def _claims(status: PluginStatus, plugin: ZooPlugin, arch: str) -> bool:
    try:
        return plugin.matches(arch)
    except Exception as error:  # one third party's fault must not hide everybody else's architectures
        if any(info.name == arch for info in plugin.architectures()):
            problem = f"its matches({arch!r}) fails: {type(error).__name__}: {error}"
            raise UsageError(
                f"the plugin {plugin.name} of {status.distribution} is broken: {problem}", "pgnas zoo list"
            ) from error
        return False


# ---- building -----------------------------------------------------------------------------------------------


def option_names(plugin: ZooPlugin) -> list[str]:
    """The inflation options of a family, as they are typed."""
    return ["--" + name.replace("_", "-") for name in sorted(plugin.options)]


def make_spec(
    arch: str,
    inflation: Inflation,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
) -> BuildSpec:
    """Fill in the architecture's own defaults and check the options against its family.

    Raises:
        UsageError: unknown architecture, an option that the family does not have, or a size below 1.
    """
    status, plugin, plain = find(arch)
    named = plugin.architectures()
    info = plugin.info(plain) or (named[0] if named else ArchitectureInfo(plain, 0, 0))
    if foreign := [name for name in inflation.changed() if name not in plugin.options]:
        raise UsageError(
            f"the {plugin.name} family has no --{foreign[0].replace('_', '-')}",
            f"it has: {', '.join(option_names(plugin)) or 'no inflation option'}",
        )
    given = {
        "--classes": (num_classes, info.num_classes),
        "--in-chans": (in_chans, info.in_chans),
        "--img-size": (img_size, info.img_size),
    }
    for option, (value, usual) in given.items():
        if value is not None and value < 1:
            raise UsageError(f"{option} is {value}, it should be at least 1", f"{option} {usual}")
    classes, channels, size = (usual if value is None else value for value, usual in given.values())
    return BuildSpec(plain, plugin.name, inflation, classes, channels, size, seed, status.distribution)


def build_model(spec: BuildSpec, *, pretrained: bool | Path = False) -> nn.Module:
    """The plain network of a spec on the current default device.

    Raises:
        UsageError: the plugin refuses the request.
        PgnasError: the plugin breaks its contract.
    """
    from torch import nn

    status, plugin, plain = find(f"{spec.plugin}:{spec.arch}")
    with _plugin_code(status, plugin, plain):
        model = plugin.build(
            plain,
            spec.inflation,
            num_classes=spec.num_classes,
            in_chans=spec.in_chans,
            img_size=spec.img_size,
            pretrained=pretrained,
        )
    _expect(status, plugin, "build", model, nn.Module)
    return model


def build_backbone(spec: BuildSpec, *, pretrained: bool | Path = False) -> tuple[nn.Module, Mapping[str, Any]]:
    """`build_model`, and the gate groups of the network."""
    model = build_model(spec, pretrained=pretrained)
    status, plugin, plain = find(f"{spec.plugin}:{spec.arch}")
    with _plugin_code(status, plugin, plain):
        groups = plugin.gate_groups(model)
    _expect(status, plugin, "gate_groups", groups, Mapping)
    return model, groups


@contextlib.contextmanager
def _plugin_code(status: PluginStatus, plugin: ZooPlugin, arch: str) -> Iterator[None]:
    """What a plugin raises while it builds `arch` is its refusal, or its fault."""
    try:
        yield
    except PgnasError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"{plugin.name} ({status.distribution}) cannot build {arch}: {error}", "pgnas zoo show " + arch
        ) from error
    except (AttributeError, LookupError, AssertionError, ArithmeticError, ImportError) as error:
        raise PgnasError(
            f"the plugin {plugin.name} of {status.distribution} fails to build {arch}: {type(error).__name__}: {error}",
            "run again with --debug for the traceback, and report it to the plugin's authors",
        ) from error


def _expect(status: PluginStatus, plugin: ZooPlugin, what: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise PgnasError(
            f"the plugin {plugin.name} of {status.distribution} breaks its contract: {what} returns a "
            f"{type(value).__name__}, not a {kind.__name__}",
            "report it to the plugin's authors",
        )


def build(spec: BuildSpec, *, pretrained: bool | Path = False) -> Supernet:
    """The supernet of a spec; its initial weights depend on the spec's seed alone.

    The caller's random state is left as it was.

    Args:
        pretrained: start from the published weights, or from those of a file; only for a network without inflation.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model, groups = build_backbone(spec, pretrained=pretrained)
    return wrap(spec, model, groups)


def wrap(spec: BuildSpec, model: nn.Module, groups: Mapping[str, Any]) -> Supernet:
    """The supernet of a built network.

    Raises:
        PgnasError: the gate groups do not fit the network.
    """
    from pgnas_cli.supernet.supernet import Supernet

    try:
        return Supernet(model, groups, input_size=(spec.in_chans, spec.img_size, spec.img_size), spec=spec)
    except (TypeError, ValueError) as error:
        owner = f"the plugin {spec.plugin} of {spec.distribution}"
        raise PgnasError(f"{owner} breaks its contract: {error}", "report it to the plugin's authors") from error


def build_on_meta(spec: BuildSpec) -> Supernet:
    """The supernet of a spec on torch's meta device: structure without weights, nothing large is allocated."""
    import torch

    with torch.device("meta"):
        return build(spec)


def plain_cost(spec: BuildSpec) -> tuple[int, int]:
    """Parameters and MACs of a spec's network with everything kept."""
    cost = build_on_meta(spec).kept_cost()
    return int(cost.params), int(cost.macs)


def baseline_spec(spec: BuildSpec) -> BuildSpec:
    """The plain network that a spec is an inflation of."""
    _, plugin, plain = find(f"{spec.plugin}:{spec.arch}")
    info = plugin.info(plain)
    base = info.base if info is not None and info.base else plain
    return replace(spec, arch=base, inflation=Inflation(stem=spec.inflation.stem))


def recipe_of(spec: BuildSpec) -> str:
    """The recipe that repeats the published training of a spec's architecture; empty if there is none."""
    _, plugin, plain = find(f"{spec.plugin}:{spec.arch}")
    info = plugin.info(plain)
    return info.recipe if info is not None else ""
