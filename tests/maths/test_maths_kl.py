"""Supernet.kl against a plain float64 double loop over layers and groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

from pgnas_cli.supernet.supernet import Supernet

GROUPINGS = {
    "one group a layer": {"0": [6], "2": [8], "5": [12]},
    "several groups": {"0": [1, 2, 3], "2": [4, 4], "5": [7, 5]},
    "channels": {"0": [1] * 6, "2": [2] * 4, "5": [1] * 12},
    "some layers": {"5": [4, 8]},
}
grouped = pytest.mark.parametrize("groups", GROUPINGS.values(), ids=GROUPINGS)


def supernet(groups: dict[str, list[int]], dtype: torch.dtype = torch.float64) -> Supernet:
    """Two convolutions, the second in four groups, and a linear layer; every logit another one."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    net = Supernet(backbone, groups, input_size=(6, 8, 8)).to(dtype)
    with torch.no_grad():
        for logits in net.gate_parameters():
            logits.copy_(torch.randn(logits.shape) * 2 - 1)
    return net


def loop(
    net: Supernet, *, l2: float, num_examples: float, prior_drop: float, layers: Iterable[Any] | None = None
) -> float:
    """Of all gated layers, or of those given."""
    described = [
        (
            layer.weight.detach().double().numpy(),
            list(layer.gate.sizes),
            layer.gate.drop_logit.detach().double().numpy(),
            getattr(layer, "groups", 1),
        )
        for layer in layers or net.search_layers.values()
    ]
    return reference.supernet_kl(described, l2=l2, num_examples=num_examples, prior_drop=prior_drop)


@grouped
@pytest.mark.parametrize(
    ("l2", "num_examples", "prior_drop"), [(80.0, 1.28e6, 0.5), (0.1, 1200.0, 0.9), (0.0, 7.0, 0.2)]
)
def test_kl_is_the_double_loop(groups: dict[str, list[int]], l2: float, num_examples: float, prior_drop: float) -> None:
    net = supernet(groups)
    given = {"l2": l2, "num_examples": num_examples, "prior_drop": prior_drop}
    assert net.kl(**given).item() == pytest.approx(loop(net, **given), rel=1e-12)
    single = supernet(groups, torch.float32)
    assert single.kl(**given).item() == pytest.approx(loop(single, **given), rel=1e-5)


def test_kl_with_one_probability_a_channel_is_the_double_loop() -> None:
    net = supernet(GROUPINGS["several groups"])
    given = {"l2": 3.0, "num_examples": 10.0, "prior_drop": 0.3}
    before = net.kl(**given).item()
    net.set_granularity("channel")
    net.double()
    assert {set(gate.sizes) == {1} for gate in net.gates.values()} == {True}
    assert net.kl(**given).item() == pytest.approx(loop(net, **given), rel=1e-12)
    assert net.kl(**given).item() == pytest.approx(before, rel=1e-6)  # the same p, so the same sum


def along(tensors: list[Tensor], directions: list[Tensor], step: float) -> None:
    with torch.no_grad():
        for tensor, direction in zip(tensors, directions, strict=True):
            tensor += step * direction


@grouped
@pytest.mark.parametrize("what", ["gate_parameters", "weight_parameters"])
def test_the_gradient_of_kl_agrees_with_finite_differences(groups: dict[str, list[int]], what: str) -> None:
    net = supernet(groups)
    given = {"l2": 5.0, "num_examples": 100.0, "prior_drop": 0.7}
    tensors = list(getattr(net, what)())
    slopes = torch.autograd.grad(net.kl(**given), tensors, allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
        wanted = sum(float((s * d).sum()) for s, d in zip(slopes, directions, strict=True))

        def value(step: float, directions: list[Tensor] = directions) -> float:
            along(tensors, directions, step)
            found = net.kl(**given).item()
            along(tensors, directions, -step)
            return found

        assert abs(wanted) > 1e-3
        assert reference.central_difference(value, 1e-5) == pytest.approx(wanted, rel=1e-6)


@grouped
def test_the_uniform_baseline_pays_an_ordinary_penalty(groups: dict[str, list[int]]) -> None:
    net = supernet(groups)
    net.set_gates(fixed_drop=0.4)
    kl = net.kl(l2=8.0, num_examples=50.0)
    assert kl.item() == pytest.approx(
        8 / 50 * sum(float(x.weight.detach().square().sum()) for x in net.search_layers.values())
    )
    kl.backward()
    assert all(logits.grad is None for logits in net.gate_parameters())


@pytest.mark.parametrize("fixed", [("0",), ("2",), ("5", "0"), ("2", "5")])
def test_gates_at_a_constant_rate_pay_a_penalty_and_the_others_their_kl(fixed: tuple[str, ...]) -> None:
    net = supernet(GROUPINGS["several groups"])
    given = {"l2": 3.0, "num_examples": 10.0, "prior_drop": 0.3}
    for name in fixed:
        net.gates[name].fixed_drop = 0.4
    learned = {name: layer for name, layer in net.search_layers.items() if name not in fixed}
    squares = sum(float(net.search_layers[name].weight.detach().double().square().sum()) for name in fixed)
    kl = net.kl(**given)
    assert kl.item() == pytest.approx(loop(net, **given, layers=learned.values()) + 3.0 / 10.0 * squares, rel=1e-12)
    kl.backward()
    for name, gate in net.gates.items():
        assert bool(gate.drop_logit.grad.ne(0).all()) is (name not in fixed), name
    for name in fixed:
        layer = net.search_layers[name]
        torch.testing.assert_close(layer.weight.grad, 2 * 3.0 / 10.0 * layer.weight.detach())


@grouped
def test_a_constant_l2_adds_what_the_factor_takes_away_and_says_nothing_about_p(groups: dict[str, list[int]]) -> None:
    net = supernet(groups)
    given = {"l2": 3.0, "num_examples": 10.0, "prior_drop": 0.3}
    squares = sum(float(layer.weight.detach().square().sum()) for layer in net.search_layers.values())
    constant, without = net.kl(**given, constant_l2=True), net.kl(**{**given, "l2": 0.0})
    assert constant.item() == pytest.approx(without.item() + 3.0 / 10.0 * squares, rel=1e-12)
    logits = net.gate_parameters()
    for found, wanted in zip(torch.autograd.grad(constant, logits), torch.autograd.grad(without, logits), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_penalty_of_ungated_convolutions_leaves_out_gated_and_linear_layers() -> None:
    net = supernet({"2": [8]})
    assert net.ungated_penalty().item() == pytest.approx(float(net.backbone[0].weight.detach().square().sum()))
    assert supernet(GROUPINGS["channels"]).ungated_penalty().item() == 0


def test_without_gates_there_is_nothing_to_pay() -> None:
    assert supernet({}).kl(l2=1.0, num_examples=1.0).item() == 0
