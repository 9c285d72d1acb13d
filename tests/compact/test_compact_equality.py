"""The proof: masked in the large network = compact network, and both agree with an oracle that knows no rules."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from compact_nets import assert_equal, build, constant, only_one, pictures, random_masks, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import examine
from torch import nn

from pgnas_cli.compact import ChannelGraph, analyse, apply_masks, depends_on_input, trace

FLOAT32, FLOAT64 = 1e-5, 1e-12
MAIN = ["shake", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
FAMILIES = [
    *(
        "seresnet18",
        "regnetx_002",
        "regnety_002",
        "mobilenetv3_small_050",
        "ghostnet_050",
        "convnext_atto",
        "repvgg_a0",
    ),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "densenet121",
            "vgg11_bn",
            "resnext50_32x4d",
            "efficientnet_b0",
            "res2net50_26w_4s",
        )
    ),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception_v3", "resnetv2_50", "resnest14d")),
]
# no barriers and only monotonic operations
ORACLE = [
    *("shake", "resnet18", "regnetx_002"),
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("seresnet18", "resnet50", "densenet121", "resnext50_32x4d", "inception_v3")
    ),
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("res2net50_26w_4s", "resnetv2_50")),
]


def size_of(name: str) -> int:
    return 75 if name == "inception_v3" else 32 if name in ("shake", "resnet18", "resnet50") else 64


@lru_cache(4)
def network(name: str) -> tuple[nn.Module, ChannelGraph]:
    model = build(name, narrow=True)
    return model, trace(model, (3, size_of(name), size_of(name)))


def check(name: str, masks: dict[str, np.ndarray]) -> None:
    model, graph = network(name)
    assert_equal(graph, model, masks, pictures(size_of(name)), FLOAT32)


@pytest.mark.parametrize("keep", [0.5, (0.5, 0.9), (0.02, 0.98)])
@pytest.mark.parametrize("name", MAIN + FAMILIES)
def test_random_masks(name: str, keep: float) -> None:
    check(name, random_masks(network(name)[1], keep, np.random.default_rng(3)))


@pytest.mark.parametrize("name", MAIN + FAMILIES)
def test_extremes(name: str) -> None:
    graph = network(name)[1]
    for masks in ({}, constant(graph, True), constant(graph, False), only_one(graph)):
        check(name, masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shake", "resnet18", "resnet50"])
def test_a_hundred_random_masks(name: str) -> None:
    model, graph = network(name)
    rng, images = np.random.default_rng(5), pictures()
    for _ in range(100):
        masks = random_masks(graph, (0.5, 0.9), rng)
        assert_equal(graph, model, masks, images, FLOAT32, ["gather"])


@pytest.mark.parametrize("name", ["shake", "resnet18"])
def test_every_convolution_emptied_in_turn(name: str) -> None:
    model, graph = network(name)
    for conv in graph.convs:
        masks = random_masks(graph, 0.8, np.random.default_rng(7))
        masks[conv] = np.zeros_like(masks[conv])
        assert_equal(graph, model, masks, pictures(), FLOAT32, ["gather"])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *(("shake", f"blocks.2.{part}") for part in ("branch1", "branch2", "branch", "skip", "skip.conv1", "")),
        *(("resnet18", prefix) for prefix in ("layer1.0", "layer2.0", "layer2.0.downsample", "layer3", "fc")),
        pytest.param("resnet50", "layer2.1", marks=pytest.mark.slow),
        pytest.param("densenet121", "features.denseblock2.denselayer3", marks=pytest.mark.slow),
    ],
)
def test_an_emptied_part(name: str, prefix: str) -> None:
    graph = network(name)[1]
    check(name, constant(graph, False, prefix))
    check(name, random_masks(graph, 0.6, np.random.default_rng(9)) | constant(graph, False, prefix))


@pytest.mark.parametrize("name", MAIN)
def test_double_precision(name: str) -> None:
    model, graph = network(name)
    double = copy.deepcopy(model).double()
    for seed, keep in enumerate((0.5, 0.7, 0.9)):
        masks = random_masks(graph, keep, np.random.default_rng(seed))
        assert_equal(graph, double, masks, pictures(dtype=torch.float64), FLOAT64)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(data=st.data())
def test_drawn_masks(data: st.DataObject) -> None:
    graph = network("shake")[1]
    masks = {}
    for name, n in sizes(graph).items():
        kind = data.draw(st.sampled_from(["all", "none", "bits", "absent"]), label=name)
        if kind == "bits":
            masks[name] = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        elif kind != "absent":
            masks[name] = np.full(n, kind == "all")
    check("shake", masks)
    against_oracle("shake", masks)


def against_oracle(name: str, masks: dict[str, np.ndarray]) -> None:
    """alive and live outputs and used inputs of every convolution; and whether the image matters at all."""
    model, graph = network(name)
    state = analyse(graph, masks)
    found = examine(model, masks, graph.input_size)
    assert found.keys() == graph.convs.keys()
    for conv, truth in found.items():
        index = graph.operations[conv].index
        np.testing.assert_array_equal(state.alive[index], truth.alive, conv)
        np.testing.assert_array_equal(state.live(index), truth.live, conv)
        geometry = graph.convs[conv]
        running = state.live(index).reshape(geometry.groups, -1).any(1).repeat(geometry.in_channels // geometry.groups)
        np.testing.assert_array_equal(state.kept(index) & running, truth.used, conv)
    assert depends_on_input(graph, state) == any(truth.live.any() for truth in found.values())


@pytest.mark.parametrize("name", ORACLE)
def test_oracle(name: str) -> None:
    graph = network(name)[1]
    rng = np.random.default_rng(11)
    emptied = constant(graph, False, list(graph.convs)[len(graph.convs) // 2])
    for masks in (
        {},
        random_masks(graph, (0.5, 0.9), rng),
        random_masks(graph, (0.0, 0.3), rng),
        random_masks(graph, 0.8, rng) | emptied,
        only_one(graph),
    ):
        against_oracle(name, {k: v for k, v in masks.items() if k in graph.convs})


@pytest.mark.parametrize("name", MAIN)
def test_dead_channels_are_exactly_zero_behind_every_normalisation(name: str) -> None:
    """Every convolution emptied in a third of the cases: bias, scale and shift must vanish, the others must not."""
    model, graph = network(name)
    rng = np.random.default_rng(13)
    masks = {k: v & (rng.random() > 0.3) for k, v in random_masks(graph, 0.7, rng).items()}
    state = analyse(graph, masks)
    nodes = {node.name: node for node in graph.nodes if node.kind in ("conv", "norm")}
    seen: dict[str, np.ndarray] = {}
    with torch.no_grad(), apply_masks(graph, model, masks):
        hooks = [
            model.get_submodule(layer).register_forward_hook(
                lambda _m, _i, y, layer=layer: seen.update({layer: y.abs().amax((0, 2, 3)).numpy()})
            )
            for layer in nodes
        ]
        model(pictures())
        for hook in hooks:
            hook.remove()
    dead = 0
    for layer, node in nodes.items():
        alive = state.alive[node.index]
        assert (seen[layer][~alive] == 0).all(), layer
        assert (seen[layer][alive] != 0).all(), layer
        dead += int((~alive).sum())
    assert dead > 0
