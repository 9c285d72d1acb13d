"""Hostile artifacts, one by one: each is refused in one line that names the file, what is wrong, and what to do."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import header_of, put, signed, with_header
from safetensors.torch import load, save
from tiny_artifact import CONFIG, PROOF, WEIGHTS, Files, tiny_installed, whole

from pgnas_cli import registry
from pgnas_cli.errors import RunError
from pgnas_cli.export import building
from pgnas_cli.export.building import build_structure
from pgnas_cli.export.reading import load_artifact, read_artifact
from pgnas_cli.export.structure import structure_of
from pgnas_cli.plugin import BuildSpec, Inflation

Change = Callable[[Files], Files]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with tiny_installed():
        with torch.device("meta"):  # imports what the first network of the zoo needs
            registry.build_model(BuildSpec("enas15_1f", "enas", Inflation(), 3, 1, 8))
        yield whole(tmp_path_factory.mktemp("hostile") / "whole", "tiny_6", "tiny", 8, 0)


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    put(tmp_path / "artifact", files)
    return tmp_path / "artifact"


def refusal(files: Files, folder: Path) -> RunError:
    put(folder, files)
    start = time.process_time()
    with pytest.raises(RunError) as error:
        load_artifact(folder)
    assert time.process_time() - start < 1
    assert str(error.value).isprintable()
    assert error.value.hint
    assert str(folder) in str(error.value)
    return error.value


# ---- config.json ----


def config(**values: Any) -> Change:
    """Set keys, named from the top with __ between them, in the pgnas section and, so that both agree, for timm."""

    def change(files: Files) -> Files:
        document = json.loads(files[CONFIG])
        for name, value in values.items():
            *path, last = name.split("__")
            for place in (document["pgnas"], document["model_args"]["structure"]):
                for key in path:
                    place = place[key]
                place[last] = value
        return files | {CONFIG: json.dumps(document).encode()}

    return change


def top(**values: Any) -> Change:
    return lambda files: files | {CONFIG: json.dumps(json.loads(files[CONFIG]) | values).encode()}


def cfg(**values: Any) -> Change:
    def change(files: Files) -> Files:
        document = json.loads(files[CONFIG])
        document["pretrained_cfg"] |= values
        return files | {CONFIG: json.dumps(document).encode()}

    return change


def text(old: str, new: str) -> Change:
    return lambda files: files | {CONFIG: files[CONFIG].decode().replace(old, new, 1).encode("utf-8", "surrogatepass")}


def backbone(arch: str, plugin: str, **more: Any) -> Change:
    return config(backbone__arch=arch, backbone__plugin=plugin, **more)


NO_IMAGES: dict[str, tuple[Change, str]] = {
    "another architecture": (top(architecture="resnet18"), "architecture is 'resnet18', an export has 'pgnas'"),
    "no architecture": (top(architecture=None), "architecture is None"),
    "features that are text": (top(num_features="x"), "num_features should be a whole number"),
    "a mean that is text": (cfg(mean="x"), r"pretrained_cfg\.mean should be a list of one number, not 'x'"),
    "a mean of two": (cfg(mean=[0.5, 0.5]), "mean should be a list of one number"),
    "a deviation of 0": (cfg(std=[0]), "std should be a list of one number above 0"),
    "a mean of booleans": (cfg(mean=[True]), "mean should be a list of one number"),
    "a crop of minus a lot": (cfg(crop_pct=-1e308), r"crop_pct should be above 0 and at most 1"),
    "an unknown interpolation": (cfg(interpolation="evil"), "interpolation should be bilinear or bicubic"),
    "an interpolation that is a list": (cfg(interpolation=["bilinear"]), "interpolation should be"),
    "labels that are a number": (cfg(label_names=5), "label_names should be 3 names of classes"),
    "too few labels": (cfg(label_names=["a"]), "label_names should be 3 names of classes"),
}
"""What timm and the card's own lines would fail on."""
LISTED = {"sha256": "0" * 64, "size": 1}
CONFIGS: dict[str, tuple[Change, str]] = {
    "deep nesting": (text('"layout":', '"x": ' + "[" * 100_000 + "]" * 100_000 + ', "layout":'), "nested too deeply"),
    "NaN": (text('"crop_pct": 1.0', '"crop_pct": NaN'), "the number NaN is not finite"),
    "an infinite number": (text('"crop_pct": 1.0', '"crop_pct": 1e999'), "the number 1e999 is not finite"),
    "a number of 5000 digits": (text('"crop_pct": 1.0', f'"crop_pct": {"1" * 5000}'), "not valid JSON"),
    "a key twice": (text('"layout":', '"layout": "dense", "layout":'), "the key 'layout' stands twice"),
    "a layer twice": (text('"a": 6', '"a": 6, "a": 6'), "the key 'a' stands twice"),
    "not UTF-8": (lambda files: files | {CONFIG: files[CONFIG].decode().encode("utf-16")}, "not valid JSON"),
    "a byte order mark": (lambda files: files | {CONFIG: b"\xef\xbb\xbf" + files[CONFIG]}, "not valid JSON"),
    "a list": (lambda files: files | {CONFIG: b"[]"}, "should hold a JSON object"),
    "4 MiB": (lambda files: files | {CONFIG: files[CONFIG] + b" " * 2**22}, "at most 4194304 are read"),
    "a newer format": (config(format=2), "has format 2, this version reads up to 1"),
    "newer semantics": (config(semantics=10**30), "this version reads up to 1"),
    "a format that is true": (config(format=True), r"pgnas\.format should be a whole number, not True"),
    "an unknown layout": (config(layout=["gather"]), r"pgnas\.layout should be gather or dense"),
    "fold_bn that is 1": (config(fold_bn=1), r"pgnas\.fold_bn should be true or false"),
    "a Hub name": (backbone("hf-hub:evil/x", "timm_cnn"), "'hf-hub:evil/x', which names no architecture"),
    "a folder's name": (backbone("local-dir:../..", "timm_cnn"), "which names no architecture"),
    "a path": (backbone("../../etc/passwd", "timm_cnn"), "which names no architecture"),
    "a long name": (backbone("a" * 100_000, "timm_cnn"), "which names no architecture"),
    "a template": (backbone("{{ 7 * 7 }}", "tiny"), "which names no architecture"),
    "lines of a card": (backbone("resnet18\nlicense: evil", "resnet"), "which names no architecture"),
    "a width of a billion": (backbone("shakeshake26_2x999999999d", "shakeshake"), "unknown architecture"),
    "a billion filters": (backbone("enas15_1000000000f", "enas"), "unknown architecture"),
    "another family": (backbone("tiny_6", "resnet"), "unknown architecture"),
    "an unknown plugin": (backbone("tiny_6", "nobodys"), "no installed plugin is called 'nobodys'"),
    "a plugin that is a path": (backbone("tiny_6", "../x"), "no installed plugin is called '../x'"),
    "a family without such layers": (backbone("enas15_9f", "enas"), "'a' has 6 channels, there is no such layer"),
    "wide surrogates": (
        backbone("enas15_9999f", "enas", backbone__inflation__surrogate_pools=True, backbone__inflation__width=99.0),
        "parameters, at most 2147483648 are built",
    ),
    "a classifier of a petabyte": (backbone("tiny_999999", "tiny"), "parameters, at most 2147483648 are built"),
    "another width": (backbone("tiny_7", "tiny"), "'a' has 6 channels, there is one of 7"),
    "no width": (backbone("tiny_0", "tiny"), "cannot be built|do not fit"),
    "a billion branches": (config(backbone__inflation__branches=10**9), "branches 1000000000 was given"),
    "growth without end": (config(backbone__inflation__growth=10**9), "growth 1000000000 was given"),
    "a huge kernel": (config(backbone__inflation__kernels=[10**9]), "kernels 1000000000 was given"),
    "a width past all floats": (config(backbone__inflation__width=10**400), "width is 1000"),
    "a huge image": (config(backbone__img_size=100_000), r"input_size is \[1, 8, 8\], its network has"),
    "ten million classes": (config(backbone__num_classes=10**7), "num_classes is 3, its network has 10000000"),
    "other classes for timm": (top(num_classes=4), "num_classes is 4, its network has 3"),
    "another image for timm": (cfg(input_size=[1, 9, 9]), r"input_size is \[1, 9, 9\], its network has \[1, 8, 8\]"),
    "no input for timm": (top(pretrained_cfg=None), "pretrained_cfg should be an object, not None"),
    "arguments that are a list": (top(model_args=[]), r"model_args should be an object, not \[\]"),
    "too many channels": (config(masks={"a": 2**22, "b": 2**22}), "2 layers of 8388608 channels together"),
    "too many layers": (config(masks={f"{n}": 1 for n in range(20_000)}), "20000 layers"),
    "no channels": (config(masks={"a": 0, "b": 6}), "should map layers to channels"),
    "a layer that is a path": (config(masks={"../a": 6, "b": 6}), r"'\.\./a' has 6 channels, there is no such layer"),
    "a layer that is not gated": (config(masks={"bn": 6, "b": 6}), "'bn' has 6 channels, there is no such layer"),
    "one layer less": (config(masks={"a": 12}), "'a' has 12 channels, there is one of 6"),
    "an unknown folded layer": (config(folded=["fc"]), "folded names 'fc', which is not masked"),
    "a folded layer that drops": (config(folded=["a"]), "'a' is folded away, but its mask drops inputs"),
    "a layer folded twice": (config(folded=["a", "a"]), "should be a list of different layers"),
    "a file outside": (config(files={"../x": LISTED}), r"files names '\.\./x', which is no file of the folder"),
    "a file of an absolute path": (config(files={"/etc/passwd": LISTED}), "which is no file of the folder"),
    "a file without a digest": (config(files={"x": {"size": 1}}), r"files\.x should give sha256 and size"),
    "no digest": (config(weights_sha256=None), "weights_sha256 should be 64 hexadecimal digits"),
    "another digest": (config(weights_sha256="0" * 64), "is not the file that was exported"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), (CONFIGS | NO_IMAGES).values(), ids=CONFIGS | NO_IMAGES)
