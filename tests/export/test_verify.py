"""Verification: every check passes on what was exported, and no damage passes in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgnas_cli.errors import RunError
from pgnas_cli.export.export import export
from pgnas_cli.export.loading import load
from pgnas_cli.export.verify import Check, verify
from pgnas_cli.run import RunDirectory, load_tensors, save_tensors

ALONE = [
    "masks = candidate id",
    "parameters = counted",
    "MACs = counted",
    "weights file unchanged",
    "files = listed",
    "reloaded = exported",
    "timm = reloaded",
]
WITH_RUN = [*ALONE, "masked = compact", "masked = reloaded"]
NO_SUCH_FILE = ["ONNX = reloaded", "pt2 = reloaded"]


def test_all_links_hold_with_the_run_beside_it(exported: RunDirectory) -> None:
    found = verify(exported.export_path)
    assert [check.name for check in found.checks] == WITH_RUN
    assert found.passed
    assert list(found.skipped) == NO_SUCH_FILE
    document = json.loads(json.dumps(found.to_json()))
    assert document["passed"] is True
    assert all(check["passed"] for check in document["checks"])


def test_an_artifact_alone_says_what_it_cannot_check(artifact: Path, exported: RunDirectory) -> None:
    found = verify(artifact)
    assert [check.name for check in found.checks] == ALONE
    assert found.passed
    assert list(found.skipped) == [*NO_SUCH_FILE, "masked = compact", "masked = reloaded"]
    assert "--run" in found.skipped["masked = reloaded"]
    with_run = verify(str(artifact), exported)
    assert [check.name for check in with_run.checks] == WITH_RUN
    assert with_run.passed


def test_a_dense_artifact_verifies(run: RunDirectory) -> None:
    export(run, layout="dense")
    found = verify(run.export_path)
    assert found.passed
    assert [check.name for check in found.checks] == WITH_RUN


def test_a_difference_that_is_no_number_fails() -> None:
    assert not Check("a", float("nan"), 1e-5).passed
    assert not Check("a", float("inf"), 1e-5).passed
    assert Check("a", 1e-5, 1e-5).passed


def edit_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors, metadata = load_tensors(folder / name, hint="")
        change(tensors)
        save_tensors(folder / name, tensors, metadata)

    return damage


def edit_config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config["pgnas"])
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return damage


def flip_index(tensors: dict[str, torch.Tensor]) -> None:
    first = next(name for name in sorted(tensors) if name.startswith("gather.") and tensors[name].numel())
    tensors[first][0] += 1


def flip_mask(tensors: dict[str, torch.Tensor]) -> None:
    tensors["masks"][3] ^= 0b0001_0000


def first_weight(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"][0, 0] *= -1


def last_bit(tensors: dict[str, torch.Tensor]) -> None:
    bias = tensors["fc.bias"]
    bias.copy_(torch.nextafter(bias, torch.full_like(bias, 9.0)))


WEIGHTS, PROOF = "model.safetensors", "pgnas.safetensors"
DAMAGE: dict[str, Callable[[Path], None]] = {
    "one weight": edit_tensors(WEIGHTS, first_weight),
    "one weight NaN": edit_tensors(WEIGHTS, lambda tensors: tensors["fc.weight"][0, 0].fill_(float("nan"))),
    "a weight missing": edit_tensors(WEIGHTS, lambda tensors: tensors.pop("fc.bias")),
    "a weight too many": edit_tensors(WEIGHTS, lambda tensors: tensors.update(extra=torch.zeros(1))),
    "a weight of another shape": edit_tensors(WEIGHTS, lambda t: t.update({"fc.bias": torch.zeros(11)})),
    "weights truncated": cut(WEIGHTS, 0.9),
    "weights emptied": cut(WEIGHTS, 0),
    "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
    "one mask bit": edit_tensors(PROOF, flip_mask),
    "masks too short": edit_tensors(PROOF, lambda tensors: tensors.update(masks=tensors["masks"][:-1])),
    "masks missing": edit_tensors(PROOF, lambda tensors: tensors.pop("masks")),
    "one gather index": edit_tensors(PROOF, flip_index),
    "a gather missing": edit_tensors(PROOF, lambda t: t.pop(next(name for name in t if name.startswith("gather.")))),
    "probe logits": edit_tensors(PROOF, lambda tensors: tensors["probe_logits"][0, 0].add_(0.01)),
    "probe logits NaN": edit_tensors(PROOF, lambda tensors: tensors["probe_logits"][0, 0].fill_(float("nan"))),
    "probe images": edit_tensors(PROOF, lambda tensors: tensors["probe_images"].add_(0.1)),
    "probe images of another shape": edit_tensors(PROOF, lambda t: t.update(probe_images=torch.zeros(8, 3, 8, 8))),
    "no probe images": edit_tensors(
        PROOF, lambda t: t.update(probe_images=torch.zeros(0, 1, 8, 8), probe_logits=torch.zeros(0, 10))
    ),
    "probe images missing": edit_tensors(PROOF, lambda tensors: tensors.pop("probe_images")),
    "proof truncated": cut(PROOF, 0.5),
    "proof missing": lambda folder: (folder / PROOF).unlink(),
    "config truncated": cut("config.json", 0.5),
    "config missing": lambda folder: (folder / "config.json").unlink(),
    "config of another tool": lambda folder: (folder / "config.json").write_text('{"architecture": "resnet50"}'),
    "a newer format": edit_config(lambda section: section.update(format=2)),
    "newer semantics": edit_config(lambda section: section.update(semantics=2)),
    "no format": edit_config(lambda section: section.pop("format")),
    "no backbone": edit_config(lambda section: section.pop("backbone")),
    "half a backbone": edit_config(lambda section: section["backbone"].pop("arch")),
    "an unknown backbone": edit_config(lambda section: section["backbone"].update(arch="resnot")),
    "another backbone": edit_config(lambda section: section["backbone"].update(arch="shakeshake26_2x6d")),
    "no layer sizes": edit_config(lambda section: section.pop("masks")),
    "other layer sizes": edit_config(lambda section: section["masks"].update({next(iter(section["masks"])): 5})),
    "layers in another order": edit_config(lambda s: s.update(masks=dict(reversed(list(s["masks"].items()))))),
    "another layout": edit_config(lambda section: section.update(layout="dense")),
    "an unknown layout": edit_config(lambda section: section.update(layout="sparse")),
    "no candidate": edit_config(lambda section: section.pop("candidate")),
    "a candidate without parameters": edit_config(lambda section: section["candidate"].update(params=None)),
    "a candidate that is a list": edit_config(lambda section: section.update(candidate=[])),
    "another candidate": edit_config(lambda section: section["candidate"].update(id="0" * 16)),
    "other parameters": edit_config(lambda section: section["candidate"].update(params=1)),
    "other MACs": edit_config(lambda section: section["candidate"].update(macs=1)),
    "a candidate without MACs": edit_config(lambda section: section["candidate"].pop("macs")),
    "another image size": edit_config(lambda section: section["backbone"].update(img_size=16)),
    "the last bit of a weight": edit_tensors(WEIGHTS, last_bit),
    "a counter changed": edit_tensors(WEIGHTS, lambda t: t["stem_bn.num_batches_tracked"].add_(1)),
    "no digest": edit_config(lambda section: section.pop("weights_sha256")),
}  # fmt: skip


def outcome(artifact: Path) -> str:
    try:
        found = verify(artifact)
    except RunError as error:
        return "refused with a hint" if error.hint else "refused"
    return "passed" if found.passed else "a check failed"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_no_damage_passes_in_silence(artifact: Path, damage: Callable[[Path], None]) -> None:
    damage(artifact)
    assert outcome(artifact) in ("refused with a hint", "a check failed")


@pytest.mark.parametrize(
    ("damage", "message", "hint"),
    [
        ("weights truncated", "model.safetensors is damaged or truncated", "export again"),
        ("one gather index", "gather indices", "export again"),
        ("a weight missing", "fc.bias is missing", "export again"),
        ("a newer format", "format 2, this version reads up to 1", "pip install --upgrade pgnas"),
        ("config missing", "holds no exported network", "pgnas export"),
        ("config truncated", "not valid JSON", "export again"),
        ("probe logits", "probe images differ", "export again"),
        ("one weight", "probe images differ", "export again"),
        ("one weight NaN", "fc.weight holds NaN", "export again"),
    ],
)
def test_load_refuses_with_the_reason_and_the_way_out(artifact: Path, damage: str, message: str, hint: str) -> None:
    DAMAGE[damage](artifact)
    with pytest.raises(RunError, match=message) as error:
        load(artifact)
    assert hint in error.value.hint


def test_a_run_that_changed_is_caught_or_named(run: RunDirectory) -> None:
    """The artifact is whole, but its run was trained to other weights: masked and reloaded differ."""
    weights = run.path / run.require("train")["checkpoint"]
    tensors, _ = load_tensors(weights, hint="")
    tensors["backbone.fc.bias"] += 0.1
    save_tensors(weights, tensors)
    found = verify(run.export_path)
    assert {check.name for check in found.checks if not check.passed} == {"masked = reloaded"}
    assert not found.passed
    shutil.rmtree(run.train_path / "checkpoints")
    with pytest.raises(RunError, match=r"supernet\.safetensors is missing"):
        verify(run.export_path)


def test_without_the_data_of_its_run_the_masked_link_is_skipped(run: RunDirectory) -> None:
    recipe = run.train_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "digits"', 'name = "folder:/nowhere"', 1))
    found = verify(run.export_path)
    assert "/nowhere" in found.skipped["masked = reloaded"]
    assert [check.name for check in found.checks] == ALONE


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no exported network"):
        verify(tmp_path / "nowhere")
