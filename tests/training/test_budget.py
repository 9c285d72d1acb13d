"""Holding E[parameters] at a target: the target's text, what is reachable, the correction and its multiplier."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pgnas_cli import inflate, restore
from pgnas_cli.errors import UsageError
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.budget import (
    LOGIT_BOUND,
    CostBudget,
    Target,
    clamp_logits,
    reachable,
    resolve_target,
    uniform_rate,
)
from pgnas_cli.training.loop import train, trained_supernet

TOLERANCE = 2e-3
PARAMS = Target("params", 1.0)


def params_budget(net: Supernet, value: float, **schedule: float) -> CostBudget:
    return CostBudget(net, [Target("params", value)], **schedule)


def goal(budget: CostBudget) -> float:
    """The target of the end."""
    return budget.goals[0].value


def make_net() -> Supernet:
    return inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)


def make_chain(granularity: str = "group") -> Supernet:
    """Four convolutions in a row, the last three gated, four groups each: a cost that takes a millisecond."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1 if index == 0 else 8, 8, 3, padding=1) for index in range(4)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    net = Supernet(backbone, {name: [2] * 4 for name in ("2", "4", "6")}, input_size=(1, 5, 5))
    net.set_granularity(granularity)
    return net


@pytest.fixture
def net() -> Supernet:
    return make_net()


def whole(net: Supernet) -> int:
    return net.kept_cost().params


@torch.no_grad()
def expected(net: Supernet) -> float:
    return float(net.cost().expected_params)


@torch.no_grad()
def set_logits(net: Supernet, how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for logit in net.gate_parameters():
        if how == "random":
            logit.copy_(4 * torch.randn(logit.shape, generator=generator)).clamp_(-LOGIT_BOUND, LOGIT_BOUND)
        else:
            logit.fill_({"kept": -LOGIT_BOUND, "dropped": LOGIT_BOUND, "initial": -2.1972}[how])


def metric(kind: str):
    """P of a gates' optimiser: 1 for SGD; for Adam one number per logit, over three decades."""

    def adam(logits: list[torch.Tensor]) -> torch.Tensor:
        drawn = [torch.rand(one.shape, generator=torch.Generator().manual_seed(one.numel())) for one in logits]
        return 10 ** (3 * torch.cat(drawn))

    return adam if kind == "adam" else lambda logits: 1.0


# ---- numbers ----


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5x", 500), ("1X", 1000), (" 12M ", 12e6), ("1.5g", 1.5e9), ("3k", 3000), ("7", 7), ("2e3", 2000)],
)
def test_a_target_is_a_share_or_a_number(text: str, value: float) -> None:
    assert resolve_target(text, 1000) == value


@pytest.mark.parametrize("text", ["", "x", "half", "0", "0x", "-1", "-0.5x", "nan", "inf", "infx", "5q", "1 2"])
def test_another_target_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--target-params") as error:
        resolve_target(text, 1000)
    assert "0.5x" in error.value.hint


def test_reachable_are_the_two_ends_of_the_bounds_and_the_logits_stay(net: Supernet) -> None:
    set_logits(net, "random")
    before = [logit.detach().clone() for logit in net.gate_parameters()]
    smallest, largest = reachable(net, PARAMS)
    assert all(map(torch.equal, before, net.gate_parameters()))
    assert smallest < expected(net) < largest < whole(net)
    for how, end in (("dropped", smallest), ("kept", largest)):
        set_logits(net, how)
        assert expected(net) == end


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("before", [None, 0.25])
def test_uniform_rate_gives_the_size_and_leaves_the_gates_alone(net: Supernet, share: float, before: float) -> None:
    net.set_gates(fixed_drop=before)
    target = share * whole(net)
    rate = uniform_rate(net, target)
    assert {gate.fixed_drop for gate in net.gates.values()} == {before}
    net.set_gates(fixed_drop=rate)
    assert expected(net) == pytest.approx(target, rel=1e-4)


@pytest.mark.parametrize("share", [1.01, 1e-5])
def test_no_uniform_rate_gives_an_impossible_size(net: Supernet, share: float) -> None:
    with pytest.raises(UsageError, match=rf"the range is \d+ to {whole(net)}"):
        uniform_rate(net, share * whole(net))
    assert {gate.fixed_drop for gate in net.gates.values()} == {None}


