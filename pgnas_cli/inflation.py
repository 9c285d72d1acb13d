"""Inflating: the width that gives a wanted size, and pretrained weights that keep what they compute."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgnas_cli import registry
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.plugin import BuildSpec, Inflation
from pgnas_cli.registry import baseline_spec, build, build_backbone, build_on_meta, make_spec, plain_cost

if TYPE_CHECKING:
    from torch import nn

    from pgnas_cli.supernet.supernet import Supernet
    from pgnas_cli.supernet.widen import NoRoom

SYMMETRY_NOISE = 0.01
"""Relative standard deviation of how a reader's weights are split over copies of a channel."""
FUNCTION_TOLERANCE = 1e-4
"""Largest difference of the logits, relative to max(1, max |logit|), between a plain network and its inflation."""


def inflate(
    arch: str,
    *,
    width: float = 1.0,
    kernels: tuple[int, ...] = (),
    growth: int | None = None,
    surrogate_pools: bool = False,
    stem: str = "auto",
    params: float | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
    pretrained: bool = False,
    weights: str | Path | None = None,
    symmetry_noise: float = SYMMETRY_NOISE,
) -> Supernet:
    """Build the supernet of an architecture.

    Args:
        arch: a name of `pgnas zoo list`, any other CNN of timm, or `plugin:name`.
        width: inner channels = round(planes * width).
        kernels: every 3x3 convolution becomes one parallel convolution per kernel.
        growth: growth rate of a DenseNet, before the width.
        surrogate_pools: gated 1x1 convolutions behind the pools and identities of a cell.
        stem: "auto", "small" or "backbone".
        params: solve for the width that comes nearest to this many parameters; excludes `width`.
        num_classes, in_chans, img_size: default to the architecture's own.
        seed: of the initial weights.
        pretrained: start from timm's weights (needs the network or a filled cache). An inflated network computes the
            same logits, see `widen`.
        weights: the same from a safetensors file of the plain network.
        symmetry_noise: see SYMMETRY_NOISE, at most 1; 0 makes copies of a channel equal for ever.

    Raises:
        UsageError: any of these does not fit.
        HubError: the pretrained weights could not be had.
    """
    if params is not None and width != 1.0:
        raise UsageError("--params solves for the width: it excludes --width", "leave one of them out")
    if not 0 <= symmetry_noise <= 1:
        raise UsageError(
            f"a symmetry noise of {symmetry_noise:g} was given, it should be at least 0 and at most 1",
            "--symmetry-noise 0.01",
        )
    spec = make_spec(
        arch,
        Inflation(width=width, kernels=tuple(kernels), growth=growth, surrogate_pools=surrogate_pools, stem=stem),
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        seed=seed,
    )
    if params is not None:
        spec = solve_width(spec, params)
    if weights is None and not pretrained:
        return build(spec)
    return build_pretrained(spec, True if weights is None else Path(weights), symmetry_noise)


def solve_width(spec: BuildSpec, params: float) -> BuildSpec:
    """The spec whose parameters come nearest to `params`, by its width.

    Parameters grow with the width, in steps: channels are whole numbers. Bisection on the width to 1e-4.

    Raises:
        UsageError: the family has no width, or no width comes within a factor of two.
    """
    _, plugin, _ = registry.find(f"{spec.plugin}:{spec.arch}")
    if "width" not in plugin.options:
        raise UsageError(f"the {plugin.name} family has no --width that --params could solve for", "leave --params out")

    def at(width: float) -> BuildSpec:
        return replace(spec, inflation=replace(spec.inflation, width=round(width, 4)))

    @functools.cache
    def size(width: float) -> int:
        try:
            return plain_cost(at(width))[0]
        except UsageError:
            if width >= 1:
                raise
            return 0  # too narrow to be built

    low, high = 0.01, 1.0
    while size(high) < params:
        low, high = high, high * 2
        if high > 512:
            raise UsageError(f"no width up to 512 gives {params:.0f} parameters", "ask for fewer with --params")
    while high - low > 1e-4:
        middle = round((low + high) / 2, 6)
        low, high = (middle, high) if size(middle) < params else (low, middle)
    near = [width for width in (round(low, 4), round(high, 4)) if size(width)]
    best = min(near, key=lambda width: abs(size(width) - params))
    if not 0.5 <= size(best) / params <= 2:
        raise UsageError(
            f"the smallest {spec.arch} has {size(best)} parameters, {params:.0f} were asked for",
            "name a smaller architecture, or a larger --params",
        )
    return at(best)


