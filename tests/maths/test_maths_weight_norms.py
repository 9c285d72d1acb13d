"""Squared norms tapped from weights, against loops, autograd and finite differences."""

from __future__ import annotations

import pytest
import reference
import torch
from torch import Tensor

from pgnas_cli.supernet import weight_norms

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
