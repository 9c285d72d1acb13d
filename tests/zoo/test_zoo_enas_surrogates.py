"""ENAS's surrogates, the gated 1x1 convolutions behind pools and identities; and masked = compact with and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from enas_nets import count, pictures, randomise, randomised, supernet
from pgnas_zoo.enas_net import EnasNet, SeparableConv
from torch import Tensor

from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d


def test_surrogates_start_as_the_identity_and_change_nothing() -> None:
    plain, larger = supernet(), supernet(surrogate_pools=True)
    state = larger.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())
    surrogates = [m for m in larger.backbone.modules() if isinstance(m, SurrogateConv2d)]
    assert len(surrogates) == 4 * 17
    assert all(module.is_identity() for module in surrogates)
    weights = sum(module.weight.numel() for module in surrogates)
    assert larger.kept_cost().params == plain.kept_cost().params + weights
    randomise(plain)
    randomise(larger)
    with torch.no_grad():
        assert torch.equal(larger(pictures(larger)), plain(pictures(plain)))


def test_each_pooling_and_identity_branch_has_a_surrogate() -> None:
    for cell in EnasNet(1, 2, 3, 8, surrogates=True).cells:
        for branch in cell.branches:
            assert hasattr(branch, "surrogate") is not isinstance(branch.operation, SeparableConv)
    assert not any(isinstance(m, SurrogateConv2d) for m in EnasNet(1, 2, 3, 8).modules())


def masks_of(net: Supernet, keep: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(gate.channels) < keep for name, gate in net.gates.items()}


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("surrogates", [False, True], ids=["plain", "surrogates"])
def test_masked_is_compact(surrogates: bool, keep: float) -> None:
    net = randomised(surrogates=surrogates)
    images = pictures(net)
    masks = masks_of(net, keep, seed=int(10 * keep))
    candidate = net.candidate(masks)
    with torch.no_grad():
        with net.masked(candidate):
            masked = net(images)
        for layout in ("gather", "dense"):
            small = net.compact(candidate, layout=layout)
            assert (small(images) - masked).abs().max() <= 1e-5 * masked.abs().max().clamp_min(1)
    assert candidate.params == count(net.compact(candidate))


@pytest.mark.parametrize("cell", [3, 5], ids=["normal", "reduction"])
def test_a_branch_whose_surrogate_is_dropped_is_gone(cell: int) -> None:
    net = randomised(surrogates=True)
    masks = {name: np.ones(gate.channels, bool) for name, gate in net.gates.items()}
    branches = [f"cells.{cell}.branches.{i}" for i in range(10) if f"cells.{cell}.branches.{i}.surrogate" in net.gates]
    assert len(branches) == 4
    for name in branches:
        masks[f"{name}.surrogate"][:] = False
    outputs: dict[str, Tensor] = {}
    hooks = [
        net.backbone.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.update({name: output})
        )
        for name in branches
    ]
    with torch.no_grad(), net.masked(masks):
        masked = net(pictures(net))
    for hook in hooks:
        hook.remove()
    assert all((outputs[name] == 0).all() for name in branches)
    small = net.compact(masks)
    assert not any(name == b or name.startswith(f"{b}.") for name, _ in small.named_modules() for b in branches)
    with torch.no_grad():
        assert (small(pictures(net)) - masked).abs().max() <= 1e-5 * masked.abs().max().clamp_min(1)


def test_untouched_surrogates_are_folded_into_the_plain_network() -> None:
    plain, larger = randomised(surrogates=False), randomised(surrogates=True)
    masks = masks_of(plain, 0.7, seed=5)
    whole = {name: np.ones(gate.channels, bool) for name, gate in larger.gates.items() if name not in masks}
    first, second = plain.candidate(masks), larger.candidate(masks | whole)
    assert (first.params, first.macs) == (second.params, second.macs)
    small, folded = plain.compact(first), larger.compact(second)
    assert folded.state_dict().keys() == small.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(folded(pictures(plain)), small(pictures(plain)))
