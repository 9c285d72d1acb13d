"""What timm hands over from a foreign configuration: it decides nothing that is for the user to decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2

import pgnas_cli.timm_models as timm_models
from pgnas_cli.errors import PgnasError, RunError, UsageError
from pgnas_cli.export import hub
from pgnas_cli.export.loading import load
from pgnas_cli.export.reading import read_artifact


@pytest.fixture
def downloaded(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """create_model("hf-hub:...") of a folder, `artifact` if none is given, whose config.json says what is asked."""

    def create(changes: dict[str, Any], folder: Path = artifact, **options: Any) -> Any:
        config = json.loads((folder / "config.json").read_text())
        config["model_args"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

        def download(name: str, filename: str, cache_dir: object = None) -> str:
            return str(folder / filename)

        monkeypatch.setattr("timm.models._hub.download_from_hf", download)
        monkeypatch.setattr(timm_models, "download_from_hf", download)
        monkeypatch.setattr(hub, "fetch", lambda name, revision=None, **_: folder)
        return timm.create_model("hf-hub:user/net", pretrained=True, **options)

    return create


@pytest.mark.parametrize("name", ["trust_plugins", "features_only", "global_pool"])
def test_a_configuration_does_not_decide_for_the_user(downloaded: Callable[..., Any], name: str) -> None:
    with pytest.raises(RunError, match=f"{name}.*for the user to give"):
        downloaded({name: True})


@pytest.mark.parametrize("name", ["checkpoint_path", "url", "img_size"])
def test_a_configuration_names_no_further_option(downloaded: Callable[..., Any], name: str) -> None:
    with pytest.raises(PgnasError, match=name):
        downloaded({name: "/etc/passwd"})


@pytest.mark.parametrize(("name", "count"), [("num_classes", 10**12), ("in_chans", 10**10)])
def test_sizes_of_a_configuration_are_bounded_before_anything_is_made(
    downloaded: Callable[..., Any], name: str, count: int
) -> None:
    with pytest.raises(UsageError, match=f"{name}={count}"):
        downloaded({name: count})


def test_a_plugin_of_a_download_is_trusted_by_the_user_alone(
    downloaded: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, plain = [], timm_models.structure_of

    def structure_of(document: object, where: str, *, trust_plugins: bool = True) -> Any:
        asked.append(trust_plugins)
        return plain(document, where, trust_plugins=trust_plugins)

    monkeypatch.setattr(timm_models, "structure_of", structure_of)
    downloaded({})
    network = downloaded({}, trust_plugins=True)
    assert asked == [False, True]
    save_for_hf(network, str(tmp_path / "saved"), safe_serialization=True)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["model_args"]
    assert sorted(saved) == ["in_chans", "num_classes", "structure"]


def test_what_timm_saved_and_pushed_comes_back_from_the_hub(
    downloaded: Callable[..., Any], artifact: Path, tmp_path: Path
) -> None:
    images = read_artifact(artifact).images
    network = timm.create_model(f"local-dir:{artifact}", pretrained=True, num_classes=4, in_chans=1).eval()
    save_for_hf(network, str(tmp_path / "saved"), safe_serialization=True)
    with torch.inference_mode():
        assert torch.equal(downloaded({}, tmp_path / "saved")(images), network(images))


@pytest.mark.parametrize("change", [{"num_classes": 10**12}, {"num_classes": -1}, {"num_classes": 7}])
def test_a_saved_configuration_that_its_weights_belie(artifact: Path, tmp_path: Path, change: dict[str, int]) -> None:
    network = timm.create_model(f"local-dir:{artifact}", pretrained=True, num_classes=4)
    save_for_hf(network, str(tmp_path / "saved"), safe_serialization=True)
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError):
        timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)


def test_no_pickle_is_read(artifact: Path, tmp_path: Path) -> None:
    save_for_hf(timm.create_model(f"local-dir:{artifact}"), str(tmp_path / "saved"))
    with pytest.raises(RunError, match="no other file of weights") as error:
        timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert error.value.hint == "safe_serialization=True"


def test_drop_rate_drops_what_the_classifier_reads_in_training_only(artifact: Path) -> None:
    images, plain = read_artifact(artifact).images, load(artifact)
    network = timm.create_model(f"local-dir:{artifact}", pretrained=True, drop_rate=0.5)
    assert network.state_dict().keys() == plain.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(network(images), plain(images))
        for module in network.modules():
            module.training = isinstance(module, torch.nn.Dropout)
        assert not torch.equal(network(images), plain(images))
        assert torch.equal(network.forward_features(images), plain.forward_features(images))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_rate_out_of_range(artifact: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="drop_rate="):
        load(artifact).reset_dropout(rate)


def test_learning_rates_fall_towards_the_image(artifact: Path) -> None:
    network = load(artifact)
    groups = create_optimizer_v2(network, "sgd", lr=1.0, layer_decay=0.5).param_groups
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scale.keys() == {id(parameter) for parameter in network.parameters()}
    scales = [scale[id(parameter)] for parameter in network.parameters()]
    assert scale[id(network.get_classifier().weight)] == max(scales)
    assert scales[0] == min(scales)


@pytest.mark.parametrize("classes", ["5", True, 2.5])
def test_a_number_of_classes_that_is_no_whole_number(artifact: Path, classes: Any) -> None:
    with pytest.raises(UsageError, match="whole number"):
        load(artifact, num_classes=classes)
