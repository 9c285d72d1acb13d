"""Holding expected costs of the network at their targets while the posterior trains.

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

Several costs may have targets. Then none may exceed its own, and the network is as large as that lets it be:

    max_i C_i(a) / target_i = 1.

A correction moves a along the gradient of the cost that is the maximum, until the maximum is 1 to the tolerance. A cost
that stays below its target has the multiplier lambda_i = 0; where two are held, corrections alternate between them.
Where the loss asks for a larger network, lambda_i >= 0 and a fixed point satisfies the conditions of Karush, Kuhn and
Tucker for  minimise loss(a)  subject to  C_i(a) <= target_i for all i. Where it asks for a smaller one, the network is
grown until the first cost reaches its target, whose lambda_i is then negative, as it is with one target.

A target moves linearly from the initial expectation to its final value, so that no group is dropped before the
likelihood has had a say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.sizes import Relative, parse_count
from pgnas_cli.supernet.latency import LatencyTable
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.cost_target import Target, expectations, find_targets, sampled_cost

__all__ = [
    "LOGIT_BOUND",
    "BudgetedCost",
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


def _check_reachable(net: Supernet, goals: Sequence[Target]) -> None:
    """Refuse a target below what the gates reach, and one above if no other takes its place.

    Raises:
        UsageError: with the range, and with a target that works.
    """
    ranges = [reachable(net, goal) for goal in goals]
    idle = all(goal.value > largest for goal, (_, largest) in zip(goals, ranges, strict=True))
    for goal, (smallest, largest) in zip(goals, ranges, strict=True):
        if goal.value < smallest or idle:
            whole = goal.whole(net)
            low, high = math.ceil(100 * smallest / whole) / 100, math.floor(100 * largest / whole) / 100
            raise UsageError(
                f"E[{goal.unit}] cannot be held at {goal.shown(goal.value)}: "
                f"the gates reach {goal.shown(smallest)} to {goal.shown(largest)}",
                f"{goal.option} {low if goal.value < smallest else high:.2f}x",
            )


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


@dataclass
class BudgetedCost:
    """A cost under a budget.

    Args:
        goal: its target at the end.
        initial: its expectation when the training began.
        expected: its expectation after the last correction.
        multiplier: its lambda, a running mean over corrections.
    """

    goal: Target
    initial: float
    expected: float
    multiplier: float = 0.0

    def target(self, share: float) -> float:
        """The target of a moment: of its way from the initial expectation, `share` lies behind it."""
        return self.initial + share * (self.goal.value - self.initial)


class CostBudget:
    """Holds expected costs of a supernet at targets that move over the course of training.

    Args:
        net: the supernet.
        goals: the costs, and the values that they end at. None is exceeded, and the hardest to keep is held.
        start, reached: shares of training between which the targets move.

    Raises:
        UsageError: no drop probabilities reach a target, or all targets are above what the whole network costs.
        ValueError: there is none, or two are in the same unit.
    """

    def __init__(self, net: Supernet, goals: Sequence[Target], *, start: float, reached: float) -> None:
        if not goals or len({goal.unit for goal in goals}) < len(goals):
            raise ValueError(f"targets in {[goal.unit for goal in goals]}: one or more are needed, one a unit")
        _check_reachable(net, goals)
        self.net, self.goals = net, tuple(goals)
        self.start, self.reached = start, reached
        initial = self._expected()
        self.costs = {goal.unit: BudgetedCost(goal, cost, cost) for goal, cost in zip(goals, initial, strict=True)}
        self._groups: dict[str, Tensor] | None = None

    @torch.no_grad()
    def _expected(self, keep: Mapping[str, Tensor] | None = None) -> list[float]:
        return [float(cost) for cost in expectations(self.net, self.goals, keep)]

    def targets_at(self, progress: float) -> dict[str, float]:
        """Unit -> the target after a share `progress` of training."""
        if progress >= self.reached:
            share = 1.0
        elif progress <= self.start:
            share = 0.0
        else:
            share = (progress - self.start) / (self.reached - self.start)
        return {unit: cost.target(share) for unit, cost in self.costs.items()}

    def hardest(self, progress: float) -> tuple[BudgetedCost, float]:
        """(The cost that is the largest share of its target of this moment, that target)."""
        wanted = self.targets_at(progress)
        unit = max(wanted, key=lambda unit: self.costs[unit].expected / wanted[unit])
        return self.costs[unit], wanted[unit]

    def correct(
        self,
        progress: float,
        metric: Callable[[Sequence[nn.Parameter]], Tensor | float],
        *,
        travelled: float = 1.0,
        tolerance: float = 2e-3,
    ) -> None:
        """Bring the cost that is hardest to keep to its target of this moment, along -P * dC/da.

        Before `start` the costs are free. One or two Newton steps are usual; a saturated posterior, or a second target,
        may need more. All of it is computed on the CPU: it consists of a thousand operations on a few numbers each.

        Args:
            progress: share of training done.
            metric: parameters -> P, the step that their optimiser makes for a unit gradient at rate 1: one number, or a
                vector over all of them, one after the other.
            travelled: the optimiser's rate, summed over the steps since the last correction; it turns the length of
                the correction into lambda, the `multiplier` of a cost.
            tolerance: relative error of the largest E[cost] / target that ends the iteration.
        """
        if progress < self.start:
            return
        parameters = _counted(self.net)
        logits, scale = _flat(parameters), metric(parameters)
        scale = scale.cpu() if isinstance(scale, Tensor) else scale
        before, moved = logits.clone(), dict.fromkeys(self.costs, 0.0)
        for _ in range(20):
            leaf = logits.clone().requires_grad_()
            expected = dict(zip(self.costs, expectations(self.net, self.goals, self._keep(leaf)), strict=True))
            self._see([float(cost.detach()) for cost in expected.values()])
            hardest, wanted = self.hardest(progress)
            gap, unit = wanted - hardest.expected, hardest.goal.unit
            if abs(gap) <= tolerance * wanted:
                break
            moved[unit] += self._newton(logits, scale, torch.autograd.grad(expected[unit], leaf)[0], gap)
        else:
            self._see(self._expected(self._keep(logits)))
        if not torch.equal(logits, before):
            _write(parameters, logits)
        if travelled > 0:
            for unit, cost in self.costs.items():
                cost.multiplier = 0.9 * cost.multiplier + 0.1 * moved[unit] / travelled

    def _see(self, expected: Sequence[float]) -> None:
        for cost, value in zip(self.costs.values(), expected, strict=True):
            cost.expected = value

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
        """What log.jsonl holds of it: targets of this moment, multipliers, and E[latency] in seconds if that has a
        target (the other two costs are logged with and without a budget)."""
        row = {f"target_{unit}": target for unit, target in self.targets_at(progress).items()}
        row |= {f"multiplier_{unit}": cost.multiplier for unit, cost in self.costs.items()}
        if "latency" in self.costs:
            with torch.no_grad():
                row["expected_latency"] = float(self.costs["latency"].goal.expectation(self.net))
        return row

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps."""
        return {
            unit: {"initial": cost.initial, "multiplier": cost.multiplier, "expected": cost.expected}
            for unit, cost in self.costs.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if "initial" in state:  # written when there was one target
            state = {self.goals[0].unit: state}
        self.costs = {goal.unit: BudgetedCost(goal, **state[goal.unit]) for goal in self.goals}


def make_budget(net: Supernet, recipe: Recipe, table: LatencyTable | None = None) -> CostBudget | None:
    """The budget that a recipe asks for; None if it leaves the size to the priors.

    Args:
        net: the supernet as it will be trained.
        recipe: with any of its targets.
        table: what operations take; needed where a target is a latency.

    Raises:
        UsageError: no drop probabilities reach a target.
    """
    goals = find_targets(net, recipe.budget, table)
    if not goals:
        return None
    return CostBudget(net, goals, start=recipe.budget.start, reached=recipe.budget.reached)
