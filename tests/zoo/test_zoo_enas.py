"""The ENAS family: sizes, structure, and its auxiliary head."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from enas_nets import count, pictures, supernet
from pgnas_zoo.enas import EnasPlugin
from pgnas_zoo.enas_net import (
    REDUCTIONS,
    AuxiliaryHead,
    EnasNet,
    FactorizedReduction,
    SeparableConv,
)
from timm.layers.drop import DropPath
from torch import nn

from pgnas_cli import registry
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import Inflation

# ---- sizes ----


@pytest.mark.parametrize(
    ("filters", "whole", "head", "norms"), [(36, 3_894_372, 494_848, 46_720), (72, 14_784_552, 587_008, 91_648)]
)
def test_the_described_network_has_these_parameters(filters: int, whole: int, head: int, norms: int) -> None:
    with torch.device("meta"):
        net = EnasNet(filters, 10, 3, 32)
    assert count(net) - count(net.auxiliary) == whole
    assert count(net.auxiliary) == head
    assert count(net, nn.BatchNorm2d) == norms
    assert whole + head - norms == {36: 4_342_500, 72: 15_279_912}[filters]  # 72: the published 15.3 M
    assert registry.plain_cost(registry.make_spec(f"enas15_{filters}f", Inflation()))[0] == whole


@pytest.mark.parametrize(
    ("arch", "width", "filters"),
    [
        ("supnet-e", 1.0, 36),
        ("supnet-e", 0.25, 9),
        ("supnet-ei", 1.0, 72),
        ("enas15_36f", 2.0, 72),
        ("enas15_9999f", 1e-4, 1),
        ("enas15_3f", 0.01, 1),
    ],
)
def test_names_and_width_give_the_filters(arch: str, width: float, filters: int) -> None:
    net = registry.build_on_meta(registry.make_spec(arch, Inflation(width=width)))
    assert net.backbone.stem.out_channels == 3 * filters
    assert net.backbone.cells[-1].base.conv.out_channels == 4 * filters


@pytest.mark.parametrize("arch", ["enas15_0f", "enas15_036f", "enas15_10000f", "enas15_f", "enas14_36f", "supnet-eii"])
def test_other_names_are_not_of_this_family(arch: str) -> None:
    assert not EnasPlugin().matches(arch)
    with pytest.raises(ValueError, match="no ENAS architecture"):
        EnasPlugin().build(arch, Inflation(), num_classes=2, in_chans=3, img_size=8)


def test_there_are_no_published_weights() -> None:
    spec = registry.make_spec("enas15_2f", Inflation())
    with pytest.raises(UsageError, match="no published weights") as error:
        registry.build(spec, pretrained=True)
    assert "--weights" in error.value.hint


def test_a_weights_file_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    first, path = EnasNet(2, 5, 3, 16), tmp_path / "weights.safetensors"
    save_file(first.state_dict(), path)
    second = EnasPlugin().build("enas15_2f", Inflation(), num_classes=5, in_chans=3, img_size=16, pretrained=path)
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


# ---- structure ----


@pytest.mark.parametrize("img_size", [1, 7, 8, 28, 32])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_image_sizes_and_channels(img_size: int, in_chans: int) -> None:
    net = EnasNet(1, 7, in_chans, img_size, surrogates=True)
    images = torch.randn(3, in_chans, img_size, img_size)
    assert net.train()(images).shape == (3, 7)
    assert net.aux_logits is not None
    assert net.aux_logits.shape == (3, 7)
    assert net.eval()(images).shape == (3, 7)


def test_cells_halve_and_double_at_5_and_11() -> None:
    net = EnasNet(3, 10, 3, 32).eval()
    shapes = []
    for cell in net.cells:
        cell.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    net(torch.randn(1, 3, 32, 32))
    normal = [(15, 32)] * 5 + [(24, 16)] + [(30, 16)] * 5 + [(48, 8)] + [(60, 8)] * 5
    assert shapes == [(channels, size, size) for channels, size in normal]
    halved = [
        index
        for index, cell in enumerate(net.cells)
        if any(isinstance(module, FactorizedReduction) for module in cell.calibrate0.modules())
    ]
    assert halved == [6, 12]


def test_operations_follow_the_published_arcs() -> None:
    net = EnasNet(2, 10, 3, 32)
    kinds = {
        index: Counter(type(branch.operation).__name__ for branch in cell.branches)
        for index, cell in enumerate(net.cells)
    }
    normal = Counter(SeparableConv=6, AvgPool2d=2, Identity=2)
    reduction = Counter(SeparableConv=6, MaxPool2dSame=2, StridedAvgPool=1, FactorizedReduction=1)
    assert kinds == {index: reduction if index in REDUCTIONS else normal for index in range(17)}
    assert [cell.sources for cell in (net.cells[0], net.cells[5])] == [
        [0, 0, 0, 0, 0, 1, 1, 0, 0, 1],
        [1, 1, 0, 0, 1, 3, 1, 0, 0, 1],
    ]
    assert [cell.unread for cell in (net.cells[0], net.cells[5])] == [[2, 3, 4, 5, 6], [2, 4, 5, 6]]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_a_separable_convolution_is_applied_twice(kernel: int, stride: int) -> None:
    layer = SeparableConv(4, kernel, stride)
    names = [type(module).__name__.removesuffix("Same") for module in layer]
    assert names == ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"] * 2
    depthwise = [layer.depthwise1, layer.depthwise2]
    assert [module.groups for module in depthwise] == [4, 4]
    assert [module.stride[0] for module in depthwise] == [stride, 1]
    assert [module.kernel_size[0] for module in depthwise] == [kernel, kernel]
    assert layer(torch.randn(2, 4, 7, 8)).shape == (2, 4, -(-7 // stride), 8 // stride)


def test_every_branch_with_an_operation_drops_its_path_in_proportion_to_its_depth() -> None:
    net = EnasNet(1, 10, 3, 32)
    for index, cell in enumerate(net.cells):
        shares = [b.drop_path.depth_share for b in cell.branches if hasattr(b, "drop_path")]
        without = [type(b.operation) for b in cell.branches if not hasattr(b, "drop_path")]
        assert shares == [(index + 1) / 17] * len(shares)
        assert without == ([FactorizedReduction] if index in REDUCTIONS else [nn.Identity] * 2)
    assert all(module.drop_prob == 0 for module in net.modules() if isinstance(module, DropPath))


def test_the_gated_layers() -> None:
    """Per cell 12 pointwise ones and the base; a reduction's identity has two paths, as have the halved inputs."""
    net = supernet(surrogate_pools=True)
    kinds = Counter(
        "surrogate" if name.endswith("surrogate") else "calibration" if "calibrate" in name else
        "base" if "base" in name else name.rpartition(".")[2][:-1] for name in net.gates
    )  # fmt: skip
    assert kinds == {"surrogate": 4 * 17, "calibration": 17 + 17 + 2, "base": 17, "pointwise": 12 * 17, "conv": 2 * 2}
    assert all(len(gate.sizes) == 1 for gate in net.gates.values())
    free = [
        name
        for name, module in net.backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name not in net.gates
    ]
    assert {name.rpartition(".")[2].rstrip("12") for name in free if name.startswith("cells")} == {"depthwise"}
    assert {name for name in free if not name.startswith("cells")} == {
        *("stem", "fc", "auxiliary.conv1", "auxiliary.conv2", "auxiliary.fc")
    }
    assert not net.graph.barriers


