"""The options of deployment: all at once on one run, and each file by itself on a tiny network."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.compact.network import CompactNetwork
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.export import auto_layout, deployment
from pgnas_cli.export.card import card_for
from pgnas_cli.export.deployment import Deployment
from pgnas_cli.export.export import export, load_run_candidate
from pgnas_cli.export.loading import load
from pgnas_cli.export.onnx_file import run_onnx, write_onnx
from pgnas_cli.export.pt2_file import capture, checked, write_pt2
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.latency import Latency
from pgnas_cli.run import RunDirectory, load_tensors, read_json

ALL: dict[str, Any] = {"layout": "auto", "fold_bn": True, "round_to": 8, "onnx": True, "pt2": True, "license": "mit"}
FILES = ("model.onnx", "model.pt2")


# ---- all options on one run ----


@pytest.fixture(scope="module")
def deployed(exported: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    """Read only: a copy of the run, exported with every option, and the record."""
    run = RunDirectory(shutil.copytree(exported.path, tmp_path_factory.mktemp("deployed") / "run"))
    return run, export(run, **ALL)


@pytest.fixture(scope="module")
def images(deployed: tuple[RunDirectory, dict[str, Any]]) -> Tensor:
    proof, _ = load_tensors(deployed[0].export_path / "pgnas.safetensors", hint="")
    found: Tensor = proof["probe_images"]
    return found


def test_all_options_give_one_network(deployed: tuple[RunDirectory, dict[str, Any]], images: Tensor) -> None:
    run, record = deployed
    section = read_json(run.export_path / "config.json")["pgnas"]
    loaded = load(run.export_path)
    evaluator, candidate = load_run_candidate(run, record["candidate"])
    norms = [m for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert 0 < len(norms) < sum(isinstance(m, nn.BatchNorm2d) for m in evaluator.net.compact(candidate).modules())
    with evaluator.ready(candidate), torch.no_grad():
        masked = evaluator.net(images)
        assert relative_difference(loaded(images), masked) <= 1e-5
    assert section["fold_bn"] is True
    assert section["candidate"]["id"] == record["candidate"] != section["rounded"]["from"]["id"]
    assert section["rounded"] == record["rounded"]
    assert section["chosen_by"] == record["chosen_by"] == "rounded"
    assert section["selection_accuracy"] == section["rounded"]["selection_accuracy"]
    assert (section["test_accuracy"], section["ranking"]["winner"], section["license"]) == (None, False, "mit")
    assert section["layout"] == record["layout"]
    assert section["files"].keys() >= set(FILES)
    assert (run.export_path / "README.md").read_text() == card_for(run.export_path)
    differences = [record["masked_difference"], record["folded_difference"], *record["file_differences"].values()]
    assert list(record["file_differences"]) == list(FILES)
    assert all(0 <= difference <= 1e-5 for difference in differences)


def test_the_layout_was_measured(deployed: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, record = deployed
    measured = record["layout_choice"]
    assert "layout_choice" not in read_json(run.export_path / "config.json")["pgnas"]  # times differ, bytes do not
    assert (measured["batch"], measured["threads"]) == (64, torch.get_num_threads())
    assert measured["runs"] >= 3
    for layout in ("gather", "dense"):
        times = measured[layout]
        assert 0 < times["low_ms"] <= times["median_ms"] <= times["high_ms"]


def test_what_is_exported_by_default_is_what_it_was(run: RunDirectory, exported: RunDirectory) -> None:
    record = export(run)
    assert not {"rounded", "layout_choice", "license", "folded_difference", "file_differences"} & record.keys()
    section = read_json(run.export_path / "config.json")["pgnas"]
    assert not {"rounded", "layout_choice", "license", "fold_bn"} & section.keys()


def test_the_files_compute_what_is_loaded(deployed: tuple[RunDirectory, dict[str, Any]], images: Tensor) -> None:
    folder = deployed[0].export_path
    batches = [images[:n] for n in (1, 3, 8, 5)]
    network, program = load(folder), torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        expected = [network(batch) for batch in batches]
        for found in ([program(batch) for batch in batches], run_onnx(folder / "model.onnx", batches)):
            assert max(map(relative_difference, found, expected)) <= 1e-5


def test_what_is_loaded_gives_the_same_file(
    deployed: tuple[RunDirectory, dict[str, Any]], images: Tensor, tmp_path: Path
) -> None:
    """So that verification can tell an unchanged model.pt2 without loading it: flags and momentum are the same too."""
    path = deployed[0].export_path / "model.pt2"
    network = load(path.parent)
    assert all(norm.momentum == 0.1 for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))
    with torch.no_grad():
        write_pt2(tmp_path / "again.pt2", capture(network, images), images, network(images))
    assert (tmp_path / "again.pt2").read_bytes() == path.read_bytes()


def test_pt2_is_loaded_by_torch_alone(
    deployed: tuple[RunDirectory, dict[str, Any]], images: Tensor, tmp_path: Path
) -> None:
    torch.save(images[:5], tmp_path / "images.pt")
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['timm', 'torchvision', 'pgnas_cli', 'pgnas_zoo']))\n"
        "import torch; network = torch.export.load(sys.argv[1]).module()\n"
        "torch.save(network(torch.load('images.pt')).detach(), 'logits.pt')"
    )
    path = deployed[0].export_path / "model.pt2"
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=tmp_path, timeout=120, check=True)
    with torch.no_grad():
        expected = load(path.parent)(images[:5])
    assert relative_difference(torch.load(tmp_path / "logits.pt"), expected) <= 1e-5


def contents(path: Path) -> dict[str, bytes]:
    """What a file holds, a zip archive unpacked."""
    if not zipfile.is_zipfile(path):
        return {path.name: path.read_bytes()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", FILES)
def test_no_path_of_the_machine_is_in_a_file(deployed: tuple[RunDirectory, dict[str, Any]], name: str) -> None:
    run, _ = deployed
    for part, data in contents(run.export_path / name).items():
        places = (run.path, Path(torch.__file__).parents[1], Path(deployment.__file__).parents[1], Path.home())
        assert not [place for place in places if len(str(place)) > 4 and str(place).encode() in data], part
        assert not re.search(rb"\w\.py\b|site-packages|stack_trace|Traceback", data), part


# ---- the files, of a tiny network ----


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.side, self.fc = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x)).relu()
        return self.fc((self.conv2(x) + self.side(x)).mean((2, 3)))


@pytest.fixture
def tiny() -> CompactNetwork:
    torch.manual_seed(0)
    model = Tiny().eval()
    masks = {"conv2": np.arange(6) % 2 == 0, "side": np.arange(6) < 4}  # the two read through different gathers
    return compaction.compact(compaction.trace(model, (3, 5, 5)), model, masks)


@pytest.mark.parametrize("write", [write_onnx, write_pt2])
def test_the_same_network_gives_the_same_bytes(tiny: CompactNetwork, tmp_path: Path, write: Any) -> None:
    images = torch.randn(8, 3, 5, 5)
    with torch.no_grad():
        logits = tiny(images)
    for name in ("one", "two"):
        assert write(tmp_path / name, capture(tiny, images), images, logits) <= 1e-6
        images = images.flip(0)  # the images are no part of the file
        logits = logits.flip(0)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_names_and_the_free_dimension_of_onnx(tiny: CompactNetwork, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    images = torch.randn(8, 3, 5, 5)
    with torch.no_grad():
        write_onnx(tmp_path / "model.onnx", capture(tiny, images), images, tiny(images))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"image": ["batch", 3, 5, 5], "logits": ["batch", 4]}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


class ByBrightness(nn.Module):
    """What is computed depends on the image: no single graph says it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_network_that_cannot_be_captured_is_one_line() -> None:
    with pytest.raises(PgnasError, match=r"^torch\.export cannot capture this network: .+$") as error:
        capture(ByBrightness(), torch.zeros(8, 3, 5, 5))
    assert "\n" not in str(error.value)
    assert error.value.hint == "leave out --onnx and --pt2"


