"""Learning rates: cosine, warm restarts and milestones against their formulas in float64, weights and gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import override
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.optimizers import Optimizers, make_scheduler, restart_cycle

STEPS = 3
"""Steps an epoch."""


def recipe(**changes: object) -> Recipe:
    plain = {"schedule.warmup_epochs": 0.0, "optimizer.lr": 0.05}
    return override(Recipe(), {**plain, **{key.replace("__", "."): value for key, value in changes.items()}})


def rates(chosen: Recipe, base: float | None = None) -> np.ndarray:
    """[steps] the rate of every step, for an optimiser whose own rate is `base`."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base or chosen.optimizer.lr)
    scheduler = make_scheduler(optimizer, chosen, STEPS)
    found = []
    for step in range(STEPS * chosen.schedule.epochs):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return np.array(found)


def cosine(low: float, high: float, now: float, length: float) -> float:
    return low + (high - low) / 2 * (1 + math.cos(math.pi * now / length))


# ---- restarts ----


def test_the_enas_schedule_has_six_whole_cycles() -> None:
    cycles = [restart_cycle(epoch, 10, 2) for epoch in range(630)]
    assert [epoch for epoch, (now, _) in enumerate(cycles) if now == 0] == [0, 10, 30, 70, 150, 310]
    assert cycles[629] == (319, 320)
    assert restart_cycle(630, 10, 2) == (0, 640)


def test_rates_of_restarts_equal_the_formula_and_are_constant_within_an_epoch() -> None:
    chosen = recipe(schedule__name="restarts", schedule__epochs=630, schedule__lr_min=0.0001)
    found = rates(chosen).reshape(630, STEPS)
    assert (found == found[:, :1]).all()
    wanted = np.concatenate([[cosine(0.0001, 0.05, now, n) for now in range(n)] for n in (10, 20, 40, 80, 160, 320)])
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-12)
    assert found[0, 0] == found[10, 0] == found[310, 0] == 0.05
    assert found[5, 0] == pytest.approx(0.02505, rel=1e-12)  # half way down: the mean of both ends
    assert 0.0001 < found[-1, 0] < 0.0001 + 2e-6


@pytest.mark.parametrize(("first", "factor"), [(1, 2), (3, 1), (7, 2), (2, 4), (10, 5)])
def test_restarts_are_those_of_timm(first: int, factor: int) -> None:
    keys = {"schedule__restart_epochs": first, "schedule__restart_factor": factor, "schedule__lr_min": 0.001}
    found = rates(recipe(schedule__name="restarts", schedule__epochs=100, **keys))[::STEPS]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    theirs = CosineLRScheduler(optimizer, t_initial=first, cycle_mul=factor, cycle_limit=1000, lr_min=0.001)
    wanted = []
    for epoch in range(100):
        theirs.step(epoch)
        wanted.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("factor", range(1, 11))
def test_cycles_follow_one_another_without_a_gap(factor: int) -> None:
    """Also where a logarithm would round to the cycle before: factor 3 at epoch 121, factor 10 at epoch 111."""
    wanted, length = [], 1
    while len(wanted) < 2000:
        wanted += [(now, length) for now in range(length)]
        length *= factor
    assert [restart_cycle(epoch, 1, factor) for epoch in range(2000)] == wanted[:2000]


def test_restarts_begin_after_the_warm_up() -> None:
    keys = {"schedule__name": "restarts", "schedule__restart_epochs": 2, "schedule__epochs": 8}
    warm = rates(recipe(**keys, schedule__warmup_epochs=1.0))
    np.testing.assert_allclose(warm[:STEPS], [0.05 * n / (STEPS + 1) for n in range(1, STEPS + 1)], rtol=1e-12)
    np.testing.assert_array_equal(warm[STEPS:], rates(recipe(**keys))[:-STEPS])


# ---- where they end, and whom they move ----


@pytest.mark.parametrize("low", [0.0, 0.001, 0.05])
def test_the_cosine_falls_to_lr_min(low: float) -> None:
    found = rates(recipe(schedule__epochs=20, schedule__lr_min=low))
    np.testing.assert_allclose(found, [cosine(low, 0.05, step, 60) for step in range(60)], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", ["cosine", "restarts", "step"])
def test_another_rate_goes_the_same_way_in_proportion(name: str) -> None:
    chosen = recipe(schedule__name=name, schedule__epochs=35, schedule__lr_min=0.01, schedule__milestones=[3, 20])
    np.testing.assert_allclose(rates(chosen, base=0.1), 2 * rates(chosen), rtol=1e-12)


@pytest.mark.parametrize(
    ("gate_optimizer", "gate_lr", "share"), [("sgd", None, 1.0), ("sgd", 0.5, 10.0), ("adam", None, 2.0)]
)
def test_the_gates_follow_the_weights(gate_optimizer: str, gate_lr: float | None, share: float) -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = Supernet(backbone, {"1": [4]}, input_size=(1, 2, 2))
    keys = {"optimizer__gate_optimizer": gate_optimizer, "optimizer__gate_lr": gate_lr, "schedule__lr_min": 0.01}
    optimizers = Optimizers(net, recipe(schedule__name="restarts", schedule__restart_epochs=4, **keys), STEPS)
    for step in range(40):
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers.step(step)
        assert optimizers.gate_lr == pytest.approx(share * optimizers.lr, rel=1e-12)
    assert optimizers.lr < 0.05


@pytest.mark.parametrize(
    ("epochs", "milestones", "wanted"),
    [
        (90, [30, 60], {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}),
        (180, [90, 140, 160], {89: 0.1, 90: 0.01, 139: 0.01, 140: 0.001, 159: 0.001, 160: 0.0001, 179: 0.0001}),
    ],
)
def test_the_published_milestones_take_effect_with_their_epoch(epochs: int, milestones: list, wanted: dict) -> None:
    keys = {"schedule__epochs": epochs, "schedule__milestones": milestones, "optimizer__lr": 0.1}
    found = rates(recipe(schedule__name="step", **keys)).reshape(epochs, STEPS)
    for epoch, rate in wanted.items():
        np.testing.assert_allclose(found[epoch], rate, rtol=1e-12)