def test_clamp_logits(net: Supernet) -> None:
    logits = net.gate_parameters()
    with torch.no_grad():
        logits[0].fill_(9.0)
        logits[1].fill_(-9.0)
        logits[2].fill_(1.5)
    clamp_logits(logits)
    assert [float(logit.detach()) for logit in logits[:3]] == [LOGIT_BOUND, -LOGIT_BOUND, 1.5]


# ---- the correction ----


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("granularity", ["group", "channel"])
@pytest.mark.parametrize(("start", "calls"), [("initial", 1), ("random", 2), ("kept", 8), ("dropped", 8)])
def test_correct_meets_the_target_within_the_bounds(share, kind, granularity, start, calls) -> None:
    """From p = 0.1 in one call; from saturated logits, which hardly have a gradient, in a few."""
    net = make_chain(granularity)
    target = share * whole(net)
    budget = params_budget(net, target, start=0.0, reached=0.0)
    set_logits(net, start)
    distances = [abs(expected(net) - target)]
    while distances[-1] > TOLERANCE * target and len(distances) <= calls:
        budget.correct(1.0, metric(kind), tolerance=TOLERANCE)
        assert budget.costs["params"].expected == pytest.approx(expected(net), rel=1e-6)
        assert all(bool((logit.abs() <= LOGIT_BOUND).all()) for logit in net.gate_parameters())
        distances.append(abs(expected(net) - target))
    assert distances[-1] <= TOLERANCE * target
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_correct_meets_the_target_of_a_deep_network_in_one_call(net: Supernet, share: float) -> None:
    budget = params_budget(net, share * whole(net), start=0.0, reached=0.0)
    budget.correct(1.0, metric("sgd"), tolerance=TOLERANCE)
    assert expected(net) == pytest.approx(goal(budget), rel=TOLERANCE)


@pytest.mark.parametrize("end", [0, 1])
def test_a_target_at_the_end_of_the_range_saturates_and_stays_within_the_bounds(end: int) -> None:
    net = make_chain()
    target = reachable(net, PARAMS)[end] * (1.02 if end == 0 else 0.9999)
    budget = params_budget(net, target, start=0.0, reached=0.0)
    for _ in range(10):
        budget.correct(1.0, metric("adam"))
        assert all(bool((logit.abs() <= LOGIT_BOUND).all()) for logit in net.gate_parameters())
    assert expected(net) == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize("end", ["kept", "dropped"])
def test_one_correction_leads_out_of_saturation(net: Supernet, end: str) -> None:
    net.set_granularity("channel")
    budget = params_budget(net, 0.5 * whole(net), start=0.0, reached=0.0)
    set_logits(net, end)
    budget.correct(1.0, metric("adam"))
    assert expected(net) == pytest.approx(goal(budget), rel=2 * TOLERANCE)


def test_a_target_above_the_range_is_answered_with_the_largest(net: Supernet) -> None:
    with pytest.raises(UsageError) as error:
        params_budget(net, 2.0 * whole(net), start=0.0, reached=0.5)
    assert error.value.hint.startswith(("--target-params 0.9", "--target-params 1.0"))


def test_correct_changes_nothing_that_is_right_already(net: Supernet) -> None:
    budget = params_budget(net, expected(net), start=0.0, reached=0.0)
    before = [logit.detach().clone() for logit in net.gate_parameters()]
    budget.correct(1.0, metric("sgd"))
    assert all(map(torch.equal, before, net.gate_parameters()))
    assert budget.costs["params"].multiplier == 0.0


def test_the_target_falls_linearly_between_start_and_reached(net: Supernet) -> None:
    first = expected(net)
    budget = params_budget(net, 0.4 * whole(net), start=0.2, reached=0.6)
    end = goal(budget)
    falling = [budget.targets_at(progress)["params"] for progress in (0.2, 0.3, 0.4, 0.5, 0.6)]
    assert falling == pytest.approx([first + share * (end - first) for share in (0, 0.25, 0.5, 0.75, 1)])
    assert [budget.targets_at(progress)["params"] for progress in (0.0, 0.6, 1.0)] == [first, end, end]


