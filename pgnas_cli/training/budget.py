"""Holding the expected cost of the network at a target while the posterior trains.

The expected cost of the compact network - parameters, multiply-adds, or latency by a table - is a differentiable
function C of the drop logits a. The constrained problem

    minimise loss(a)   subject to   C(a) = target

has the stationarity condition  dloss/da + lambda * dC/da = 0. Instead of integrating the violation into lambda, which
stalls when logits saturate, each correction solves for it. The gates' optimiser makes its own steps with a
preconditioner P (Adam: 1 / sqrt of the second moment; SGD: 1); then a is moved along -P * dC/da by the one multiplier
lambda that brings C to the target (Newton's method on a scalar, C being smooth, or for a latency piecewise so, and
monotone in each logit but for noise of the table). Optimiser steps and correction together are the optimiser's steps
on loss + lambda * C, so a fixed point satisfies the condition above, up to the size of a step; and the target is met
after every correction, not only in the limit. The training loop corrects every few steps, and after the last.

The target falls linearly from the initial expectation to its final value, so that no group is dropped before the
likelihood has had a say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.sizes import Relative, parse_count
from pgnas_cli.supernet.latency import LatencyTable
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.cost_target import Target, find_target, sampled_cost

__all__ = [
    "LOGIT_BOUND",
    "CostBudget",
    "Target",
    "clamp_logits",
    "make_budget",
    "reachable",
    "resolve_target",
    "sampled_cost",
    "uniform_rate",
]

LOGIT_BOUND = 6.0
"""Drop logits stay within +-6 (p within 0.0025 .. 0.9975): beyond, the relaxed sample has no gradient left."""
LARGEST_MOVE = 1.0
"""A single correction moves no logit further than this."""


def resolve_target(text: str, whole: int, option: str = "--target-params") -> float:
    """ "0.5x" of `whole`, or "12M", as a number.

    Raises:
        UsageError: neither, or not above 0; it names `option`.
    """
    size = parse_count(text, option)
    return size.factor * whole if isinstance(size, Relative) else float(size)


def clamp_logits(logits: Sequence[Tensor], bound: float = LOGIT_BOUND) -> None:
    """Keep drop logits within +-bound, in place."""
    with torch.no_grad():
        torch._foreach_clamp_max_(list(logits), bound)
        torch._foreach_clamp_min_(list(logits), -bound)


def _counted(net: Supernet) -> list[nn.Parameter]:
    """The drop logits that E[cost] depends on: not those of heads for training only."""
    return [gate.drop_logit for gate in net.gates.values()]


@torch.no_grad()
def _flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Their values side by side, on the CPU, a copy."""
    return torch.cat([parameter.detach() for parameter in parameters]).cpu()


