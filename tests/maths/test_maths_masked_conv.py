"""Convolutions of masked inputs, against autograd and finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pgnas_cli.supernet import masked_pointwise as masked_pointwise_module
from pgnas_cli.supernet.masked_conv import ConvGeometry, masked_conv2d
from pgnas_cli.supernet.masked_pointwise import every_nth, is_pointwise, masked_pointwise, pays

GEOMETRIES = {
    "3x3": ((4, 6, 3, 3), ConvGeometry((1, 1), (1, 1), (1, 1), 1)),
    "1x1": ((4, 6, 1, 1), ConvGeometry((1, 1), (0, 0), (1, 1), 1)),
    "1x1 with a stride": ((4, 6, 1, 1), ConvGeometry((2, 3), (0, 0), (1, 1), 1)),
    "dilated": ((4, 6, 3, 3), ConvGeometry((1, 1), (2, 2), (2, 2), 1)),
    "grouped": ((4, 3, 3, 3), ConvGeometry((2, 1), (1, 1), (1, 1), 2)),
}
WEIGHT_LAYOUTS = {
    "weights in NCHW": lambda weight: weight,
    "in channels_last": lambda weight: weight.to(memory_format=torch.channels_last),
    "transposed": lambda weight: weight.transpose(0, 1).contiguous().transpose(0, 1),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
geometries = pytest.mark.parametrize(("shape", "geometry"), GEOMETRIES.values(), ids=GEOMETRIES)
rows = pytest.mark.parametrize(("batch", "draws"), [(3, 3), (3, 1), (1, 1)], ids=["example", "batch", "one example"])


def tensors(
    shape: tuple[int, ...], batch: int, draws: int, dtype: torch.dtype = torch.float64, side: int = 5
) -> list[Tensor]:
    """x, keep, weight, bias; with one draw the weights are fewer than the inputs, and the mask goes into them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, 6, side, side), (draws, 6), shape, (shape[0],)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def plain(x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    return F.conv2d(x * keep[:, :, None, None], weight, bias, *geometry)


@geometries
@rows
@pytest.mark.parametrize("side", [5, 12], ids=["more weights", "more inputs"])
def test_values_and_gradients_are_those_of_plain_autograd(shape, geometry, batch: int, draws: int, side: int) -> None:
    given = tensors(shape, batch, draws, side=side)
    found, wanted = masked_conv2d(*given, geometry), plain(*given, geometry)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=wanted.dtype)
    slopes = (torch.autograd.grad(result, given, upstream) for result in (found, wanted))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


@geometries
@rows
def test_gradcheck_masked_conv2d(shape, geometry, batch: int, draws: int) -> None:
    given = tensors(shape, batch, draws)
    assert torch.autograd.gradcheck(lambda *t: masked_conv2d(*t, geometry), given)


@rows
@pytest.mark.parametrize("name", ["1x1", "1x1 with a stride", "grouped"])
def test_gradgradcheck_masked_conv2d(name: str, batch: int, draws: int) -> None:
    shape, geometry = GEOMETRIES[name]
    assert torch.autograd.gradgradcheck(lambda *t: masked_conv2d(*t, geometry), tensors(shape, batch, draws, side=2))


@rows
@geometries
@pytest.mark.parametrize("frozen", [0, 1, 2, 3], ids=["inputs", "mask", "weight", "bias"])
def test_what_needs_no_gradient_gets_none_and_changes_nothing(
    shape, geometry, batch: int, draws: int, frozen: int
) -> None:
    wanted = torch.autograd.grad(plain(*(given := tensors(shape, batch, draws)), geometry).sum(), given)
    given[frozen].requires_grad_(False)
    masked_conv2d(*given, geometry).sum().backward()
    for index, tensor in enumerate(given):
        assert (tensor.grad is None) == (index == frozen)
        if index != frozen:
            torch.testing.assert_close(tensor.grad, wanted[index])


@rows
@geometries
def test_a_graph_can_be_used_twice_and_a_layer_too(shape, geometry, batch: int, draws: int) -> None:
    """Gradients are written over temporary tensors: neither what is saved nor what comes in may suffer."""
    given = tensors(shape, batch, draws)
    before = [tensor.detach().clone() for tensor in given]
    found = masked_conv2d(*given, geometry) + masked_conv2d(*given, geometry)
    upstream = torch.randn_like(found)
    kept = upstream.clone()
    first = torch.autograd.grad(found, given, upstream, retain_graph=True)
    second = torch.autograd.grad(found, given, upstream)
    wanted = torch.autograd.grad(2 * plain(*given, geometry), given, upstream)
    for a, b, c in zip(first, second, wanted, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)
    assert torch.equal(upstream, kept)
    assert all(torch.equal(tensor, old) for tensor, old in zip(given, before, strict=True))


