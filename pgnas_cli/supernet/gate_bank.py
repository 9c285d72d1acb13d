"""All gates of a supernet at once: one draw of their masks, one pass for their KL.

Shape suffixes: B examples, K channels of all gates, G groups of all gates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgnas_cli.supernet.gate import Gate, bernoulli_kl, logistic, relaxed_keep, weight_prior
from pgnas_cli.supernet.noise import Noise


class GateBank:
    """The gates of a supernet, side by side.

    Args:
        gates: in the order of the network.
        device: where they are.
    """

    def __init__(self, gates: Sequence[Gate], device: torch.device) -> None:
        self.gates = tuple(gates)
        self.device = device
        self.channels = [gate.channels for gate in gates]
        sizes = torch.tensor([size for gate in gates for size in gate.sizes])
        self.sizes_G = sizes.to(device)
        self.group_of_channel_K = torch.repeat_interleave(sizes).to(device)

    def holds(self, gates: Sequence[Gate], device: torch.device) -> bool:
        """Whether these are its gates, on its device."""
        return device == self.device and len(gates) == len(self.gates) and all(map(_same, gates, self.gates))

    def drop_logits(self) -> Tensor:
        """[G] drop logits, differentiable."""
        return torch.cat([gate.drop_logit for gate in self.gates])

    def draw(self, batch: int, noise: Noise, *, shared: bool) -> tuple[Tensor, ...]:
        """What each gate multiplies its inputs with: [B, channels of the gate], or [1, ...] if `shared`.

        Drawn in float32; inside autocast, rounded to the type that convolutions compute in, all gates at once.

        Relaxed draws (Eq. 16), differentiable in the drop logits; hard ones at the constant rate where `fixed_drop` is
        set. One uniform number per channel and example.
        """
        uniform_BK = noise.uniform(batch, sum(self.channels), self.device, shared=shared)
        rates = [gate.fixed_drop for gate in self.gates]
        if None not in rates:
            keep_BK = self._hard(uniform_BK)
        elif set(rates) == {None}:
            keep_BK = self._relaxed(uniform_BK)
        else:
            learned_K = torch.as_tensor(self._spread([float(rate is None) for rate in rates])) > 0
            keep_BK = torch.where(learned_K, self._relaxed(uniform_BK), self._hard(uniform_BK))
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            keep_BK = keep_BK.to(torch.get_autocast_dtype(kind))
        return keep_BK.split(self.channels, 1)

    def _hard(self, uniform_BK: Tensor) -> Tensor:
        return (uniform_BK >= self._spread([gate.fixed_drop or 0.0 for gate in self.gates])).float()

    def _relaxed(self, uniform_BK: Tensor) -> Tensor:
        logits = self.drop_logits().float()
        if len(logits) < len(self.group_of_channel_K):
            logits = logits.index_select(0, self.group_of_channel_K)
        return relaxed_keep(logits, logistic(uniform_BK), self._spread([gate.temperature for gate in self.gates]))

    def _spread(self, values: Sequence[float]) -> Tensor | float:
        """One value a gate -> [K], or the value that all gates have."""
        if len(set(values)) == 1:
            return values[0]
        channels = torch.tensor(self.channels)
        return torch.tensor(values).repeat_interleave(channels).to(self.device)

    def kl(self, norms_G: Tensor, l2: float, prior_drop: float, *, constant_l2: bool = False) -> Tensor:
        """Scalar: sum over groups of l2 (1 - p) ||W_group||^2 + K_group KL(Bern(p) || Bern(u0)), see `Supernet.kl`.

        At a constant rate nothing is learned about the masks: such a gate's groups have l2 ||W_group||^2 instead, an
        ordinary penalty.

        Args:
            norms_G: squared norm of the weights that read each group.
            l2, prior_drop, constant_l2: as in `Supernet.kl`.
        """
        fixed = [gate.fixed_drop is not None for gate in self.gates]
        if all(fixed):
            return l2 * norms_G.sum()
        logits_G = self.drop_logits()
        prior_G = l2 * norms_G if constant_l2 else weight_prior(logits_G, norms_G, l2)
        terms_G = prior_G + self.sizes_G * bernoulli_kl(logits_G, prior_drop)
        if any(fixed):
            groups = torch.tensor([len(gate.sizes) for gate in self.gates])
            fixed_G = torch.tensor(fixed).repeat_interleave(groups).to(self.device)
            terms_G = torch.where(fixed_G, l2 * norms_G, terms_G)
        return terms_G.sum()


def _same(a: object, b: object) -> bool:
    return a is b
