"""Finds, validates and lists zoo plugins, and wraps what they build into supernets."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pgnas_cli.errors import PgnasError, UsageError, nearest
from pgnas_cli.plugin import API_VERSION, ArchitectureInfo, BuildSpec, Inflation, ZooPlugin

if TYPE_CHECKING:
    from torch import nn

    from pgnas_cli.supernet.supernet import Supernet

GROUP = "pgnas.zoo"
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
    """

    name: str
    distribution: str
    plugin: ZooPlugin | None
    problem: str = ""


@functools.cache
def plugins() -> tuple[PluginStatus, ...]:
    """Every plugin of the entry-point group pgnas.zoo. A broken one is listed as broken and breaks nothing else."""
    found = [_load(entry) for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value))]
    by_name: dict[str, list[PluginStatus]] = {}
    for status in found:
        by_name.setdefault(status.plugin.name if status.plugin else status.name, []).append(status)
    result = []
    for status in found:
        rivals = by_name[status.plugin.name if status.plugin else status.name]
        if status.plugin is not None and len(rivals) > 1:
            names = " and ".join(sorted(rival.distribution for rival in rivals))
            problem = f"two plugins are called {status.plugin.name!r}, from {names}: uninstall one"
            status = PluginStatus(status.name, status.distribution, None, problem)
        result.append(status)
    return tuple(result)


def _load(entry: metadata.EntryPoint) -> PluginStatus:
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
    try:
        kind = entry.load()
    except Exception as error:  # whatever a third party's import raises must not break the others
        return PluginStatus(
            entry.name, distribution, None, f"import of {entry.value} fails: {type(error).__name__}: {error}"
        )
    if not (isinstance(kind, type) and issubclass(kind, ZooPlugin)):
        return PluginStatus(
            entry.name, distribution, None, f"{entry.value} is no subclass of pgnas_cli.plugin.ZooPlugin"
        )
    if not (isinstance(getattr(kind, "name", None), str) and kind.name):
        return PluginStatus(
            entry.name, distribution, None, f"{entry.value} has no name: set its class attribute `name`"
        )
    if kind.api_version != API_VERSION:
        problem = (
            f"it is written for plugin API {kind.api_version}, this pgnas has {API_VERSION}: upgrade {distribution}"
        )
        return PluginStatus(entry.name, distribution, None, problem)
    try:
        plugin = kind()
        plugin.architectures()
    except Exception as error:
        return PluginStatus(entry.name, distribution, None, f"{entry.value}() fails: {type(error).__name__}: {error}")
    return PluginStatus(entry.name, distribution, plugin)


def architectures() -> list[tuple[PluginStatus, ArchitectureInfo]]:
    """Every named architecture with its plugin."""
    return [(status, info) for status in plugins() if status.plugin for info in status.plugin.architectures()]


def find(arch: str) -> tuple[PluginStatus, ZooPlugin, str]:
    """The plugin for an architecture name, `arch` or `plugin:arch`, and the name without the prefix.

    Raises:
        UsageError: no plugin knows it (with the nearest names), or two claim it (with the prefixes to type).
    """
    chosen, _, plain = arch.rpartition(":")
    claims = []
    for status in plugins():
        if chosen and status.plugin is None and status.name == chosen:
            raise UsageError(
                f"the plugin {chosen} of {status.distribution} is broken: {status.problem}", "pgnas zoo list"
            )
        if status.plugin is not None and chosen in ("", status.plugin.name) and _claims(status, status.plugin, plain):
            claims.append((status, status.plugin))
    if len(claims) > 1:
        claims = [claim for claim in claims if claim[1].name != FALLBACK]
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
    info = plugin.info(plain) or plugin.architectures()[0]
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


