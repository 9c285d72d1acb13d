"""The formulas of the paper in numpy float64, written without looking at how the package computes them.

Zhou et al., Posterior-Guided Neural Architecture Search, AAAI 2020, Eq. 11-16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, xlogy

Array = NDArray[np.float64]


def probability(drop_logit: ArrayLike) -> Array:
    """p of log p - log(1 - p)."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-np.asarray(drop_logit, dtype=np.float64)))


def relaxed_keep(drop_logit: ArrayLike, u: ArrayLike, temperature: float) -> Array:
    """1 - sigmoid((log p - log(1 - p) + log u - log(1 - u)) / tau), u uniform."""
    u = np.asarray(u, dtype=np.float64)
    drop = (np.asarray(drop_logit, dtype=np.float64) + np.log(u) - np.log1p(-u)) / temperature
    return probability(-drop)


def bernoulli_kl(drop_logit: ArrayLike, prior_drop: float) -> Array:
    """p log(p / u0) + (1 - p) log((1 - p) / (1 - u0))."""
    a = np.asarray(drop_logit, dtype=np.float64)
    return rel_entr(probability(a), prior_drop) + rel_entr(probability(-a), 1.0 - prior_drop)


def bernoulli_kl_gradient(drop_logit: ArrayLike, prior_drop: float) -> Array:
    """p (1 - p) (a - log u0 + log(1 - u0)), the derivative in the logit a."""
    a = np.asarray(drop_logit, dtype=np.float64)
    return probability(a) * probability(-a) * (a - np.log(prior_drop) + np.log1p(-prior_drop))


def negative_entropy(p: ArrayLike) -> Array:
    """p log p + (1 - p) log(1 - p)."""
    p = np.asarray(p, dtype=np.float64)
    return xlogy(p, p) + xlogy(1.0 - p, 1.0 - p)


def weight_prior(drop_logit: ArrayLike, squared_norm: ArrayLike, l2: float) -> Array:
    """l2 (1 - p) ||W||^2."""
    return l2 * probability(-np.asarray(drop_logit)) * np.asarray(squared_norm, dtype=np.float64)


def group_squared_norm(weight: Array, start: int, size: int, conv_groups: int) -> float:
    """Squared norm of the weights [O, K / groups, ...] that read the channels start .. start + size - 1, by a loop."""
    outputs, width = len(weight) // conv_groups, weight.shape[1]
    total = 0.0
    for channel in range(start, start + size):
        group, column = divmod(channel, width)
        for output in range(group * outputs, (group + 1) * outputs):
            total += float((weight[output, column] ** 2).sum())
    return total


def supernet_kl(
    layers: list[tuple[Array, list[int], Array, int]], *, l2: float, num_examples: float, prior_drop: float
) -> float:
    """1/N sum over layers and groups of l2 (1 - p) ||W_group||^2 + K_group KL(Bern(p) || Bern(u0)).

    Args:
        layers: weight, group sizes, drop logits and convolution groups of each layer.
    """
    total = 0.0
    for weight, sizes, drop_logits, conv_groups in layers:
        start = 0
        for size, a in zip(sizes, drop_logits, strict=True):
            norm = group_squared_norm(weight, start, size, conv_groups)
            total += float(weight_prior(a, norm, l2)) + size * float(bernoulli_kl(a, prior_drop))
            start += size
    return total / num_examples


def central_difference(function: Callable[[float], float], step: float) -> float:
    """Derivative at 0."""
    return (function(step) - function(-step)) / (2 * step)
