"""Tracing: what is captured, what can carry a mask, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from compact_nets import Block, GatedConv, ShakeNet, build, randomise
from torch import Tensor, nn

from pgnas_cli.compact import analyse, compact, expected, expected_cost, masked_parameters, trace
from pgnas_cli.errors import PgnasError, UsageError


def test_the_model_is_left_as_it_is() -> None:
    model = randomise(ShakeNet()).train()
    model.blocks[0].mix.eval()
    flags = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, (3, 16, 16))
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_names_and_geometry() -> None:
    graph = trace(build("resnet18"), (3, 64, 64))
    assert len(graph.convs) == 20
    assert next(iter(graph.searchable)) == "conv1"
    assert graph.searchable["fc"] == 512
    conv = graph.convs["layer2.0.conv1"]
    assert (conv.in_channels, conv.out_channels, conv.groups, conv.taps, conv.positions) == (64, 128, 1, 9, 64)
    assert graph.barriers == ()


def test_a_model_on_the_meta_device_has_the_same_graph() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=10)
    there, here = trace(model, (3, 32, 32)), trace(build("resnet18"), (3, 32, 32))
    assert there.searchable == here.searchable
    assert [(n.kind, n.channels, n.sources, n.shape) for n in there.nodes] == [
        (n.kind, n.channels, n.sources, n.shape) for n in here.nodes
    ]


def test_a_copied_model_may_keep_its_graph() -> None:
    graph = trace(build("shake"), (3, 16, 16))
    assert copy.deepcopy({"graph": graph})["graph"] is graph


class Odd(nn.Module):
    """A shared convolution, tied weights, a weight read by itself, a subclass with arithmetic of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.tied, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.other.weight = self.tied.weight
        self.read, self.special = nn.Conv2d(4, 4, 1), Special(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.free(x)))
        x = self.special(self.read(self.other(self.tied(x))))
        return (x * self.read.weight.sum()).mean((2, 3))


class Special(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / (1 + x.abs().mean(1, keepdim=True)))


def test_what_cannot_be_cut_is_a_barrier() -> None:
    model = randomise(Odd())
    graph = trace(model, (3, 8, 8))
    assert list(graph.searchable) == ["free"]
    assert {"shared", "tied", "other", "read", "special"} <= set(graph.barriers)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(compact(graph, model, {})(images), model(images))


@pytest.mark.parametrize(
    ("name", "length", "message", "hint"),
    [
        ("fre", 3, "'fre' cannot carry a mask: it is not a convolution", "did you mean free?"),
        ("zzz", 3, "'zzz' cannot carry a mask", "graph.searchable lists"),
        ("unused", 4, "is not a convolution or linear layer that the network calls", ""),
        ("shared", 4, "is a barrier", ""),
        ("free", 4, "has 4 entries; expected 3", "one entry per input channel"),
    ],
)
def test_wrong_masks(name: str, length: int, message: str, hint: str) -> None:
    model = randomise(Odd())
    graph = trace(model, (3, 8, 8))
    mask = {name: np.ones(length, bool)}
    for use in (
        lambda: analyse(graph, mask),
        lambda: compact(graph, model, mask),
        lambda: masked_parameters(graph, model, mask),
        lambda: expected(graph, {name: torch.ones(length)}),
        lambda: expected_cost(graph, {name: torch.ones(length)}),
    ):
        with pytest.raises(UsageError) as caught:
            use()
        assert message in str(caught.value)
        assert hint in caught.value.hint


def test_masks_are_boolean_vectors() -> None:
    graph = trace(randomise(Odd()), (3, 8, 8))
    for mask in (np.ones(3), np.ones((3, 1), bool)):
        with pytest.raises(UsageError, match="expected a vector of bool"):
            analyse(graph, {"free": mask})


def test_grouped_masks_by_channel_or_by_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    graph = trace(model, (3, 8, 8))
    groups = np.array([True, False, True, True])
    one, other = analyse(graph, {"1": groups}), analyse(graph, {"1": groups.repeat(2)})
    index = graph.operations["1"].index
    assert (one.kept(index) == other.kept(index)).all()
    assert (one.alive[index] == groups.repeat(2)).all()
    with pytest.raises(UsageError, match=r"expected 8 \(input channels\) or 4 \(groups\)"):
        analyse(graph, {"1": np.ones(5, bool)})


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class HiddenInPlace(nn.Module):
    """The shortcut is overwritten by an activation in place: the graph alone does not show it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x) + x


def test_untraceable_networks() -> None:
    with pytest.raises(PgnasError, match="cannot trace DataDependent") as caught:
        trace(DataDependent(), (3, 8, 8))
    assert "channel_rule" in caught.value.hint
    with pytest.raises(PgnasError, match="does not compute what the network computes"):
        trace(HiddenInPlace(), (3, 8, 8))
    trace(HiddenInPlace(), (3, 8, 8), check=False)


def test_a_constant_made_while_running_is_refused() -> None:
    """The captured graph would read it from a module that does not have it."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)

    with pytest.raises(PgnasError, match="makes a constant tensor in its forward pass"):
        trace(nn.Sequential(nn.Conv2d(3, 3, 1), Shifted()), (3, 8, 8))


def test_subclasses_with_a_plain_class_are_ordinary_convolutions() -> None:
    model = randomise(Block(4, 8, 2))
    graph = trace(model, (4, 8, 8))
    assert set(graph.convs) == {n for n, m in model.named_modules() if isinstance(m, GatedConv)}
