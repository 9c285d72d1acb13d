"""The proof that masked = compact, what makes it fail, and which convolutions of an unknown network are gated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from supernet_nets import TINY, grouped_net
from torch import Tensor, nn

from pgnas_cli import inflate
from pgnas_cli.compact import ChannelNode, build
from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.gating import gate_every_convolution
from pgnas_cli.supernet.proof import Comparison, Proof, prove, randomise
from pgnas_cli.supernet.supernet import Supernet


class Shift(nn.Module):
    """x + 1, which says of itself that f(0) = 0."""

    channel_rule = "per"

    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


class Residual(nn.Module):
    """x + function(norm(conv(x)))."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.function = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), function

    def forward(self, x: Tensor) -> Tensor:
        return x + self.function(self.norm(self.conv(x)))


def small_net(function: nn.Module | None = None) -> Supernet:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(function or nn.ReLU()), nn.Conv2d(8, 8, 3), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return Supernet(backbone, {"2.conv": [3, 5], "3": [8]}, input_size=(3, 12, 12))


def change_convolutions(monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], None]) -> None:
    """From now on the small networks hold changed convolutions."""
    emit = build.EMIT["conv"]

    def broken(builder: Any, node: ChannelNode) -> None:
        emit(builder, node)
        if builder.layout.has(node.name):
            with torch.no_grad():
                change(builder.root.get_submodule(node.name))

    monkeypatch.setitem(build.EMIT, "conv", broken)


@pytest.fixture
def break_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    change_convolutions(monkeypatch, lambda conv: conv.weight.mul_(1.001))


# ---- what is compared ----


@pytest.mark.parametrize("net", [grouped_net, small_net, lambda: inflate(**TINY)], ids=["grouped", "small", "shake"])
def test_a_sound_network_passes(net: Callable[[], Supernet]) -> None:
    proof = prove(net(), candidates=2, max_emptied=2)
    assert proof.passed
    assert proof.worst <= TOLERANCE == proof.tolerance


def test_every_kind_of_candidate_is_compared() -> None:
    net = small_net()
    counts = {comparison.kind: comparison.n for comparison in prove(net, candidates=4).comparisons}
    assert counts == {
        "random": 2 * 4,
        "all kept": 1,
        "all dropped": 1,
        "one channel a layer": 1,
        "one layer emptied": len(net.gates),
    }
    capped = prove(net, candidates=1, max_emptied=1).comparisons
    assert [comparison.n for comparison in capped] == [2, 1, 1, 1, 1]


def test_the_network_is_left_as_it_is() -> None:
    net = small_net().train()
    net.backbone[2].eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    prove(net, candidates=1)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == flags


def test_the_seed_decides(break_weights: None) -> None:
    net = small_net()
    assert prove(net, candidates=2, seed=1) == prove(net, candidates=2, seed=1)
    assert prove(net, candidates=2, seed=1) != prove(net, candidates=2, seed=2)


def test_there_is_nothing_to_compare_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = small_net()
    with pytest.raises(UsageError, match="meta device"):
        prove(net)


def test_nothing_stays_constant_but_what_is_drawn() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    model.gamma = nn.Parameter(torch.full((4, 1, 1), 1e-6))
    nn.init.zeros_(model[3].weight)
    drawn = model[0].weight.clone()
    randomise(model, torch.Generator().manual_seed(0))
    assert torch.equal(model[0].weight, drawn)
    for name, tensor in model.state_dict().items():
        assert tensor.numel() == 1 or tensor.unique().numel() > 1, name
    assert 0.1 <= model.gamma.min() < model.gamma.max() <= 0.5
    assert 0.5 <= model[1].weight.min() < model[1].weight.max() <= 1.5


def test_small_logits_do_not_hide_a_difference(break_weights: None) -> None:
    """An error of a thousandth of the features is found also where these add 1e-6 to a bias of 1."""
    net = small_net()
    with torch.no_grad():
        net.backbone[-1].weight.mul_(1e-6)
        net.backbone[-1].bias.copy_(torch.arange(5.0))
    assert prove(net, candidates=2).worst > 1e-4


# ---- what makes it fail ----


def test_a_module_that_lies_about_its_rule_is_found() -> None:
    proof = prove(small_net(Shift()), candidates=2)
    assert not proof.passed
    assert proof.worst > 1e-3
    failing = {comparison.kind for comparison in proof.comparisons if comparison.worst > TOLERANCE}
    assert "one layer emptied" in failing
    assert "all kept" not in failing


def test_a_lost_bias_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    change_convolutions(monkeypatch, lambda conv: setattr(conv, "bias", None))
    proof = prove(small_net(), candidates=2)
    assert {c.kind for c in proof.comparisons if c.worst > TOLERANCE} >= {"random", "all kept"}


def test_a_lost_column_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    change_convolutions(monkeypatch, lambda conv: conv.weight[:, -1:].zero_())
    assert not prove(small_net(), candidates=2).passed


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_never_equal(bad: float) -> None:
    a = torch.tensor([[1.0, bad]])
    assert relative_difference(a, a) == math.inf
    assert relative_difference(torch.ones(1, 2), torch.ones(1, 3)) == math.inf
    assert not Proof((Comparison("random", 1, relative_difference(a, a)),)).passed


def test_differences_are_relative_to_the_larger_of_one_and_the_logits() -> None:
    b = torch.tensor([[0.0, -200.0]])
    assert relative_difference(b + torch.tensor([[1.0, 0.0]]), b) == pytest.approx(1 / 200)
    assert relative_difference(torch.tensor([[0.02]]), torch.tensor([[0.01]])) == pytest.approx(0.01)


# ---- which convolutions are gated ----


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(s))


class SpaceToDepth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def gated(*layers: nn.Module, size: int = 8) -> dict[str, list[int]]:
    return gate_every_convolution(nn.Sequential(*layers), (3, size, size))


HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ((nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), *HEAD), {"1": [4]}),
        ((nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), *HEAD), {"2": [4]}),
        ((SpaceToDepth(), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 6, 1), *HEAD), {"2": [4]}),
        ((nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), *HEAD), {"2": [4]}),
        ((nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 6, 1), *HEAD), {"1": [4], "2": [4]}),
        ((nn.Conv2d(3, 1, 1), nn.Conv2d(1, 6, 1), *HEAD), {"1": [1]}),
        ((nn.Conv2d(3, 4, 3), SqueezeExcite(4), nn.Conv2d(4, 6, 1), *HEAD), {"2": [4]}),
        ((nn.Conv2d(3, 4, 8), SqueezeExcite(4), nn.Conv2d(4, 6, 1), *HEAD), {"2": [4]}),
        ((nn.Conv2d(3, 4, 8), nn.Conv2d(4, 6, 1), *HEAD), {"1": [4]}),
        ((nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 1), nn.Flatten(), nn.Linear(6, 5)), {"2": [4]}),
        ((nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1), *HEAD[:2]), {"1": [4]}),
    ],
    ids=["stem", "normalised image", "space to depth", "depthwise", "grouped", "one channel", "squeeze-excite",
         "squeeze-excite of one pixel", "one pixel", "behind the pooling", "convolutional classifier"],
)  # fmt: skip
def test_what_is_gated(layers: tuple[nn.Module, ...], wanted: dict[str, list[int]]) -> None:
    assert gated(*layers) == wanted


def test_gates_are_found_on_the_meta_device_and_the_model_is_left() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), *HEAD[:2], nn.Linear(6, 5)).train()
        groups = gate_every_convolution(model, (3, 8, 8))
    assert groups == {"1": [4]}
    assert all(module.training for module in model.modules())