# ---- pretrained weights -------------------------------------------------------------------------------------


def build_pretrained(spec: BuildSpec, weights: bool | Path, symmetry_noise: float = SYMMETRY_NOISE) -> Supernet:
    """The supernet of a spec that computes what its plain network computes with pretrained weights.

    Channels are copied and their readers' weights split (Net2Net), extra parallel branches are read with zeros. The
    result says in `inherited` how far its logits lie from the plain network's on random images.

    Args:
        weights: True for the published ones, or a safetensors file of the plain network.
        symmetry_noise: relative standard deviation of the split, which always sums to the original weight.

    Raises:
        UsageError: the request has no room for what was learned (with the smallest width that has), or the weights do
            not fit.
        HubError: they could not be had.
        PgnasError: the logits differ by more than FUNCTION_TOLERANCE.
    """
    import torch

    from pgnas_cli.supernet import widen
    from pgnas_cli.supernet.pretrained import started_anew
    from pgnas_cli.supernet.supernet import Inherited

    plain_spec = baseline_spec(spec)
    if plain_spec == spec:
        net = build(spec, pretrained=weights)
        net.inherited = Inherited(0.0, tuple(started_anew(net.backbone)))
        return net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        plain, _ = build_backbone(plain_spec, pretrained=weights)
    net = build(spec)
    try:
        widen.transfer(
            net.backbone,
            plain,
            net.input_size,
            renamed=_renamed(spec, net.backbone),
            symmetry_noise=symmetry_noise,
            generator=torch.Generator().manual_seed(spec.seed),
        )
    except widen.NoRoom as error:
        raise _refusal(spec, plain_spec, error) from None
    difference = widen.logit_difference(net.backbone, plain, net.input_size, seed=spec.seed)
    if not difference <= FUNCTION_TOLERANCE:
        raise PgnasError(
            f"the inflated {spec.arch} computes other logits than its pretrained network: they differ by "
            f"{difference:.1e}, expected at most {FUNCTION_TOLERANCE:g}",
            "leave --pretrained out, and report it",
        )
    net.inherited = Inherited(difference, tuple(started_anew(plain)))
    return net


def _renamed(spec: BuildSpec, backbone: nn.Module) -> dict[str, str]:
    _, plugin, _ = registry.find(f"{spec.plugin}:{spec.arch}")
    return dict(plugin.renamed(backbone))


def _refusal(spec: BuildSpec, plain_spec: BuildSpec, error: NoRoom) -> UsageError:
    """The error of an inflation that is too small for what was learned, with the smallest width that is not."""
    width = _smallest_width(spec, plain_spec, error)
    reason = f"{error.layer} has room for {error.have} of the {error.need} channels that it learned"
    asked = f"--width {spec.inflation.width:g}"
    if spec.inflation.growth is not None:
        asked += f" --growth {spec.inflation.growth}"
    if spec.inflation.kernels:
        asked += f" --kernels {','.join(map(str, spec.inflation.kernels))}"
    hint = "leave --pretrained out" if width is None else f"--width {width:g} is the smallest that works"
    return UsageError(f"pretrained weights do not fit {spec.arch} with {asked}: {reason}", hint)


def _smallest_width(spec: BuildSpec, plain_spec: BuildSpec, error: NoRoom) -> float | None:
    """The smallest width, to 0.01, at which every layer has room; None where no width makes room.

    Channels grow in proportion to the width, in steps: each refusal says by how much it has to grow, and bisection
    between the last width that was refused and the first that was not finds the step.
    """
    from pgnas_cli.supernet import widen

    plain = build_on_meta(plain_spec).backbone

    def refused(width: float) -> NoRoom | None:
        net = build_on_meta(replace(spec, inflation=replace(spec.inflation, width=width)))
        try:
            widen.plan(net.backbone, plain, net.input_size, renamed=_renamed(spec, net.backbone))
        except widen.NoRoom as found:
            return found
        return None

    width, found, enough = spec.inflation.width, error, dict[str, float]()
    while True:
        needed = width * found.need / max(1, found.have)
        if width > 2 * enough.setdefault(found.layer, needed) or width >= 512:
            return None
        low, width = width, round(max(1.1 * width + 0.01, needed), 2)
        if (refusal := refused(width)) is None:
            break
        found = refusal
    while width - low > 0.011:
        middle = round((low + width) / 2, 2)
        low, width = (low, middle) if refused(middle) is None else (middle, width)
    return width