def build_backbone(spec: BuildSpec, *, pretrained: bool = False) -> tuple[nn.Module, Mapping[str, Any]]:
    """The plain network of a spec on the current default device, and its gate groups.

    Raises:
        UsageError: the plugin refuses the request.
        PgnasError: the plugin breaks its contract.
    """
    status, plugin, plain = find(f"{spec.plugin}:{spec.arch}")
    try:
        model = plugin.build(
            plain,
            spec.inflation,
            num_classes=spec.num_classes,
            in_chans=spec.in_chans,
            img_size=spec.img_size,
            pretrained=pretrained,
        )
        return model, plugin.gate_groups(model)
    except PgnasError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"{plugin.name} ({status.distribution}) cannot build {spec.arch}: {error}", "pgnas zoo show " + plain
        ) from error


def build(spec: BuildSpec, *, pretrained: bool = False) -> Supernet:
    """The supernet of a spec; its initial weights depend on the spec's seed alone.

    The caller's random state is left as it was.
    """
    import torch

    from pgnas_cli.supernet.supernet import Supernet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model, groups = build_backbone(spec, pretrained=pretrained)
    try:
        return Supernet(model, groups, input_size=(spec.in_chans, spec.img_size, spec.img_size), spec=spec)
    except ValueError as error:
        raise PgnasError(f"the plugin {spec.plugin} breaks its contract: {error}", "pgnas zoo list") from error


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
    """The same network without inflation."""
    return replace(spec, inflation=Inflation(stem=spec.inflation.stem))


def solve_width(spec: BuildSpec, params: float) -> BuildSpec:
    """The spec whose parameters come nearest to `params`, by its width.

    Parameters grow with the width, in steps: channels are whole numbers. Bisection on the width to 1e-4.

    Raises:
        UsageError: the family has no width, or no width comes within a factor of two.
    """
    _, plugin, _ = find(f"{spec.plugin}:{spec.arch}")
    if "width" not in plugin.options:
        raise UsageError(f"the {plugin.name} family has no --width that --params could solve for", "leave --params out")

    def at(width: float) -> BuildSpec:
        return replace(spec, inflation=replace(spec.inflation, width=round(width, 4)))

    @functools.cache
    def size(width: float) -> int:
        return plain_cost(at(width))[0]

    low, high = 0.01, 1.0
    while size(high) < params:
        low, high = high, high * 2
        if high > 512:
            raise UsageError(f"no width up to 512 gives {params:.0f} parameters", "ask for fewer with --params")
    while high - low > 1e-4:
        middle = round((low + high) / 2, 6)
        low, high = (middle, high) if size(middle) < params else (low, middle)
    best = min((round(low, 4), round(high, 4)), key=lambda width: abs(size(width) - params))
    if not 0.5 <= size(best) / params <= 2:
        raise UsageError(
            f"the smallest {spec.arch} has {size(0.01)} parameters, {params:.0f} were asked for",
            "name a smaller architecture, or a larger --params",
        )
    return at(best)


def inflate(
    arch: str,
    *,
    width: float = 1.0,
    kernels: tuple[int, ...] = (),
    stem: str = "auto",
    params: float | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
    pretrained: bool = False,
) -> Supernet:
    """Build the supernet of an architecture.

    Args:
        arch: a name of `pgnas zoo list`, or `plugin:name`.
        width: inner channels = round(planes * width).
        kernels: every 3x3 convolution becomes one parallel convolution per kernel.
        stem: "auto", "small" or "backbone".
        params: solve for the width that comes nearest to this many parameters; excludes `width`.
        num_classes, in_chans, img_size: default to the architecture's own.
        seed: of the initial weights.
        pretrained: start from timm's weights (needs the network or a filled cache); only without inflation so far.

    Raises:
        UsageError: any of these does not fit.
    """
    if params is not None and width != 1.0:
        raise UsageError("--params solves for the width: it excludes --width", "leave one of them out")
    spec = make_spec(
        arch,
        Inflation(width=width, kernels=tuple(kernels), stem=stem),
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        seed=seed,
    )
    if params is not None:
        spec = solve_width(spec, params)
    if pretrained and spec != baseline_spec(spec):
        raise UsageError("pretrained weights fit the plain network only", "leave out the inflation, or --pretrained")
    return build(spec, pretrained=pretrained)
