"""Settling for one candidate in the middle of a training, and training it on as the small network that it is.

Each tensor of the compact network is a selection of the elements of one tensor of the supernet. Which ones is found by
compacting a copy of the supernet whose elements are their own numbers. With that, momentum goes into the small network
at the commit, and its weights go back into the supernet for every checkpoint: there the candidate is the most probable
one with certainty, so that whatever reads a trained supernet reads the committed one too.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import PgnasError
from pgnas_cli.posterior.posterior import Masks
from pgnas_cli.supernet.latency import candidate_latency
from pgnas_cli.supernet.supernet import Supernet, set_drop_path
from pgnas_cli.training.cost_target import Target

CERTAIN = 30.0
"""Drop logit of a settled gate: p is 0 or 1 to 1e-13, and a relaxed mask exactly, since noise stays below 18."""


def settle(net: Supernet, targets: Sequence[Target]) -> dict[str, np.ndarray]:
    """The masks to commit to.

    All groups of channels are sorted by their drop logits, and those below a threshold are kept: the highest threshold
    at which no exact cost is above its target, found by bisection.

    Raises:
        PgnasError: no threshold is within the targets, since too many gates are alike; or the candidate's logits would
            not depend on the image.
    """
    logits = {name: gate.drop_logit.detach().double().cpu().numpy() for name, gate in net.gates.items()}
    channels = {name: gate.group_of_channel.cpu().numpy() for name, gate in net.gates.items()}

    def keep(threshold: float) -> dict[str, np.ndarray]:
        return {name: logits[name][channels[name]] <= threshold for name in logits}

    levels = np.unique(np.concatenate(list(logits.values())))
    low, high = 0, len(levels) - 1
    while low < high:  # cost rises with the level
        middle = (low + high + 1) // 2
        fits = _fits(net, keep(levels[middle]), targets)
        low, high = (middle, high) if fits else (low, middle - 1)
    found = keep(levels[low])
    if not _fits(net, found, targets):
        within = " and ".join(f"{target.shown(target.value)} ({target.option})" for target in targets)
        raise PgnasError(
            f"no candidate is within {within}: too many drop probabilities are still alike",
            "pgnas train --force with more --epochs, a smaller --batch-size or --set commit.at=0.4",
        )
    if not net.assess(found).usable:
        raise PgnasError(
            "the candidate to commit to does not depend on the image: a layer that nothing leads round lost all inputs",
            "pgnas train --force with a larger target, a lower --gate-lr or a larger commit.at",
        )
    return found


def _fits(net: Supernet, masks: Masks, targets: Sequence[Target]) -> bool:
    """Whether no exact cost is above its target."""
    counts = net.assess(masks) if any(target.table is None for target in targets) else None
    return all(
        (candidate_latency(net, masks, target.table) if target.table is not None else getattr(counts, target.unit))
        <= target.value
        for target in targets
    )


@torch.no_grad()
def settle_gates(net: Supernet, masks: Masks) -> None:
    """Give every gate the certainty of its mask; gates of heads for training only keep everything."""
    for logit in net.gate_parameters():
        logit.fill_(-CERTAIN)
    for name, gate in net.gates.items():
        kept_K = torch.as_tensor(np.asarray(masks[name]), device=gate.drop_logit.device)
        kept_G = torch.zeros(len(gate.sizes), dtype=torch.bool, device=gate.drop_logit.device)
        kept_G[gate.group_of_channel] = kept_K
        gate.drop_logit.copy_(torch.where(kept_G, -CERTAIN, CERTAIN))


@dataclass(frozen=True)
class Origin:
    """Where the elements of a tensor of the small network lie in the supernet.

    Args:
        name: of the supernet's tensor.
        index: int64, of the small tensor's shape: flat positions in it; -1 for zeros that only fill up the narrower
            groups of a grouped convolution.
    """

    name: str
    index: Tensor

    def take(self, tensor: Tensor) -> Tensor:
        """The small tensor of the supernet's."""
        index = self.index.to(tensor.device)
        return tensor.reshape(-1)[index.clamp(min=0)] * (index >= 0)

    def put(self, small: Tensor, tensor: Tensor) -> None:
        """Write the small tensor into the supernet's."""
        flat, index = tensor.reshape(-1).clone(), self.index.to(tensor.device).reshape(-1)
        flat[index[index >= 0]] = small.reshape(-1)[index >= 0].to(flat.dtype)
        tensor.copy_(flat.view(tensor.shape))


