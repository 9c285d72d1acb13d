"""Verification beyond the artifact's own arithmetic: its files, timm, ONNX Runtime, torch.export and the Hub."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_answers import Blob
from hub_server import LocalHub, use

from pgnas_cli.__main__ import main
from pgnas_cli.errors import RunError
from pgnas_cli.export import hub_client, replay
from pgnas_cli.export import verify as verifying
from pgnas_cli.export.export import export
from pgnas_cli.export.loading import locate
from pgnas_cli.export.verify import Verification, verify
from pgnas_cli.run import RunDirectory

ONNX, PT2 = "model.onnx", "model.pt2"


@pytest.fixture(scope="module")
def complete(exported: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: a copy of the run whose export has every file."""
    run = RunDirectory(shutil.copytree(exported.path, tmp_path_factory.mktemp("complete") / "run"))
    export(run, onnx=True, pt2=True)
    return run


@pytest.fixture
def folder(complete: RunDirectory, tmp_path: Path) -> Path:
    """The folder of that export alone."""
    return Path(shutil.copytree(complete.export_path, tmp_path / "folder"))


def failed(found: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in found.checks if not check.passed}


def test_every_link_of_a_folder_holds(complete: RunDirectory) -> None:
    found = verify(complete.export_path)
    names = ["files = listed", "reloaded = exported", "timm = reloaded", "ONNX = reloaded", "pt2 = reloaded",
             "masked = compact", "masked = reloaded"]  # fmt: skip
    assert [check.name for check in found.checks][-7:] == names
    assert (failed(found), found.skipped) == ({}, {})
    differences = {check.name: check.difference for check in found.checks}
    assert differences["timm = reloaded"] == 0.0
    assert differences["ONNX = reloaded"] > 0.0  # another arithmetic: 0 would mean that it has not been used


