"""BatchNorm recalibration: the right statistics inside, every bit back outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pgnas_cli.ranking.recalibrate import recalibrated
from pgnas_cli.supernet.supernet import Supernet


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1),
        nn.BatchNorm2d(3, momentum=0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip
    net = Supernet(backbone, {"4": [4]}, input_size=(1, 6, 6), initial_drop=0.5)
    for norm in (backbone[1], backbone[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.num_batches_tracked += 7
    return net.eval()


@pytest.fixture
def images() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(5, 1, 6, 6) + index for index in range(3)]


def snapshot(net: nn.Module) -> tuple[dict[str, torch.Tensor], list[tuple[bool, object]]]:
    flags = [(module.training, getattr(module, "momentum", None)) for module in net.modules()]
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}, flags


def assert_same(net: nn.Module, before: tuple[dict[str, torch.Tensor], list[tuple[bool, object]]]) -> None:
    tensors, flags = snapshot(net)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensors[name], before[0][name]) for name in tensors)
    assert flags == before[1]


def test_the_statistics_are_the_average_over_the_batches(net: Supernet, images: list[torch.Tensor]) -> None:
    first, _, relu, _, second, _, *_ = net.backbone
    norm1, norm2 = net.backbone[1], net.backbone[5]
    with torch.no_grad():
        inner = [first(batch) for batch in images]
        normed = [
            (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + norm1.eps).sqrt()
            for x in inner
        ]
        outer = [nn.functional.conv2d(relu(x), second.weight, second.bias) for x in normed]  # no gate, no dropout
    with recalibrated(net, images):
        for norm, inputs in ((norm1, inner), (norm2, outer)):
            mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
            var = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
            torch.testing.assert_close(norm.running_mean, mean)
            torch.testing.assert_close(norm.running_var, var)
        assert not any(module.training for module in net.modules())
        assert torch.equal(net(images[0]), net(images[0]))


def test_leaving_restores_every_bit_also_after_an_exception(net: Supernet, images: list[torch.Tensor]) -> None:
    before = snapshot(net)
    with recalibrated(net, images):
        assert not torch.equal(net.backbone[1].running_mean, before[0]["backbone.1.running_mean"])
    assert_same(net, before)
    with pytest.raises(KeyError), recalibrated(net, images):
        raise KeyError
    assert_same(net, before)

    def broken():
        yield images[0]
        raise OSError("unreadable image")

    with pytest.raises(OSError, match="unreadable"), recalibrated(net, broken()):
        pass
    assert_same(net, before)


def test_without_images_nothing_changes(net: Supernet) -> None:
    before = snapshot(net)
    with recalibrated(net, []):
        assert_same(net, before)
    assert_same(net, before)
