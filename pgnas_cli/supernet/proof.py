"""Masked = compact, shown on one supernet: the same candidates inside the large network and as small networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.posterior import Masks
from pgnas_cli.supernet.supernet import Supernet

MAX_EMPTIED = 64
"""Of a network with more gated layers than this, so many are emptied, evenly spread over its depth."""
KEEP = (0.5, 0.9)
"""The range of the rates at which random candidates keep channels, one rate a layer."""
NEAR_ZERO = 0.1
"""Scales below this at the start belong to residual branches."""


@dataclass(frozen=True)
class Comparison:
    """One kind of candidate.

    Args:
        kind: what the candidates have in common.
        n: how many comparisons of logits.
        worst: largest of their differences, relative to max(1, max |logit|).
    """

    kind: str
    n: int
    worst: float


@dataclass(frozen=True)
class Proof:
    """What `prove` found.

    Args:
        comparisons: one for each kind of candidate.
        tolerance: largest difference that counts as equal.
    """

    comparisons: tuple[Comparison, ...]
    tolerance: float = TOLERANCE

    @property
    def worst(self) -> float:
        """The largest difference of all."""
        return max(comparison.worst for comparison in self.comparisons)

    @property
    def passed(self) -> bool:
        """Whether every pair of logits is equal within the tolerance."""
        return self.worst <= self.tolerance


def prove(net: Supernet, *, candidates: int = 20, max_emptied: int = MAX_EMPTIED, seed: int = 0) -> Proof:
    """Compare the logits of masked and compact networks, on the CPU in float32, for two random images.

    Random candidates keep channels at rates from `KEEP`, one a layer, and are built in both layouts. Then everything
    kept, everything dropped, one channel a layer, and each gated layer emptied in turn, in the gathered layout.

    A fresh network hides mistakes behind zeros and ones: BatchNorms that change nothing, branches scaled by 0 or 1e-6,
    logits too small to differ. The comparison therefore runs on a copy of `net` whose BatchNorm statistics and
    constant parameters are random and whose classifier writes logits of 1 at least; `net` is left as it is.

    Args:
        net: a supernet with weights.
        candidates: number of random candidates.
        max_emptied: at most so many layers are emptied, evenly spread over the network.
        seed: of weights, images and candidates.

    Raises:
        UsageError: `net` lies on the meta device, which holds no weights to compare.
    """
    if any(parameter.is_meta for parameter in net.parameters()):
        raise UsageError("the proof compares logits, the network on the meta device has none", "build it on the CPU")
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(net).float().cpu().eval()
    images = torch.randn(2, *net.input_size, generator=generator)
    randomise(net.backbone, generator)
    _scale_logits(net, images)
    rng = np.random.default_rng(seed)
    return Proof(
        tuple(
            _compare(net, images, kind, masks, layouts)
            for kind, masks, layouts in _kinds(net, candidates, max_emptied, rng)
        )
    )


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Statistics and parameters as after training: nothing is constant.

    BatchNorm means ~ N(0, 0.1^2), variances ~ U(0.5, 1.5); of parameters that hold one value throughout, biases
    ~ N(0, 0.2^2), scales that start near 0 ~ U(0.1, 0.5), and all others ~ U(0.5, 1.5). Those that start near 0 are the
    gains of residual branches; were they near 1, a network of fifty blocks would amplify rounding beyond any tolerance.
    The drop logits of gates are left.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in module.named_parameters(recurse=False):
            first = parameter.flatten()[0]
            if name == "drop_logit" or not (parameter == first).all():
                continue
            if name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=generator)
            elif first.abs() < NEAR_ZERO:
                parameter.uniform_(0.1, 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)


@torch.no_grad()
def _scale_logits(net: Supernet, images: Tensor) -> None:
    """Multiply the classifier's weights so that what it reads makes a logit of 1 at least.

    Below 1 a difference counts absolutely, and next to a larger bias it would not show.
    """
    layers = [net.backbone.get_submodule(name) for name in net.graph.writes_output]
    biases = [parameter for layer in layers for name, parameter in layer.named_parameters() if name == "bias"]
    values = [bias.clone() for bias in biases]
    for bias in biases:
        bias.zero_()
    largest = float(net(images).abs().max())
    if 0.0 < largest < 1.0:
        for layer in layers:
            layer.get_parameter("weight").div_(largest)
    for bias, value in zip(biases, values, strict=True):
        bias.copy_(value)


def _kinds(
    net: Supernet, candidates: int, max_emptied: int, rng: np.random.Generator
) -> Iterator[tuple[str, Sequence[Masks], tuple[str, ...]]]:
    """(kind, masks, layouts)."""
    sizes = {name: gate.channels for name, gate in net.gates.items()}
    kept: Masks = {name: np.ones(size, bool) for name, size in sizes.items()}
    dropped: Masks = {name: np.zeros(size, bool) for name, size in sizes.items()}
    random = [{name: rng.random(n) < rng.uniform(*KEEP) for name, n in sizes.items()} for _ in range(candidates)]
    yield "random", random, ("gather", "dense")
    yield "all kept", [kept], ("gather",)
    yield "all dropped", [dropped], ("gather",)
    yield "one channel a layer", [{name: np.arange(n) == rng.integers(n) for name, n in sizes.items()}], ("gather",)
    names = list(sizes)
    if len(names) > max_emptied:
        names = [names[index] for index in np.linspace(0, len(names) - 1, max_emptied).round().astype(int)]
    yield "one layer emptied", [{**kept, name: dropped[name]} for name in names], ("gather",)


def _compare(net: Supernet, images: Tensor, kind: str, many: Sequence[Masks], layouts: tuple[str, ...]) -> Comparison:
    worst = 0.0
    for masks in many:
        with net.masked(masks), torch.inference_mode():
            masked = net(images)
        for layout in layouts:
            with torch.inference_mode():
                worst = max(worst, relative_difference(net.compact(masks, layout=layout)(images), masked))
    return Comparison(kind, len(many) * len(layouts), worst)
