"""The two optimisers, of the weights and of the drop probabilities, and their schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from pgnas_cli.recipe import Recipe, Schedule
from pgnas_cli.training.commit import Trainable


class Optimizers:
    """SGD for the weights, and the gates' own optimiser, both on the recipe's schedule.

    The gates' gradient is small, and K times smaller again with one probability per channel; Adam does not depend on
    that scale. "sgd" is the published choice: the weights' momentum and, without --gate-lr, the weights' rate.
    """

    def __init__(self, net: Trainable, recipe: Recipe, steps_per_epoch: int) -> None:
        options = recipe.optimizer
        momentum: dict[str, Any] = {"momentum": options.momentum, "nesterov": options.nesterov}
        self.clip = options.clip
        self.weights = torch.optim.SGD(net.weight_parameters(), lr=options.lr, **momentum)
        self.learned = recipe.objective.fixed_drop is None and bool(net.gate_parameters())
        self.gates: torch.optim.Optimizer | None = None
        if self.learned:
            rate = options.resolved_gate_lr()
            if options.gate_optimizer == "adam":
                self.gates = torch.optim.Adam(net.gate_parameters(), lr=rate, betas=(0.9, 0.99))
            else:
                self.gates = torch.optim.SGD(net.gate_parameters(), lr=rate, **momentum)
        for drop_logit in net.gate_parameters():
            drop_logit.requires_grad_(self.learned)
        scheduled: list[torch.optim.Optimizer] = [self.weights]
        constant = options.gate_schedule == "constant" and recipe.commit_epoch is not None
        if self.gates is not None and not constant:
            scheduled.append(self.gates)
        self.schedulers = [make_scheduler(optimizer, recipe, steps_per_epoch) for optimizer in scheduled]

    def step(self, step: int, scaler: torch.amp.GradScaler | None = None, *, gates: bool = True) -> None:
        """One update, of the gates too unless `gates` is off; `step` counts from 0 and decides the rates.

        With a gradient scaler that is on, a step whose gradients overflowed is left out, and the scale is lowered.
        """
        for scheduler in self.schedulers:
            scheduler.step_update(step)
        both = [o for o in (self.weights, self.gates if gates else None) if o is not None]
        scaled = scaler if scaler is not None and scaler.is_enabled() else None
        if scaled is not None:
            for optimizer in both:
                scaled.unscale_(optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(self.weights.param_groups[0]["params"], self.clip)
        for optimizer in both:
            if scaled is None:
                optimizer.step()
            else:
                scaled.step(optimizer)
        if scaled is not None:
            scaled.update()

    def zero_grad(self) -> None:
        self.weights.zero_grad(set_to_none=True)
        if self.gates is not None:
            self.gates.zero_grad(set_to_none=True)

    @property
    def lr(self) -> float:
        return float(self.weights.param_groups[0]["lr"])

    @property
    def gate_lr(self) -> float:
        """The gates' rate at this step; 0 where nothing is learned about them."""
        return float(self.gates.param_groups[0]["lr"]) if self.gates is not None else 0.0

    def gate_metric(self, logits: Sequence[nn.Parameter]) -> Tensor | float:
        """The step that the gates' optimiser makes for a unit gradient, without its rate: P of the budget.

        One number for all drop logits (SGD, or before Adam's first step), or one for each, those of the parameters one
        after the other.
        """
        states = [self.gates.state.get(logit, {}) for logit in logits] if self.gates is not None else []
        seen = [state["exp_avg_sq"] for state in states if "exp_avg_sq" in state]
        return 1.0 / (torch.cat(seen).sqrt() + 1e-8) if len(seen) == len(logits) else 1.0

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights.state_dict(), "gates": self.gates.state_dict() if self.gates else None}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.weights.load_state_dict(state["weights"])
        if self.gates is not None:
            self.gates.load_state_dict(state["gates"])


def restart_cycle(epoch: int, first: int, factor: int) -> tuple[int, int]:
    """(T_cur, T_i) of warm restarts: epochs since the last restart, and how many epochs this cycle has.

    Cycle i has first * factor^i epochs. Counted in whole numbers: timm and torch find the cycle by a logarithm, which
    misses some restarts by one epoch (timm 1.0 with a factor of 3 the fifth, at epoch 121 * first).
    """
    while epoch >= first:
        epoch -= first
        first *= factor
    return epoch, first


class WarmRestartScheduler(Scheduler):
    """Cosine with warm restarts, constant within an epoch, after a linear warm-up by steps.

        lr_min + (lr - lr_min) / 2 * (1 + cos(pi * T_cur / T_i))

    Loshchilov and Hutter, SGDR, ICLR 2017, Eq. 5; see `restart_cycle`.

    Args:
        optimizer: its rate is lr.
        schedule: gives the cycles.
        steps_per_epoch: what turns steps into epochs.
        lr_min: end of every cycle.
        warmup: steps of warm-up, before the first cycle.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, steps_per_epoch: int, lr_min: float, warmup: int
    ) -> None:
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.schedule, self.steps_per_epoch, self.lr_min, self.warmup = schedule, steps_per_epoch, lr_min, warmup

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup:
            return [value * (t + 1) / (self.warmup + 1) for value in self.base_values]
        epoch = (t - self.warmup) // self.steps_per_epoch
        now, length = restart_cycle(epoch, self.schedule.restart_epochs, self.schedule.restart_factor)
        share = (1 + math.cos(math.pi * now / length)) / 2
        return [self.lr_min + (value - self.lr_min) * share for value in self.base_values]


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler:
    """timm's scheduler of a recipe, driven by the number of the step alone."""
    schedule = recipe.schedule
    total = schedule.epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total // 2)
    rate = float(optimizer.param_groups[0]["lr"])
    lr_min = schedule.lr_min * rate / recipe.optimizer.lr
    common: dict[str, Any] = {"warmup_t": warmup, "t_in_epochs": False, "warmup_lr_init": rate / (warmup + 1)}
    if schedule.name == "step":
        # timm counts a milestone as passed one update early
        milestones = [epoch * steps_per_epoch + 1 for epoch in schedule.milestones]
        return MultiStepLRScheduler(
            optimizer, decay_t=milestones, decay_rate=schedule.gamma, warmup_prefix=False, **common
        )
    if schedule.name == "restarts":
        return WarmRestartScheduler(optimizer, schedule, steps_per_epoch, lr_min, warmup)
    return CosineLRScheduler(optimizer, t_initial=max(2, total - warmup), lr_min=lr_min, warmup_prefix=True, **common)
