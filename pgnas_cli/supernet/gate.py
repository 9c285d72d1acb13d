"""The gate: one learned drop probability per group of input channels.

Zhou et al., Posterior-Guided Neural Architecture Search, AAAI 2020 (arXiv 1906.09557), Eq. 11-16.

Shape suffixes: B examples, K channels, G gate groups.

Two priors are easily confused. The *weight* prior is a slab without a spike: the paper derives it with the
spike's mass u = 0, and it gives the term l2 * (1 - p) * ||W||^2. The *architecture* prior Bern(u0) is over the
masks themselves; the paper's entropy term p log p + (1-p) log(1-p) is KL(Bern(p) || Bern(0.5)) minus log 2, so
u0 = 0.5 is what the authors' program minimises. A larger u0 asks for sparser networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgnas_cli.errors import UsageError

INITIAL_DROP = 0.1
TEMPERATURE = 0.2
SMALLEST_KEEP = 2.0**-32
"""What is kept of a channel is taken as 0 below this, far below the rounding of what is kept beside it. Products of a
few such masks with weights and gradients would be denormal numbers, with which a CPU computes ten times as slowly."""
NOISES = ("example", "batch")
"""What a draw is made for: every example, or a whole batch."""


def logistic_noise(
    shape: Sequence[int], *, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """logit(u) = log u - log(1 - u) for u ~ Uniform(0, 1): a standard logistic draw, always finite, float32.

    It equals the difference of two Gumbel draws (Eq. 16). Drawn in float32 also under autocast: in bfloat16 u would
    take 256 values. u is kept 2^-25 away from 0 and 2^-24 from 1, so |logit(u)| <= 17.4.

    Args:
        shape: shape of the result.
        device: where to draw.
        generator: source of the draw; the device's default generator if None.
    """
    return logistic(torch.rand(tuple(shape), device=device, generator=generator, dtype=torch.float32))


def logistic(uniform: Tensor) -> Tensor:
    """log u - log(1 - u), for u kept 2^-25 away from 0 and 2^-24 from 1: finite also where a draw is 0."""
    return uniform.clamp(2.0**-25, 1.0 - 2.0**-24).logit_()


def relaxed_keep(drop_logit: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
    """1 - drop with drop = sigmoid((drop_logit + noise) / temperature) (Eq. 16): a relaxed Bernoulli(1 - p) draw.

    P(drop > 1/2) = p for every temperature, and drop tends to a hard 0/1 draw as the temperature tends to 0. (The
    paper's text says "to infinity" there, and prints log(log r) without the inner minus; this is what its program
    computes.) Computed as sigmoid of the negative, so that a small keep does not suffer from cancellation.

    Args:
        drop_logit: log p - log(1 - p), broadcastable against `noise`.
        noise: standard logistic draws, see `logistic_noise`.
        temperature: tau > 0, a number or broadcastable.

    Returns:
        Values in [0, 1], of the broadcast shape; those below SMALLEST_KEEP are 0, and so is their gradient.
    """
    return F.threshold(torch.sigmoid(-(drop_logit + noise) / temperature), SMALLEST_KEEP, 0.0)


def bernoulli_kl(drop_logit: Tensor, prior_drop: float = 0.5) -> Tensor:
    """KL(Bern(p) || Bern(u0)) = p log(p/u0) + (1-p) log((1-p)/(1-u0)), elementwise, in nats.

    Computed from the logit: log p = logsigmoid(a), log(1-p) = logsigmoid(-a), so it is finite with finite gradients
    for every finite logit, also where p rounds to 0 or 1. At u0 = 0.5 it is p log p + (1-p) log(1-p) + log 2.

    Args:
        drop_logit: a = log p - log(1 - p), any shape.
        prior_drop: u0 in (0, 1).
    """
    if not 0.0 < prior_drop < 1.0:
        raise UsageError(f"prior_drop is {prior_drop}, it should lie between 0 and 1", "--prior-drop 0.5")
    drop = torch.sigmoid(drop_logit)
    keep = torch.sigmoid(-drop_logit)
    log_drop_ratio = F.logsigmoid(drop_logit) - math.log(prior_drop)
    log_keep_ratio = F.logsigmoid(-drop_logit) - math.log1p(-prior_drop)
    return drop * log_drop_ratio + keep * log_keep_ratio


def weight_prior(drop_logit: Tensor, squared_norm: Tensor, l2: float) -> Tensor:
    """l2 * (1 - p) * ||W||^2, elementwise over groups: what the Gaussian slab costs a kept group.

    `l2` is the squared length scale. Eq. 15 has a factor 1/2 in front of it; the authors' program has not, and the
    published values of l2 belong to the program, so there is none here.

    Args:
        drop_logit: [G].
        squared_norm: [G], the squared norm of the weights that read the group's channels.
        l2: squared length scale, at least 0.
    """
    return l2 * torch.sigmoid(-drop_logit) * squared_norm


def logit(p: float) -> float:
    """log p - log(1 - p).

    Raises:
        UsageError: p is not strictly between 0 and 1.
    """
    if not 0.0 < p < 1.0:
        raise UsageError(f"a drop probability of {p} was given, it should lie strictly between 0 and 1", "0.1 is usual")
    return math.log(p) - math.log1p(-p)


class Gate(nn.Module):
    """Drops input channels of one layer with a learned probability per group.

    Training: each example draws its own mask, keep_BK = sigmoid(-(drop_logit + logit(u)) / tau), and the output is
    x * keep, without a 1/(1-p) rescaling (phi = m * eps, not inverted dropout). Evaluation, and with `enabled` off: the
    identity. A supernet draws the masks of all its gates at once and leaves them in `drawn` for its forward pass; a
    gate alone draws for itself. With `noise` "batch" all examples of a batch share one draw.
    With `fixed_drop` set (the uniform baseline) training draws hard Bernoulli masks at that constant rate instead; the
    rescaling that ordinary dropout has is left out there too, since the layer behind it is linear and followed by a
    normalisation: it only changes the scale of the weights, and candidates can then be drawn unscaled.

    Args:
        sizes: channels per group; they sum to K.
        initial_drop: p at the start.
        temperature: tau of the relaxation.

    Shape: input [B, K, ...], output the same, in the input's dtype.
    """

    drop_logit: nn.Parameter
    group_of_channel: Tensor

    def __init__(
        self, sizes: Sequence[int], *, initial_drop: float = INITIAL_DROP, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"gate group sizes should be positive, got {list(sizes)}")
        self.sizes = tuple(int(size) for size in sizes)
        self.temperature = temperature
        self.fixed_drop: float | None = None
        self.noise = NOISES[0]
        self.enabled = True
        self.drawn: Tensor | None = None
        self.drop_logit = nn.Parameter(torch.full((len(self.sizes),), logit(initial_drop)))
        index = [group for group, size in enumerate(self.sizes) for _ in range(size)]
        self.register_buffer("group_of_channel", torch.tensor(index), persistent=False)

    @property
    def channels(self) -> int:
        """K, the number of channels."""
        return sum(self.sizes)

    @property
    def p(self) -> Tensor:
        """[G] drop probabilities, differentiable; constant where `fixed_drop` is set."""
        if self.fixed_drop is not None:
            return torch.full_like(self.drop_logit, self.fixed_drop)
        return torch.sigmoid(self.drop_logit)

    def keep_probabilities(self) -> Tensor:
        """[K] probabilities of being kept, differentiable."""
        if self.fixed_drop is not None:
            return 1.0 - self.p[self.group_of_channel]
        return self.per_channel(torch.sigmoid(-self.drop_logit))

    def per_channel(self, values_G: Tensor) -> Tensor:
        """[G] -> [K]: each channel the value of its group."""
        if len(self.sizes) == 1:
            return values_G.expand(self.channels)
        return values_G if len(self.sizes) == self.channels else values_G[self.group_of_channel]

    def keep(self, x: Tensor) -> Tensor | None:
        """[B, K] (or [1, K], shared by all examples) to multiply the inputs x with; None is the identity."""
        if not (self.training and self.enabled):
            return None
        if self.drawn is not None and len(self.drawn) in (1, len(x)):
            return self.drawn
        shape = (1 if self.noise == "batch" else x.shape[0], self.channels)
        if self.fixed_drop is not None:
            return (torch.rand(shape, device=x.device) >= self.fixed_drop).float()
        noise_BK = logistic_noise(shape, device=x.device)
        return relaxed_keep(self.per_channel(self.drop_logit.float()), noise_BK, self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        keep_BK = self.keep(x)
        return x if keep_BK is None else x * keep_BK.to(x.dtype).view(*keep_BK.shape, *[1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={len(self.sizes)}, temperature={self.temperature}"
