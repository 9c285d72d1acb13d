"""The tape: the same numbers and gradients as torch's, for every operation and for whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compact_nets import ShakeNet, build, randomise, sizes
from torch import Tensor

from pgnas_cli.compact import ChannelGraph, analyse, count, expected, expected_cost, trace
from pgnas_cli.compact.algebra import Probabilities
from pgnas_cli.compact.tape import CONSTANT, Tape, Vector

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def small_graph() -> ChannelGraph:
    return trace(randomise(ShakeNet(width=4, blocks=1)), (3, 8, 8))


# ---- one operation ----

OPERATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "either": lambda a, x, y: a.either(x, y),
    "both": lambda a, x, y: a.both(x, y),
    "of the same": lambda a, x, y: a.either(a.both(x, x), x),
    "any of all": lambda a, x, y: a.any_of(x, 1),
    "any of groups": lambda a, x, y: a.any_of(a.both(x, y), 2),
    "any of one each": lambda a, x, y: a.any_of(x, 6),
    "repeat": lambda a, x, y: a.both(a.repeat(a.any_of(x, 2), 3), y),
    "repeat of each": lambda a, x, y: a.both(a.repeat(x, 2), a.repeat(y, 2)),
    "concat": lambda a, x, y: a.any_of(a.concat([x, a.zeros(2), y, a.ones(1), x]), 3),
    "concat of constants": lambda a, x, y: a.both(a.concat([a.ones(2), a.zeros(4)]), x),
    "cut": lambda a, x, y: a.both(a.cut(x, 1, 4), a.cut(y, 2, 5)),
    "cut of a constant": lambda a, x, y: a.both(a.cut(a.concat([a.ones(4), a.zeros(2)]), 1, 4), a.cut(x, 0, 3)),
    "with ones": lambda a, x, y: a.both(a.either(a.ones(6), x), a.both(a.ones(6), a.both(y, a.ones(6)))),
    "with zeros": lambda a, x, y: a.either(a.both(a.zeros(6), x), a.either(y, a.zeros(6))),
    "of ones": lambda a, x, y: a.both(a.repeat(a.any_of(a.ones(6), 2), 3), x),
    "of zeros": lambda a, x, y: a.either(a.repeat(a.any_of(a.zeros(6), 2), 3), x),
}
CASES = {
    "random": ([0.3, 0.8, 0.1, 0.6, 0.5, 0.9], [0.2, 0.7, 0.4, 0.1, 0.9, 0.6]),
    "one certain": ([0.3, 1.0, 0.1, 0.0, 0.5, 0.9], [0.2, 1.0, 0.4, 1.0, 0.9, 0.6]),
    "several certain": ([1.0, 1.0, 0.1, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0, 0.6]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation(operation: Callable[[Any, Any, Any], Any], case: tuple[list[float], list[float]]) -> None:
    leaves = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in case]
    algebra = Probabilities(leaves[0])
    want = operation(algebra, *leaves)
    weights = torch.arange(1.0, len(want) + 1, dtype=torch.float64)
    slopes = torch.autograd.grad((want * weights).sum(), leaves, allow_unused=True)

    tape = Tape()
    variables = [tape.variable(np.array(values)) for values in case]
    got = operation(tape, *variables)
    np.testing.assert_allclose(got.data, want.detach().numpy(), **CLOSE)
    total = tape.total(tape.both(got, Vector(weights.numpy())))
    for slope, gradient in zip(slopes, tape.gradients([(total, 1.0)], variables), strict=True):
        np.testing.assert_allclose(gradient, np.zeros(6) if slope is None else slope.numpy(), **CLOSE)


def test_numbers() -> None:
    """d(2 (s t + 3) + s) = (2 t + 1) ds + 2 s dt, of s = x1 + x2 and t = y1 + y2."""
    tape = Tape()
    x, y = tape.variable(np.array([0.5, 0.25])), tape.variable(np.array([0.1, 0.3]))
    s, t = tape.total(x), tape.total(y)
    found = 2 * (s * t + 3) + s
    assert found.data == pytest.approx(2 * (0.75 * 0.4 + 3) + 0.75)
    for gradient, want in zip(tape.gradients([(found, 1.0)], [x, y]), (1.8, 1.5), strict=True):
        np.testing.assert_allclose(gradient, [want, want], **CLOSE)
    doubled, _ = tape.gradients([(found, 1.0), (found, 1.0)], [x, y])  # a second time, and seeds add up
    np.testing.assert_allclose(doubled, [3.6, 3.6], **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_fullest_group(groups: int) -> None:
    rng = np.random.default_rng(groups)
    leaves = [torch.from_numpy(rng.random(n)).requires_grad_() for n in (6, groups)]
    want = Probabilities(leaves[0]).largest(*leaves, groups)
    tape = Tape()
    variables = [tape.variable(leaf.detach().numpy()) for leaf in leaves]
    got = tape.largest(*variables, groups)
    assert got.data == pytest.approx(float(want.detach()), rel=1e-12)
    slopes = torch.autograd.grad(3 * want, leaves)
    for gradient, slope in zip(tape.gradients([(got, 3.0)], variables), slopes, strict=True):
        np.testing.assert_allclose(gradient, slope.numpy(), **CLOSE)


def test_what_nothing_depends_on_has_no_gradient() -> None:
    tape = Tape()
    x, y = tape.variable(np.array([0.5, 0.25])), tape.variable(np.array([0.1, 0.3, 0.4]))
    _, of_y = tape.gradients([(tape.total(x), 1.0)], [x, y])
    np.testing.assert_array_equal(of_y, np.zeros(3))


def test_nothing_is_remembered_where_no_gradient_is_asked_for() -> None:
    tape = Tape(remember=False)
    x = tape.variable(np.array([0.5, 0.25]))
    values = [tape.either(x, x), tape.any_of(x, 1), tape.total(x) * 2 + 1, tape.largest(x, tape.ones(1), 1)]
    assert {value.place for value in values} == {CONSTANT}
    assert [np.sum(value.data) for value in values] == pytest.approx([1.1875, 0.625, 2.5, 0.75])


# ---- whole networks ----


def random_keep(graph: ChannelGraph, seed: int, share: float = 0.2) -> dict[str, Tensor]:
    """Per channel, and for a third of the grouped convolutions per group; a share of them certain, either way."""
    rng, found = np.random.default_rng(seed), {}
    for name, n in sizes(graph).items():
        geometry = graph.operations[name].geometry
        assert geometry is not None
        units = geometry.groups if geometry.groups > 1 and rng.random() < 1 / 3 else n
        p = rng.random(units)
        p[rng.random(units) < share] = rng.integers(2)
        found[name] = torch.from_numpy(p).requires_grad_()
    return found


@pytest.mark.parametrize(
    "name",
    [
        "shake", "resnet18", "regnetx_002", "mobilenetv3_small_050", "convnext_atto",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "resnext50_32x4d", "inception_v3")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_network(name: str, share: float) -> None:
    size = 96 if name == "inception_v3" else 32
    graph = trace(build(name), (3, size, size), check=False)
    keep = random_keep(graph, seed=7, share=share)
    want, got = count(graph, expected(graph, keep)), expected_cost(graph, keep)
    torch.testing.assert_close((got.params, got.macs), (want.params, want.macs), rtol=1e-12, atol=0)
    for unit in ("params", "macs"):
        slopes = [
            torch.autograd.grad(getattr(cost, unit), list(keep.values()), retain_graph=True, materialize_grads=True)
            for cost in (got, want)
        ]
        largest = max(float(slope.abs().max()) for slope in slopes[1])
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12 * largest)


def test_tensors_are_of_the_kind_of_the_probabilities() -> None:
    graph = small_graph()
    keep = {"blocks.0.branch1.conv1": torch.full((8,), 0.5, requires_grad=True)}
    cost = expected_cost(graph, keep)
    assert cost.params.dtype == cost.macs.dtype == torch.float32
    assert cost.params.shape == ()
    (slope,) = torch.autograd.grad(cost.params, list(keep.values()))
    assert slope.dtype == torch.float32
    with torch.no_grad():
        assert not expected_cost(graph, keep).params.requires_grad


def test_differentiable_once() -> None:
    graph, keep = small_graph(), torch.full((8,), 0.5, dtype=torch.float64, requires_grad=True)
    cost = expected_cost(graph, {"blocks.0.branch1.conv1": keep})
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(cost.params, keep, create_graph=True)


def test_without_gates_the_count() -> None:
    graph = small_graph()
    exact, cost = count(graph, analyse(graph, {})), expected_cost(graph, {})
    assert (cost.params.tolist(), cost.macs.tolist()) == (exact.params, exact.macs)