def test_a_hostile_configuration(files: Files, folder: Path, change: Change, message: str) -> None:
    with pytest.raises(RunError, match=message):
        raise refusal(change(files), folder)


def test_what_timm_builds_has_to_be_the_same_network(files: Files, folder: Path) -> None:
    document = json.loads(files[CONFIG])
    structure = document["model_args"]["structure"]
    for key, value, message in (
        ("layout", "dense", "describes another network"),
        ("kept", "AAAA", "take 2 bytes, not 3"),
        ("kept", "A", "should be text in base64"),
        ("kept", "\u00e4", "should be text in base64"),
        ("kept", "AAA=", "describes another network"),
        ("format", 2, "has format 2"),
    ):
        document["model_args"] = {"structure": structure | {key: value}}
        error = refusal(files | {CONFIG: json.dumps(document).encode()}, folder)
        assert message in str(error)
        assert "model_args.structure" in str(error)


# ---- the tensor files ----


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Other tensors in a file, signed again."""

    def changed(files: Files) -> Files:
        loaded = load(files[name])
        change(loaded)
        return signed(files | {name: save(loaded)})

    return changed


weights, proof = partial(tensors, WEIGHTS), partial(tensors, PROOF)


def header(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Another header before the same bytes, signed again."""

    def changed(files: Files) -> Files:
        document, data = header_of(files[name])
        change(document)
        return signed(files | {name: with_header(document, data)})

    return changed


def index_of(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors[next(name for name in sorted(tensors) if name.startswith("gather."))]


def overlap(document: dict[str, Any]) -> None:
    document["fc.weight"]["data_offsets"] = [n - 4 for n in document["fc.weight"]["data_offsets"]]


NAN = float("nan")
TENSORS: dict[str, tuple[Change, str, str]] = {
    "integer weights": (weights(lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.int32)})), WEIGHTS,
                        r"fc\.bias is I32 of shape \[3\], expected F32"),
    "half weights": (weights(lambda t: t.update({"fc.bias": t["fc.bias"].half()})), WEIGHTS, "fc.bias is F16"),
    "complex weights": (weights(lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.complex64)})), WEIGHTS,
                        "fc.bias is C64"),
    "float8 weights": (header(WEIGHTS, lambda d: d["fc.bias"].update(dtype="F8_E4M3", shape=[12])), WEIGHTS,
                       "dtype 'F8_E4M3', which no artifact holds"),
    "a counter of floats": (weights(lambda t: t.update({"bn.num_batches_tracked": torch.zeros(())})), WEIGHTS,
                            "num_batches_tracked is F32"),
    "NaN weights": (weights(lambda t: t["fc.bias"].fill_(NAN)), WEIGHTS, "fc.bias holds NaN"),
    "an infinite weight": (weights(lambda t: t["fc.weight"][0, 0].fill_(-torch.inf)), WEIGHTS, "holds NaN or inf"),
    "another shape": (weights(lambda t: t.update({"fc.bias": torch.zeros(4)})), WEIGHTS, r"shape \[4\], expected"),
    "a huge shape": (header(WEIGHTS, lambda d: d["fc.bias"].update(shape=[2**40, 2**40])), WEIGHTS, "lies at bytes"),
    "a negative shape": (header(WEIGHTS, lambda d: d["fc.bias"].update(shape=[-3])), WEIGHTS, r"is of shape \[-3\]"),
    "a hundred axes": (header(WEIGHTS, lambda d: d["fc.bias"].update(shape=[3] + [1] * 99)), WEIGHTS, "is of shape"),
    "a weight missing": (weights(lambda t: t.pop("fc.bias")), WEIGHTS, "fc.bias is missing"),
    "a weight more": (weights(lambda t: t.update({"../x": torch.zeros(1)})), WEIGHTS, r"'\.\./x' is unknown"),
    "overlapping weights": (header(WEIGHTS, overlap), WEIGHTS, "where .* was expected"),
    "metadata of numbers": (header(WEIGHTS, lambda d: d.update(__metadata__={"a": 1})), WEIGHTS, "should be text"),
    "a header of nothing": (lambda files: files | {WEIGHTS: b""}, WEIGHTS, "damaged or truncated"),
    "a header without end": (lambda files: files | {WEIGHTS: struct.pack("<Q", 2**63) + b"{}"}, WEIGHTS, "truncated"),
    "a header of 5 MiB": (lambda f: f | {WEIGHTS: with_header(b" " * 5 * 2**20, b"")}, WEIGHTS, "at most 4194304"),
    "a tensor twice": (lambda f: f | {WEIGHTS: with_header(b'{"a": 1, "a": 1}', b"")}, WEIGHTS, "'a' stands twice"),
    "a header that is deep": (lambda f: f | {WEIGHTS: with_header(b"[" * 10**6, b"")}, WEIGHTS, "nested too deeply"),
    "boolean probes": (proof(lambda t: t.update(probe_images=t["probe_images"] > 0)), PROOF, "is BOOL"),
    "NaN probes": (proof(lambda t: t["probe_images"][0].fill_(NAN)), PROOF, "probe_images holds NaN"),
    "NaN logits": (proof(lambda t: t["probe_logits"][0].fill_(NAN)), PROOF, "probe_logits holds NaN"),
    "no probes": (proof(lambda t: t.update(probe_images=t["probe_images"][:0])), PROOF, "holds 0 probe images"),
    "many probes": (proof(lambda t: t.update(probe_images=t["probe_images"].repeat(9, 1, 1, 1))), PROOF,
                    "holds 72 probe images"),
    "a scalar probe": (proof(lambda t: t.update(probe_images=torch.zeros(()))), PROOF, "holds 0 probe images"),
    "larger probes": (proof(lambda t: t.update(probe_images=torch.zeros(8, 1, 9, 9))), PROOF,
                      r"\[8, 1, 9, 9\], expected F32 of shape \[8, 1, 8, 8\]"),
    "fewer logits": (proof(lambda t: t.update(probe_logits=torch.zeros(8, 2))), PROOF, r"shape \[8, 2\]"),
    "a negative index": (proof(lambda t: index_of(t)[0].fill_(-1)), PROOF, "gather indices"),
    "an index out of range": (proof(lambda t: index_of(t)[0].fill_(10**9)), PROOF, "gather indices"),
    "indices that are floats": (proof(lambda t: t.update({"gather.x": torch.zeros(2)})), PROOF, "'gather.x' is F32"),
    "a gather more": (proof(lambda t: t.update({"gather.x": torch.zeros(2).long()})), PROOF, "gather indices"),
    "a tensor more": (proof(lambda t: t.update(x=torch.zeros(2))), PROOF, "of an unknown name: 'x'"),
    "masks too short": (proof(lambda t: t.update(masks=t["masks"][:1])), PROOF, r"'masks' is U8 of shape \[1\]"),
    "bits behind the masks": (proof(lambda t: t["masks"][1].bitwise_or_(1)), PROOF, "behind their last channel"),
    "masks missing": (proof(lambda t: t.pop("masks")), PROOF, "lacks masks"),
    "other masks": (proof(lambda t: t["masks"][0].bitwise_xor_(128)), CONFIG, "describes another network"),
    "changed probes": (lambda f: f | {PROOF: proof(lambda t: t["probe_logits"][0, 0].add_(1e-7))(f)[PROOF]},
                       PROOF, "is not the file that was exported"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "file", "message"), TENSORS.values(), ids=TENSORS)
def test_a_hostile_tensor_file(files: Files, folder: Path, change: Change, file: str, message: str) -> None:
    error = refusal(change(files), folder)
    with pytest.raises(RunError, match=message):
        raise error
    assert file in str(error)


# ---- what stands in the place of a file ----


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_out(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    elsewhere.write_bytes(b"secret")
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, PROOF])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is missing"),
        (pipe, "is missing"),
        (lambda path: path.symlink_to("/dev/zero"), "is missing"),
        (lambda path: path.symlink_to(path.name), "is missing"),
        (link_out, "leads out of its folder"),
    ],
    ids=["folder", "pipe", "device", "loop", "link"],
)
def test_no_file_but_a_plain_one_is_read(files: Files, folder: Path, name: str, make: Any, message: str) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(RunError, match=message) as error:
        load_artifact(folder)
    assert name in str(error.value)
    assert error.value.hint


def test_links_into_the_cache_of_the_hub_are_followed(files: Files, tmp_path: Path) -> None:
    """snapshots/<commit>/NAME is a link to ../../blobs/<digest>, as huggingface_hub lays them out."""
    put(tmp_path / "blobs", files)
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert load_artifact(snapshot).training is False


# ---- plugins ----


def test_a_plugin_that_is_not_pgnas_own_is_only_taken_if_trusted(files: Files, folder: Path) -> None:
    with tiny_installed("family 1.0"), pytest.MonkeyPatch.context() as patch:
        only = tuple(s for s in registry.plugins() if s.name != "tiny" or s.distribution == "family 1.0")
        patch.setattr(registry, "plugins", lambda: only)
        with pytest.raises(RunError, match=r"'tiny' of family 1\.0, which is not pgnas's own") as error:
            read_artifact(folder, trust_plugins=False)
        assert "trust_plugins=True" in error.value.hint
        assert "--trust-plugins" in error.value.hint
        assert load_artifact(folder, trust_plugins=True).training is False


def test_a_configuration_never_says_what_to_install(files: Files, folder: Path) -> None:
    """The distribution that it names may be anybody's: it is in no hint."""
    error = refusal(config(backbone__plugin="nobodys", backbone__distribution="evil-package 1.0")(files), folder)
    assert "evil" not in str(error) + error.hint
    assert "trust" in error.hint


# ---- bounds of what is built ----


def test_a_network_larger_than_its_weights_file_is_never_built(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(files[CONFIG])["pgnas"]
    wide = document | {"masks": {"a": 9000, "b": 9000}, "backbone": document["backbone"] | {"arch": "tiny_9000"}}
    structure = structure_of(wide, "x: pgnas")
    built: list[int] = []
    monkeypatch.setattr(building.compaction, "compact", lambda *args, **options: built.append(1))
    masks = {name: np.ones(9000, bool) for name in ("a", "b")}
    with pytest.raises(RunError, match=r"its network has 810\d{6} parameters, 1000 numbers are stored"):
        build_structure(structure, masks, "x", stored=1000)
    assert built == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 20_000}, "multiply-adds and a map of 1200000000 numbers an image"),
        ({"img_size": 1}, ""),
        ({"arch": "tiny_4000000", "num_classes": 9_999_999}, "parameters, at most"),
    ],
)
def test_what_the_probes_would_take_is_bounded(files: Files, changes: dict[str, Any], message: str) -> None:
    document = json.loads(files[CONFIG])["pgnas"]
    structure = structure_of(document | {"backbone": document["backbone"] | changes}, "x: pgnas")
    masks = {name: np.ones(6, bool) for name in ("a", "b")}
    if not message:
        assert build_structure(structure, masks, "x").training is False
        return
    with pytest.raises(RunError, match=message):
        build_structure(structure, masks, "x")


def test_a_network_of_another_image_size_than_it_can_take() -> None:
    backbone = BuildSpec("vgg11_bn", "timm_cnn", Inflation(), 3, 3, 3).to_json()
    document = {"format": 1, "semantics": 1, "layout": "gather", "masks": {"features.4": 64}, "backbone": backbone}
    structure = structure_of(document, "x: pgnas")
    with pytest.raises(RunError, match="vgg11_bn cannot be captured at 3 x 3 pixels: ") as error:
        build_structure(structure, {"features.4": np.ones(64, bool)}, "x")
    assert "\n" not in str(error.value)
