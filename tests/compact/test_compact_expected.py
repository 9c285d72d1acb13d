"""Counts: exact against torch's own counter, expected against sampled candidates and numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from compact_nets import ShakeNet, build, constant, only_one, pictures, random_masks, randomise, sizes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pgnas_cli.compact import ChannelGraph, Cost, analyse, compact, count, expected, expected_cost, trace
from pgnas_cli.compact.algebra import Booleans, Probabilities, expected_largest, none_of
from pgnas_cli.compact.tape import Tape

Way = Callable[[ChannelGraph, dict[str, Tensor]], Cost[Tensor]]
WAYS: dict[str, Way] = {"torch": lambda graph, probs: count(graph, expected(graph, probs)), "tape": expected_cost}
"""The two ways to compute an expectation."""
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def keep_probs(graph: ChannelGraph, low: float, high: float, seed: int = 0) -> dict[str, Tensor]:
    """One probability for each layer but the stem, as the gates have (of three stem inputs all are often dropped,
    and then all channels of the network die together)."""
    rng = np.random.default_rng(seed)
    return {name: torch.full((n,), float(rng.uniform(low, high))) for name, n in list(sizes(graph).items())[1:]}


def sampled_cost(graph: ChannelGraph, probs: dict[str, Tensor], n: int = 1000) -> tuple[float, float]:
    """Mean parameters and MACs of n candidates."""
    rng, total = np.random.default_rng(1), np.zeros(2)
    arrays = {name: p.numpy() for name, p in probs.items()}
    for _ in range(n):
        cost = count(graph, analyse(graph, {name: rng.random(p.shape) < p for name, p in arrays.items()}))
        total += (cost.params, cost.macs)
    return total[0] / n, total[1] / n


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        *(
            (name, *keep)
            for name in ("resnet18", "shake")
            for keep in ((0.9, 0.9), (0.4, 0.95), (0.5, 0.5), (0.2, 0.6))
        ),
        # grouped convolutions: the size of the fullest group
        pytest.param("regnetx_002", 0.5, 0.9, marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", 0.5, 0.9, marks=pytest.mark.slow),
        pytest.param("densenet121", 0.3, 0.9, marks=pytest.mark.slow),
        ("mobilenetv3_small_050", 0.7, 0.9),
    ],
)
def test_expectation_is_the_mean_of_a_thousand_candidates(name: str, low: float, high: float) -> None:
    graph = trace(build(name), (3, 64, 64), check=False)
    probs = keep_probs(graph, low, high)
    cost = expected_cost(graph, probs)
    params, macs = sampled_cost(graph, probs)
    assert float(cost.params) == pytest.approx(params, rel=0.01)
    assert float(cost.macs) == pytest.approx(macs, rel=0.01)


@each_way
@pytest.mark.parametrize("name", ["shake", "resnet18", "regnetx_002", "mobilenetv3_small_050", "convnext_atto"])
def test_expectation_equals_the_count_where_nothing_is_random(name: str, way: Way) -> None:
    graph = trace(build(name), (3, 32, 32), check=False)
    rng = np.random.default_rng(2)
    cases = [{}, constant(graph, True), constant(graph, False), only_one(graph)]
    cases += [random_masks(graph, keep, rng) for keep in (0.5, 0.9, (0.0, 1.0))]
    for masks in cases:
        exact = count(graph, analyse(graph, masks))
        cost = way(graph, {name: torch.from_numpy(m).double() for name, m in masks.items()})
        assert isinstance(exact.params, int)
        assert float(cost.params) == pytest.approx(exact.params, rel=1e-9)
        assert float(cost.macs) == pytest.approx(exact.macs, rel=1e-9)


def small_graph() -> ChannelGraph:
    return trace(randomise(ShakeNet(width=4, blocks=1)), (3, 8, 8))


@each_way
def test_gradients_are_the_numerical_ones(way: Way) -> None:
    graph = small_graph()
    names = ["blocks.0.branch1.conv1", "blocks.1.skip.conv1", "blocks.1.branch2.conv2", "blocks.2.branch1.conv2", "fc"]
    torch.manual_seed(0)
    probs = [(torch.rand(graph.searchable[name]) * 0.9 + 0.05).double().requires_grad_() for name in names]

    def cost(*values: Tensor) -> Tensor:
        found = way(graph, dict(zip(names, values, strict=True)))
        return torch.stack([found.params, found.macs / 100])

    assert torch.autograd.gradcheck(cost, probs)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.c, self.fc = nn.Conv2d(12, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(x))).mean((2, 3)))


@each_way
@pytest.mark.parametrize("units", [4, 8])
def test_gradients_through_grouped_convolutions(units: int, way: Way) -> None:
    graph = trace(Grouped(), (3, 6, 6))
    torch.manual_seed(1)
    probs = [(torch.rand(n) * 0.8 + 0.1).double().requires_grad_() for n in (3, units, 12)]

    def cost(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return way(graph, {"a": a, "b": b, "c": c}).params

    assert torch.autograd.gradcheck(cost, probs)


@each_way
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-7, 1 - 1e-7])
@pytest.mark.parametrize("name", ["shake", "mobilenetv3_small_050", "regnetx_002"])
def test_gradients_at_the_extremes(name: str, value: float, way: Way) -> None:
    """Finite, and never negative: keeping more cannot cost less."""
    graph = trace(build(name), (3, 32, 32), check=False)
    probs = {k: torch.full((n,), value, requires_grad=True) for k, n in sizes(graph).items()}
    cost = way(graph, probs)
    (cost.params + cost.macs / 1e3).backward()
    grads = torch.cat([p.grad for p in probs.values() if p.grad is not None])
    assert grads.isfinite().all()
    assert (grads >= -1e-3 * grads.abs().max()).all()
    if value > 0.5:
        assert (grads > 0).any()


@pytest.mark.parametrize("name", ["shake", "resnet18", "regnetx_002", "mobilenetv3_small_050", "convnext_atto"])
def test_macs_are_those_of_torchs_counter(name: str) -> None:
    model, size = build(name), 64
    graph = trace(model, (3, size, size))
    rng = np.random.default_rng(3)
    for masks in ({}, random_masks(graph, 0.6, rng), random_masks(graph, (0.0, 1.0), rng)):
        small = compact(graph, model, masks)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(pictures(size, batch=1))
        assert counter.get_total_flops() == 2 * count(graph, analyse(graph, masks)).macs


def test_nothing_dropped_counts_the_model_itself() -> None:
    for name in ("resnet18", "mobilenetv3_small_050", "convnext_atto"):
        model = build(name)
        graph = trace(model, (3, 32, 32), check=False)
        assert count(graph, analyse(graph, {})).params == sum(p.numel() for p in model.parameters())


# the algebra ----------------------------------------------------------------------------------------------------


def test_none_of_is_exact_with_certain_events() -> None:
    """Where a factor is 0 its own derivative is the product of the others, all other derivatives are 0."""
    x = torch.tensor([[0.5, 1.0, 0.2], [1.0, 1.0, 0.3], [0.0, 0.25, 0.5]], dtype=torch.float64, requires_grad=True)
    none_of(x).sum().backward()
    assert none_of(x).tolist() == pytest.approx([0, 0, 0.375])
    want = torch.tensor([[0, -0.4, 0], [0, 0, 0], [-0.375, -0.5, -0.75]], dtype=torch.float64)
    torch.testing.assert_close(x.grad, want)
    random = torch.rand(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(none_of, (random,))


def test_none_of_many_does_not_underflow_to_nan() -> None:
    x = torch.full((4096,), 0.999, requires_grad=True)
    none_of(x).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def enumerated_largest(x: np.ndarray, present: np.ndarray) -> float:
    """E[max] by going through the distribution of every group's count."""
    groups, n = x.shape
    below = np.ones(n)  # P(max <= r), r = 0 .. n - 1
    for g in range(groups):
        pmf = np.array([1.0])
        for p in x[g]:
            pmf = np.convolve(pmf, [1 - p, p])
        below *= 1 - present[g] * (1 - pmf.cumsum()[:n])
    return float((1 - below).sum())


