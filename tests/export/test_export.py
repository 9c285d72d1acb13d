"""Export and load: the same bytes again, the same logits, and nothing of the machine that wrote it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.choice import Choice
from pgnas_cli.export.export import export
from pgnas_cli.export.loading import load
from pgnas_cli.ranking.candidates import read_candidates
from pgnas_cli.ranking.recalibrate import recalibrated
from pgnas_cli.run import RunDirectory, load_tensors, read_json, read_jsonl
from pgnas_cli.supernet.gate import Gate
from pgnas_cli.training.data import open_data
from pgnas_cli.training.loop import trained_supernet

FILES = ["README.md", "architecture.png", "config.json", "model.safetensors", "pgnas.safetensors"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def masked_logits(run: RunDirectory, candidate_id: str, images: torch.Tensor) -> torch.Tensor:
    """What ranking saw: the supernet under the masks, BatchNorm recalibrated as in the fixture."""
    net, data = trained_supernet(run), open_data("digits")
    chosen = next(candidate for candidate in read_candidates(run) if candidate.id == candidate_id)
    calibration = [x for x, _ in data.eval_batches("train", 256, limit=64)]
    with net.masked(chosen), recalibrated(net, calibration), torch.no_grad():
        return net(images)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return next(iter(open_data("digits").eval_batches("test", 100)))[0]


def test_the_same_run_gives_the_same_bytes(run: RunDirectory, exported: RunDirectory, tmp_path: Path) -> None:
    first = content(exported.export_path)
    assert list(first) == FILES
    export(run)
    assert content(run.export_path) == first
    export(run, output=tmp_path / "elsewhere" / "deep")
    assert content(tmp_path / "elsewhere" / "deep") == first


@pytest.mark.parametrize("layout", ["gather", "dense"])
def test_what_is_loaded_computes_what_was_ranked(run: RunDirectory, images: torch.Tensor, layout: str) -> None:
    record = export(run, layout=layout)
    network = load(run.export_path)
    with torch.no_grad():
        assert relative_difference(network(images), masked_logits(run, record["candidate"], images)) <= 1e-5
    assert not any(isinstance(module, Gate) for module in network.modules())
    assert not any("drop_logit" in name for name in network.state_dict())
    assert not network.training
    params = sum(parameter.numel() for parameter in network.parameters())
    assert params == record["params"] if layout == "gather" else params >= record["params"]
    assert record["layout"] == read_json(run.export_path / "config.json")["pgnas"]["layout"] == layout
    assert record["masked_difference"] <= 1e-5


def test_recalibrated_statistics_are_part_of_the_export(run: RunDirectory, images: torch.Tensor) -> None:
    """The fixture ranks with recalibration: the supernet's own statistics give other logits."""
    winner = read_json(run.rank_path / "ranking.json")["winner"]
    net = trained_supernet(run)
    chosen = next(candidate for candidate in read_candidates(run) if candidate.id == winner)
    with net.masked(chosen), torch.no_grad():
        assert relative_difference(net(images), load(run.export_path)(images)) > 1e-3


