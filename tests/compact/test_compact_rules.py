"""One small network for each rule and each trap: masked = compact for every mask, and what stays is what should."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compact_nets import Mix, assert_equal, constant, only_one, pictures, random_masks, randomise, sizes
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pgnas_cli.compact import analyse, compact, count, depends_on_input, trace
from pgnas_cli.compact.build import EMIT
from pgnas_cli.compact.network import ChannelAdd, ChannelScatter
from pgnas_cli.compact.rules import RULES


class Net(nn.Module):
    """Two convolutions a and b with BatchNorms between the image and `body`, then 8 or 16 channels to 5 logits."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.last, self.fc = nn.Conv2d(self.width, 6, 3), nn.Linear(6, 5)
        self.extra()

    def extra(self) -> None:
        """More modules."""

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.norm_a(self.a(x)), self.norm_b(self.b(x)))
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


class Sum(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return sum([a, b])  # starts with 0 + a


class InPlaceSum(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        a += b
        return F.relu(a, inplace=True).mul_(2.0)


class Product(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return a * torch.sigmoid(b) + a.mul(b) / 2


class Square(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return a * a + (b + b)


class Shift(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + 1.0) * b


class Slices(Net):
    def body(self, a: Tensor, b: Tensor) -> Tensor:
        c, d = torch.split(a, [5, 3], dim=1)
        e, f = b.chunk(2, 1)
        return torch.cat([d, e[:, 1:3], f[:, :3], c[:, :, ::1]], 1)[:, :8]


class PreActivation(Net):
    """A BatchNorm behind a concatenation: a dead channel must not come back as its shift."""

    width = 16

    def extra(self) -> None:
        self.norm, self.other = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat([a, b], 1)))
        return x + self.other(x)


class Grouped(Net):
    width = 12

    def extra(self) -> None:
        self.grouped, self.norm = nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.multiplied = nn.Conv2d(12, 24, 1, groups=12, bias=False)
        self.narrow = nn.Conv2d(24, 12, 1, groups=12)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.depthwise(F.silu(self.norm(self.grouped(a + b))))
        return x + self.narrow(self.multiplied(x))


class SqueezeExcite(Net):
    def extra(self) -> None:
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.relu(a)
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))) + b


class Mixed(Net):
    def extra(self) -> None:
        self.mix = Mix()

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mix(a, b)


class Attributes(Net):
    """Parameters read by themselves: per channel, one number, and shared by two readers."""

    def extra(self) -> None:
        self.gamma, self.beta = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(8, 1, 1))
        self.scale, self.twice = nn.Parameter(torch.rand(1)), nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("fixed", torch.rand(8, 1, 1))

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * self.gamma) * self.scale + (b + self.beta) * self.fixed + a * self.twice + b * self.twice


class OneNumber(Net):
    """A scale and a shift of one number for all channels: a shifted zero is alive, and still cut with its reader."""

    def extra(self) -> None:
        self.scale, self.shift = nn.Parameter(torch.rand(1) + 0.5), nn.Parameter(torch.rand(1) + 0.5)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.scale * a + self.shift) * b + (self.shift + a)


