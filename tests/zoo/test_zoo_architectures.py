"""What the zoo lists is what it builds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from pgnas_cli import inflate, inflation, registry
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import ArchitectureInfo, Inflation
from pgnas_cli.recipe_file import recipe_names

SUPERNETS = [
    ("supnet-m", 26_192_922, 0),
    ("supnet-mi", 72_695_194, 0),
    ("supnet-e", 3.89e6, 0.005),
    ("supnet-ei", 14.8e6, 0.005),
    ("supnet-r50", 44.0e6, 0.01),
    ("supnet-d121", 7_978_856, 0),
]
PUBLISHED = {"supnet-m": 26.2e6, "supnet-mi": 72.7e6, "supnet-e": 4.6e6, "supnet-ei": 15.3e6, "supnet-r50": 44.0e6,
             "supnet-d121": 7.98e6}  # fmt: skip

LISTED = {info.name: info for _, info in registry.architectures()}


def cost(arch: str, *, num_classes: int | None = None, **inflation: object) -> tuple[int, int]:
    return registry.plain_cost(registry.make_spec(arch, Inflation(**inflation), num_classes=num_classes))


@pytest.mark.parametrize("info", LISTED.values(), ids=LISTED)
def test_the_static_description_is_what_is_built(info: ArchitectureInfo) -> None:
    assert cost(info.name) == (info.params, info.macs)


@pytest.mark.parametrize(("name", "described", "tolerance"), SUPERNETS, ids=[name for name, *_ in SUPERNETS])
def test_the_papers_supernets_have_their_size(name: str, described: float, tolerance: float) -> None:
    """As described: the two ENAS figures are other than the published ones, which the README explains."""
    info = LISTED[name]
    assert info.params == pytest.approx(described, rel=tolerance)
    assert info.published_params == PUBLISHED[name]
    assert info.published
    assert info.base in LISTED
    assert info.recipe in recipe_names()


@pytest.mark.parametrize(("arch", "params"), [("shakeshake26_2x96d", 26_192_922), ("shakeshake26_2x160d", 72_695_194)])
def test_shake_shake_has_the_published_size(arch: str, params: int) -> None:
    assert cost(arch, num_classes=10)[0] == params


@pytest.mark.parametrize(
    "arch", [info.name for status, info in registry.architectures() if status.name == "resnet" and not info.base]
)
def test_a_plain_resnet_is_timms(arch: str) -> None:
    with torch.device("meta"):
        plain = timm.create_model(arch)
    net = registry.build_on_meta(registry.make_spec(arch, Inflation()))
    names = {name: p.shape for name, p in net.backbone.named_parameters() if not name.endswith("drop_logit")}
    assert names == {name: p.shape for name, p in plain.named_parameters()}


@pytest.mark.parametrize(
    ("inflation", "params"),
    [
        ({"width": 1.5}, 44.39e6),
        ({"width": 1.7}, 53.66e6),
        ({"width": 1.38, "kernels": (1, 3, 5, 9)}, 44.0e6),
        ({"kernels": (1, 3, 5, 9)}, 28.1e6),
    ],
)
def test_inflated_resnet50_has_the_size_of_the_paper(inflation: dict, params: float) -> None:
    assert cost("resnet50", **inflation)[0] == pytest.approx(params, rel=0.01)


@pytest.mark.slow
def test_params_solves_for_the_width() -> None:
    spec = inflation.solve_width(registry.make_spec("resnet50", Inflation()), 44e6)
    assert registry.plain_cost(spec)[0] == pytest.approx(44e6, rel=0.01)
    assert spec.inflation.width == pytest.approx(1.49, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("params", [2e6, 11.689512e6])
def test_no_neighbouring_width_comes_nearer(params: float) -> None:
    spec = inflation.solve_width(registry.make_spec("resnet18", Inflation()), params)
    width, miss = spec.inflation.width, abs(registry.plain_cost(spec)[0] - params)
    for other in (width - 0.002, width + 0.002):
        assert abs(cost("resnet18", width=other)[0] - params) >= miss


@pytest.mark.parametrize(("params", "message"), [(10.0, "the smallest resnet18 has"), (1e14, "no width up to 512")])
def test_params_out_of_reach_are_refused(params: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inflation.solve_width(registry.make_spec("resnet18", Inflation()), params)


@pytest.mark.parametrize("name", ["shakeshake26_2x7d", "shakeshake26_2x96d", "shakeshake:shakeshake26_2x12345d"])
def test_every_width_of_the_pattern_has_a_name(name: str) -> None:
    assert registry.find(name)[1].name == "shakeshake"


@pytest.mark.parametrize("name", ["shakeshake26_2x0d", "shakeshake26_2x096d", "shakeshake26_2xd", "xshakeshake26_2x9d"])
def test_what_only_looks_like_the_pattern_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown architecture .*did you mean shakeshake26_2x"):
        registry.find(name)


def test_pattern_names_take_the_defaults_of_their_family() -> None:
    net = inflate("shakeshake26_2x6d", width=0.5)
    assert net.input_size == (3, 32, 32)
    assert net.spec is not None
    assert net.spec.num_classes == 10
    plain = sum(p.numel() for p in inflate("shakeshake26_2x3d").parameters())
    assert sum(p.numel() for p in net.parameters()) == plain


# ---- stem, gates ----


@pytest.mark.parametrize(
    ("stem", "img_size", "small"),
    [("auto", 64, True), ("auto", 65, False), ("auto", 224, False), ("small", 224, True), ("backbone", 32, False)],
)
def test_the_small_stem_is_for_small_images(stem: str, img_size: int, small: bool) -> None:
    net = registry.build_on_meta(registry.make_spec("resnet18", Inflation(stem=stem), img_size=img_size))
    stem_conv = net.backbone.conv1
    assert (stem_conv.kernel_size, stem_conv.stride) == (((3, 3), (1, 1)) if small else ((7, 7), (2, 2)))
    assert isinstance(net.backbone.maxpool, nn.Identity if small else nn.MaxPool2d)


@pytest.mark.parametrize(
    ("arch", "ungated"), [("resnet26", {"conv1", "fc"}), ("shakeshake26_2x4d", {"stem", "fc"})], ids=["resnet", "shake"]
)
def test_all_but_stem_and_classifier_is_gated(arch: str, ungated: set[str]) -> None:
    net = registry.build_on_meta(registry.make_spec(arch, Inflation()))
    layers = {name for name, m in net.backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert layers - set(net.gates) == ungated
    assert {len(gate.sizes) for gate in net.gates.values()} == {1}


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet18", {"width": 0.1, "kernels": (1, 3, 5, 7, 9), "in_chans": 1}),
        ("resnet26", {"width": 0.1, "kernels": (3, 9)}),
        ("resnet18", {"width": 0.001}),
        ("shakeshake26_2x4d", {"in_chans": 2, "img_size": 17}),
    ],
)
def test_any_classes_channels_and_sizes_run(arch: str, options: dict) -> None:
    net = inflate(arch, num_classes=3, **({"img_size": 33} | options))
    logits = net(torch.randn(2, *net.input_size))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    logits.sum().backward()


# ---- refusals ----


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet18", {"width": 0.0}, "above 0"),
        ("resnet18", {"width": -1.5}, "above 0"),
        ("resnet18", {"width": float("nan")}, "above 0"),
        ("resnet18", {"width": float("inf")}, "above 0"),
        ("resnet18", {"kernels": (3, 4)}, "kernel 4 was given"),
        ("resnet18", {"kernels": (3, 5, 3)}, "named twice"),
        ("resnet18", {"stem": "big"}, "stem 'big'"),
        ("resnet18", {"num_classes": 0}, "--classes is 0"),
        ("resnet18", {"in_chans": 0}, "--in-chans is 0"),
        ("resnet18", {"img_size": -1}, "--img-size is -1"),
        ("resnet18", {"width": 2.0, "params": 1e6}, "excludes --width"),
        ("shakeshake26_2x8d", {"kernels": (1, 3)}, "the shakeshake family has no --kernels"),
        ("shakeshake26_2x8d", {"stem": "small"}, "the shakeshake family has no --stem"),
        ("shakeshake26_2x8d", {"pretrained": True}, "no published weights"),
        ("resnet81", {}, "unknown architecture 'resnet81'; did you mean resnet18"),
        ("resnet:resnet81", {}, "did you mean resnet18"),
        ("shakeshake:resnet18", {}, "unknown architecture 'shakeshake:resnet18'"),
        ("qqqq", {}, "unknown architecture 'qqqq'$"),
    ],
)
def test_what_cannot_be_built_is_refused(arch: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inflate(arch, **options)


# ---- importing ----


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from pgnas_cli import registry; registry.architectures(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_zoo_refuses_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import pgnas_zoo

    monkeypatch.syspath_prepend(str(next(iter(pgnas_zoo.__path__)) + "/.."))
    sys.modules.pop("zoo", None)
    with pytest.raises(ImportError, match="imported as pgnas_zoo"):
        __import__("zoo")
