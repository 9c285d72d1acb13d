"""Widening a network without changing what it computes.

Net2Net (Chen, Goodfellow, Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016, arXiv 1511.05641),
for whole graphs. A wider layer repeats its old channels, old(j) of new channel j; whoever reads them shares its
weights among the repetitions:

    W'[o, i] = W[old(o), old(i)] * a[o, i],    sum of a[o, i] over all i with the same old(i) = 1.

Channels for which nothing was learned (parallel convolutions that the plain network does not have) keep their initial
weights and statistics, and their readers' weights are zero. So the gradient reaches those weights in the first step and
the new channels in the second. Zeroing the new convolution instead would leave its BatchNorm without any variance, and
multiply the gradient by 1 / sqrt(eps). Only where such a channel is added to a learned one, it is zeroed itself, at the
last layer in front of the sum: there its BatchNorm's scale and shift, else the convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli.supernet.channel_maps import NoRoom
from pgnas_cli.supernet.widen_plan import LayerMap, plan

__all__ = ["NoRoom", "logit_difference", "plan", "transfer"]


def transfer(
    target: nn.Module,
    plain: nn.Module,
    input_size: tuple[int, int, int],
    *,
    renamed: Mapping[str, str] | None = None,
    symmetry_noise: float,
    generator: torch.Generator,
) -> None:
    """Write what `plain` learned into the wider `target`, so that both compute the same logits. All or nothing.

    Args:
        target, plain, input_size, renamed: as in `plan`. Layers named in an attribute `training_only`, and gates, keep
            their values.
        symmetry_noise: relative standard deviation of the shares a[o, i], which always sum to 1. Without it repetitions
            of a channel would receive the same gradients and stay equal.
        generator: source of that noise, on the CPU.

    Raises:
        NoRoom, UsageError: as `plan`.
    """
    found = plan(target, plain, input_size, renamed=renamed)
    own, learned = target.state_dict(), plain.state_dict()
    written: dict[str, Tensor] = {}
    for name, source in found.sources.items():
        layer, _, kind = name.rpartition(".")
        channels = found.layers.get(layer) or found.layers.get(name)
        old, new = learned[source].detach().cpu(), own[name].detach().cpu()
        if channels is None or old.ndim == 0:
            written[name] = old
        elif channels.inputs is not None and kind == "weight":
            written[name] = widen_weight(old, new, channels, symmetry_noise, generator)
        else:
            written[name] = take_channels(old, new, channels.outputs)
    for layer, mask in found.silenced.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in own:
                value = written.get(name, own[name].detach().cpu()).clone()
                value[torch.from_numpy(mask)] = 0
                written[name] = value
    with torch.no_grad():
        for name, value in written.items():
            own[name].copy_(value)


def take_channels(old: Tensor, new: Tensor, outputs: np.ndarray) -> Tensor:
    """[C, ...] -> [C', ...]: the old value of each channel, that of `new` where there is none."""
    index = torch.from_numpy(outputs)
    known = (index >= 0).view(-1, *[1] * (new.ndim - 1))
    return torch.where(known, old[index.clamp_min(0)].to(new.dtype), new)


def widen_weight(
    old: Tensor, new: Tensor, channels: LayerMap, symmetry_noise: float, generator: torch.Generator
) -> Tensor:
    """W'[o, i] = W[old(o), old(i)] * a[o, i], computed in float64 and rounded once.

    Rows of new outputs are those of `new`; columns of new inputs are zero in all other rows.

    Args:
        old: [O, K / groups, ...]. new: [O', K' / groups', ...].
    """
    assert channels.inputs is not None
    width = old.shape[1]
    outputs = torch.from_numpy(channels.outputs)
    # columns [O', K' / groups']: the position of the old input in its group, -1 for a new input
    columns = torch.from_numpy(channels.inputs).view(channels.groups, -1)
    columns = torch.where(columns >= 0, columns % width, -1).repeat_interleave(len(outputs) // channels.groups, 0)
    share = shares(columns, width, symmetry_noise, generator)
    rows = old.double()[outputs.clamp_min(0)].reshape(len(outputs), width, -1)
    index = columns.clamp_min(0).unsqueeze(2)
    wide = rows.gather(1, index.expand(-1, -1, rows.shape[2])) * share.unsqueeze(2)
    wide = wide.view(len(outputs), -1, *old.shape[2:]).to(new.dtype)
    return torch.where((outputs >= 0).view(-1, *[1] * (new.ndim - 1)), wide, new)


def shares(columns: Tensor, width: int, symmetry_noise: float, generator: torch.Generator) -> Tensor:
    """[O, K] float64, a[o, i]: 1 / (number of repetitions), with noise that leaves their sum at 1; 0 for new inputs.

    Args:
        columns: [O, K] old input of each input, below `width`, or -1.
        symmetry_noise: standard deviation of a relative to its mean, where there are repetitions.
    """
    known = columns >= 0
    index = columns.clamp_min(0)
    counts = torch.zeros(len(columns), width, dtype=torch.float64).scatter_add_(1, index, known.double())
    repeated = counts.gather(1, index)
    noise = torch.randn(columns.shape, dtype=torch.float64, generator=generator) * known
    mean = torch.zeros_like(counts).scatter_add_(1, index, noise).div_(counts.clamp_min(1)).gather(1, index)
    # centring takes the share 1 / n of the variance of n draws
    scale = symmetry_noise * (repeated / (repeated - 1).clamp_min(1)).sqrt()
    share = (1 + scale * (noise - mean)) / repeated.clamp_min(1)
    return torch.where(known, torch.where(repeated > 1, share, 1.0), 0.0)


def logit_difference(a: nn.Module, b: nn.Module, input_size: tuple[int, int, int], seed: int = 0) -> float:
    """max |a(x) - b(x)| / max(1, max |b(x)|) over the logits of four random images, in evaluation mode.

    Training flags are restored. It is inf where a logit is not finite.
    """
    images = torch.randn(4, *input_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = []
    for model in (a, b):
        flags = {module: module.training for module in model.modules()}
        like = next(model.parameters())
        try:
            with torch.no_grad():
                logits.append(model.eval()(images.to(like.device, like.dtype)).double().cpu())
        finally:
            for module, training in flags.items():
                module.training = training
    difference = float((logits[0] - logits[1]).abs().max() / logits[1].abs().max().clamp_min(1.0))
    return difference if np.isfinite(difference) else float("inf")