def test_what_is_loaded_can_be_trained_on(artifact: Path, images: torch.Tensor) -> None:
    network = load(artifact).train()
    before = network.get_parameter("backbone.fc.weight" if hasattr(network, "backbone") else "fc.weight").clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(network(images), torch.zeros(len(images), dtype=torch.long))
    torch.autograd.backward(loss)
    optimizer.step()
    after = network.get_parameter("backbone.fc.weight" if hasattr(network, "backbone") else "fc.weight")
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_a_fresh_process_loads_it_without_the_run(artifact: Path, tmp_path: Path) -> None:
    script = (
        "import sys, torch, pgnas_cli as pgnas; from safetensors.torch import load_file; "
        "proof = load_file(sys.argv[1] + '/pgnas.safetensors'); network = pgnas.load(sys.argv[1]); "
        "print(float((network(proof['probe_images']) - proof['probe_logits']).abs().max().detach()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(artifact)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert float(done.stdout) <= 1e-5


def test_probe_images_are_the_first_of_the_selection_split(artifact: Path) -> None:
    proof, _ = load_tensors(artifact / "pgnas.safetensors", hint="")
    assert torch.equal(proof["probe_images"], open_data("digits").probe(8))
    assert proof["probe_logits"].shape == (8, 10)


# ---- which candidate, which folder ----


def test_another_candidate_by_its_first_digits(run: RunDirectory, tmp_path: Path, images: torch.Tensor) -> None:
    winner, second, *_ = [row["id"] for row in read_jsonl(run.rank_path / "leaderboard.jsonl")]
    record = export(run, candidate=second[:6], output=tmp_path / "second")
    assert record["candidate"] == second != winner
    section = read_json(tmp_path / "second" / "config.json")["pgnas"]
    assert section["candidate"]["id"] == second
    assert (section["ranking"]["winner"], section["test_accuracy"]) == (False, None)
    assert "was not evaluated on the test split" in (tmp_path / "second" / "README.md").read_text()
    with torch.no_grad():
        logits = load(tmp_path / "second")(images)
    assert relative_difference(logits, masked_logits(run, second, images)) <= 1e-5


def folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def other_config(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"architecture": "resnet50"}')


@pytest.mark.parametrize("make", [folder_with_a_file, other_config, lambda path: path.write_text("a file")])
def test_a_folder_that_holds_something_else_is_left_alone(run: RunDirectory, tmp_path: Path, make) -> None:
    target = tmp_path / "mine"
    make(target)
    before = target.read_bytes() if target.is_file() else content(target)
    with pytest.raises(UsageError, match="no pgnas artifact") as error:
        export(run, output=target)
    assert "--output" in error.value.hint
    assert before == (target.read_bytes() if target.is_file() else content(target))
    assert not list(tmp_path.glob(".mine*"))


def test_an_empty_folder_and_an_older_artifact_are_filled(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(run, output=tmp_path / "empty")
    first = content(tmp_path / "empty")
    export(run, output=tmp_path / "empty", layout="dense")
    assert list(content(tmp_path / "empty")) == FILES
    assert content(tmp_path / "empty") != first


def test_a_relative_folder_is_found_again_from_elsewhere(run: RunDirectory, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here" / "now").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert export(run, output=Path("out"))["path"] == str(tmp_path / "here" / "out")
    monkeypatch.chdir(tmp_path / "here" / "now")
    export(run, output=Path("."))
    assert content(tmp_path / "here" / "now") == content(tmp_path / "here" / "out")


@pytest.mark.parametrize("layout", ["sparse", ""])
def test_an_unknown_layout(run: RunDirectory, layout: str) -> None:
    with pytest.raises(UsageError, match="gather or dense"):
        export(run, layout=layout)


def test_a_broken_compaction_writes_nothing(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgnas_cli.errors import PgnasError
    from pgnas_cli.supernet.supernet import Supernet

    before, plain = content(run.export_path), Supernet.compact

    def wrong(self, candidate, **kwargs):
        network = plain(self, candidate, **kwargs)
        with torch.no_grad():
            next(network.parameters()).mul_(1.01)
        return network

    monkeypatch.setattr(Supernet, "compact", wrong)
    with pytest.raises(PgnasError, match="differs from the masked one"):
        export(run)
    assert content(run.export_path) == before


def test_exporting_before_ranking_names_the_command(run: RunDirectory) -> None:
    run.forget("rank")
    with pytest.raises(RunError, match="no finished rank stage") as error:
        export(run)
    assert error.value.hint == f"pgnas rank --run {run.path}"


# ---- config.json and the card ----


def test_the_configuration_holds_what_the_run_measured(exported: RunDirectory) -> None:
    config = read_json(exported.export_path / "config.json")
    section, ranking = config["pgnas"], read_json(exported.rank_path / "ranking.json")
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 10
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert section["test_accuracy"] == ranking["test_accuracy"]
    assert section["selection_accuracy"] == ranking["selection_accuracy"]
    assert section["candidate"]["id"] == ranking["winner"]
    assert section["candidate"]["params"] == ranking["params"]
    assert section["supernet"]["params"] == exported.require("inflate")["params"]
    assert section["ranking"]["recalibrate"] == 64


def test_no_path_of_the_machine_is_published(exported: RunDirectory, artifact: Path) -> None:
    for name in FILES:
        data = (artifact / name).read_bytes()
        for place in (exported.path, exported.path.parent, Path.home(), Path.cwd()):
            assert len(str(place)) < 4 or str(place).encode() not in data
    assert not re.search(r'"/|[A-Z]:\\\\', (artifact / "config.json").read_text())
    assert not re.search(r"(?<![\w:/])/(?:tmp|home|root|work|Users)\b", (artifact / "README.md").read_text())


def test_a_folder_of_images_is_published_by_its_name_alone(run: RunDirectory) -> None:
    from pgnas_cli.export.export import describe

    manifest = json.loads(run.manifest_path.read_text())
    manifest["stages"]["train"]["data"].update(spec="folder:/srv/secret/photos", location="/srv/secret/photos")
    run.manifest_path.write_text(json.dumps(manifest))
    chosen = Choice(read_candidates(run)[0], "candidate")
    section = describe(run, chosen, read_json(run.rank_path / "ranking.json"), is_winner=False)
    assert section["data"]["spec"] == "folder:photos"
    assert "secret" not in json.dumps(section)


# ---- what is refused before anything is computed ----


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "notes.txt"}, "is no pgnas artifact: it is left alone"),
        ({"output": "notes.txt/deep"}, r"cannot be made: .*notes\.txt is a file"),
        ({"output": "/proc/exports/mine"}, "/proc/exports/mine cannot be made"),
        ({"license": "mit: [x"}, "is no identifier of a license"),
        ({"license": "Apache-2.0"}, "'Apache-2.0' is no identifier of a license"),
    ],
)
def test_a_bad_place_or_license_is_refused_at_once(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], says: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = content(run.export_path)
    if not options.get("output", "").startswith("/proc"):  # root may write anywhere that takes folders
        monkeypatch.setattr(RunDirectory, "begin", lambda *_: pytest.fail("the run was touched"))
    given = {key: tmp_path / value if key == "output" else value for key, value in options.items()}
    with pytest.raises(UsageError, match=says):
        export(run, **given)
    assert content(run.export_path) == before
    assert (tmp_path / "notes.txt").read_text() == "mine"
