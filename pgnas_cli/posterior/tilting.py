"""A posterior conditioned on a budget after training: exponential tilting, solved for the size that is wanted.

Conditioning independent gates p on a mean cost C gives, among all distributions q with E_q[C] = target, the one nearest
to p in KL(q || p): q(m) ~ p(m) exp(-lambda C(m)) (exponential tilting, or minimum discrimination information: Kullback
1959; Csiszar 1975). C is not linear in the masks, so its q does not factorise; `tilt` takes the nearest product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Costs, PerChannel
from pgnas_cli.posterior.posterior import LayerPosterior, Posterior

DRAWS = 200
"""Exactly counted draws that a tilt is corrected by."""
TOLERANCE = 0.02
"""Largest relative error of the mean size of those draws."""
_AIM = 0.004  # relative error that ends the corrections
_ROUNDS = 8  # corrections at most
_STEPS = 40  # steps of the fixed point at most
_SETTLED = 1e-3  # change of the keep probability that moves most, which ends the fixed point
_STRIDE = 1.5  # largest factor between the sizes on the way to the target
_ROOT = 1e-5  # relative error of E[C] at a multiplier


@dataclass(frozen=True)
class Tilt:
    """A tilted posterior.

    Args:
        distribution: q.
        unit: "params" or "macs".
        target: the mean size that was wanted.
        multiplier: lambda, nats per parameter or multiply-add; negative if the target is above the posterior's size.
        expected: E_q[C] by the expectation of independent gates.
        residual: how far q is from its own fixed point: the largest change of a keep probability in one more step.
        sampled: mean exact cost of the usable ones of `DRAWS` draws.
        usable: how many of them are usable.
    """

    distribution: Posterior
    unit: str
    target: float
    multiplier: float
    expected: float
    residual: float
    sampled: float = float("nan")
    usable: int = 0


def keep_probabilities(posterior: Posterior) -> PerChannel:
    """Layer -> [K] probability that a channel is kept."""
    return {name: 1.0 - layer.per_channel() for name, layer in posterior.items()}


def group_slope(posterior: Posterior, slope: PerChannel) -> PerChannel:
    """Layer -> [G], the mean of the slope over the channels of each group.

    The mean, not the sum: the K_g channels of a group share one probability, and each is drawn by itself, so sharing
    multiplies their divergence as well, K_g KL(q_g || p_g) + lambda E_q[C], whose minimum is at
    logit q_g = logit p_g - lambda / K_g * sum over the group of dE/dkeep_k.
    """
    means = {}
    for name, layer in posterior.items():
        starts = np.concatenate([[0], np.cumsum(layer.sizes)[:-1]])
        means[name] = np.add.reduceat(np.asarray(slope[name], dtype=np.float64), starts) / np.asarray(layer.sizes)
    return means


def tilt(posterior: Posterior, slope: PerChannel, multiplier: float) -> Posterior:
    """logit(keep'_g) = logit(keep_g) - lambda * slope_g; probabilities that are 0 or 1 stay so.

    Computed on the log-odds with log sigmoid(x) = -log(1 + e^-x), which overflows for no finite x.

    Args:
        posterior: p.
        slope: layer -> [G], the cost of keeping one channel of a group.
        multiplier: lambda.
    """
    tilted = {}
    for name, layer in posterior.items():
        with np.errstate(divide="ignore"):
            drop_logit = np.log(layer.drop_prob) - np.log1p(-layer.drop_prob)
        drop = np.exp(-np.logaddexp(0.0, -(drop_logit + multiplier * slope[name])))
        tilted[name] = LayerPosterior(drop, layer.sizes)
    return Posterior(tilted)


def reachable(posterior: Posterior, costs: Costs, unit: str) -> tuple[float, float]:
    """E[C] with every gate that is not settled dropped, and kept: what a tilt tends to at either end."""
    ends = []
    for drop_prob in (1.0, 0.0):
        layers = {
            name: LayerPosterior(np.where((v.drop_prob > 0) & (v.drop_prob < 1), drop_prob, v.drop_prob), v.sizes)
            for name, v in posterior.items()
        }
        ends.append(costs.expected(keep_probabilities(Posterior(layers)), unit))
    return ends[0], ends[1]


def solve(posterior: Posterior, costs: Costs, unit: str, target: float) -> Tilt:
    """The mean-field tilt whose expected cost is `target`.

    q is the fixed point of logit(keep'_g) = logit(keep_g) - lambda * slope_g(q), slope as in `group_slope`. Every step
    solves lambda for the slopes at hand, so that E_q[C] = target all along, and moves them a part of the way to those
    at q. The part is halved for a group whose slope swings, as it does undamped: dropping the readers of channels makes
    the channels cheap to keep. Far targets are approached over sizes in between, because the way there crosses networks
    that are dead as a whole, where every slope is 0.

    Raises:
        UsageError: the target is not between the ends of `reachable`.
    """
    low, high = reachable(posterior, costs, unit)
    if not low < target < high:
        raise UsageError(
            f"{target:.0f} {unit} were asked for; tilted, this posterior reaches {low:.0f} to {high:.0f}",
            f"--{unit} {round((low + high) / 2)}, or train with another --target-{unit}",
        )
    start = costs.expected(keep_probabilities(posterior), unit)
    legs = max(1, math.ceil(abs(math.log(target / start)) / math.log(_STRIDE)))
    found, slope = Tilt(posterior, unit, target, 0.0, start, 0.0), _slope_at(posterior, posterior, costs, unit)
    for leg in range(1, legs + 1):
        aim = target if leg == legs else start * (target / start) ** (leg / legs)
        found, slope = _settle(posterior, costs, replace(found, target=aim), slope, _SETTLED if leg == legs else 0.05)
    return found


def _slope_at(posterior: Posterior, at: Posterior, costs: Costs, unit: str) -> PerChannel:
    """`group_slope` at a distribution, kept in [0, cost of the whole network].

    The cost of keeping a channel lies there; the derivative of the expectation, which conditions on operations being
    alive, grows without limit where their probability vanishes.
    """
    slope, whole = group_slope(posterior, costs.slope(keep_probabilities(at), unit)), costs.whole(unit)
    return {name: np.clip(values, 0.0, whole) for name, values in slope.items()}


def _settle(
    posterior: Posterior, costs: Costs, found: Tilt, slope: PerChannel, settled: float
) -> tuple[Tilt, PerChannel]:
    """The damped fixed point at `found.target` from the multiplier and the slopes there are; and its slopes."""
    unit = found.unit
    part = {name: np.full_like(values, 0.5) for name, values in slope.items()}
    swing = {name: np.zeros_like(values) for name, values in slope.items()}
    for step in range(_STEPS):
        multiplier, expected = _multiplier(posterior, slope, costs, unit, found.target, start=found.multiplier)
        distribution = tilt(posterior, slope, multiplier)
        there = _slope_at(posterior, distribution, costs, unit)
        after = tilt(posterior, there, multiplier)
        residual = max(
            float(np.abs(after[name].drop_prob - layer.drop_prob).max()) for name, layer in distribution.items()
        )
        found = replace(found, distribution=distribution, multiplier=multiplier, expected=expected, residual=residual)
        if residual < settled:
            break
        gap = {name: there[name] - slope[name] for name in slope}
        for name in slope if step else ():
            part[name] = np.where(gap[name] * swing[name] < 0, part[name] / 2, np.minimum(1.2 * part[name], 0.7))
        slope = {name: slope[name] + part[name] * gap[name] for name in slope}
        swing = gap
    return found, slope


def _multiplier(
    posterior: Posterior, slope: PerChannel, costs: Costs, unit: str, target: float, *, start: float
) -> tuple[float, float]:
    """lambda with E[C] = target at fixed slopes, and that E[C], which falls as lambda rises.

    Slopes of two steps can differ by orders of magnitude, and lambda with them, so that the bracket grows by factors.
    """

    def excess(multiplier: float) -> float:
        return costs.expected(keep_probabilities(tilt(posterior, slope, multiplier)), unit) / target - 1.0

    inner, f_inner = 0.0, excess(0.0)
    sign = 1.0 if f_inner > 0 else -1.0
    steepest = max(max(float(values.max()) for values in slope.values()), 1e-300)
    outer = start if start * sign > 0 else sign / steepest
    f_outer, factor = excess(outer), 1.1
    if f_outer * sign > 0:
        while f_outer * sign > 0 and abs(outer) * steepest < 1e9:  # beyond, what has not moved never will
            inner, f_inner, outer = outer, f_outer, outer * factor
            f_outer, factor = excess(outer), min(factor**2, 4.0)
    else:
        while abs(outer) * steepest > 1e-9:
            nearer = outer / factor
            value, factor = excess(nearer), min(factor**2, 4.0)
            if value * sign > 0:
                inner, f_inner = nearer, value
                break
            outer, f_outer = nearer, value
    root, error = _falsi(excess, inner, f_inner, outer, f_outer)
    return root, target * (1.0 + error)


def _falsi(f: Callable[[float], float], a: float, fa: float, b: float, fb: float) -> tuple[float, float]:
    """A root between a and b, and f there: regula falsi that halves the value of an end that stays (Illinois)."""
    best = min((abs(fa), a, fa), (abs(fb), b, fb))
    for turn in range(100):
        if best[0] < _ROOT or fa * fb >= 0:
            break
        middle = (a + b) / 2 if turn % 4 == 3 else b - fb * (b - a) / (fb - fa)
        value = f(middle)
        best = min(best, (abs(value), middle, value))
        if value * fb < 0:
            a, fa = b, fb
        else:
            fa /= 2
        b, fb = middle, value
    return best[1], best[2]


def solve_sampled(posterior: Posterior, costs: Costs, unit: str, target: float, *, seed: int) -> Tilt:
    """The tilt whose draws have the mean size `target`, counted exactly.

    E_q[C] takes the outputs of an operation to die one by one, and is off where small layers are dropped whole. So
    `DRAWS` draws are counted, those that are usable, and what `solve` aims at is moved by the ratio, until their mean
    is within 0.4 % of the target; every round draws with the same random numbers.

    Raises:
        UsageError: the target is not reachable in expectation, or no round comes within `TOLERANCE` of it.
    """
    low, high = reachable(posterior, costs, unit)
    aim, best = target, None
    for _ in range(_ROUNDS):
        found = solve(posterior, costs, unit, aim)
        sizes = _sizes(found.distribution, costs, unit, seed)
        sampled = float(np.mean(sizes)) if sizes else float("nan")
        found = replace(found, target=target, sampled=sampled, usable=len(sizes))
        if not sizes:
            break
        if best is None or abs(sampled - target) < abs(best.sampled - target):
            best = found
        moved = float(np.clip(aim * target / sampled, low + 1e-3 * (high - low), high - 1e-3 * (high - low)))
        if abs(sampled / target - 1.0) <= _AIM or moved == aim:
            break
        aim = moved
    if best is None or abs(best.sampled / target - 1.0) > TOLERANCE:
        nearest = "no draw is usable" if best is None else f"the nearest mean size is {best.sampled:.0f}"
        raise UsageError(
            f"draws of {target:.0f} {unit} on average cannot be had: of {DRAWS} each, {nearest}; "
            f"in expectation, this posterior reaches {low:.0f} to {high:.0f}",
            f"--{unit} {round((low + high) / 2 if best is None else best.sampled)}, "
            f"or train with another --target-{unit}",
        )
    return best


def _sizes(distribution: Posterior, costs: Costs, unit: str, seed: int) -> list[int]:
    """Exact costs of the usable ones of `DRAWS` draws."""
    generator = np.random.default_rng([seed, DRAWS])  # apart from the draws of the candidates
    drawn = costs.assess_many([distribution.draw(generator) for _ in range(DRAWS)])
    return [getattr(cost, unit) for cost in drawn if cost.usable]