@torch.no_grad()
def _write(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    """The inverse of `_flat`."""
    parts = flat.to(parameters[0].device).split([len(parameter) for parameter in parameters])
    torch._foreach_copy_(list(parameters), list(parts))


@torch.no_grad()
def reachable(net: Supernet, target: Target, bound: float = LOGIT_BOUND) -> tuple[float, float]:
    """Smallest and largest E[cost], in the target's unit, that drop logits within +-bound can give."""
    logits = _counted(net)
    saved = [logit.detach().clone() for logit in logits]
    found = []
    for extreme in (bound, -bound):
        for logit in logits:
            logit.fill_(extreme)
        found.append(float(target.expectation(net)))
    for logit, old in zip(logits, saved, strict=True):
        logit.copy_(old)
    return found[0], found[1]


def uniform_rate(net: Supernet, target: float) -> float:
    """The constant drop probability at which E[parameters] of the compact network is `target`.

    Bisection: the expectation falls monotonically with the rate.

    Raises:
        UsageError: the target is above the whole network or below what a rate of 0.999 leaves.
    """
    gates = list(net.gates.values())
    saved = [gate.fixed_drop for gate in gates]

    @torch.no_grad()
    def size(rate: float) -> float:
        for gate in gates:
            gate.fixed_drop = rate
        return float(net.cost().expected_params)

    try:
        low, high = 0.0, 0.999
        largest, smallest = size(low), size(high)
        if not smallest <= target <= largest:
            raise UsageError(
                f"no constant drop rate gives {target:.0f} parameters: the range is {smallest:.0f} to {largest:.0f}",
                "--fixed-drop 0.5x",
            )
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if size(middle) > target else (low, middle)
        return (low + high) / 2
    finally:
        for gate, old in zip(gates, saved, strict=True):
            gate.fixed_drop = old


class CostBudget:
    """Holds E[cost] of a supernet at a target that falls over the course of training.

    Args:
        net: the supernet.
        target: the cost, and the value that it ends at.
        start, reached: shares of training between which the target falls.

    Raises:
        UsageError: no drop probabilities reach the target.
    """

    def __init__(self, net: Supernet, target: Target, *, start: float, reached: float) -> None:
        smallest, largest = reachable(net, target)
        if not smallest <= target.value <= largest:
            whole = target.whole(net)
            low, high = math.ceil(100 * smallest / whole) / 100, math.floor(100 * largest / whole) / 100
            raise UsageError(
                f"E[{target.unit}] cannot be held at {target.shown(target.value)}: "
                f"the gates reach {target.shown(smallest)} to {target.shown(largest)}",
                f"{target.option} {low if target.value < smallest else high:.2f}x",
            )
        self.net = net
        self.goal = target
        self.start, self.reached = start, reached
        self.initial = self._current()
        self.multiplier = 0.0
        self.expected = self.initial
        self._groups: dict[str, Tensor] | None = None

    @property
    def unit(self) -> str:
        """ "params", "macs" or "latency"."""
        return self.goal.unit

    @property
    def target(self) -> float:
        """E[cost] at the end, in parameters, multiply-adds or seconds."""
        return self.goal.value

    @torch.no_grad()
    def _current(self) -> float:
        return float(self.goal.expectation(self.net))

    def target_at(self, progress: float) -> float:
        """The target after a share `progress` of training."""
        if progress >= self.reached:
            return self.target
        if progress <= self.start:
            return self.initial
        share = (progress - self.start) / (self.reached - self.start)
        return self.initial + share * (self.target - self.initial)

    def correct(
        self,
        progress: float,
        metric: Callable[[Sequence[nn.Parameter]], Tensor | float],
        *,
        travelled: float = 1.0,
        tolerance: float = 2e-3,
    ) -> None:
        """Bring E[cost] to the target of this moment, along -P * dC/da.

        Before `start` the cost is free. One or two Newton steps are usual; a saturated posterior may need more. All of
        it is computed on the CPU: it consists of a thousand operations on a few numbers each.

        Args:
            progress: share of training done.
            metric: parameters -> P, the step that their optimiser makes for a unit gradient at rate 1: one number, or a
                vector over all of them, one after the other.
            travelled: the optimiser's rate, summed over the steps since the last correction; it turns the length of
                the correction into lambda, the `multiplier`.
            tolerance: relative error of E[cost] that ends the iteration.
        """
        if progress < self.start:
            return
        wanted = self.target_at(progress)
        parameters = _counted(self.net)
        logits, scale = _flat(parameters), metric(parameters)
        scale = scale.cpu() if isinstance(scale, Tensor) else scale
        before, total = logits.clone(), 0.0
        for _ in range(20):
            leaf = logits.clone().requires_grad_()
            expected = self.goal.expectation(self.net, self._keep(leaf))
            self.expected = float(expected.detach())
            gap = wanted - self.expected
            if abs(gap) <= tolerance * wanted:
                break
            total += self._newton(logits, scale, torch.autograd.grad(expected, leaf)[0], gap)
        else:
            with torch.no_grad():
                self.expected = float(self.goal.expectation(self.net, self._keep(logits)))
        if not torch.equal(logits, before):
            _write(parameters, logits)
        if travelled > 0:
            self.multiplier = 0.9 * self.multiplier + 0.1 * total / travelled

    def _keep(self, logits: Tensor) -> dict[str, Tensor]:
        """Layer name -> probability of each input of being kept, of learned drop logits side by side on the CPU."""
        gates = self.net.gates
        parts = torch.sigmoid(-logits).split([len(gate.sizes) for gate in gates.values()])
        if self._groups is None:
            self._groups = {name: gate.group_of_channel.cpu() for name, gate in gates.items()}
        found = {}
        for (name, gate), part in zip(gates.items(), parts, strict=True):
            if len(part) == 1:
                found[name] = part.expand(gate.channels)
            else:
                found[name] = part if len(part) == gate.channels else part[self._groups[name]]
        return found

    @staticmethod
    @torch.no_grad()
    def _newton(logits: Tensor, scale: Tensor | float, slope: Tensor, gap: float) -> float:
        """One step along P * slope that would close `gap` if C were linear; returns its length with lambda's sign.

        A logit that would move further than LARGEST_MOVE moves that far; the next step closes what that leaves.
        """
        # slope < 0: a larger drop logit, a smaller network. What would leave the bounds stays where it is.
        outward = torch.where((slope * gap) > 0, logits >= LOGIT_BOUND, logits <= -LOGIT_BOUND)
        direction = torch.where(outward, 0.0, slope * scale)
        curvature = float((slope * direction).sum())
        if curvature <= 0.0:
            return 0.0
        amount = gap / curvature
        logits.add_((amount * direction).clamp_(-LARGEST_MOVE, LARGEST_MOVE)).clamp_(-LOGIT_BOUND, LOGIT_BOUND)
        return -amount

    def log(self, progress: float) -> dict[str, float]:
        """What log.jsonl holds of it: the target of this moment, the multiplier, and E[latency] in seconds if that is
        what is held (the other two costs are logged with and without a budget)."""
        row = {f"target_{self.unit}": self.target_at(progress), "multiplier": self.multiplier}
        return {**row, "expected_latency": self._current()} if self.unit == "latency" else row

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"initial": self.initial, "multiplier": self.multiplier, "expected": self.expected}

    def load_state(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self.initial, self.multiplier, self.expected = state["initial"], state["multiplier"], state["expected"]


def make_budget(net: Supernet, recipe: Recipe, table: LatencyTable | None = None) -> CostBudget | None:
    """The budget that a recipe asks for; None if it leaves the size to the priors.

    Args:
        net: the supernet as it will be trained.
        recipe: at most one of its targets is set.
        table: what operations take; needed where the target is a latency.

    Raises:
        UsageError: no drop probabilities reach the target.
    """
    target = find_target(net, recipe.budget, table)
    if target is None:
        return None
    return CostBudget(net, target, start=recipe.budget.start, reached=recipe.budget.reached)
