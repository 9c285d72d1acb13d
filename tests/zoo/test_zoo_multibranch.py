"""ResNets of many branches or with attention: widths by timm's base_width, gates, barriers, stems."""

from __future__ import annotations

import pytest
import timm
import torch
from pgnas_zoo.multibranch import ARCHITECTURES, BASE_WIDTH
from torch import nn

from pgnas_cli import inflate, registry
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet.supernet import Supernet


def on_meta(arch: str, **options: object) -> Supernet:
    size = options.pop("img_size", 64)
    return registry.build_on_meta(registry.make_spec(arch, Inflation(**options), img_size=size))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if not name.endswith("drop_logit")}


@pytest.mark.parametrize("arch", [name for name, base_width in BASE_WIDTH.items() if base_width not in (0, 64)])
def test_the_base_widths_are_timms(arch: str) -> None:
    with torch.device("meta"):
        assert shapes(timm.create_model(arch)) == shapes(timm.create_model(arch, base_width=BASE_WIDTH[arch]))


@pytest.mark.parametrize("arch", ["resnext50_32x4d", "skresnet18", "seresnet18", "res2next50", "resnest14d.gluon_in1k"])
def test_parameters_keep_timms_names(arch: str) -> None:
    with torch.device("meta"):
        plain = timm.create_model(arch)
    assert shapes(on_meta(arch, stem="backbone").backbone) == shapes(plain)


@pytest.mark.parametrize(
    ("arch", "width", "layer", "channels"),
    [
        ("resnext50_32x4d", 1.5, "layer1.0.conv2", 32 * 6),  # floor(64 * 4 * 1.5 / 64) in each of 32 groups
        ("resnext50_32x4d", 1.7, "layer1.0.conv2", 32 * 6),
        ("resnext50_32x4d", 1.7, "layer2.0.conv2", 32 * 13),
        ("resnext50_32x4d", 0.5, "layer4.2.conv2", 32 * 16),
        ("res2net50_26w_4s", 0.5, "layer1.0.conv1", 4 * 13),
        ("res2next50", 2.0, "layer1.0.convs.0", 8 * 8),
        ("resnest14d", 0.5, "layer2.0.conv2.conv", 2 * 64),
        ("resnest14d", 1.3, "layer1.0.conv2.conv", 2 * 82),  # floor(83.2), rounded down to an even number
        ("resnest50d_4s2x40d", 0.77, "layer1.0.conv2.conv", 4 * 2 * 28),  # floor(30.8) to a multiple of 4
        ("resnest50d_1s4x24d", 1.3, "layer1.0.conv2.conv", 4 * 31),  # floor(31.2): no branches to share it
        ("skresnet50", 1.5, "layer1.0.conv2.paths.0.conv", 96),
        ("skresnet50", 1.3, "layer1.0.conv2.paths.0.conv", 82),
        ("seresnet50", 1.7, "layer1.0.conv2", 108),  # floor(108.8)
        ("seresnet18", 1.7, "layer1.0.conv1", 109),  # round(108.8)
        ("seresnet34", 0.5, "layer4.1.conv1", 256),
    ],
)
def test_inner_channels(arch: str, width: float, layer: str, channels: int) -> None:
    with torch.device("meta"):
        plain = timm.create_model(arch)
        net = registry.find(arch)[1].build(arch, Inflation(width=width), num_classes=1000, in_chans=3, img_size=224)
    assert net.get_submodule(layer).out_channels == channels
    assert net.get_submodule(layer).groups == plain.get_submodule(layer).groups
    assert net.num_features == plain.num_features


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("skresnet18", {"width": 1.5}, "skresnet18 has no inner width"),
        ("skresnet34", {"width": 0.5}, "skresnet34 has no inner width"),
        ("resnext50_32x4d", {"width": 0.2}, "leaves a group of resnext50_32x4d no channel"),
        ("resnext50_32x4d", {"kernels": (1, 3)}, "the multibranch family has no --kernels"),
    ],
)
def test_widths_that_cannot_be_built_are_refused(arch: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(arch, **options)


@pytest.mark.parametrize(
    ("arch", "layer", "channels"),
    [
        ("resnext50_32x4d", "layer1.0.conv2", 32),
        ("res2net50_14w_8s", "layer1.0.conv1", 8),
        ("resnest50d_4s2x40d", "layer1.0.conv1", 8),
    ],
)
def test_the_smallest_width_that_the_refusal_names_works(arch: str, layer: str, channels: int) -> None:
    with pytest.raises(UsageError, match="no channel") as caught:
        on_meta(arch, width=0.01)
    width = float(caught.value.hint.split()[1])
    assert on_meta(arch, width=width).backbone.get_submodule(layer).out_channels == channels


# ---- gates ----


@pytest.mark.parametrize(
    ("arch", "ungated", "barriers"),
    [
        ("resnext50_32x4d", set(), False),
        ("seresnet18", {"se.fc1", "se.fc2"}, False),
        ("seresnext26d_32x4d", {"se.fc1", "se.fc2"}, False),
        ("res2net50_26w_4s", set(), False),
        ("resnest14d", {"conv2.fc1", "conv2.fc2"}, True),
        ("skresnet18", {"conv1.attn.fc_reduce", "conv1.attn.fc_select"}, True),
    ],
)
def test_all_but_stem_classifier_and_attention_is_gated(arch: str, ungated: set[str], barriers: bool) -> None:
    net = on_meta(arch)
    layers = {name for name, m in net.backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    left = layers - set(net.gates)
    stem = "conv1.0" if "conv1.0" in layers else "conv1"
    assert {stem, "fc"} <= left
    assert {name.split(".", 2)[2] for name in left - {stem, "fc"}} == ungated
    assert all(gate.sizes == (gate.channels,) for gate in net.gates.values())
    assert bool(net.graph.barriers) == barriers


@pytest.mark.parametrize("arch", ["resnext50_32x4d", "resnest14d"])
@pytest.mark.parametrize(("stem", "img_size", "small"), [("auto", 64, True), ("auto", 65, False), ("small", 96, True)])
def test_the_small_stem_keeps_the_image_size(arch: str, stem: str, img_size: int, small: bool) -> None:
    net = on_meta(arch, stem=stem, img_size=img_size).backbone
    first = net.conv1[0] if isinstance(net.conv1, nn.Sequential) else net.conv1
    assert first.stride == ((1, 1) if small else (2, 2))
    assert isinstance(net.maxpool, nn.Identity if small else nn.MaxPool2d)
    if small:
        assert first.kernel_size == (3, 3)


@pytest.mark.parametrize("arch", ["resnest14d", "skresnet18", "seresnext26d_32x4d"])
def test_it_trains(arch: str) -> None:
    net = inflate(arch, num_classes=3, in_chans=1, img_size=16)
    logits = net(torch.randn(2, 1, 16, 16))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.gate_parameters())


def test_every_listed_name_belongs_to_this_family() -> None:
    assert len({info.name for info in ARCHITECTURES}) == len(ARCHITECTURES) >= 30
    for info in ARCHITECTURES:
        assert registry.find(info.name)[1].name == "multibranch"
