"""Budgets in multiply-adds and latency, and of several costs: targets as they are typed, the correction, candidates."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from pgnas_cli import compact as compaction
from pgnas_cli import inflate
from pgnas_cli.errors import UsageError
from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.supernet.latency import Entry, LatencyTable, candidate_latency
from pgnas_cli.supernet.latency_measure import measure_table
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.budget import LOGIT_BOUND, CostBudget, Target, clamp_logits, make_budget, sampled_cost
from pgnas_cli.training.cost_target import find_targets


def make_net(seed: int = 0) -> Supernet:
    return inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=seed)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """Times that follow a rule: 0.1 us for every operation, 5 ns for every pair of channels."""
    measured = measure_table(make_net(), runs=1)
    entries = {
        key: Entry(entry.axes, tuple(1e-7 + 5e-9 * math.prod(sizes) for sizes in product(*entry.axes)))
        for key, entry in measured.entries.items()
    }
    plain = dataclasses.replace(measured, entries=entries, calibration=())
    whole = float(plain.seconds(compaction.expected(make_net().graph, {})))
    return dataclasses.replace(plain, whole=(whole, 4e-4), calibration=((whole / 2, 3e-4), (whole, 4e-4)))


def target(net: Supernet, unit: str, share: float, table: LatencyTable | None) -> Target:
    by = table if unit == "latency" else None
    return Target(unit, share * Target(unit, 1.0, by).whole(net), by)


@pytest.mark.parametrize(
    ("unit", "granularity", "share"),
    [("params", "group", 0.5), ("macs", "group", 0.5), ("latency", "group", 0.8), ("latency", "channel", 0.8)],
)
def test_a_short_training_ends_at_the_target_and_so_do_the_candidates(unit, granularity, share, table) -> None:
    """A loss on the logits alone, which wants another size; after the last correction E[cost] is within 2 %."""
    net = make_net()
    net.set_granularity(granularity)
    logits = [gate.drop_logit for gate in net.gates.values()]
    generator = torch.Generator().manual_seed(1)
    wanted = [2 * torch.randn(logit.shape, generator=generator) for logit in logits]
    goal = target(net, unit, share, table)
    budget = CostBudget(net, [goal], start=0.1, reached=0.5)
    optimizer, steps = torch.optim.Adam(logits, lr=0.05), 24
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        torch.stack([(a - b).square().sum() for a, b in zip(logits, wanted, strict=True)]).sum().backward()
        optimizer.step()
        clamp_logits(logits)
        if step % 4 == 0:
            budget.correct(step / steps, lambda logit: 1.0, travelled=0.2)
    with torch.no_grad():
        assert float(goal.expectation(net)) == pytest.approx(goal.value, rel=0.02)
    assert budget.costs[unit].expected == pytest.approx(goal.value, rel=0.02)
    sampled = sampled_cost(net, table, candidates=64, seed=0)[unit]
    assert sampled["mean"] == pytest.approx(goal.value, rel=0.05)
    assert sampled["sd"] > 0


@pytest.mark.parametrize(
    ("key", "text", "unit", "share"),
    [
        ("target_params", "0.5x", "params", 0.5),
        ("target_macs", "0.25x", "macs", 0.25),
        ("target_latency", "0.6x", "latency", 0.6),
        ("target_latency", "240us", "latency", 0.6),
        ("target_latency", "0.24 ms", "latency", 0.6),
    ],
)
def test_a_recipe_names_one_cost(key: str, text: str, unit: str, share: float, table) -> None:
    net = make_net()
    found = make_budget(net, override(load_recipe("posterior"), {f"budget.{key}": text}), table)
    (goal,) = found.goals
    assert goal.unit == unit
    assert goal.value == pytest.approx(share * target(net, unit, 1.0, table).value)
    row = found.log(1.0)
    assert (row[f"target_{unit}"], row[f"multiplier_{unit}"]) == (goal.value, 0.0)
    assert ("expected_latency" in row) == (unit == "latency")


def test_a_recipe_without_a_target_has_no_budget(table) -> None:
    assert make_budget(make_net(), load_recipe("posterior"), table) is None


def test_an_absolute_number_of_macs() -> None:
    recipe = override(load_recipe("posterior"), {"budget.target_macs": "50M"})
    assert find_targets(make_net(), recipe.budget, None) == (Target("macs", 50e6),)


@pytest.mark.parametrize(
    ("unit", "share"), [("params", 1e-7), ("params", 3.0), ("macs", 3.0), ("latency", 1e-7), ("latency", 3.0)]
)
def test_an_infeasible_target_names_its_option_and_one_that_works(unit: str, share: float, table) -> None:
    net = make_net()
    with pytest.raises(UsageError, match=rf"E\[{unit}\] cannot be held") as error:
        CostBudget(net, [target(net, unit, share, table)], start=0.0, reached=0.5)
    option, text = error.value.hint.split()
    assert option == f"--target-{unit}"
    recipe = override(load_recipe("posterior"), {f"budget.target_{unit}": text})
    assert make_budget(net, recipe, table) is not None


@pytest.mark.parametrize("unit", ["macs", "latency"])
@pytest.mark.parametrize("end", [LOGIT_BOUND, -LOGIT_BOUND])
def test_corrections_lead_out_of_saturation(unit: str, end: float, table) -> None:
    net = make_net()
    goal = target(net, unit, 0.5, table)
    budget = CostBudget(net, [goal], start=0.0, reached=0.0)
    for logit in net.gate_parameters():
        nn.init.constant_(logit, end)
    for _ in range(3):
        budget.correct(1.0, lambda logit: 1.0)
    assert budget.costs[unit].expected == pytest.approx(goal.value, rel=0.005)
    assert all(bool((logit.abs() <= LOGIT_BOUND).all()) for logit in net.gate_parameters())


# ---- several ----


def make_chain() -> Supernet:
    """Six convolutions in a row, the last five gated, the last three on a quarter of the positions."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(6):
        stride = 2 if index == 3 else 1
        layers += [nn.Conv2d(1 if index == 0 else 8, 8, 3, padding=1, stride=stride), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return Supernet(backbone, {str(2 * index): [2] * 4 for index in range(1, 6)}, input_size=(1, 8, 8))


def expected(net: Supernet, goals: Sequence[Target]) -> list[float]:
    with torch.no_grad():
        return [float(goal.expectation(net)) for goal in goals]


@pytest.mark.parametrize(
    ("shares", "held"),
    [
        ({"params": 0.3, "macs": 0.9}, {"params"}),
        ({"params": 0.9, "macs": 0.3}, {"macs"}),
        ({"params": 0.9, "macs": 0.6, "latency": 0.5}, {"latency"}),
    ],
)
@pytest.mark.parametrize("start", [LOGIT_BOUND, -LOGIT_BOUND, -2.2, 0.5])
def test_of_several_costs_none_is_exceeded_and_one_is_held(shares, held, start, table) -> None:
    net = make_net()
    goals = [target(net, unit, share, table) for unit, share in shares.items()]
    budget = CostBudget(net, goals, start=0.0, reached=0.0)
    for logit in net.gate_parameters():
        nn.init.constant_(logit, start)
    for _ in range(3):
        budget.correct(1.0, lambda logit: 1.0)
    ratios = {goal.unit: cost / goal.value for goal, cost in zip(goals, expected(net, goals), strict=True)}
    assert max(ratios.values()) == pytest.approx(1.0, abs=2e-3)
    assert {unit for unit, ratio in ratios.items() if ratio > 0.98} == held
    assert budget.hardest(1.0)[0].goal.unit in held
    assert {unit: found.expected / found.goal.value for unit, found in budget.costs.items()} == pytest.approx(ratios)


@pytest.mark.parametrize(("macs", "held"), [(0.9, {"params"}), (0.44, {"params", "macs"}), (0.3, {"macs"})])
def test_a_fixed_point_under_two_targets_balances_the_loss_against_their_multipliers(
    macs: float, held: set[str]
) -> None:
    """Minimise 1/2 |a - a0|^2: dloss/da + sum_i lambda_i dC_i/da = 0; lambda_i > 0 where a cost is held, else 0."""
    net, rate = make_chain(), 0.02
    logits = [gate.drop_logit for gate in net.gates.values()]
    generator = torch.Generator().manual_seed(2)
    centre = [torch.randn(logit.shape, generator=generator) - 1 for logit in logits]
    whole = net.kept_cost()
    goals = [Target("params", 0.5 * whole.params), Target("macs", macs * whole.macs)]
    budget = CostBudget(net, goals, start=0.0, reached=0.0)
    for _ in range(400):
        with torch.no_grad():
            for logit, middle in zip(logits, centre, strict=True):
                logit -= rate * (logit - middle)
        clamp_logits(logits)
        budget.correct(1.0, lambda logit: 1.0, travelled=rate, tolerance=1e-5)
    for goal, cost in zip(goals, expected(net, goals), strict=True):
        multiplier = budget.costs[goal.unit].multiplier
        if goal.unit in held:
            assert cost == pytest.approx(goal.value, rel=2e-3)
            assert multiplier > 0
        else:
            assert cost < 0.99 * goal.value
            assert abs(multiplier) < 1e-9
    slopes = [torch.cat(torch.autograd.grad(goal.expectation(net), logits)) for goal in goals]
    prices = sum(budget.costs[goal.unit].multiplier * slope for goal, slope in zip(goals, slopes, strict=True))
    loss_slopes = torch.cat([(logit - middle).detach() for logit, middle in zip(logits, centre, strict=True)])
    free = torch.cat([logit.detach() for logit in logits]).abs() < LOGIT_BOUND
    assert free.float().mean() > 0.8
    assert (loss_slopes + prices)[free].norm() < 0.03 * loss_slopes[free].norm()


def test_several_targets_of_a_recipe(table) -> None:
    net = make_net()
    asked = {"budget.target_latency": "0.6x", "budget.target_params": "0.5x", "budget.target_macs": "100k"}
    budget = make_budget(net, override(load_recipe("posterior"), asked), table)
    assert [goal.unit for goal in budget.goals] == list(UNITS)
    row = budget.log(1.0)
    assert {key for key in row if not key.startswith("expected")} == {
        f"{what}_{unit}" for what in ("target", "multiplier") for unit in UNITS
    }
    assert row["expected_latency"] == budget.costs["latency"].expected
    with torch.no_grad():
        nn.init.constant_(next(iter(net.gates.values())).drop_logit, 3.0)
    assert budget.log(1.0)["expected_latency"] < row["expected_latency"]
    other = make_budget(make_net(), override(load_recipe("posterior"), asked), table)
    budget.correct(1.0, lambda logit: 1.0)
    other.load_state(json.loads(json.dumps(budget.state())))
    assert (
        other.state()
        == budget.state()
        != make_budget(make_net(), override(load_recipe("posterior"), asked), table).state()
    )


def test_targets_move_together_and_the_hardest_of_the_moment_is_held() -> None:
    net = make_net()
    goals = [target(net, "params", 0.5, None), target(net, "macs", 0.2, None)]
    first = expected(net, goals)
    budget = CostBudget(net, goals, start=0.2, reached=0.6)
    half = [a + 0.5 * (goal.value - a) for a, goal in zip(first, goals, strict=True)]
    assert list(budget.targets_at(0.4).values()) == pytest.approx(half)
    budget.correct(0.4, lambda logit: 1.0)
    assert budget.hardest(0.4) == (budget.costs["macs"], pytest.approx(half[1]))
    assert expected(net, goals)[1] == pytest.approx(half[1], rel=2e-3)
    assert expected(net, goals)[0] < half[0]


def test_a_target_that_is_kept_anyway_is_no_error_beside_one_that_is_not() -> None:
    net = make_net()
    goals = [target(net, "params", 2.0, None), target(net, "macs", 0.5, None)]
    budget = CostBudget(net, goals, start=0.0, reached=0.0)
    budget.correct(1.0, lambda logit: 1.0)
    assert expected(net, goals)[1] == pytest.approx(goals[1].value, rel=2e-3)
    for params, macs in ((2.0, 2.0), (1e-7, 0.5)):
        refused = [target(net, "params", params, None), target(net, "macs", macs, None)]
        with pytest.raises(UsageError, match=r"E\[params\] cannot be held"):
            CostBudget(net, refused, start=0.0, reached=0.0)


@pytest.mark.parametrize("units", [(), ("macs", "macs")])
def test_no_cost_or_one_twice_is_no_budget(units) -> None:
    net = make_net()
    with pytest.raises(ValueError, match="one a unit"):
        CostBudget(net, [target(net, unit, 0.5, None) for unit in units], start=0.0, reached=0.5)


@pytest.mark.parametrize(("unit", "with_table"), [("latency", False), ("params", True), ("seconds", False)])
def test_a_target_that_makes_no_sense_is_refused(unit: str, with_table: bool, table) -> None:
    with pytest.raises(ValueError, match=r"unit is|needs a table"):
        Target(unit, 1.0, table if with_table else None)


def test_sampled_cost_is_that_of_its_candidates(table) -> None:
    net = make_net()
    found = sampled_cost(net, table, candidates=5, seed=3)
    posterior, generator = net.posterior(), np.random.default_rng(3)
    masks = [posterior.draw(generator) for _ in range(5)]
    assert found["params"]["mean"] == np.mean([net.assess(m).params for m in masks])
    assert found["macs"]["sd"] == pytest.approx(np.std([net.assess(m).macs for m in masks]))
    assert found["latency"]["mean"] == pytest.approx(np.mean([candidate_latency(net, m, table) for m in masks]))
    assert set(sampled_cost(net, candidates=2)) == {"params", "macs"}


def test_draws_that_see_no_image_are_left_out() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = Supernet(backbone, {"2": [4]}, input_size=(1, 6, 6))
    nn.init.constant_(net.gates["2"].drop_logit, 40.0)
    assert sampled_cost(net, candidates=3) == {}
