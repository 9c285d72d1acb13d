"""The fallback: any other network of timm by name, or one line that says why not."""

from __future__ import annotations

import pytest
import timm
import torch
from pgnas_zoo.timm_cnn import ARCHITECTURES

from pgnas_cli import inflate, registry
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import Inflation


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("mobilenetv3_small_075", "timm_cnn"),
        ("test_resnet.r160_in1k", "timm_cnn"),
        ("resnet50d.ra2_in1k", "timm_cnn"),
        ("timm_cnn:resnet18", "timm_cnn"),
        ("resnet18", "resnet"),
        ("seresnet18", "multibranch"),
        ("densenet121", "densenet"),
    ],
)
def test_a_named_family_comes_first(name: str, family: str) -> None:
    assert registry.find(name)[1].name == family


@pytest.mark.parametrize("name", ["mobilenetv3_smal_075", "resnet50d.not_a_tag", "timm_cnn:nothing", "timm_cnn:"])
def test_what_timm_does_not_have_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown architecture"):
        registry.find(name)


def test_an_unlisted_network_has_the_defaults_of_its_tag() -> None:
    net = inflate("test_resnet.r160_in1k")
    _, plugin, plain = registry.find("test_resnet.r160_in1k")
    info = plugin.info(plain)
    assert info is not None
    assert net.input_size == (3, 160, 160)
    assert (info.img_size, info.num_classes) == (160, 1000)
    assert info.params == sum(p.numel() for p in timm.create_model("test_resnet").parameters())
    assert info.macs == net.kept_cost().macs
    assert plugin.info("vit_nowhere") is None


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("vit_tiny_patch16_224", {}, "nothing in this VisionTransformer can be gated"),
        ("nfnet_l0", {}, "nothing in this NormFreeNet can be gated"),
        ("csatv2", {}, "cannot be captured at 512 x 512 pixels: CSATv2 makes a constant tensor"),
        ("inception_v3", {"img_size": 32}, "cannot be captured at 32 x 32 pixels"),
        ("botnet26t_256", {"img_size": 64}, "cannot be captured at 64 x 64 pixels"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(arch: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        registry.build_on_meta(registry.make_spec(arch, Inflation(), **options))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("options", [{"width": 1.5}, {"kernels": (1, 3)}, {"stem": "small"}])
def test_it_is_not_inflated(options: dict) -> None:
    with pytest.raises(UsageError, match="the timm_cnn family has no --"):
        inflate("mobilenetv3_small_050", **options)


def test_a_convnext_with_convolutions_computes_the_same() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5).eval()
    net, _ = registry.build_backbone(registry.make_spec("convnext_tiny", Inflation(), num_classes=5, img_size=64))
    assert net.stages[0].blocks[0].mlp.fc1.weight.shape == (384, 96, 1, 1)
    convs = timm.create_model(
        "convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5, conv_mlp=True
    ).eval()
    state = {name: tensor.reshape(convs.state_dict()[name].shape) for name, tensor in plain.state_dict().items()}
    convs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(convs(images), plain(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "repghostnet_050", "lcnet_035"])
def test_it_trains(arch: str) -> None:
    net = inflate(arch, num_classes=3, in_chans=1, img_size=32)
    logits = net(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.gate_parameters())


def test_the_list_is_long_and_of_this_family() -> None:
    assert len({info.name for info in ARCHITECTURES}) == len(ARCHITECTURES) >= 36
    modules = {timm.model_entrypoint(info.name).__module__ for info in ARCHITECTURES}
    assert len(modules) >= 30
    for info in ARCHITECTURES:
        assert registry.find(info.name)[1].name == "timm_cnn"
