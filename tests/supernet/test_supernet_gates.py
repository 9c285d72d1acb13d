"""The gates of a supernet: names, granularity, settings and a step of training."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from supernet_nets import RESNET18, TINY, grouped_net, images, spread_rates, supernet
from torch import nn

from pgnas_cli import Supernet

NETS = {"resnet18": lambda: supernet(**RESNET18), "shakeshake": lambda: supernet(**TINY), "plain": grouped_net}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@every_net
def test_the_gates_are_the_only_new_names(make) -> None:
    net = make()
    gates = {f"{name}.gate.drop_logit" for name in net.gates}
    assert gates == {name for name in net.backbone.state_dict() if "gate" in name}
    assert list(net.gates) == [name for name, m in net.backbone.named_modules() if hasattr(m, "gate")]
    assert len(net.gate_parameters()) + len(net.weight_parameters()) == len(list(net.parameters()))


def test_timm_weights_load_as_they_are() -> None:
    torch.manual_seed(1)
    plain = timm.create_model("resnet18", num_classes=1000).eval()
    net = supernet("resnet18")
    loaded = net.backbone.load_state_dict(plain.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == [f"{name}.gate.drop_logit" for name in net.gates]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))


@every_net
def test_evaluation_keeps_everything(make) -> None:
    net = make()
    x = images(net)
    first = net(x)
    spread_rates(net, 0.5, 0.9)
    assert torch.equal(net(x), first)


@every_net
def test_one_probability_a_channel_starts_at_its_groups(make) -> None:
    net = make()
    spread_rates(net, 0.1, 0.6)
    net.train()
    before = {name: gate.keep_probabilities().detach() for name, gate in net.gates.items()}
    cost = net.cost().expected_params.item()
    net.set_granularity("group")
    assert {name: len(gate.sizes) for name, gate in net.gates.items()} == {
        name: len(layer.gate.sizes) for name, layer in net.search_layers.items()
    }
    net.set_granularity("channel")
    for name, gate in net.gates.items():
        assert gate.sizes == (1,) * len(before[name])
        assert torch.equal(gate.keep_probabilities(), before[name])
        assert gate.training
    assert net.cost().expected_params.item() == pytest.approx(cost, rel=1e-6)
    assert net.posterior().groups == net.posterior().channels


def test_granularity_keeps_temperature_and_fixed_rate() -> None:
    net = grouped_net()
    net.set_gates(temperature=0.7, fixed_drop=0.3)
    net.set_granularity("channel")
    assert {(gate.temperature, gate.fixed_drop) for gate in net.gates.values()} == {(0.7, 0.3)}


def test_settings_reach_every_gate() -> None:
    net = supernet(**TINY)
    net.set_gates(initial_drop=0.25, temperature=0.5)
    for gate in net.gates.values():
        assert gate.temperature == 0.5
        assert gate.fixed_drop is None
        assert gate.p.tolist() == pytest.approx([0.25])
    net.set_gates(fixed_drop=0.4)
    assert {float(p) for layer in net.posterior().values() for p in layer.drop_prob} == {0.4}
    net.set_gates()
    assert {round(float(p), 6) for layer in net.posterior().values() for p in layer.drop_prob} == {0.25}


def test_the_posterior_is_the_gates_in_float64() -> None:
    net = grouped_net()
    spread_rates(net, 0.01, 0.99)
    posterior = net.posterior()
    assert list(posterior) == list(net.gates) == ["3", "5", "9"]
    assert posterior.channels == 8 + 12 + 8
    assert posterior.groups == 6
    for name, gate in net.gates.items():
        assert posterior[name].sizes == gate.sizes
        assert posterior[name].drop_prob.tolist() == torch.sigmoid(gate.drop_logit.double()).tolist()


def step(net: Supernet, *, kl: bool) -> dict[str, bool]:
    """One step of SGD on a batch; parameter name -> whether it moved."""
    before = copy.deepcopy(net.state_dict())
    net.train()
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy(net(images(net, 8)), torch.arange(8) % 5)
    if kl:
        loss = loss + net.kl(l2=10.0, num_examples=100.0)
    torch.optim.SGD(net.parameters(), lr=0.1).zero_grad()
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    return {name: not torch.equal(parameter, before[name]) for name, parameter in net.named_parameters()}


@every_net
@pytest.mark.parametrize("kl", [True, False], ids=["whole loss", "cross-entropy"])
def test_a_step_moves_weights_and_logits(make, kl: bool) -> None:
    moved = step(make(), kl=kl)
    assert all(moved.values()), [name for name, yes in moved.items() if not yes]


@every_net
def test_a_step_leaves_the_logits_of_the_uniform_baseline(make) -> None:
    net = make()
    net.set_gates(fixed_drop=0.2)
    moved = step(net, kl=True)
    assert not any(yes for name, yes in moved.items() if name.endswith("drop_logit"))
    assert all(yes for name, yes in moved.items() if name.endswith("weight"))


@every_net
def test_in_training_every_pass_draws_anew(make) -> None:
    net = make().train()
    x = images(net)
    torch.manual_seed(0)
    first = net(x)
    assert not torch.equal(net(x), first)
    torch.manual_seed(0)
    assert torch.equal(net(x), first)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"nowhere": [3]}, "gate_groups names 'nowhere'"),
        ({"0.deeper": [3]}, r"gate_groups names '0\.deeper'"),
        ({"0": [2]}, "sum to 2, the layer reads 3"),
        ({"1": [4]}, "a ReLU cannot be gated"),
    ],
)
def test_gate_groups_that_do_not_fit_name_the_layer(groups: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Supernet(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), groups, input_size=(3, 8, 8))


def test_a_copy_has_gates_of_its_own() -> None:
    net = grouped_net()
    other = copy.deepcopy(net)
    spread_rates(other, 0.6, 0.9)
    assert all(gate.p.max() < 0.2 for gate in net.gates.values())
    assert all(gate.p.min() > 0.5 for gate in other.gates.values())
    assert {id(gate) for gate in other.gates.values()} <= {id(module) for module in other.modules()}
