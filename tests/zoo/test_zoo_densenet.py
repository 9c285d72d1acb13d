"""DenseNets: sizes, one gate per incoming feature block, growth, width and stem."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pgnas_cli import inflate, inflation, registry
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet.supernet import Supernet

BLOCKS = {"densenet121": (6, 12, 24, 16), "densenet161": (6, 12, 36, 24), "supnet-d121": (6, 12, 24, 16)}
DENSE = "features.denseblock{}.denselayer{}.conv{}"


def on_meta(arch: str, **options: object) -> Supernet:
    size = options.pop("img_size", None)
    return registry.build_on_meta(registry.make_spec(arch, Inflation(**options), img_size=size))


@pytest.mark.parametrize("arch", ["densenet121", "supnet-d121"])
def test_it_has_exactly_the_published_parameters(arch: str) -> None:
    assert registry.plain_cost(registry.make_spec(arch, Inflation())) == (7_978_856, 2_834_161_664)


def test_the_named_supernet_says_where_it_comes_from() -> None:
    _, plugin, plain = registry.find("supnet-d121")
    info = plugin.info(plain)
    assert info is not None
    assert (info.base, info.recipe, info.published_params) == ("densenet121", "paper/imagenet-d121", 7.98e6)


@pytest.mark.parametrize("arch", ["densenet169", "densenet121.ra_in1k"])
def test_parameters_keep_timms_names(arch: str) -> None:
    with torch.device("meta"):
        plain = timm.create_model(arch)
    net = on_meta(arch)
    names = {name: p.shape for name, p in net.backbone.named_parameters() if not name.endswith("drop_logit")}
    assert names == {name: p.shape for name, p in plain.named_parameters()}


# ---- gates ----


@pytest.mark.parametrize(("arch", "growth"), [("densenet121", 32), ("densenet161", 48), ("supnet-d121", 32)])
def test_one_gate_for_each_incoming_feature_block(arch: str, growth: int) -> None:
    sizes = {name: list(gate.sizes) for name, gate in on_meta(arch).gates.items()}
    inputs, wanted = 2 * growth, {}
    for block, layers in enumerate(BLOCKS[arch], 1):
        for layer in range(1, layers + 1):
            wanted[DENSE.format(block, layer, 1)] = [inputs] + [growth] * (layer - 1)
            wanted[DENSE.format(block, layer, 2)] = [4 * growth]
        if block < 4:
            wanted[f"features.transition{block}.conv"] = [inputs] + [growth] * layers
            inputs = (inputs + layers * growth) // 2
    assert sizes == wanted


def test_all_but_stem_and_classifier_is_gated() -> None:
    net = on_meta("densenet201")
    layers = {name for name, m in net.backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert layers - set(net.gates) == {"features.conv0", "classifier"}


@pytest.mark.parametrize("layer", [1, 2, 6])
def test_a_group_is_what_one_layer_of_the_block_returns(layer: int) -> None:
    """With this group dropped by all that read it, its layer is gone, and every other one stays."""
    net = inflate("densenet121", growth=4, num_classes=5, img_size=32)
    masks = {name: np.ones(gate.channels, bool) for name, gate in net.gates.items()}
    readers = [DENSE.format(1, n, 1) for n in range(layer + 1, 7)] + ["features.transition1.conv"]
    for name in readers:
        start = sum(net.gates[name].sizes[:layer])
        masks[name][start : start + net.gates[name].sizes[layer]] = False
    small = net.compact(masks)
    left = {name for name, module in small.named_modules() if isinstance(module, nn.Conv2d)}
    every = {name for name, module in net.backbone.named_modules() if isinstance(module, nn.Conv2d)}
    assert every - left == {DENSE.format(1, layer, 1), DENSE.format(1, layer, 2)}


# ---- growth, width, stem ----


@pytest.mark.parametrize(
    ("options", "growth"),
    [({}, 32), ({"growth": 12}, 12), ({"width": 0.5}, 16), ({"width": 1.7}, 54), ({"growth": 12, "width": 1.3}, 16)],
)
def test_growth(options: dict, growth: int) -> None:
    features = on_meta("densenet121", **options).backbone.features
    layer = features.denseblock2.denselayer3
    assert (layer.conv2.in_channels, layer.conv2.out_channels) == (4 * growth, growth)
    assert features.conv0.out_channels == 2 * growth
    assert layer.conv1.in_channels == (2 * growth + 6 * growth) // 2 + 2 * growth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.01}, "rounds to 0"),
        ({"growth": 0}, "growth 0 times width 1 rounds to 0"),
        ({"kernels": (1, 3)}, "the densenet family has no --kernels"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta("densenet121", **options)


@pytest.mark.slow
def test_params_solves_for_the_growth() -> None:
    spec = inflation.solve_width(registry.make_spec("densenet121", Inflation()), 12e6)
    assert registry.plain_cost(spec)[0] == pytest.approx(12e6, rel=0.03)


@pytest.mark.slow
def test_fewer_params_than_the_narrowest_has_are_refused() -> None:
    """No width of 0.01: the growth would round to 0."""
    with pytest.raises(UsageError, match=r"the smallest densenet121 has \d{4,} parameters, 100 were asked for"):
        inflation.solve_width(registry.make_spec("densenet121", Inflation()), 100)


@pytest.mark.parametrize(
    ("stem", "img_size", "small"),
    [("auto", 64, True), ("auto", 65, False), ("small", 224, True), ("backbone", 32, False)],
)
def test_the_small_stem_is_for_small_images(stem: str, img_size: int, small: bool) -> None:
    features = on_meta("densenet121", stem=stem, img_size=img_size, growth=4).backbone.features
    assert (features.conv0.kernel_size, features.conv0.stride) == (((3, 3), (1, 1)) if small else ((7, 7), (2, 2)))
    assert isinstance(features.pool0, nn.Identity if small else nn.MaxPool2d)


def test_any_classes_channels_and_sizes_train() -> None:
    net = inflate("densenet121", growth=3, num_classes=7, in_chans=2, img_size=17)
    logits = net(torch.randn(2, 2, 17, 17))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
