"""`load`: the exported network with other classes, other image channels, or its maps; and what timm asks of a model."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pgnas_cli as pgnas
from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.errors import UsageError
from pgnas_cli.export import hub
from pgnas_cli.export.feature_maps import FeatureMaps
from pgnas_cli.export.loading import load, locate
from pgnas_cli.export.network import ExportedNetwork
from pgnas_cli.export.reading import read_artifact
from pgnas_cli.export.writing import write_artifact

SIZE = 64
CLOSE = 1e-6
FAMILIES = {
    "test_resnet": [("act1", 2), ("layer1", 4), ("layer2", 8), ("layer3", 16), ("layer4", 32)],
    "test_efficientnet": [("blocks.0", 2), ("blocks.1", 4), ("blocks.2", 8), ("blocks.3", 16), ("blocks.4", 32)],
    "mobilenetv3_small_050": [("bn1", 2), ("blocks.0", 4), ("blocks.1", 8), ("blocks.3", 16), ("blocks.5", 32)],
    "shakeshake26_2x4d": [(None, 2), (None, 4)],
}
"""Architecture -> its feature maps: timm's module, and stride. With a small stem, stride 1 is the image's own."""


class Exported:
    """An artifact of random weights and masks, and the compact network that it holds."""

    def __init__(self, arch: str, folder: Path) -> None:
        torch.manual_seed(0)
        size = SIZE if arch != "shakeshake26_2x4d" else 16
        net = pgnas.inflate(arch, num_classes=10, img_size=size)
        candidate = net.sample(generator=torch.Generator().manual_seed(3), strategy="uniform", drop_prob=0.3)
        self.arch, self.path, self.small = arch, folder / arch, net.compact(candidate)
        self.images = torch.randn(2, 3, size, size)
        assert net.spec is not None
        cfg = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 10}
        write_artifact(
            self.path, self.small, net.spec, dict(candidate.masks), self.images, layout="gather",
            section={}, pretrained_cfg=cfg, card="a card", pictures={},
        )  # fmt: skip
        with torch.inference_mode():
            self.logits = self.small(self.images)

    def load(self, **options: Any) -> Any:
        return load(self.path, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp("families"))


@pytest.fixture
def network(artifact: Path) -> ExportedNetwork:
    return load(artifact)


def logits_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network(images)
    return found


def test_a_loaded_network_computes_and_stores_what_was_exported(family: Exported) -> None:
    network = family.load()
    assert not network.training
    assert list(network.state_dict()) == list(family.small.state_dict())
    assert relative_difference(logits_of(network, family.images), family.logits) <= CLOSE


def test_features_and_head_together_are_the_network(family: Exported) -> None:
    network = family.load()
    with torch.inference_mode():
        maps = network.forward_features(family.images)
        pooled = network.forward_head(maps, pre_logits=True)
        logits, again = network.forward_head(maps), network.get_classifier()(pooled)
    assert maps.shape[:2] == (2, network.num_features)
    assert maps.dim() == 4
    assert pooled.shape == (2, network.head_hidden_size)
    assert relative_difference(logits, family.logits) <= CLOSE
    assert relative_difference(again.flatten(1), family.logits) <= CLOSE


def test_the_feature_maps_are_those_that_timm_lists(family: Exported) -> None:
    maps = family.load(features_only=True)
    assert isinstance(maps, FeatureMaps)
    expected = FAMILIES[family.arch]
    assert maps.feature_info.reduction() == [stride for _, stride in expected]
    named = zip(maps.feature_info.module_name(), expected, strict=True)
    assert [found for found, (name, _) in named if name is not None and found != name] == []
    found = logits_of(maps, family.images)
    side = family.images.shape[-1]
    assert [tuple(x.shape[1:]) for x in found] == [
        (channels, side // stride, side // stride)
        for channels, stride in zip(maps.feature_info.channels(), maps.feature_info.reduction(), strict=True)
    ]
    with torch.inference_mode():
        last = family.load().forward_features(family.images)
    conv_head_follows = family.arch == "test_efficientnet"
    assert torch.equal(found[-1], last) is not conv_head_follows


@pytest.mark.parametrize(("asked", "strides"), [((0, -1), [2, 32]), (2, [16, 32]), ([1], [4])])
def test_chosen_maps(tmp_path: Path, asked: Any, strides: list[int]) -> None:
    maps = Exported("test_resnet", tmp_path).load(features_only=True, out_indices=asked)
    assert maps.feature_info.reduction() == strides
    assert len(logits_of(maps, torch.zeros(1, 3, SIZE, SIZE))) == len(strides)


def test_maps_carry_no_layers_behind_the_last_one(family: Exported) -> None:
    whole = sum(p.numel() for p in family.load().parameters())
    first = family.load(features_only=True, out_indices=[0])
    assert sum(p.numel() for p in first.parameters()) < whole / 2


def test_a_fresh_head_on_the_same_features(family: Exported) -> None:
    network = family.load(num_classes=5)
    assert network.num_classes == 5
    assert logits_of(network, family.images).shape == (2, 5)
    plain = family.load()
    with torch.inference_mode():
        assert torch.equal(network.forward_features(family.images), plain.forward_features(family.images))


def test_no_head_gives_pooled_features_and_a_head_can_come_back(family: Exported) -> None:
    network = family.load(num_classes=0)
    pooled = logits_of(network, family.images)
    with torch.inference_mode():
        plain = family.load()
        expected = plain.forward_head(plain.forward_features(family.images), pre_logits=True)
    assert torch.equal(pooled.flatten(1), expected)
    network.reset_classifier(3)
    assert logits_of(network, family.images).shape == (2, 3)


def test_as_many_classes_keep_the_head(network: ExportedNetwork, artifact: Path) -> None:
    assert torch.equal(load(artifact, num_classes=10).get_classifier().weight, network.get_classifier().weight)


def test_one_image_channel_sums_the_first_filters(tmp_path: Path) -> None:
    made = Exported("test_resnet", tmp_path)
    gray = made.images.mean(1, keepdim=True)
    network = made.load(in_chans=1)
    assert network.in_chans == 1
    expected = logits_of(made.load(), gray.expand(-1, 3, -1, -1).contiguous())
    assert relative_difference(logits_of(network, gray), expected) <= CLOSE
    assert logits_of(made.load(in_chans=5), torch.zeros(1, 5, SIZE, SIZE)).shape == (1, 10)


def test_gray_images_to_colour_keep_the_sum(network: ExportedNetwork, artifact: Path) -> None:
    images = read_artifact(artifact).images
    colour = load(artifact, in_chans=3)
    assert relative_difference(logits_of(colour, images.repeat(1, 3, 1, 1)), logits_of(network, images)) <= CLOSE


def test_copies_and_pickles_compute_the_same(network: ExportedNetwork, artifact: Path) -> None:
    images = read_artifact(artifact).images
    network.reset_classifier(4)
    network.get_classifier().train()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert relative_difference(logits_of(twin, images), logits_of(network, images)) <= CLOSE
        assert isinstance(twin, ExportedNetwork)
        assert twin.pretrained_cfg == network.pretrained_cfg
        assert twin.num_classes == 4
        twin.reset_classifier(2)
        assert (twin.num_classes, network.num_classes) == (2, 4)


def test_training_moves_every_weight_and_the_statistics(network: ExportedNetwork, artifact: Path) -> None:
    images = read_artifact(artifact).images
    before = copy.deepcopy(network.state_dict())
    optimiser = torch.optim.SGD(network.train().parameters(), 0.1)
    torch.nn.functional.cross_entropy(network(images), torch.arange(len(images)) % 10).backward()
    optimiser.step()
    still = [name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])]
    assert still == []
    assert not network.eval().training


def test_asking_for_shapes_leaves_modes_and_statistics_alone(network: ExportedNetwork) -> None:
    network.train()
    frozen = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = copy.deepcopy(network.state_dict())
    assert network.num_features > 0
    assert network.training
    assert not frozen.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": -1}, "num_classes=-1"),
        ({"in_chans": 0}, "in_chans=0"),
        ({"num_classes": 3, "features_only": True}, "exclude each other"),
        ({"out_indices": [0]}, "without features_only"),
        ({"features_only": True, "out_indices": [9]}, "out_indices has 9"),
        ({"features_only": True, "out_indices": 9}, "out_indices=9: the network has"),
        ({"features_only": True, "out_indices": 0}, "out_indices=0: the network has"),
        ({"features_only": True, "out_indices": ()}, "out_indices is empty"),
        ({"features_only": True, "out_indices": ["a"]}, "out_indices has 'a'"),
        ({"revision": "main"}, "which only a repository"),
    ],
)
def test_what_does_not_fit_is_refused(artifact: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(artifact, **options)


def test_switches_that_an_exported_network_lacks(network: ExportedNetwork) -> None:
    network.set_grad_checkpointing(False)
    with pytest.raises(UsageError, match="no gradient checkpointing"):
        network.set_grad_checkpointing()
    with pytest.raises(UsageError, match="global_pool='max'"):
        network.reset_classifier(3, "max")


def test_a_repository_is_downloaded_and_not_taken_for_the_users_own(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fetch(name: str, revision: str | None = None, *, everything: bool = False) -> Path:
        asked.append((name, revision))
        return artifact

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    assert locate("user/net@v1", None) == (artifact, False)
    assert locate("user/net", "v2") == (artifact, False)
    assert locate("user/net@small/v3") == (artifact, False)
    assert locate(str(artifact)) == (artifact, True)
    assert asked == [("user/net@v1", None), ("user/net", "v2"), ("user/net@small/v3", None)]


@pytest.mark.parametrize("name", ["nowhere", "./run/export", "/no/such", "a/b/c"])
def test_neither_a_folder_nor_a_repository(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no folder, and no repository") as caught:
        load(name)
    assert "user/repo" in caught.value.hint


@pytest.mark.parametrize("name", ["runs/exprt", "other/"])
def test_a_folder_that_is_mistyped_is_not_asked_of_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("pgnas_cli.export.hub.fetch", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(UsageError, match=f"^there is no folder {name}$") as caught:
        load(name)
    assert ("@main" in caught.value.hint) is (name == "runs/exprt")


def test_masks_of_a_cell_whose_inputs_are_read_twice() -> None:
    """The widest rule: two maps of stride 2 are read behind the next stride, so neither is passed by all data flow."""
    from pgnas_cli.export.maps import feature_maps, shapes_of

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 4, 3, 1, 1)
            self.c, self.d = nn.Conv2d(6, 5, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1)
            self.fc = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.a(x)
            return self.fc((self.c(first) + self.d(self.b(first))).mean((2, 3)))

    network = torch.fx.symbolic_trace(Cells())
    maps = feature_maps(network, shapes_of(network, (8, 8)), (8, 8))
    assert [(entry["num_chs"], entry["reduction"]) for entry in maps] == [(6, 2), (5, 4)]