@torch.no_grad()
def origins(net: Supernet, masks: Masks) -> dict[str, Origin]:
    """Name of each floating-point tensor of the compact network -> where it comes from."""
    numbered = copy.deepcopy(net.backbone).double()
    starts: list[tuple[int, str]] = []
    next_number = 1  # 0 is what compaction fills up with
    for name, tensor in numbered.state_dict().items():
        if tensor.is_floating_point():
            starts.append((next_number, name))
            tensor.copy_(torch.arange(next_number, next_number + tensor.numel()).view(tensor.shape))
            next_number += tensor.numel()
    small = compaction.compact(net.graph.folded(net.untouched(masks)), numbered, masks)
    bounds = np.array([start for start, _ in starts])
    found = {}
    for name, tensor in small.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        numbers = tensor.round().long().cpu()
        place = int(np.searchsorted(bounds, int(numbers.max()), side="right")) - 1
        start, source = starts[place]
        assert torch.equal(numbers.double(), tensor.cpu()), f"compaction has changed the weights of {name}"
        assert bool(((numbers == 0) | (numbers >= start)).all()), f"{name} comes from several tensors"
        found[name] = Origin(source, torch.where(numbers > 0, numbers - start, -1))
    return found


def _masked_gradient(kept: Tensor, gradient: Tensor) -> Tensor:
    return gradient * kept.to(gradient.device)


class CommittedNetwork(nn.Module):
    """The small network of a candidate, with the parts of a Supernet that a training step uses.

    Args:
        net: the supernet, its weights at the commit; or later, with the small network's weights in it.
        masks: of the candidate.

    Shape: images [B, C, H, W] -> logits [B, num_classes].
    """

    def __init__(self, net: Supernet, masks: Masks) -> None:
        super().__init__()
        self.origins = origins(net, masks)
        self.backbone = net.compact(masks)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(True)
            origin = self.origins.get(name)
            if origin is not None and bool((origin.index < 0).any()):  # what fills up stays 0
                parameter.register_hook(functools.partial(_masked_gradient, origin.index >= 0))
        device = next(net.parameters()).device
        self.to(device)
        self._gated = frozenset(net.search_layers)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.backbone(images)
        return logits

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return list(self.parameters())

    def gate_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def set_drop_path(self, rate: float) -> None:
        """As `Supernet.set_drop_path`."""
        set_drop_path(self.backbone, rate)

    def set_noise(self, seed: int | None, **options: object) -> None:
        """There is none."""

    def auxiliary_logits(self) -> None:
        """Heads for training only end with the search."""

    def kl(self, *, l2: float, num_examples: float, prior_drop: float = 0.5, constant_l2: bool = False) -> Tensor:
        """What is left of it: l2 / N * ||W||^2 of the layers that were gated."""
        return l2 / num_examples * self._squares(gated=True)

    def ungated_penalty(self) -> Tensor:
        """Squared norm of the weights of all other convolutions."""
        return self._squares(gated=False)

    def _squares(self, *, gated: bool) -> Tensor:
        weights = [
            module.weight
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            and (name in self._gated) == gated
            and (gated or isinstance(module, nn.Conv2d))
        ]
        if not weights:
            return next(self.parameters()).new_zeros(())
        return torch.stack([weight.square().sum() for weight in weights]).sum()

    @torch.no_grad()
    def write_back(self, net: Supernet) -> None:
        """Put weights and BatchNorm statistics into the supernet that they were taken from."""
        tensors, small = net.backbone.state_dict(), self.backbone.state_dict()
        for name, origin in self.origins.items():
            origin.put(small[name], tensors[origin.name])

    @torch.no_grad()
    def inherit_momentum(self, net: Supernet, before: torch.optim.Optimizer, after: torch.optim.Optimizer) -> None:
        """Give this network's optimiser the momentum that the supernet's has for the same weights."""
        theirs: Mapping[str, nn.Parameter] = dict(net.backbone.named_parameters())
        for name, parameter in self.backbone.named_parameters():
            origin = self.origins.get(name)
            momentum = None if origin is None else before.state.get(theirs[origin.name], {}).get("momentum_buffer")
            if origin is not None and momentum is not None:
                after.state[parameter]["momentum_buffer"] = origin.take(momentum).clone()


Trainable = Supernet | CommittedNetwork
"""What a step trains: before the commit and after it."""