def test_a_file_that_computes_something_else_is_refused(tiny: CompactNetwork, tmp_path: Path) -> None:
    images = torch.randn(8, 3, 5, 5)
    with torch.no_grad():
        logits = tiny(images)
    with pytest.raises(PgnasError, match=r"model\.pt2 computes other logits than the network: .* 1e-05 is allowed"):
        write_pt2(tmp_path / "model.pt2", capture(tiny, images), images, logits + 1e-3)
    assert checked(Path("x"), [logits[:3], logits], logits) == 0.0
    with pytest.raises(PgnasError, match="other logits"):
        checked(Path("x"), [logits, logits[:3] * torch.nan], logits)


# ---- refusals ----


@pytest.mark.parametrize(
    ("missing", "named"), [(("onnxruntime",), "onnxruntime is"), (("onnx", "onnxscript"), "onnx and onnxscript are")]
)
def test_missing_packages_are_named_before_anything_is_done(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], named: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    monkeypatch.setattr(RunDirectory, "begin", lambda *_: pytest.fail("the run was touched"))
    with pytest.raises(UsageError, match=f"^--onnx was given: {named} not installed$") as error:
        export(run, onnx=True)
    assert error.value.hint == "pip install 'pgnas[onnx]'"


def test_a_fold_that_changes_the_logits_writes_nothing(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            next(network.parameters()).mul_(1.01)
        return network

    before = (run.export_path / "config.json").read_bytes()
    monkeypatch.setattr(deployment, "fold_batch_norms", wrong)
    with pytest.raises(PgnasError, match="the network with folded BatchNorms differs from the one without"):
        export(run, fold_bn=True)
    assert (run.export_path / "config.json").read_bytes() == before
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


# ---- layout ----


@pytest.mark.parametrize(
    ("gather", "dense", "chosen"),
    [
        pytest.param((2.0, 2.1, 2.2), (1.0, 1.1, 1.9), "dense", id="dense is faster"),
        pytest.param((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), "gather", id="gather is faster"),
        pytest.param((2.0, 2.1, 2.2), (1.0, 1.9, 2.05), "gather", id="within noise"),
        pytest.param((2.0, 2.1, 2.2), (2.0, 2.1, 2.2), "gather", id="a tie"),
    ],
)
def test_dense_has_to_be_faster_beyond_the_noise(
    monkeypatch: pytest.MonkeyPatch, gather: Any, dense: Any, chosen: str
) -> None:
    def measured(networks: Any, images: Tensor, **_: Any) -> dict[str, Latency]:
        assert list(networks) == ["gather", "dense"]
        times = {"gather": gather, "dense": dense}
        return {n: Latency(t[1] / 1e3, t[0] / 1e3, t[2] / 1e3, len(images), 20) for n, t in times.items()}

    monkeypatch.setattr(auto_layout, "measure", measured)
    net: Any = SimpleNamespace(compact=lambda _, layout: nn.Identity())
    layout, facts = auto_layout.measure_layouts(net, Candidate({}, "given", 0, 0), torch.zeros(7, 1, 8, 8))
    assert layout == chosen
    assert facts["dense"] == dict(zip(("low_ms", "median_ms", "high_ms"), dense, strict=True))
    assert (facts["batch"], facts["runs"]) == (7, 20)


def test_an_unknown_layout_names_the_three() -> None:
    with pytest.raises(UsageError, match="auto, gather or dense"):
        Deployment(layout="sparse")