def test_initial_weights_are_truncated_he_normal_draws() -> None:
    """N(0, 2 / fan in) cut off at two deviations, which leaves 0.88 of the deviation."""
    torch.manual_seed(0)
    net = EnasNet(24, 10, 3, 32)
    cell = net.cells[14]
    layers = {
        cell.base.conv: 96,
        cell.branches[1].operation.depthwise2: 9 * 96,
        net.cells[2].branches[5].operation.depthwise1: 25 * 24,
        net.fc: 480,
        net.auxiliary.conv2: 4 * 128,
    }
    for layer, fan_in in layers.items():
        deviation = math.sqrt(2 / fan_in)
        assert layer.weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.08)
        assert 1.9 * deviation < layer.weight.abs().max().item() <= 2 * deviation
        assert layer.bias is None


# ---- the auxiliary head ----


def test_the_auxiliary_head_is_for_training_only() -> None:
    net = supernet()
    images = pictures(net)
    net.train()(images)
    first = net.backbone.aux_logits
    assert first.shape == (2, 5)
    assert first.requires_grad
    assert copy.deepcopy(net).backbone.aux_logits is None
    net.eval()(images)
    assert net.backbone.aux_logits is None
    assert net.backbone.training_only == ("auxiliary",)
    small = net.compact({})
    assert not any("auxiliary" in name for name, _ in small.named_parameters())
    assert net.kept_cost().params == count(small) == count(EnasNet(2, 5, 3, 16)) - count(net.backbone.auxiliary)


def test_the_auxiliary_head_reads_the_cell_behind_the_second_reduction() -> None:
    net = EnasNet(2, 10, 3, 32).train()
    seen = {}
    net.cells[12].register_forward_hook(lambda _m, _i, output: seen.update(cell=output))
    net.auxiliary.register_forward_hook(lambda _m, inputs, _o: seen.update(head=inputs[0]))
    net(torch.randn(2, 3, 32, 32))
    assert seen["head"] is seen["cell"]


@pytest.mark.parametrize(("size", "extent"), [(8, 2), (7, 1), (5, 1), (2, 1), (1, 1), (11, 3)])
def test_the_auxiliary_head_fits_the_map(size: int, extent: int) -> None:
    head = AuxiliaryHead(6, size, 4)
    assert head.conv2.kernel_size == (extent, extent)
    pooled = head.pad(head.conv1(head.pool(torch.randn(2, 6, size, size))))
    assert head.conv2(pooled).shape == (2, 768, extent, extent)
    assert head(torch.randn(2, 6, size, size)).shape == (2, 4)


# ---- training ----


def test_a_step_of_training_reaches_every_weight() -> None:
    net = supernet(surrogate_pools=True).train()
    torch.manual_seed(0)
    loss = net(pictures(net, 4)).square().sum() + net.backbone.aux_logits.square().sum()
    loss.backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == []
