"""Weights from the Hub and from local files."""

from __future__ import annotations

import logging
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from pgnas_zoo.enas_net import EnasNet
from pgnas_zoo.shakeshake_net import ShakeShakeNet
from safetensors.torch import save_file
from torch import Tensor, nn
from widen_nets import randomise

from pgnas_cli import inflate
from pgnas_cli.errors import HubError, PgnasError, UsageError
from pgnas_cli.supernet.pretrained import load_file, timm_network

SMALL = "resnet10t"


@pytest.fixture
def saved(tmp_path: Path):
    """Writes tensors, or a network's, into a safetensors file."""

    def save(weights: nn.Module | dict[str, Tensor], name: str = "weights.safetensors") -> Path:
        tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return save


def changed(network: nn.Module, original: nn.Module) -> set[str]:
    """The layers whose tensors differ."""
    own, old = network.state_dict(), original.state_dict()
    assert own.keys() == old.keys()
    return {n.rpartition(".")[0] for n in own if own[n].shape != old[n].shape or not torch.equal(own[n], old[n])}


# ---- timm's networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "channels", "expected"),
    [
        (7, 3, set()),
        (1000, 3, {"fc"}),
        (10, 3, {"fc"}),
        (7, 1, {"conv1.0"}),
        (7, 5, {"conv1.0"}),
        (10, 1, {"fc", "conv1.0"}),
    ],
)
def test_a_file_of_any_number_of_classes_fits(saved, classes: int, channels: int, expected: set[str]) -> None:
    original = randomise(timm.create_model(SMALL, num_classes=7))
    network = timm_network(SMALL, num_classes=classes, in_chans=channels, pretrained=saved(original))
    assert changed(network, original) == expected
    stem, old = network.conv1[0].weight, original.conv1[0].weight
    assert network.get_classifier().out_features == classes
    if channels == 1:
        assert torch.allclose(stem, old.sum(1, keepdim=True))
    if channels == 5:
        assert torch.allclose(stem, old[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert not network.pretrained_cfg.get("state_dict")


def test_a_file_of_gray_images_is_repeated(saved) -> None:
    original = timm.create_model(SMALL, num_classes=7, in_chans=1)
    network = timm_network(SMALL, num_classes=7, in_chans=3, pretrained=saved(original))
    assert torch.allclose(network.conv1[0].weight, original.conv1[0].weight.repeat(1, 3, 1, 1) / 3)


def test_a_run_holds_a_supernet_that_fits(saved) -> None:
    net = inflate("resnet18", num_classes=7, img_size=32, stem="backbone", seed=3)
    network = timm_network("resnet18", num_classes=7, in_chans=3, pretrained=saved(net))
    plain = {n: t for n, t in net.backbone.state_dict().items() if not n.endswith("drop_logit")}
    assert all(torch.equal(tensor, plain[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("arch", ["inception_v3", "dla34", "hrnet_w18_small", "tresnet_m"])
@pytest.mark.slow
def test_families_with_loaders_of_their_own(saved, arch: str) -> None:
    original = timm.create_model(arch, num_classes=5)
    network = timm_network(arch, num_classes=9, in_chans=3, pretrained=saved(original))
    assert len(changed(network, original)) == 1


def test_initial_weights_are_timms_without_pretrained_ones() -> None:
    torch.manual_seed(0)
    expected = timm.create_model(SMALL, num_classes=4, in_chans=2)
    torch.manual_seed(0)
    assert not changed(timm_network(SMALL, num_classes=4, in_chans=2), expected)


def test_timm_stays_silent(saved, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("timm.models._builder")
    before = (logger.level, logger.propagate, list(logger.handlers))
    timm_network(SMALL, num_classes=4, in_chans=1, pretrained=saved(timm.create_model(SMALL)))
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet18", r"the tensor conv1\.weight|lacks the tensor conv1\.weight"),
        ("resnet14t", r"the tensor layer1\.0\.conv1\.weight has shape \[64, 64, 3, 3\], expected \[64, 64, 1, 1\]"),
        ("dla34", r"lacks the tensor base_layer\.0\.weight"),
        ("convnext_atto", r"lacks the tensor stem\.0\.weight"),
    ],
)
def test_weights_of_another_network_name_the_first_tensor(saved, arch: str, message: str) -> None:
    path = saved(timm.create_model(SMALL, num_classes=7))
    with pytest.raises(UsageError, match=rf"weights\.safetensors does not fit {arch}: .*({message})"):
        timm_network(arch, num_classes=10, in_chans=3, pretrained=path)


def test_a_lacking_or_unknown_tensor_is_named_also_with_other_classes(saved) -> None:
    tensors = timm.create_model(SMALL, num_classes=7).state_dict()
    tensors.pop("layer2.0.conv1.weight")
    with pytest.raises(UsageError, match=r"lacks the tensor layer2\.0\.conv1\.weight"):
        timm_network(SMALL, num_classes=10, in_chans=3, pretrained=saved(tensors))
    tensors = timm.create_model(SMALL, num_classes=7).state_dict() | {"stray": torch.zeros(1)}
    with pytest.raises(UsageError, match="has an unknown tensor stray"):
        timm_network(SMALL, num_classes=10, in_chans=3, pretrained=saved(tensors))


def test_files_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    (tmp_path / "weights.pth").write_bytes(b"")
    (tmp_path / "run").mkdir()
    for name, message in (
        ("run", "run is a folder"),
        ("none.safetensors", "none.safetensors is missing"),
        ("cut.safetensors", "cut.safetensors is damaged"),
        ("weights.pth", "weights.pth is a pickle"),
    ):
        with pytest.raises(UsageError, match=message):
            timm_network(SMALL, num_classes=10, in_chans=3, pretrained=tmp_path / name)


# ---- the Hub ------------------------------------------------------------------------------------------------


def failing(error: Exception):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(AssertionError("downloads")))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError("no route\nto host"),
            HubError,
            r"resnet10t\.c3_in1k could not be had from the Hub: OSError: no route$",
        ),
        (LocalEntryNotFoundError("went away"), HubError, "could not be had from the Hub: went away"),
        (EntryNotFoundError("404"), UsageError, r"has no model\.safetensors, and pickles are not read"),
    ],
    ids=["network", "during the download", "no safetensors"],
)
@pytest.mark.usefixtures("empty_cache")
def test_one_failed_request_is_the_end(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[PgnasError], message: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(error))
    with pytest.raises(kind, match=message) as caught:
        timm_network(SMALL, num_classes=10, in_chans=3, pretrained=True)
    assert caught.value.hint == "--weights FILE takes a local safetensors file"


