"""Folding BatchNorms: the same logits, only where a norm alone reads the layer in front of it, also on meta tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.compact.network import CompactNetwork
from pgnas_cli.export.fold import fold_batch_norms


class Net(nn.Module):
    """Two convolutions, what stands between and behind them, and a classifier."""

    def __init__(self, norm: nn.Module, rule: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, groups=2)
        self.norm, self.norm2, self.rule = norm, nn.BatchNorm2d(6), rule
        self.hidden, self.norm1d, self.fc = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rule(self, x))


def behind(net: Net, x: Tensor) -> Tensor:
    return net.norm2(net.conv2(net.norm(net.conv1(x)))).mean((2, 3))


def in_front(net: Net, x: Tensor) -> Tensor:
    return net.conv2(net.norm(net.conv1(x).relu())).mean((2, 3))


def two_readers(net: Net, x: Tensor) -> Tensor:
    y = net.conv1(x)
    return (y + net.norm(y)).mean((2, 3))


def shared(net: Net, x: Tensor) -> Tensor:
    return (net.norm(net.conv1(x)) + net.norm(net.conv1(x + 1))).mean((2, 3))


def linear(net: Net, x: Tensor) -> Tensor:
    return net.norm1d(net.hidden(net.conv1(x).mean((2, 3)))).relu()


def build(rule: Callable[[Net, Tensor], Tensor], norm: nn.Module | None = None) -> CompactNetwork:
    torch.manual_seed(0)
    net = Net(nn.BatchNorm2d(6) if norm is None else norm, rule).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    masks = {} if rule is shared else {"conv1": np.array([True, False, True])}
    return compaction.compact(compaction.trace(net, (3, 6, 6)), net, masks)


def norms(network: nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


CASES = [
    pytest.param(behind, None, [], id="behind a convolution, also a grouped one"),
    pytest.param(behind, BatchNormAct2d(6), [], id="with an activation inside"),
    pytest.param(in_front, None, ["norm"], id="in front of a convolution"),
    pytest.param(two_readers, None, ["norm"], id="the convolution has another reader"),
    pytest.param(shared, None, ["norm"], id="called twice"),
    pytest.param(linear, None, [], id="behind a linear layer"),
]


@pytest.mark.parametrize(("rule", "norm", "left"), CASES)
def test_the_logits_stay_and_only_what_may_be_folded_goes(rule, norm, left) -> None:
    network = build(rule, copy.deepcopy(norm))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norms(network)
    images = torch.randn(5, 3, 6, 6)
    assert norms(folded) == left
    assert isinstance(folded, CompactNetwork)
    assert all(parameter.requires_grad for parameter in folded.parameters())
    with torch.no_grad():
        assert relative_difference(folded(images), network(images)) <= 1e-6
        assert folded(images).std(0).min() > 1e-4  # logits that depend on the image
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_an_activation_inside_a_norm_stays() -> None:
    folded = fold_batch_norms(build(behind, BatchNormAct2d(6)))
    assert [type(module) for module in folded.get_submodule("norm")] == [nn.ReLU]


@pytest.mark.parametrize(("rule", "norm", "left"), CASES)
def test_the_structure_is_built_on_meta_tensors_and_filled(rule, norm, left) -> None:
    network = build(rule, copy.deepcopy(norm))
    folded = fold_batch_norms(network)
    empty = copy.deepcopy(network)
    for module in empty.modules():  # weights alone: index buffers are real in a network that is loaded
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.to("meta")))
        for name in module._buffers.keys() - {"index"}:
            setattr(module, name, getattr(module, name).to("meta"))
    rebuilt = fold_batch_norms(empty)
    assert list(rebuilt.state_dict()) == list(folded.state_dict())
    rebuilt.load_state_dict(folded.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), folded(images))
