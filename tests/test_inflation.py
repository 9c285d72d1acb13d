"""Inflation that keeps what was learned: the weights of the plain network in a wider one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pgnas_cli import inflate, inflation, registry
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet import widen
from pgnas_cli.supernet.proof import randomise

SHAKE = {"num_classes": 5, "img_size": 33}
SMALL = SHAKE | {"stem": "backbone"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Architecture -> weights of its plain network, with uneven BatchNorm statistics."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for arch in ("resnet18", "resnet26", "shakeshake26_2x4d", "shakeshake26_2x96d"):
        plain, _ = registry.build_backbone(
            registry.make_spec(arch, Inflation(stem="backbone" if "resnet" in arch else "auto"), **SHAKE)
        )
        randomise(plain, torch.Generator().manual_seed(1))
        found[arch] = folder / f"{arch}.safetensors"
        save_file(plain.state_dict(), found[arch])
    return found


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet26", {"width": 1.3}),
        ("resnet26", {"width": 2.0, "symmetry_noise": 0.0}),
        ("resnet26", {"width": 4.0, "kernels": (1, 3, 5, 9)}),
        ("resnet26", {"width": 2.5, "kernels": (9, 3)}),
        ("resnet18", {"width": 1.7, "symmetry_noise": 0.3}),
        ("shakeshake26_2x4d", {"width": 1.3}),
        ("shakeshake26_2x4d", {"width": 1.75, "symmetry_noise": 0.1}),
    ],
)
def test_the_inflated_network_computes_the_same_logits(arch: str, options: dict, weights: dict[str, Path]) -> None:
    sizes = SMALL if "resnet" in arch else SHAKE
    net = inflate(arch, weights=weights[arch], **sizes, **options)
    assert net.inherited is not None
    assert net.inherited.logit_difference <= inflation.FUNCTION_TOLERANCE
    plain = inflate(arch, weights=weights[arch], **sizes)
    images = torch.randn(3, *net.input_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = plain.eval()(images)
        torch.testing.assert_close(net.eval()(images), wanted, rtol=0, atol=1e-4 * max(1.0, wanted.abs().max().item()))
    assert net.kept_cost().params > plain.kept_cost().params


def test_the_plain_network_takes_the_weights_as_they_are(weights: dict[str, Path]) -> None:
    net = inflate("resnet26", weights=weights["resnet26"], **SMALL)
    state = net.backbone.state_dict()
    for name, tensor in load_file(weights["resnet26"]).items():
        assert torch.equal(state[name], tensor), name
    assert net.inherited.logit_difference == 0.0


def test_without_pretrained_weights_no_difference_is_stated() -> None:
    assert inflate("shakeshake26_2x2d").inherited is None


def test_the_seed_decides_the_split(weights: dict[str, Path]) -> None:
    def split(seed: int) -> torch.Tensor:
        net = inflate("resnet26", width=1.5, weights=weights["resnet26"], seed=seed, **SMALL)
        return net.backbone.get_submodule("layer1.0.conv2").get_parameter("weight").detach()

    assert torch.equal(split(3), split(3))
    assert not torch.equal(split(3), split(4))


@pytest.mark.parametrize(
    ("arch", "options", "message", "smallest"),
    [
        ("resnet26", {"kernels": (1, 3, 5, 9)}, r"--width 1 --kernels 1,3,5,9: .* has room for 16 of the 64", 4.0),
        ("resnet26", {"width": 0.5}, r"--width 0.5: .* has room for 32 of the 64", 1.0),
        ("resnet18", {"kernels": (1, 3)}, "has room for", None),
        ("shakeshake26_2x4d", {"width": 0.4}, "has room for 1 of the 2|has room for 2 of the 4", 0.88),
    ],
    ids=["kernels", "narrower", "no width", "coarse steps"],
)
def test_where_there_is_no_room_the_smallest_width_is_named(
    arch: str, options: dict, message: str, smallest: float | None, weights: dict[str, Path]
) -> None:
    sizes = SMALL if "resnet" in arch else SHAKE
    with pytest.raises(UsageError, match=message) as found:
        inflate(arch, weights=weights[arch], **sizes, **options)
    if smallest is None:
        assert found.value.hint == "leave --pretrained out"
        return
    assert found.value.hint == f"--width {smallest:g} is the smallest that works"
    inflate(arch, weights=weights[arch], **sizes, **options | {"width": smallest})
    with pytest.raises(UsageError, match="has room for"):
        inflate(arch, weights=weights[arch], **sizes, **options | {"width": smallest - 0.01})


def test_kernels_without_the_learned_one_are_refused(weights: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="need a 3x3 among the parallel kernels"):
        inflate("resnet26", kernels=(1, 5), width=4.0, weights=weights["resnet26"], **SMALL)


def test_weights_of_another_network_are_refused(weights: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"stage1.*shape \[4, 16, 3, 3\].*\[96, 16, 3, 3\]"):
        inflate("supnet-mi", weights=weights["shakeshake26_2x4d"], **SHAKE)


@pytest.mark.slow
def test_supnet_mi_starts_from_supnet_m(weights: dict[str, Path]) -> None:
    net = inflate("supnet-mi", weights=weights["shakeshake26_2x96d"], **SHAKE)
    assert net.inherited is not None
    assert net.inherited.logit_difference <= inflation.FUNCTION_TOLERANCE


def test_a_network_that_computes_something_else_is_refused(
    weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widen, "transfer", lambda *args, **kwargs: None)
    with pytest.raises(PgnasError, match="computes other logits"):
        inflate("resnet26", width=1.3, weights=weights["resnet26"], **SMALL)


@pytest.mark.parametrize("noise", [-0.1, 1.1, 1e6, float("inf"), float("nan")])
def test_noise_out_of_range_is_refused(noise: float, weights: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="should be at least 0 and at most 1"):
        inflate("resnet26", width=1.3, weights=weights["resnet26"], symmetry_noise=noise, **SMALL)


@pytest.mark.parametrize("stem", ["small", "backbone"])
@pytest.mark.parametrize(
    ("arch", "first", "head", "options"),
    [
        ("resnet18", "conv1", "fc", {"width": 1.5}),
        ("densenet121", "features.conv0", "classifier", {"growth": 40}),
        ("seresnet18", "conv1", "fc", {"width": 1.5}),
    ],
)
def test_what_starts_anew_is_said(arch: str, first: str, head: str, options: dict, stem: str, tmp_path: Path) -> None:
    """A stem for small images comes from a file that has one, and starts anew beside the backbone's own."""
    plain, _ = registry.build_backbone(registry.make_spec(arch, Inflation(stem=stem), num_classes=3, img_size=32))
    save_file(plain.state_dict(), tmp_path / "weights.safetensors")
    net = inflate(arch, weights=tmp_path / "weights.safetensors", img_size=32, num_classes=5, **options)
    assert net.inherited is not None
    anew = [f"{head}.bias", f"{head}.weight"] + ([f"{first}.weight"] if stem == "backbone" else [])
    assert sorted(net.inherited.started_anew) == sorted(anew)
    kept = net.backbone.get_parameter(f"{first}.weight")[:64].detach()
    assert torch.equal(kept, plain.get_parameter(f"{first}.weight")) == (stem == "small")


def test_a_stem_of_three_convolutions_keeps_its_weights(tmp_path: Path) -> None:
    plain, _ = registry.build_backbone(registry.make_spec("resnest14d", Inflation(stem="backbone"), num_classes=3))
    save_file(plain.state_dict(), tmp_path / "weights.safetensors")
    net = inflate("resnest14d", weights=tmp_path / "weights.safetensors", img_size=32, num_classes=3)
    assert net.inherited is not None
    assert net.inherited.started_anew == ()
    assert net.backbone.get_submodule("conv1.0").stride == (1, 1)
    assert torch.equal(net.backbone.get_parameter("conv1.0.weight"), plain.get_parameter("conv1.0.weight"))