@pytest.mark.parametrize(("groups", "units"), [(1, 1), (1, 5), (4, 2), (32, 16), (3, 40)])
def test_expected_largest(groups: int, units: int) -> None:
    rng = np.random.default_rng(groups)
    x, present = rng.random((groups, units)), rng.random(groups)
    got = expected_largest(torch.from_numpy(x), torch.from_numpy(present))
    assert float(got) == pytest.approx(enumerated_largest(x, present), rel=1e-12)
    bits, there = x < 0.5, present < 0.7
    exact = Booleans().largest(bits.reshape(-1), there, groups)
    same = Probabilities(torch.zeros(())).largest(
        torch.from_numpy(bits).double().reshape(-1), torch.from_numpy(there).double(), groups
    )
    assert float(same) == pytest.approx(exact, abs=1e-9)
    if math.prod(x.shape) <= 8:
        both = [torch.from_numpy(v * 0.9 + 0.05).requires_grad_() for v in (x, present)]
        assert torch.autograd.gradcheck(expected_largest, both)


@pytest.mark.parametrize("seed", range(4))
def test_gradient_of_the_expected_largest_with_certain_units(seed: int) -> None:
    """By torch and by the tape against differences of the enumerated polynomial, which goes on beyond 0 and 1."""
    rng = np.random.default_rng(seed)
    x, present = rng.choice([0.0, 0.5, 1.0, 0.3], (3, 5)), rng.choice([0.0, 0.6, 1.0], 3)
    leaves = [torch.from_numpy(values).requires_grad_() for values in (x, present)]
    tape = Tape()
    variables = [tape.variable(values.reshape(-1)) for values in (x, present)]
    by_tape = tape.gradients([(tape.largest(*variables, 3), 1.0)], variables)
    by_torch = torch.autograd.grad(expected_largest(*leaves), leaves)
    for operand, gradients in enumerate(zip(by_tape, by_torch, strict=True)):
        values, step = [x, present][operand], 1e-5
        want = np.zeros(values.size)
        for unit in range(values.size):
            ends = []
            for sign in (1, -1):
                moved = [x.copy(), present.copy()]
                moved[operand].flat[unit] += sign * step
                ends.append(enumerated_largest(*moved))
            want[unit] = (ends[0] - ends[1]) / (2 * step)
        for gradient in gradients:
            np.testing.assert_allclose(np.asarray(gradient).reshape(-1), want, atol=1e-8)
