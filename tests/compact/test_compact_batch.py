"""Costs of many candidates at once: the same integers and flags as one after the other, for every family."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from compact_nets import ShakeNet, constant, only_one, random_masks, randomise
from torch import Tensor, nn

from pgnas_cli import inflate
from pgnas_cli.compact import ChannelGraph, analyse, batch, count, count_many, depends_on_input, trace
from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d

Masks = dict[str, np.ndarray]
RATES = (0.05, 0.3, 0.5, 0.8, 0.95)
SLIM = {"width": 0.25}
FEW = {"stem": "backbone"}  # few pixels inside
# architecture, image size, options
FAMILIES = [
    ("resnet18", 32, SLIM),
    ("resnet50", 32, SLIM),
    ("shakeshake26_2x4d", 32, {}),
    ("densenet121", 32, {"growth": 4}),
    ("enas15_2f", 32, {"surrogate_pools": True}),
    ("resnext50_32x4d", 64, FEW),  # grouped convolutions
    ("res2net50_26w_4s", 64, FEW),  # splits and concatenations
    ("seresnet18", 32, {}),  # squeeze and excitation
    ("skresnet18", 32, {}),  # barriers
    ("mobilenetv3_small_050", 64, {}),  # depthwise convolutions
    ("regnety_002", 64, {}),
    ("convnext_atto", 64, {}),
    ("inception_next_atto", 64, {}),
    ("inception_v3", 75, {}),
    ("vgg11_bn", 32, {}),
    ("hrnet_w18_small", 64, {}),
]


def drawn(net: Supernet, seed: int = 0) -> list[Masks]:
    """Every gate at the same rate, each layer at its own rate, single emptied layers, and the extremes."""
    rng = np.random.default_rng(seed)
    sizes = {name: gate.channels for name, gate in net.gates.items()}
    many = [{n: rng.random(k) >= rate for n, k in sizes.items()} for rate in RATES for _ in range(3)]
    many += [{n: rng.random(k) >= rng.random() for n, k in sizes.items()} for _ in range(5)]
    emptied = rng.choice(list(sizes), 5)
    many += [{n: np.full(k, n != empty) for n, k in sizes.items()} for empty in emptied]
    many += [{n: np.arange(k) == k // 2 for n, k in sizes.items()}]
    return [*many, *({n: np.full(k, value) for n, k in sizes.items()} for value in (True, False))]


@pytest.mark.parametrize(("arch", "img_size", "options"), FAMILIES)
def test_families_of_the_zoo(arch: str, img_size: int, options: dict) -> None:
    net = inflate(arch, num_classes=10, img_size=img_size, **options)
    many = drawn(net)
    found = net.assess_many(many)
    assert found == [net.assess(masks) for masks in many]
    assert len({one.params for one in found}) > len(RATES)
    assert {type(value) for one in found for value in (one.params, one.macs)} == {int}
    kept, nothing = found[-2:]
    assert kept.usable
    assert not nothing.usable


def test_only_some_surrogates_are_still_the_identity() -> None:
    net = inflate("enas15_2f", num_classes=10, img_size=16, surrogate_pools=True)
    surrogates = [layer for layer in net.search_layers.values() if isinstance(layer, SurrogateConv2d)]
    with torch.no_grad():
        for layer in surrogates[::3]:
            layer.weight[0, 0] += 1
    many = drawn(net)
    folded = {net.untouched(masks) for masks in many}
    assert len(folded) > 3
    assert max(map(len, folded)) == len(surrogates) - len(surrogates[::3])
    assert net.assess_many(many) == [net.assess(masks) for masks in many]


# ---- what masks may be ----


class Odd(nn.Module):
    """A convolution that is called twice (one barrier, its parameters counted once), a factor with a sigmoid, a
    parameter, a slice, and a grouped convolution with several inputs and outputs a group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.factor = nn.Conv2d(6, 6, 1)
        self.grouped = nn.Conv2d(6, 9, 1, groups=3)
        self.tail = nn.Conv2d(15, 8, 1, bias=False)
        self.fc = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        left, right = self.twice(a) * self.scale, self.twice(b)
        y = torch.cat([self.grouped(a * torch.sigmoid(self.factor(b))), left[:, :2] + right[:, 4:], right[:, :4]], 1)
        return self.fc(self.tail(y).mean((2, 3)))


