"""The architecture "pgnas" of timm: what `timm.create_model` restores from a folder or a repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models._hub import save_for_hf

import pgnas_cli.timm_models
from pgnas_cli.errors import PgnasError, RunError, UsageError
from pgnas_cli.export import hub
from pgnas_cli.export.loading import load
from pgnas_cli.export.network import ExportedNetwork
from pgnas_cli.export.reading import read_artifact


def create(path: Path, **options: Any) -> Any:
    return timm.create_model(f"local-dir:{path}", **{"pretrained": True, **options})


@pytest.fixture
def images(artifact: Path) -> torch.Tensor:
    return read_artifact(artifact).images


def logits_of(model: Any, images: torch.Tensor) -> Any:
    with torch.inference_mode():
        return model.eval()(images)


def test_it_is_registered() -> None:
    assert timm.is_model("pgnas")
    assert timm.model_entrypoint("pgnas") is pgnas_cli.timm_models.pgnas


def test_a_folder_comes_back_bit_for_bit(artifact: Path, images: torch.Tensor) -> None:
    model = create(artifact)
    assert isinstance(model, ExportedNetwork)
    assert torch.equal(logits_of(model, images), logits_of(load(artifact), images))
    assert list(model.state_dict()) == list(load(artifact).state_dict())


def test_timm_knows_how_images_should_look(artifact: Path) -> None:
    cfg = json.loads((artifact / "config.json").read_text())["pretrained_cfg"]
    found = resolve_model_data_config(create(artifact))
    assert list(found["input_size"]) == cfg["input_size"]
    assert list(found["mean"]) == pytest.approx(cfg["mean"])
    assert list(found["std"]) == pytest.approx(cfg["std"])
    assert found["crop_pct"] == 1.0


def test_new_heads_channels_and_maps(artifact: Path, images: torch.Tensor) -> None:
    assert logits_of(create(artifact, num_classes=3), images).shape == (len(images), 3)
    assert logits_of(create(artifact, in_chans=3), images.repeat(1, 3, 1, 1)).shape == (len(images), 10)
    maps = create(artifact, features_only=True, out_indices=(1,))
    assert [x.shape[1] for x in logits_of(maps, images)] == maps.feature_info.channels()
    pooled = logits_of(create(artifact, num_classes=0), images)
    assert pooled.shape == (len(images), load(artifact).head_hidden_size)


def test_without_weights_the_structure_stays(artifact: Path, images: torch.Tensor) -> None:
    restored, fresh = load(artifact), create(artifact, pretrained=False)
    shapes = {name: tensor.shape for name, tensor in restored.state_dict().items()}
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == shapes
    assert not torch.equal(logits_of(fresh, images), logits_of(restored, images))


def test_what_timm_saves_of_an_adapted_model_loads_again(artifact: Path, images: torch.Tensor, tmp_path: Path) -> None:
    model = create(artifact, num_classes=4)
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    assert not (tmp_path / "saved" / "pgnas.safetensors").exists()
    again = create(tmp_path / "saved")
    assert torch.equal(logits_of(again, images), logits_of(model, images))
    assert create(tmp_path / "saved", num_classes=2).num_classes == 2


def test_a_repository_goes_through_the_same_checks(
    artifact: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((artifact / "config.json").read_text())
    found = {**config["pretrained_cfg"], "hf_hub_id": "user/net@v1", "source": "hf-hub", "architecture": "pgnas"}
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        return artifact

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(
        pgnas_cli.timm_models, "download_from_hf", lambda name, file, cache_dir=None: str(artifact / file)
    )
    monkeypatch.setattr(
        timm.models._factory, "load_model_config_from_hf", lambda *a, **k: (found, "pgnas", config["model_args"])
    )
    model = timm.create_model("hf-hub:user/net@v1", pretrained=True)
    assert asked == ["user/net@v1"]
    assert torch.equal(logits_of(model, images), logits_of(load(artifact), images))


def spoil_masks(structure: dict[str, Any]) -> None:
    structure["kept"] = structure["kept"][:-4]


def spoil_plugin(structure: dict[str, Any]) -> None:
    structure["backbone"]["plugin"] = "elsewhere"


def spoil_format(structure: dict[str, Any]) -> None:
    structure["format"] = 99


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_masks, "the masks of"),
        (spoil_plugin, "no installed plugin is called 'elsewhere'"),
        (spoil_format, "format 99"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_bad_structure_is_refused(
    artifact: Path, spoil: Callable[[dict[str, Any]], None], words: str, pretrained: bool
) -> None:
    config = json.loads((artifact / "config.json").read_text())
    spoil(config["model_args"]["structure"])
    (artifact / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=words):
        create(artifact, pretrained=pretrained)


def test_a_structure_of_its_own_is_needed(artifact: Path) -> None:
    with pytest.raises(UsageError, match="has no network of its own") as caught:
        timm.create_model("pgnas")
    assert "local-dir:PATH" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "words"), [({"global_pool": "max"}, "global_pool='max'"), ({"drop_path_rate": 0.5}, "no option")]
)
def test_options_that_an_exported_network_lacks(artifact: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PgnasError, match=words):
        create(artifact, **options)