# ---- files -------------------------------------------------------------------------------------------------


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def link_out(folder: Path) -> None:
    shutil.move(folder / "architecture.png", folder.parent / "elsewhere.png")
    (folder / "architecture.png").symlink_to(folder.parent / "elsewhere.png")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip("architecture.png"), "architecture.png"),
        (lambda folder: (folder / ONNX).unlink(), ONNX),
        (lambda folder: (folder / "front.png").write_bytes(b"png"), "front.png"),
        (link_out, "architecture.png"),
        (lambda folder: (folder / "architecture.png").write_bytes(b"png"), "architecture.png"),
    ],
    ids=["a byte", "missing", "not listed", "a link that leads out", "another size"],
)
def test_a_file_that_is_not_the_listed_one(folder: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(folder)
    assert failed(verify(folder))["files = listed"] == f"not as listed: {named}"


def test_the_card_and_foreign_files_may_change(folder: Path) -> None:
    (folder / "README.md").write_text("edited")
    (folder / "notes.txt").write_text("mine")
    assert verify(folder).passed


def test_an_artifact_of_an_older_version(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["pgnas"]["files"], config["model_args"]
    (folder / "config.json").write_text(json.dumps(config))
    found = verify(folder)
    assert found.passed
    assert "older version" in found.skipped["files = listed"]
    assert "older version" in found.skipped["timm = reloaded"]


# ---- ONNX --------------------------------------------------------------------------------------------------


def test_an_onnx_file_of_other_weights_fails(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / ONNX)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.raw_data = bias.raw_data[4:] + bias.raw_data[:4]
    onnx.save(model, folder / ONNX)
    found = verify(folder)
    assert set(failed(found)) == {"files = listed", "ONNX = reloaded"}
    assert next(c.difference for c in found.checks if c.name == "ONNX = reloaded") > 1e-3


def test_an_onnx_file_that_is_none_fails_with_its_reason(folder: Path) -> None:
    (folder / ONNX).write_bytes(b"\x08no protobuf")
    found = verify(folder)
    assert failed(found)["ONNX = reloaded"].startswith("ONNX Runtime refuses model.onnx")
    check = next(check for check in found.to_json()["checks"] if check["name"] == "ONNX = reloaded")
    assert (check["difference"], check["passed"]) == (None, False)


def test_onnx_weights_outside_the_folder_are_not_read(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / ONNX)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    (folder.parent / "secret.bin").write_bytes(bias.raw_data)
    bias.ClearField("raw_data")
    bias.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../secret.bin", "offset": "0", "length": "40"}.items():
        entry = bias.external_data.add()
        entry.key, entry.value = key, value
    (folder / ONNX).write_bytes(model.SerializeToString())
    assert "refuses model.onnx" in failed(verify(folder))["ONNX = reloaded"]


def test_what_is_not_there_is_skipped(artifact: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = verify(artifact).skipped
    assert alone["ONNX = reloaded"] == "it has no model.onnx: pgnas export --onnx writes one"
    assert alone["pt2 = reloaded"] == "it has no model.pt2: pgnas export --pt2 writes one"
    monkeypatch.setattr(replay.importlib.util, "find_spec", lambda name: None)
    found = verify(folder)
    assert found.skipped["ONNX = reloaded"] == "ONNX Runtime is not installed: pip install 'pgnas[onnx]'"
    assert found.passed


# ---- pt2 ---------------------------------------------------------------------------------------------------


class _Writes:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "code ran"))


@pytest.fixture
def hostile(folder: Path) -> Path:
    """A model.pt2 that writes a file when it is loaded, listed in the configuration with its own digest; that file."""
    mark, old, new = folder.parent / "mark", folder / PT2, folder.parent / "new.pt2"
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        listing = next(name for name in source.namelist() if name.endswith("model_weights_config.json"))
        config = json.loads(source.read(listing))
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        poisoned = {
            listing: json.dumps(config).encode(),
            f"archive/data/weights/{first['path_name']}": pickle.dumps(_Writes(mark)),
        }
        for entry in source.infolist():
            target.writestr(entry.filename, poisoned.pop(entry.filename, None) or source.read(entry))
        assert not poisoned
    new.replace(old)
    return mark


def test_a_pt2_file_of_unknown_content_is_not_loaded(folder: Path, hostile: Path) -> None:
    found = verify(folder)
    assert not hostile.exists()
    assert "any code: --trust-pt2" in found.skipped["pt2 = reloaded"]
    assert set(failed(found)) == {"files = listed"}
    verify(folder, trust_pt2=True)
    assert hostile.exists()  # so it was a danger


def test_a_pt2_file_that_is_none_fails_where_it_is_trusted(folder: Path) -> None:
    (folder / PT2).write_bytes(b"no archive")
    assert "refuses" not in verify(folder).skipped["pt2 = reloaded"]
    assert failed(verify(folder, trust_pt2=True))["pt2 = reloaded"].startswith("torch refuses model.pt2")


def test_a_trusted_pt2_file_of_another_network_fails(folder: Path, exported: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(shutil.copytree(exported.path, tmp_path / "run"))
    ids = [
        row["id"] for row in map(json.loads, (other.path / "candidates.jsonl").read_text().splitlines()) if "id" in row
    ]
    winner = other.require("export")["candidate"]
    export(other, candidate=next(each for each in ids if each != winner), pt2=True, output=tmp_path / "other")
    shutil.copy(tmp_path / "other" / PT2, folder / PT2)
    found = verify(folder, trust_pt2=True)
    assert set(failed(found)) == {"files = listed", "pt2 = reloaded"}


# ---- timm --------------------------------------------------------------------------------------------------


def test_timm_refusing_is_a_link_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RunError("not with me", "")

    monkeypatch.setattr("pgnas_cli.timm_models.load_folder", refuse)
    assert failed(verify(folder)) == {"timm = reloaded": "not with me"}


# ---- the Hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(complete: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub that has the export, without model.pt2, as alice/net."""
    with LocalHub() as local:
        use(monkeypatch, local.url, tmp_path / "home", token=None)
        monkeypatch.setattr(hub_client, "ANSWER", 0.3)
        files = {path.name: path.read_bytes() for path in complete.export_path.iterdir()}
        local.add("alice/net", files | {"README.md": b"---\n---\nof the Hub"})
        yield local


def test_a_download_is_what_the_hub_lists_and_what_was_exported(hub: LocalHub, complete: RunDirectory) -> None:
    found = verify("alice/net", complete)
    names = [check.name for check in found.checks]
    assert names[-4:] == ["masked = compact", "masked = reloaded", "downloaded = on the Hub", "downloaded = exported"]
    assert (failed(found), found.skipped) == ({}, {})
    commit = hub.repos["alice/net"].find("main")
    assert found.checks[-2].detail == f"commit {commit[:8]}"
    assert found.checks[-1].detail == "6 files byte for byte, without README.md"


def test_a_download_that_was_changed_afterwards(hub: LocalHub) -> None:
    snapshot, _ = locate("alice/net", everything=True)
    (snapshot / "architecture.png").resolve().write_bytes(b"png")
    found = verify("alice/net@main")
    assert set(failed(found)) == {"files = listed", "downloaded = on the Hub"}
    assert failed(found)["downloaded = on the Hub"].endswith(": architecture.png")
    assert "--run" in found.skipped["downloaded = exported"]


def test_a_snapshot_without_the_hub(hub: LocalHub, run: RunDirectory) -> None:
    locate("alice/net", everything=True)
    hub.fail("GET /api/models", status=500)
    found = verify("alice/net", run)
    assert "the snapshot in the cache was used" in found.skipped["downloaded = on the Hub"]
    assert failed(found) == {"downloaded = exported": "differ: config.json, model.onnx, model.pt2"}


def test_a_run_whose_export_is_another_candidate(hub: LocalHub, run: RunDirectory) -> None:
    record = run.require("export")
    run.finish("export", {**record, "candidate": "0123456789abcdef"})
    found = verify("alice/net", run)
    assert "candidate 0123456789abcdef" in found.skipped["downloaded = exported"]
    shutil.rmtree(run.export_path)
    run.finish("export", record)
    assert "is not there" in verify("alice/net", run).skipped["downloaded = exported"]


def test_whose_plugins_are_trusted(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def read(path: Path, *, trust_plugins: bool) -> None:
        asked.append(trust_plugins)
        raise RunError("stop", "")

    monkeypatch.setattr(verifying, "read_artifact", read)
    for name, options in (("alice/net", {}), ("alice/net", {"trust_plugins": True}), (folder, {})):
        with pytest.raises(RunError, match="stop"):
            verify(name, **options)
    assert asked == [False, True, True]


# ---- the command -------------------------------------------------------------------------------------------


def test_what_the_command_prints(
    hub: LocalHub, complete: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "alice/net", "--run", str(complete.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["path"], document["passed"], document["skipped"]) == ("alice/net", True, {})
    assert len(document["checks"]) == 13
    hub.repos["alice/net"].commit("main", {**hub.repos["alice/net"].files(), ONNX: Blob(b"none", True)})
    assert main(["verify", "alice/net"]) == 1
    out, err = capsys.readouterr()
    lines = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert " FAILS " in lines["ONNX = reloaded"]
    assert " inf " in lines["ONNX = reloaded"]
    assert " holds " in lines["timm = reloaded"]
    assert " skipped " in lines["masked = reloaded"]
    assert "error: alice/net does not verify: files = listed, ONNX = reloaded" in err