@rows
@pytest.mark.parametrize("name", ["3x3", "1x1"])
def test_nothing_is_saved_but_the_inputs(name: str, batch: int, draws: int) -> None:
    shape, geometry = GEOMETRIES[name]
    given = tensors(shape, batch, draws)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        masked_conv2d(*given, geometry)
    assert {tensor.data_ptr() for tensor in saved} <= {tensor.data_ptr() for tensor in given}


@rows
@pytest.mark.parametrize("memory_format", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["3x3", "1x1 with a stride"])
def test_under_autocast_it_computes_in_bfloat16(
    name: str, batch: int, draws: int, memory_format: torch.memory_format
) -> None:
    shape, geometry = GEOMETRIES[name]
    given = tensors(shape, batch, draws, torch.float32, side=8)
    x = given[0].detach().contiguous(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_conv2d(x, *given[1:], geometry)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(*given, geometry), rtol=0.03, atol=0.2)
    found.float().square().sum().backward()
    assert {tensor.grad.dtype for tensor in (x, *given[1:])} == {torch.float32}


# ---- 1x1 kernels ----


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two examples, one for each thread, are computed at a time, of three the last one alone."""
    monkeypatch.setattr(masked_pointwise_module, "WEIGHTS_AT_A_TIME", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("weights", WEIGHT_LAYOUTS.values(), ids=WEIGHT_LAYOUTS)
@pytest.mark.parametrize("upstream_layout", LAYOUTS.values(), ids=[f"gradient in {name}" for name in LAYOUTS])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_1x1_convolution_with_each_example_s_weights(layout, weights, upstream_layout, batch: int) -> None:
    """It is that of the masked inputs, in the layout of the inputs, whatever the layout of the others."""
    x, keep, weight, bias = (tensor.detach() for tensor in tensors((4, 6, 1, 1), batch, batch))
    x = x.contiguous(memory_format=layout)
    given = [tensor.requires_grad_() for tensor in (x, keep, weights(weight), bias)]
    assert pays(x, weight)
    found = masked_pointwise(*given)
    wanted = F.conv2d(x * keep[:, :, None, None], given[2], bias)
    torch.testing.assert_close(found, wanted)
    assert not batch or found.is_contiguous(memory_format=layout)  # nothing lies in every layout
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=wanted.dtype)
    upstream = upstream.contiguous(memory_format=upstream_layout)
    slopes = torch.autograd.grad(found, given, upstream)
    for a, b in zip(slopes, torch.autograd.grad(wanted, given, upstream), strict=True):
        torch.testing.assert_close(a, b)
    assert not batch or slopes[0].is_contiguous(memory_format=layout)
    assert slopes[2].stride() == given[2].stride()  # what the gradients of several processes are collected in


@pytest.mark.parametrize("bias", [True, False])
def test_first_gradients_that_are_differentiated_again_are_the_same(bias: bool) -> None:
    """Of a layer that is used twice, its mask computed from its inputs: a path through x does not count twice."""
    x, scale, weight, offset = tensors((6, 6, 1, 1), 3, 3)
    given = [x, scale, weight, *([offset] if bias else [])]

    def twice(convolution) -> Tensor:
        value = x
        for _ in range(2):
            keep = torch.sigmoid(scale * value.mean((2, 3)))
            value = convolution(value, keep, weight, offset if bias else None)
        return value.square().sum()

    def conv(x: Tensor, keep: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return plain(x, keep, weight, bias, GEOMETRIES["1x1"][1])

    found = torch.autograd.grad(twice(masked_pointwise), given, create_graph=True)
    wanted = torch.autograd.grad(twice(conv), given, create_graph=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    again = (torch.autograd.grad(sum(s.sin().sum() for s in slopes), given) for slopes in (found, wanted))
    for a, b in zip(*again, strict=True):
        torch.testing.assert_close(a, b)


def test_only_what_the_backward_pass_reads_may_not_be_changed_before_it() -> None:
    x, keep, weight, bias = tensors((4, 6, 1, 1), 3, 3)
    found = masked_pointwise(x, keep, weight, bias)
    with torch.no_grad():
        bias.add_(1)
    found.sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, 3 * 25))


@pytest.mark.parametrize(
    "change",
    [
        lambda x, keep, weight, bias: (x, keep[:, :1], weight, bias),
        lambda x, keep, weight, bias: (x, keep[:1], weight, bias),
        lambda x, keep, weight, bias: (x, keep, weight[:, :1], bias),
        lambda x, keep, weight, bias: (x, keep, weight.expand(-1, -1, 3, 3), bias),
        lambda x, keep, weight, bias: (x, keep, weight, bias[:1]),
        lambda x, keep, weight, bias: (x, keep, weight, bias.float()),
    ],
)
def test_what_would_broadcast_is_refused(change) -> None:
    with pytest.raises(AssertionError):
        masked_pointwise(*change(*tensors((4, 6, 1, 1), 3, 3)))


def test_without_inputs_the_bias_is_left() -> None:
    bias = torch.tensor([1.0, 2.0])
    found = masked_pointwise(torch.empty(3, 0, 2, 2), torch.empty(3, 0), torch.empty(2, 0, 1, 1), bias)
    assert found.tolist() == bias[:, None, None].expand(3, 2, 2, 2).tolist()


def test_the_weights_of_a_part_take_no_more_than_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    x, weight = torch.empty(32, 6, 5, 5), torch.empty(100, 6)
    assert masked_pointwise_module._space(x, weight).shape == (8, 100, 6)
    assert masked_pointwise_module._space(x[:1], weight).shape == (1, 100, 6)
    assert masked_pointwise_module._space(x, weight[:1]).shape == (32, 1, 6)


def nodes(found: Tensor) -> list[str]:
    """Names of the operations that a result was computed by, along its first operands."""
    names, node = [], found.grad_fn
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def test_which_way_a_convolution_goes() -> None:
    def way(name: str, draws: int = 3, side: int = 12) -> list[str]:
        shape, geometry = GEOMETRIES[name]
        return nodes(masked_conv2d(*tensors(shape, 3, draws, side=side), geometry))[:-1]

    assert way("1x1") == ["_MaskedPointwiseBackward"]
    assert way("1x1 with a stride") == ["_MaskedPointwiseBackward", "_EveryNthBackward"]
    assert way("1x1", draws=1) == ["_MaskedConv2dBackward"]
    assert way("1x1 with a stride", draws=1) == ["_MaskedConv2dBackward", "_EveryNthBackward"]
    assert way("1x1", side=1) == ["_MaskedConv2dBackward"]  # four outputs of one position
    assert way("3x3") == way("dilated") == way("grouped") == ["_MaskedConv2dBackward"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_nth_position_in_the_layout_of_the_inputs(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    found = every_nth(x, (2, 3))
    assert torch.equal(found, x[:, :, ::2, ::3])
    assert found.is_contiguous(memory_format=layout)
    (slope,) = torch.autograd.grad(found, x, torch.ones_like(found))
    assert slope.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(lambda x: every_nth(x, (2, 3)), x)
    assert torch.equal(every_nth(x[:, :, :, ::2], (2, 1)), x[:, :, ::2, ::2])


def test_a_mask_of_zeros_leaves_the_bias_and_every_gradient_of_the_mask() -> None:
    """A dropped channel still learns whether it should come back."""
    x, keep, weight, bias = tensors((4, 6, 1, 1), 3, 3)
    keep = torch.zeros_like(keep).requires_grad_()
    found = masked_pointwise(x, keep, weight, bias)
    torch.testing.assert_close(found, bias[:, None, None].expand_as(found))
    found.sum().backward()
    torch.testing.assert_close(keep.grad, x.detach().sum((2, 3)) * weight.detach().sum((0, 2, 3)))
    assert not x.grad.any()
    assert not weight.grad.any()


def test_each_example_has_its_own_weights_only_where_that_is_faster() -> None:
    x, _, weight, _ = tensors((600, 6, 1, 1), 3, 3, side=12)
    laid = x.contiguous(memory_format=torch.channels_last)
    assert pays(x, weight[:576])  # 144 positions
    assert not pays(x, weight[:577])
    assert pays(laid, weight[:144])
    assert not pays(laid, weight[:145])
    few = x[:, :, :11, :11].contiguous()
    assert pays(few, weight[:121])
    assert not pays(few, weight[:122])
    assert not pays(x[:, :, :, ::2], weight[:1])
    assert not pays(x.bfloat16(), weight[:4].bfloat16())
    assert not pays(x.float(), weight[:4])
    assert not pays(x.to("meta"), weight[:4].to("meta"))
    assert is_pointwise(weight, (0, 0), 1)
    assert not is_pointwise(weight, (0, 1), 1)
    assert not is_pointwise(weight, (0, 0), 2)
    assert not is_pointwise(weight.new_empty(4, 6, 1, 3), (0, 0), 1)