def test_before_the_start_the_size_is_free_and_then_follows_the_schedule(net: Supernet) -> None:
    budget = params_budget(net, 0.4 * whole(net), start=0.2, reached=0.6)
    set_logits(net, "random")
    free = expected(net)
    budget.correct(0.19, metric("sgd"))
    assert expected(net) == free
    for progress in (0.3, 0.45, 1.0):
        budget.correct(progress, metric("sgd"))
        assert expected(net) == pytest.approx(budget.targets_at(progress)["params"], rel=TOLERANCE)


@pytest.mark.parametrize("share", [1e-5, 1.0])
def test_an_infeasible_target_names_the_range_and_one_that_works(net: Supernet, share: float) -> None:
    smallest, largest = reachable(net, PARAMS)
    with pytest.raises(UsageError, match=f"the gates reach {smallest:.0f} to {largest:.0f}") as error:
        params_budget(net, share * whole(net), start=0.0, reached=0.5)
    option, _, value = error.value.hint.partition(" ")
    assert option == "--target-params"
    params_budget(net, resolve_target(value, whole(net)), start=0.0, reached=0.5)


def test_the_state_comes_back_through_json(net: Supernet) -> None:
    budget = params_budget(net, 0.5 * whole(net), start=0.0, reached=0.5)
    budget.correct(0.25, metric("sgd"))
    other = params_budget(net, 0.5 * whole(net), start=0.0, reached=0.5)
    assert other.state() != budget.state()
    other.load_state(json.loads(json.dumps(budget.state())))
    assert other.state() == budget.state()
    assert other.targets_at(0.3) == budget.targets_at(0.3)
    third = params_budget(net, 0.5 * whole(net), start=0.0, reached=0.5)
    third.load_state(budget.state()["params"])  # as checkpoints had it when there was one target
    assert third.state() == budget.state()


@pytest.mark.parametrize(("share", "sign"), [(0.15, 1), (0.7, -1)])
def test_a_fixed_point_balances_the_loss_against_the_multiplier(share: float, sign: int) -> None:
    """Minimise 1/2 |a - a0|^2 under the budget: dloss/da + lambda dC/da = 0, up to the size of a step."""
    net, rate = make_chain(), 0.02
    logits = net.gate_parameters()
    generator = torch.Generator().manual_seed(2)
    centre = [torch.randn(logit.shape, generator=generator) for logit in logits]
    budget = params_budget(net, share * whole(net), start=0.0, reached=0.0)
    for _ in range(600):
        with torch.no_grad():
            for logit, middle in zip(logits, centre, strict=True):
                logit -= rate * (logit - middle)
        clamp_logits(logits)
        budget.correct(1.0, lambda logit: 1.0, travelled=rate, tolerance=1e-5)
    slopes = torch.cat(torch.autograd.grad(net.cost().expected_params, logits))
    loss_slopes = torch.cat([(logit - middle).detach() for logit, middle in zip(logits, centre, strict=True)])
    free = torch.cat([logit.detach() for logit in logits]).abs() < LOGIT_BOUND
    assert free.float().mean() > 0.8
    residual = (loss_slopes + budget.costs["params"].multiplier * slopes)[free].norm() / loss_slopes[free].norm()
    assert residual < 0.03
    # lambda is the price of a parameter: above 0 where the loss alone would end with a larger network
    with torch.no_grad():
        for logit, middle in zip(logits, centre, strict=True):
            logit.copy_(middle)
    assert (expected(net) > goal(budget)) == (sign > 0)
    assert budget.costs["params"].multiplier * sign > 0


@pytest.mark.slow
def test_training_ends_at_the_target_and_so_do_the_candidates(tmp_path) -> None:
    run = restore.create_run(make_net(), tmp_path / "run", options={"explicit": ["in_chans", "img_size"]})
    changes = {"schedule.epochs": 3, "data.batch_size": 32, "budget.target_params": "0.5x", "seed": 3}
    recipe = override(load_recipe("posterior"), changes)
    record = train(run, recipe, device="cpu")
    assert record["target_params"] == 0.5 * record["params"]
    assert record["expected_params"] == pytest.approx(record["target_params"], rel=0.02)
    net = trained_supernet(run)
    generator = torch.Generator().manual_seed(0)
    sizes = [net.sample(generator=generator).params for _ in range(200)]
    assert sum(sizes) / len(sizes) == pytest.approx(record["target_params"], rel=0.02)