class Barriers(Net):
    """A normalisation over channels, a shuffle that reads the channel count, and a size that does not."""

    def extra(self) -> None:
        self.layer_norm = nn.LayerNorm(8)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        a = self.layer_norm(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        n, c, h, w = b.shape
        b = b.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return a + F.interpolate(F.avg_pool2d(b, 2), size=a.shape[-2:])


class Dead(Net):
    """A barrier that nobody needs must not be counted or built."""

    def extra(self) -> None:
        self.layer_norm, self.reader = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return a + self.reader(self.layer_norm(b))


class Twice(Net):
    def extra(self) -> None:
        self.shared = nn.Conv2d(8, 8, 3, padding=1)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return self.shared(a) + F.relu(self.shared(b))


class Unaffine(Net):
    """Without scale and shift a dead channel cannot be kept at zero: a barrier."""

    def extra(self) -> None:
        self.norm = nn.BatchNorm2d(8, affine=False)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(a) + b


class NormWithActivation(Net):
    """timm's BatchNorm with an activation inside: f(0) = 0 is a normalisation, f(0) != 0 a barrier."""

    def extra(self) -> None:
        self.zero, self.nonzero = BatchNormAct2d(8), BatchNormAct2d(8, act_layer=nn.Sigmoid)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return self.zero(a) + self.nonzero(b)


class OtherDirections(Net):
    """Joining and padding that look like those of channels and of zeros but are not."""

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([F.pad(a, (1, 1, 0, 0), value=1.0), F.pad(b, (1, 1))], 2)


class Flattened(Net):
    """A linear layer on a flattened map, masked element by element, and one without bias behind a BatchNorm1d."""

    def extra(self) -> None:
        self.hidden, self.norm = nn.Linear(8 * 4 * 4, 12), nn.BatchNorm1d(12)
        self.out = nn.Linear(12, 8, bias=False)

    def body(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(a, 4)
        x = self.out(F.relu(self.norm(self.hidden(x.view(x.size(0), -1)))))
        return b + b * x[:, :, None, None]


NETS = [
    *(Sum, InPlaceSum, Product, Square, Shift, Slices, PreActivation, Grouped, SqueezeExcite, Mixed, Attributes),
    OneNumber,
    *(Barriers, Dead, Twice, Unaffine, NormWithActivation, OtherDirections, Flattened),
]


@pytest.mark.parametrize("kind", NETS)
def test_masked_equals_compact(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model, rng, images = randomise(kind()).double(), np.random.default_rng(0), pictures(12, dtype=torch.float64)
    graph = trace(model, (3, 12, 12))
    cases = [{}, constant(graph, True), constant(graph, False), only_one(graph)]
    cases += [random_masks(graph, (0.0, 1.0), rng, by_channel=bool(i % 2)) for i in range(30)]
    cases += [
        random_masks(graph, 0.7, rng) | {name: np.zeros(sizes(graph)[name], bool) for name in emptied}
        for emptied in itertools.chain.from_iterable(itertools.combinations(sizes(graph), n) for n in (1, 2))
    ]
    for masks in cases:
        assert_equal(graph, model, masks, images, 1e-12)


def test_every_kind_has_a_rule_and_an_emitter_and_a_network_here() -> None:
    assert EMIT.keys() == RULES.keys()
    seen = {node.kind for kind in NETS for node in trace(randomise(kind()), (3, 12, 12)).nodes}
    assert seen | {"identity"} == RULES.keys()  # an identity is no traced operation: folding makes it of a convolution


def built(kind: type[Net], **masks: list[int]) -> nn.Module:
    """The compact network of `kind` with only the listed inputs kept."""
    model = randomise(kind())
    graph = trace(model, (3, 12, 12))
    return compact(graph, model, {k: np.isin(np.arange(graph.searchable[k]), v) for k, v in masks.items()})


def test_a_sum_dies_with_all_its_operands() -> None:
    small = built(Sum, a=[], last=[1, 2])
    assert not hasattr(small, "a")
    assert small.b.out_channels == small.norm_b.num_features == 2
    assert built(Sum, a=[], b=[]).fc.weight.shape == (5, 0)


def test_a_product_dies_with_one_factor() -> None:
    small = built(Shift, b=[])
    assert not hasattr(small, "a")
    assert not hasattr(small, "norm_b")
    assert built(Shift, a=[]).b.out_channels == 8  # a + 1 is alive


def test_other_readers_of_a_tensor_are_not_touched() -> None:
    small = built(PreActivation, other=[0, 9])
    assert small.other.in_channels == 2
    assert small.last.in_channels == 16


def test_the_gather_goes_in_front_of_the_normalisation() -> None:
    small = built(PreActivation, other=[], last=[3, 12])
    assert small.norm.num_features == 2
    assert (small.a.out_channels, small.b.out_channels) == (1, 1)


def test_a_group_falls_with_its_inputs() -> None:
    small = built(Grouped, grouped=[0, 1, 2])
    assert small.grouped.groups == 2
    assert small.grouped.out_channels == 6
    assert small.depthwise.groups == 6


def test_a_shift_of_one_number_is_no_barrier() -> None:
    graph = trace(randomise(OneNumber()), (3, 12, 12))
    assert not graph.barriers
    small = built(OneNumber, last=[1, 4])
    assert (small.a.out_channels, small.b.out_channels) == (2, 2)
    assert built(OneNumber, a=[]).b.out_channels == 8


def test_a_barrier_keeps_everything_in_front_of_it() -> None:
    small = built(Barriers, last=[0])
    assert small.a.out_channels == 8
    assert small.layer_norm.normalized_shape == (8,)


def test_what_nobody_needs_is_gone() -> None:
    small = built(Dead, reader=[])
    assert not hasattr(small, "layer_norm")
    assert not hasattr(small, "b")


def test_barriers_count_in_full() -> None:
    """Parameters once, however often it is called; multiply-adds at every call."""
    model = randomise(Twice())
    graph = trace(model, (3, 12, 12))
    masks = {"last": np.arange(8) < 3}
    cost, small = count(graph, analyse(graph, masks)), compact(graph, model, masks)
    assert cost.params == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(pictures(12, batch=1))
    assert counter.get_total_flops() == 2 * cost.macs
    assert cost.macs > 2 * 8 * 8 * 9 * 144


def test_a_partly_dead_operand_is_added_where_it_is_alive() -> None:
    small = built(PreActivation, a=[])
    kinds = {type(m) for m in small.modules()}
    assert ChannelAdd in kinds
    assert ChannelScatter not in kinds


def test_attributes_are_cut_unless_shared() -> None:
    small = built(Attributes, last=[1, 4, 5])
    assert small.gamma.shape == small.beta.shape == small.fixed.shape == (3, 1, 1)
    assert small.twice.shape == (8, 1, 1)


@pytest.mark.parametrize("layout", ["gather", "dense"])
def test_layouts(layout: str) -> None:
    """Dense convolutions read all that is alive, with zeros for what they drop."""
    model = randomise(Sum())
    graph = trace(model, (3, 12, 12))
    masks = {"last": np.arange(8) < 3, "fc": np.arange(6) != 2}
    small = compact(graph, model, masks, layout=layout)
    assert small.last.in_channels == 3  # nobody else reads the others, so that they are not computed
    assert small.fc.in_features == 5
    model = randomise(PreActivation())
    graph = trace(model, (3, 12, 12))
    small = compact(graph, model, {"other": np.arange(16) < 3}, layout=layout)
    assert small.other.in_channels == (3 if layout == "gather" else 16)
    if layout == "dense":
        assert not small.other.weight[:, 3:].any()
        assert small.other.weight[:, :3].all()
        assert not small.gather_indices()


def test_dependence_on_the_image() -> None:
    graph = trace(randomise(Sum()), (3, 12, 12))
    nothing = {name: np.zeros(n, bool) for name, n in graph.searchable.items()}
    assert depends_on_input(graph, analyse(graph, {}))
    assert depends_on_input(graph, analyse(graph, {"a": nothing["a"]}))
    for cut in (("a", "b"), ("last",), ("fc",)):
        assert not depends_on_input(graph, analyse(graph, {name: nothing[name] for name in cut}))
