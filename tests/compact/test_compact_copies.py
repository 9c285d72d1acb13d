"""Copies of modules: what `copy_plain` makes is what deepcopy makes, and what it cannot copy it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from pgnas_cli.compact.layers import copy_module, copy_plain
from pgnas_cli.compact.trace import meta_twin, trace

LEAVES = [
    nn.ReLU(inplace=True), nn.Conv2d(2, 4, 3, padding=(1, 2), groups=2), nn.Linear(2, 3, bias=False), nn.BatchNorm2d(3),
    nn.BatchNorm2d(3, affine=False, track_running_stats=False), nn.PReLU(), nn.AvgPool2d((2, 3)), nn.Identity(),
    nn.Hardtanh(), nn.Conv2d(1, 1, 1, padding="same"), nn.Dropout(0.3).eval(),
]  # fmt: skip


def memo_of(module: nn.Module) -> dict[int, Any]:
    return {id(t): copy.deepcopy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))}


def settings(module: nn.Module) -> dict[str, Any]:
    """Everything of a module but its tensors and children."""
    return {name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")}


@pytest.mark.parametrize("module", LEAVES, ids=lambda module: type(module).__name__)
def test_a_layer_is_copied_as_deepcopy_copies_it(module: nn.Module) -> None:
    found, wanted = copy_plain(module, memo_of(module)), copy.deepcopy(module)
    assert found is not None
    assert type(found) is type(module)
    assert settings(found) == settings(wanted)
    assert list(found.state_dict()) == list(wanted.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True)
    )
    mine, theirs = ({id(t) for t in (*net.parameters(), *net.buffers())} for net in (found, module))
    assert not mine & theirs


class OwnCopy(nn.Module):
    def __deepcopy__(self, memo: dict) -> OwnCopy:
        return self


def with_attribute(value: object) -> nn.Module:
    module = nn.ReLU()
    module.extra = value
    return module


def hooked() -> nn.Module:
    module = nn.ReLU()
    module.register_forward_hook(lambda *_: None)
    return module


def test_a_list_of_settings_is_not_shared() -> None:
    module = with_attribute([1, 2])
    found = copy_plain(module, {})
    assert found is not None
    module.extra.append(3)
    assert found.extra == [1, 2]


@pytest.mark.parametrize(
    "module",
    [OwnCopy(), hooked(), with_attribute({}), with_attribute([[1]]), with_attribute(torch.ones(1)),
     with_attribute((object(),)), nn.Sequential(nn.ReLU())],
    ids=["own copy", "hook", "dictionary", "list of lists", "tensor", "tuple of objects", "unknown child"],
)  # fmt: skip
def test_what_holds_more_is_left_to_deepcopy(module: nn.Module) -> None:
    assert copy_plain(module, memo_of(module)) is None


def test_children_come_from_the_memo() -> None:
    child = nn.ReLU()
    made = copy_plain(child, {})
    parent = copy_plain(nn.Sequential(child, child), {id(child): made})
    assert isinstance(parent, nn.Sequential)
    assert parent[0] is parent[1] is made


def test_copied_modules_do_nothing_in_place_and_train() -> None:
    norm = BatchNormAct2d(4, inplace=True)
    norm.weight.requires_grad_(False)
    found = copy_module(nn.Sequential(norm, nn.ReLU(inplace=True), nn.PReLU()))
    assert [m.inplace for m in found.modules() if hasattr(m, "inplace")] == [False, False]
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert vars(copy_module(nn.ReLU(inplace=True)))["inplace"] is False


@pytest.mark.parametrize("arch", ["resnet18", "mobileone_s0", "regnety_002"])
def test_the_twin_of_a_network_has_its_structure_and_empty_tensors(arch: str) -> None:
    net = timm.create_model(arch)
    net.fc2 = net.get_submodule("head.fc" if arch != "resnet18" else "fc")  # shared
    twin = meta_twin(net)
    assert [(n, type(m)) for n, m in twin.named_modules()] == [(n, type(m)) for n, m in net.named_modules()]
    assert twin.fc2 is twin.get_submodule("head.fc" if arch != "resnet18" else "fc")
    assert {n: (t.shape, t.device.type) for n, t in twin.state_dict().items()} == {
        n: (t.shape, "meta") for n, t in net.state_dict().items()
    }
    assert not any(module.training for module in twin.modules())
    assert any(module.training for module in net.modules())
    assert not {id(m) for m in twin.modules()} & {id(m) for m in net.modules()}


class NormByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(input=self.conv(x)))


def test_a_normalisation_that_is_called_by_keyword_is_traced() -> None:
    graph = trace(NormByKeyword(), (1, 9, 9))
    assert {name: geometry.in_channels for name, geometry in graph.convs.items()} == {"conv": 1, "last": 4}