def graphs() -> dict[str, ChannelGraph]:
    torch.manual_seed(0)
    shake = trace(randomise(ShakeNet(width=4, blocks=1)), (3, 8, 8))
    return {"odd": trace(Odd(), (3, 8, 8)), "shake": shake}


def mixed(graph: ChannelGraph) -> list[Masks]:
    """Masks over channels and over groups, of all layers and of some, in any order; also none."""
    rng = np.random.default_rng(0)
    many: list[Masks] = [{}, constant(graph, True), constant(graph, False), only_one(graph)]
    for rate in RATES:
        for by_channel in (False, True):
            many += [random_masks(graph, 1 - rate, rng, by_channel=by_channel) for _ in range(20)]
    some = [{n: m for n, m in masks.items() if rng.random() < 0.7} for masks in many]
    backwards = [dict(reversed(masks.items())) for masks in some]
    return [both for three in zip(many, some, backwards, strict=True) for both in three]


def one_by_one(graph: ChannelGraph, many: list[Masks]) -> list[tuple[int, int, bool]]:
    found = []
    for masks in many:
        liveness = analyse(graph, masks)
        cost = count(graph, liveness)
        found.append((cost.params, cost.macs, depends_on_input(graph, liveness)))
    return found


def at_once(graph: ChannelGraph, many: list[Masks]) -> list[tuple[int, int, bool]]:
    costs = count_many(graph, many)
    assert costs.params.dtype == costs.macs.dtype == np.int64
    return list(zip(costs.params.tolist(), costs.macs.tolist(), costs.depends_on_input.tolist(), strict=True))


@pytest.mark.parametrize("name", ["odd", "shake"])
@pytest.mark.parametrize("size", [1, 7, 256])
def test_masks_of_all_kinds_in_one_list(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LARGEST_BATCH", size)
    graph = graphs()[name]
    many = mixed(graph)
    found = at_once(graph, many)
    assert found == one_by_one(graph, many)
    assert {usable for *_, usable in found} == {True, False}


def test_no_candidates() -> None:
    assert at_once(graphs()["odd"], []) == []


def test_a_count_above_32_bits_is_exact() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 128, 1), nn.Conv2d(128, 128, 3, padding=1)), (3, 256, 256))
    many: list[Masks] = [{}, {"1": np.arange(128) != 5}]
    found = at_once(graph, many)
    assert found == one_by_one(graph, many)
    assert found[0][1] == (3 * 128 + 9 * 128 * 128) * 256 * 256 > 2**33


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LARGEST_BATCH", 1 << 20)
    graph = graphs()["shake"]
    rng = np.random.default_rng(0)
    many = [random_masks(graph, 0.5, rng) for _ in range(3000)]
    peaks = []
    for memory in (1 << 28, 1 << 20):
        monkeypatch.setattr(batch, "MEMORY", memory)
        tracemalloc.start()
        count_many(graph, many)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 2 << 20
    assert peaks[1] < 1 << 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"tail": np.ones(14, bool)},
        {"tail": np.ones(15, int)},
        {"tail": np.ones((1, 15), bool)},
        {"tial": np.ones(15, bool)},
        {"twice": np.ones(6, bool)},
    ],
    ids=["length", "type", "axes", "name", "barrier"],
)
def test_one_wrong_mask_of_many_is_refused_as_it_would_be_alone(wrong: Masks) -> None:
    graph = graphs()["odd"]
    with pytest.raises(UsageError) as alone:
        analyse(graph, wrong)
    with pytest.raises(UsageError) as found:
        count_many(graph, [{"tail": np.ones(15, bool)}, wrong, {}])
    assert (str(found.value), found.value.hint) == (str(alone.value), alone.value.hint)


def test_a_mask_that_drops_inputs_of_a_folded_layer_is_refused() -> None:
    net = inflate("enas15_2f", num_classes=10, img_size=16, surrogate_pools=True)
    (name, *_) = net.untouched({})
    graph = net.graph.folded([name])
    whole = {name: np.ones(net.gates[name].channels, bool)}
    assert at_once(graph, [whole, {}]) == one_by_one(graph, [whole, {}])
    with pytest.raises(UsageError, match="folded away"):
        count_many(graph, [whole, {name: ~whole[name]}])
