"""What a supernet costs: exactly, and as its posterior expects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from supernet_nets import RESNET18, SHAKE, TINY, grouped_net, nothing_kept, spread_rates, supernet
from torch import Tensor, nn

from pgnas_cli import Supernet

NETS = {"resnet18": lambda: supernet(**RESNET18), "shakeshake": lambda: supernet(**TINY), "plain": grouped_net}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@every_net
def test_params_are_those_of_the_backbone_without_its_gates(make) -> None:
    net = make()
    gates = sum(logits.numel() for logits in net.gate_parameters())
    assert gates == sum(len(gate.sizes) for gate in net.gates.values()) > 0
    weights = sum(parameter.numel() for parameter in net.backbone.parameters()) - gates
    assert net.cost().params == net.kept_cost().params == weights
    assert weights == sum(parameter.numel() for parameter in net.weight_parameters())


@every_net
@pytest.mark.parametrize("kept", [True, False])
def test_certain_gates_expect_the_exact_count(make, kept: bool) -> None:
    net = make()
    for logits in net.gate_parameters():
        nn.init.constant_(logits, -40.0 if kept else 40.0)
    cost = net.cost()
    exact = net.kept_cost() if kept else net.assess(nothing_kept(net))
    assert cost.expected_params.item() == pytest.approx(exact.params, rel=1e-6)
    assert cost.expected_macs.item() == pytest.approx(exact.macs, rel=1e-6, abs=1)


@every_net
def test_mixed_certain_gates_expect_the_exact_count(make) -> None:
    net = make()
    net.set_granularity("channel")
    rng = np.random.default_rng(0)
    masks = {name: rng.random(gate.channels) < 0.6 for name, gate in net.gates.items()}
    with torch.no_grad():
        for name, gate in net.gates.items():
            gate.drop_logit.copy_(torch.from_numpy(np.where(masks[name], -40.0, 40.0)))
    cost, exact = net.cost(), net.assess(masks)
    assert cost.expected_params.item() == pytest.approx(exact.params, rel=1e-5)
    assert cost.expected_macs.item() == pytest.approx(exact.macs, rel=1e-5)


@pytest.mark.parametrize("options", [RESNET18, SHAKE], ids=["resnet18", "shakeshake"])
def test_the_expectation_is_the_mean_of_a_thousand_candidates(options: dict) -> None:
    net = supernet(**options)
    spread_rates(net, 0.05, 0.6)
    posterior, rng = net.posterior(), np.random.default_rng(0)
    drawn = [net.assess(posterior.draw(rng)) for _ in range(1000)]
    cost = net.cost()
    assert cost.expected_params.item() == pytest.approx(np.mean([a.params for a in drawn]), rel=0.01)
    assert cost.expected_macs.item() == pytest.approx(np.mean([a.macs for a in drawn]), rel=0.01)
    assert cost.expected_params.item() < 0.9 * cost.params


@every_net
def test_the_gradient_of_the_expectation_agrees_with_finite_differences(make) -> None:
    net = make().double()
    spread_rates(net, 0.05, 0.6)
    logits = net.gate_parameters()
    slopes = torch.autograd.grad(net.cost().expected_params, logits)
    generator = torch.Generator().manual_seed(2)

    def moved(directions: list[Tensor], step: float) -> float:
        with torch.no_grad():
            for tensor, direction in zip(logits, directions, strict=True):
                tensor += step * direction
        found = net.cost().expected_params.item()
        with torch.no_grad():
            for tensor, direction in zip(logits, directions, strict=True):
                tensor -= step * direction
        return found

    for _ in range(3):
        directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in logits]
        wanted = sum(float((s * d).sum()) for s, d in zip(slopes, directions, strict=True))
        numeric = (moved(directions, 1e-4) - moved(directions, -1e-4)) / 2e-4
        assert abs(wanted) > 1
        assert numeric == pytest.approx(wanted, rel=1e-5)
    assert all((slope <= 0).all() for slope in slopes)  # dropping more never expects more


def test_the_uniform_baseline_expects_its_own_rate() -> None:
    net = supernet(**TINY)
    net.set_gates(initial_drop=0.3)
    learned = net.cost().expected_params.item()
    net.set_gates(initial_drop=0.9, fixed_drop=0.3)
    assert net.cost().expected_params.item() == pytest.approx(learned, rel=1e-6)


def test_the_expectation_does_not_depend_on_the_weights() -> None:
    first, second = supernet(**TINY, seed=0), supernet(**TINY, seed=1)
    assert not torch.equal(first.backbone.stem.weight, second.backbone.stem.weight)
    assert first.cost().expected_params.item() == second.cost().expected_params.item()


def test_a_supernet_without_gates_expects_what_it_has() -> None:
    net = Supernet(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)), {}, input_size=(3, 8, 8))
    cost = net.cost()
    assert float(cost.expected_params) == cost.params == 3 * 4 + 4 + 512 + 2