def test_the_cache_needs_no_network(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    original = randomise(timm.create_model(SMALL))
    path, asked = saved(original), []

    def cached(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(AssertionError("asks the Hub")))
    assert not changed(timm_network(SMALL, num_classes=1000, in_chans=3, pretrained=True), original)
    timm_network("resnet18.a2_in1k", num_classes=3, in_chans=3)  # a tag alone asks for nothing
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors")]


def test_a_download_is_loaded(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    original = randomise(timm.create_model(SMALL))
    path = saved(original)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, filename: str(path))
    assert changed(timm_network(SMALL, num_classes=3, in_chans=3, pretrained=True), original) == {"fc"}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet50.wrong", r"Invalid pretrained tag \(wrong\)"),
        ("densenet264d", "no pretrained weights of densenet264d"),
    ],
)
def test_names_without_weights(arch: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        timm_network(arch, num_classes=10, in_chans=3, pretrained=True)


# ---- networks that timm does not have -----------------------------------------------------------------------


def shake(classes: int = 10, channels: int = 3, width: int = 4) -> ShakeShakeNet:
    return ShakeShakeNet(width, classes, channels, blocks=1)


@pytest.mark.parametrize(
    ("old", "new", "anew", "differs"),
    [
        ((10, 3), (10, 3), [], set()),
        ((10, 3), (7, 3), ["fc.weight", "fc.bias"], {"fc"}),
        ((10, 3), (10, 1), [], {"stem"}),
        ((10, 1), (7, 3), ["fc.weight", "fc.bias"], {"stem", "fc"}),
    ],
)
def test_a_file_of_the_same_network(
    saved, old: tuple[int, int], new: tuple[int, int], anew: list[str], differs: set[str]
) -> None:
    original, model = randomise(shake(*old)), shake(*new)
    assert load_file(model, saved(original)) == anew
    assert changed(model, original) == differs
    if old[1] != new[1]:
        assert torch.allclose(model.stem.weight.sum(1), original.stem.weight.sum(1), atol=1e-6)


def test_the_supernet_of_a_run_is_loaded_without_its_gates(saved) -> None:
    net = inflate("shakeshake26_2x4d", seed=3)
    model = ShakeShakeNet(4, 10, 3)
    assert load_file(model, saved(net)) == []
    assert torch.equal(model.stage2[0].skip.conv1.weight, net.backbone.stage2[0].skip.conv1.weight)


def test_a_head_for_training_only_may_start_anew(saved) -> None:
    original, model = EnasNet(4, 10, 3, 32), EnasNet(4, 7, 3, 64)
    anew = load_file(model, saved(original))
    assert anew == ["auxiliary.conv2.weight", "auxiliary.fc.weight", "fc.weight"]
    assert torch.equal(model.auxiliary.conv1.weight, original.auxiliary.conv1.weight)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"stage1.0.branch1.conv1.weight": None}, r"lacks the tensor stage1\.0\.branch1\.conv1\.weight"),
        ({"stray": torch.zeros(2)}, "has an unknown tensor stray"),
        ({"stem.weight": torch.zeros(8, 3, 3, 3)}, r"stem\.weight has shape \[8, 3, 3, 3\], expected \[16, 3, 3, 3\]"),
        ({"fc.weight": torch.zeros(10, 3)}, r"fc\.weight has shape \[10, 3\], expected \[10, 16\]"),
        ({"stage1.0.branch1.conv1.weight": torch.zeros(4, 3, 3, 3)}, r"conv1\.weight has shape \[4, 3, 3, 3\]"),
    ],
    ids=["lacking", "unknown", "stem", "classifier", "inner inputs"],
)
def test_what_does_not_fit_is_named(saved, edit: dict[str, Tensor | None], message: str) -> None:
    model = shake()
    tensors = {name: tensor for name, tensor in {**shake().state_dict(), **edit}.items() if tensor is not None}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=rf"weights\.safetensors:? .*{message}"):
        load_file(model, saved(tensors))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# ---- together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "options"), [("shakeshake26_2x4d", {"width": 1.7}), ("enas15_4f", {"width": 1.5, "surrogate_pools": True})]
)
def test_an_inflated_network_starts_from_a_file(saved, arch: str, options: dict) -> None:
    plain = inflate(arch)
    randomise(plain.backbone)
    net = inflate(arch, weights=saved(plain), **options)
    assert net.inherited is not None
    assert net.inherited.logit_difference < 1e-5
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = plain.eval()(images)
        assert torch.allclose(net.eval()(images), logits, atol=1e-5 * float(logits.abs().max().clamp_min(1)))


@pytest.mark.slow
def test_kernels_without_room_name_the_smallest_width(saved) -> None:
    path = saved(timm.create_model("resnet26", num_classes=7))
    options = {"kernels": (1, 3), "num_classes": 7, "stem": "backbone", "img_size": 32, "weights": path}
    with pytest.raises(UsageError, match=r"has room for 32 of the 64 channels") as caught:
        inflate("resnet26", **options)
    width = float(caught.value.hint.split()[1])
    net = inflate("resnet26", width=width, **options)
    assert net.inherited is not None
    assert net.inherited.logit_difference < 1e-5
    with pytest.raises(UsageError, match="has room for"):
        inflate("resnet26", width=width - 0.02, **options)


def test_outputs_that_no_width_changes_leave_no_room(saved) -> None:
    path = saved(timm.create_model("resnet18", num_classes=7))
    options = {"kernels": (1, 3), "num_classes": 7, "stem": "backbone", "img_size": 32, "weights": path}
    with pytest.raises(UsageError, match=r"has room for 32 of the 64 channels") as caught:
        inflate("resnet18", width=4.0, **options)
    assert caught.value.hint == "leave --pretrained out"
