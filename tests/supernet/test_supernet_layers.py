"""Gated convolutions and linear layers: the layer that they replace, reading x * keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from pgnas_cli.supernet.conv import SearchConv2d, SearchConv2dSame, SearchLayer, SearchLinear, search_layer
from pgnas_cli.supernet.gate import logistic_noise, relaxed_keep

LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 4, 3, 2, 1), [6], SearchConv2d),
    "conv of two groups": (lambda: nn.Conv2d(6, 4, 3, bias=False, dilation=2), [2, 4], SearchConv2d),
    "conv of a group a channel": (lambda: nn.Conv2d(6, 4, 1), [1] * 6, SearchConv2d),
    "grouped conv": (lambda: nn.Conv2d(6, 9, 3, groups=3), [4, 2], SearchConv2d),
    "depthwise conv": (lambda: nn.Conv2d(6, 12, 3, groups=6), [1, 2, 3], SearchConv2d),
    "circular padding": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), [6], SearchConv2d),
    "same padding": (lambda: Conv2dSame(6, 4, 3, 2), [3, 3], SearchConv2dSame),
    "linear": (lambda: nn.Linear(6, 4), [6], SearchLinear),
    "linear of three groups": (lambda: nn.Linear(6, 4, bias=False), [1, 3, 2], SearchLinear),
}
every_layer = pytest.mark.parametrize(("make", "sizes", "kind"), LAYERS.values(), ids=LAYERS)


def pair(make, sizes: list[int]) -> tuple[nn.Module, SearchLayer]:
    torch.manual_seed(0)
    plain = make()
    layer = search_layer(plain, sizes, initial_drop=0.4, temperature=0.5)
    with torch.no_grad():
        layer.gate.drop_logit.copy_(torch.linspace(-1, 1, len(sizes)))
    return plain, layer


def inputs(layer: nn.Module) -> Tensor:
    return torch.randn(5, 6) if isinstance(layer, nn.Linear) else torch.randn(5, 6, 8, 9)


@every_layer
def test_the_gated_layer_shares_what_it_replaces(make, sizes: list[int], kind: type) -> None:
    plain, layer = pair(make, sizes)
    assert type(layer) is kind
    assert isinstance(layer, type(plain))
    assert layer.plain_class is type(plain)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert set(layer.state_dict()) == {*plain.state_dict(), "gate.drop_logit"}
    assert set(plain.state_dict()) <= {"weight", "bias"}  # the plain layer did not get a gate


@every_layer
def test_in_evaluation_it_is_the_plain_layer(make, sizes: list[int], kind: type) -> None:
    plain, layer = pair(make, sizes)
    x = inputs(plain)
    assert torch.equal(layer.eval()(x), plain(x))


@every_layer
def test_in_training_it_reads_x_times_keep(make, sizes: list[int], kind: type) -> None:
    plain, layer = pair(make, sizes)
    x = inputs(plain)
    torch.manual_seed(7)
    found = layer.train()(x)
    torch.manual_seed(7)
    logits = torch.repeat_interleave(layer.gate.drop_logit, torch.tensor(sizes))
    keep = relaxed_keep(logits, logistic_noise((5, 6)), 0.5)
    wanted = plain(x * keep.view(5, 6, *[1] * (x.ndim - 2)))
    torch.testing.assert_close(found, wanted)  # a 1x1 convolution may multiply its weights with the mask instead
    assert not torch.allclose(found, plain(x), atol=0.01)


@every_layer
def test_squared_norms_are_those_of_a_loop(make, sizes: list[int], kind: type) -> None:
    """Reading only the channels of one group leaves, of the layer's weight, the slice of that group."""
    plain, layer = pair(make, sizes)
    layer, wanted, start = layer.double(), [], 0
    for size in sizes:
        total = 0.0
        for channel in range(start, start + size):
            if isinstance(plain, nn.Linear):
                total += float(plain.weight.detach()[:, channel].square().sum())
                continue
            width, per_group = plain.weight.shape[1], plain.out_channels // plain.groups
            for output in range(channel // width * per_group, (channel // width + 1) * per_group):
                total += float(plain.weight.detach()[output, channel % width].square().sum())
        wanted.append(total)
        start += size
    assert layer.squared_norms().tolist() == pytest.approx(wanted, rel=1e-12)
    assert sum(wanted) == pytest.approx(float(plain.weight.detach().square().sum()), rel=1e-12)


def test_same_padding_keeps_the_arithmetic_of_timm() -> None:
    plain, layer = pair(*LAYERS["same padding"][:2])
    x = torch.randn(1, 6, 7, 7)
    assert layer.eval()(x).shape[-2:] == (4, 4)
    assert torch.equal(layer(x), plain(x))
    assert not torch.equal(layer(x)[..., :3, :3], F.conv2d(x, plain.weight, plain.bias, 2))


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_kept(make, sizes: list[int], kind: type, training: bool) -> None:
    layer = search_layer(make().train(training), sizes)
    assert layer.training is layer.gate.training is training


@pytest.mark.parametrize(
    ("layer", "sizes", "message"),
    [
        (nn.Conv2d(6, 4, 3), [5], "sum to 5, the layer reads 6"),
        (nn.Conv2d(6, 4, 3), [3, 4], "sum to 7, the layer reads 6"),
        (nn.Conv2d(6, 4, 3), [6, 0], "positive"),
        (nn.Conv2d(6, 4, 3), [], "sum to 0"),
        (nn.Conv2d(6, 4, 3, groups=2), [2, 4], "multiples of the 3 inputs"),
        (nn.Linear(6, 4), [7], "sum to 7, the layer reads 6"),
        (nn.Linear(6, 4), [7, -1], "positive"),
        (nn.Conv1d(6, 4, 3), [6], "a Conv1d cannot be gated"),
        (nn.BatchNorm2d(6), [6], "a BatchNorm2d cannot be gated"),
        (nn.ConvTranspose2d(6, 4, 3), [6], "a ConvTranspose2d cannot be gated"),
    ],
)
def test_what_does_not_fit_is_refused(layer: nn.Module, sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_layer(layer, sizes)
