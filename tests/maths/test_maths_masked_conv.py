"""Convolutions of masked inputs, and squared norms tapped from weights, against autograd and finite differences."""

from __future__ import annotations

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import Tensor

from pgnas_cli.supernet import weight_norms
from pgnas_cli.supernet.masked_conv import ConvGeometry, masked_conv2d

GEOMETRIES = {
    "3x3": ((4, 6, 3, 3), ConvGeometry((1, 1), (1, 1), (1, 1), 1)),
    "1x1": ((4, 6, 1, 1), ConvGeometry((2, 2), (0, 0), (1, 1), 1)),
    "dilated": ((4, 6, 3, 3), ConvGeometry((1, 1), (2, 2), (2, 2), 1)),
    "grouped": ((4, 3, 3, 3), ConvGeometry((2, 1), (1, 1), (1, 1), 2)),
}
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
def test_gradgradcheck_masked_conv2d(batch: int, draws: int) -> None:
    shape, geometry = GEOMETRIES["1x1"]
    assert torch.autograd.gradgradcheck(lambda *t: masked_conv2d(*t, geometry), tensors(shape, batch, draws, side=2))


@rows
@pytest.mark.parametrize("frozen", [0, 1, 2, 3], ids=["inputs", "mask", "weight", "bias"])
def test_what_needs_no_gradient_gets_none_and_changes_nothing(batch: int, draws: int, frozen: int) -> None:
    shape, geometry = GEOMETRIES["3x3"]
    wanted = torch.autograd.grad(plain(*(given := tensors(shape, batch, draws)), geometry).sum(), given)
    given[frozen].requires_grad_(False)
    masked_conv2d(*given, geometry).sum().backward()
    for index, tensor in enumerate(given):
        assert (tensor.grad is None) == (index == frozen)
        if index != frozen:
            torch.testing.assert_close(tensor.grad, wanted[index])


@rows
def test_a_graph_can_be_used_twice_and_a_layer_too(batch: int, draws: int) -> None:
    """Gradients are written over temporary tensors: neither what is saved nor what comes in may suffer."""
    shape, geometry = GEOMETRIES["3x3"]
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
def test_nothing_is_saved_but_the_inputs(batch: int, draws: int) -> None:
    shape, geometry = GEOMETRIES["3x3"]
    given = tensors(shape, batch, draws)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        masked_conv2d(*given, geometry)
    assert {tensor.data_ptr() for tensor in saved} <= {tensor.data_ptr() for tensor in given}


@rows
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_under_autocast_it_computes_in_bfloat16(batch: int, draws: int, memory_format: torch.memory_format) -> None:
    shape, geometry = GEOMETRIES["3x3"]
    given = tensors(shape, batch, draws, torch.float32, side=8)
    x = given[0].detach().contiguous(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_conv2d(x, *given[1:], geometry)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(*given, geometry), rtol=0.03, atol=0.2)
    found.float().square().sum().backward()
    assert {tensor.grad.dtype for tensor in (x, *given[1:])} == {torch.float32}


# ---- squared norms ----

WEIGHTS = {
    "one group": ((4, 6, 3, 3), [6], 1),
    "groups": ((4, 6, 3, 3), [1, 2, 3], 1),
    "channels": ((4, 6, 1, 1), [1] * 6, 1),
    "grouped, one": ((4, 3, 3, 3), [6], 2),
    "grouped": ((4, 3, 1, 1), [3, 3], 2),
    "grouped channels": ((4, 3, 3, 3), [1] * 6, 2),
    "linear": ((5, 6), [2, 4], 1),
}
weights = pytest.mark.parametrize(("shape", "sizes", "groups"), WEIGHTS.values(), ids=WEIGHTS)


def weight_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()


def index(sizes: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.tensor(sizes))


@weights
@pytest.mark.parametrize(("block", "cpu"), [(1, True), (1 << 18, True), (1, False)])
def test_squared_norms_are_the_loop(
    shape, sizes, groups: int, block: int, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of an accelerator, computed here on the CPU."""
    monkeypatch.setattr(weight_norms, "_BLOCK", block)
    monkeypatch.setattr(weight_norms, "_on_cpu", lambda weight: cpu)
    weight = weight_of(shape)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    wanted = [
        reference.group_squared_norm(weight.detach().numpy(), start, size, groups)
        for start, size in zip(starts, sizes, strict=True)
    ]
    for found in (
        weight_norms.squared_norms(weight, sizes, index(sizes), groups),
        weight_norms.tap(weight, sizes, index(sizes), groups)[1],
        weight_norms.norms_of_many([weight], [(tuple(sizes), index(sizes), groups)])[0],
    ):
        assert found.tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("cpu", [True, False])
def test_norms_of_many_are_those_of_each(cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_norms, "_on_cpu", lambda weight: cpu)
    weights = [weight_of(shape).detach() for shape, _, _ in WEIGHTS.values()]
    groupings = [(tuple(sizes), index(sizes), groups) for _, sizes, groups in WEIGHTS.values()]
    found = weight_norms.norms_of_many(weights, groupings)
    for weight, grouping, norms in zip(weights, groupings, found, strict=True):
        assert norms.shape == (len(grouping[0]),)
        assert not norms.requires_grad
        torch.testing.assert_close(norms, weight_norms.squared_norms(weight, *grouping))


def test_a_large_norm_is_exact_in_float32() -> None:
    """A single running sum of 4 million terms in float32 is off by 1e-4."""
    weight = torch.randn(512, 900, 3, 3, generator=torch.Generator().manual_seed(3))
    wanted = weight.double().square().sum().item()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        laid = weight.contiguous(memory_format=memory_format)
        for sizes in ([900], [400, 500]):
            found = weight_norms.squared_norms(laid, sizes, index(sizes))
            assert found.double().sum().item() == pytest.approx(wanted, rel=1e-6)


@weights
def test_gradcheck_squared_norms(shape, sizes, groups: int) -> None:
    weight = weight_of(shape)
    assert torch.autograd.gradcheck(lambda w: weight_norms.squared_norms(w, sizes, index(sizes), groups), (weight,))
    assert torch.autograd.gradgradcheck(lambda w: weight_norms.squared_norms(w, sizes, index(sizes), groups), (weight,))


@weights
def test_gradcheck_tap(shape, sizes, groups: int) -> None:
    def both(w: Tensor) -> tuple[Tensor, Tensor]:
        used, norms = weight_norms.tap(w, sizes, index(sizes), groups)
        return used.sin(), norms

    assert torch.autograd.gradcheck(both, (weight_of(shape),))


def test_tapped_norms_outlive_the_graph_of_the_layer_but_not_a_change_of_the_weight() -> None:
    weight = weight_of((4, 6, 3, 3))
    used, norms = weight_norms.tap(weight, [6], index([6]))
    used.sin().sum().backward()
    norms.sum().backward()
    torch.testing.assert_close(weight.grad, weight.detach().cos() + 2 * weight.detach())
    _, norms = weight_norms.tap(weight, [6], index([6]))
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed between"):
        norms.sum().backward()


def test_the_sum_of_squares_goes_over_all_weights() -> None:
    given = [weight_of((4, 6, 3, 3)), weight_of((2, 3, 1, 1))]
    total = weight_norms.sum_of_squares(given)
    assert total.item() == pytest.approx(sum(w.detach().square().sum().item() for w in given), rel=1e-12)
    total.backward()
    assert all(torch.equal(w.grad, 2 * w.detach()) for w in given)
