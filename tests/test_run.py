"""The run directory: atomic writes, a validated manifest, and which run is meant."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.run import (
    OUTPUTS,
    STAGES,
    RunDirectory,
    append_jsonl,
    expect,
    load_tensors,
    read_json,
    read_jsonl,
    remove,
    replace_folder,
    save_tensors,
    write_bytes,
    write_json,
    write_jsonl,
)

MODEL = {"arch": "net"}


def new_run(path: Path, *stages: str, created: str | None = None) -> RunDirectory:
    """A run whose `stages` are done, with their outputs on disk."""
    run = RunDirectory.create(path, "net")
    run.write_manifest(MODEL, {"torch": "2"})
    if created is not None:
        write_json(run.manifest_path, run.manifest() | {"created": created})
    for stage in stages:
        for output in OUTPUTS[stage]:
            write_bytes(run.path / output if "." in output else run.path / output / "file", b"x")
        run.finish(stage, {"n": 1})
    return run


# ---- atomic writes ----


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "ü😀"}, {"a": 0.1, "b": None}]
    deep = tmp_path / "deep" / "er" / "one.json"
    write_json(deep, rows[0])
    assert read_json(deep) == rows[0]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    append_jsonl(tmp_path / "rows.jsonl", {"c": [1]})
    assert read_jsonl(tmp_path / "rows.jsonl") == [*rows, {"c": [1]}]
    append_jsonl(tmp_path / "new" / "log.jsonl", rows[0])
    assert read_jsonl(tmp_path / "new" / "log.jsonl") == rows[:1]
    write_bytes(tmp_path / "rows.jsonl", b"")
    assert read_jsonl(tmp_path / "rows.jsonl") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "new", "rows.jsonl"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from pgnas_cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[1])
try:
    {write}
except OSError as error:
    print(error.filename, error.strerror)
"""


@pytest.mark.parametrize(
    "write",
    [
        "run.write_bytes(path, bytes(5000))",
        "run.write_json(path, {'key': 'x' * 5000})",
        "run.write_jsonl(path, ({'row': i} for i in range(500)))",
    ],
)
@pytest.mark.parametrize("old", [b"the old file", None])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, write: str, old: bytes | None) -> None:
    target = tmp_path / "file"
    if old is not None:
        target.write_bytes(old)
    code = FULL_DISK.format(write=write)
    done = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True, check=True)
    assert done.stdout == f"{target} File too large\n"
    assert list(tmp_path.iterdir()) == ([target] if old is not None else [])
    if old is not None:
        assert target.read_bytes() == old


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, value: object) -> None:
    target = tmp_path / "file"
    target.write_text("{}")
    for write in (write_json, append_jsonl):
        with pytest.raises((ValueError, TypeError)):
            write(target, {"a": value})
    assert target.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [target]


# ---- reading ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[1]", "should hold a JSON object, not a list"),
        (b"null", "should hold a JSON object, not a NoneType"),
    ],
)
def test_files_that_are_no_json_object(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=rf"file\.json {message}") as error:
        read_json(path, hint="do this")
    assert error.value.hint == "do this"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"rows\.jsonl is missing"),
        (b'{"a": 1}\n{"a": ', r"rows\.jsonl, line 2, is not valid JSON"),
        (b'{"a": 1}\n\n{"a": 2}\n', "line 2, is not valid JSON"),
        (b'{"a": 1}\n3\n', "line 2, should hold a JSON object"),
        (b"\xff\n", r"rows\.jsonl is not valid JSON"),
    ],
)
def test_logs_that_are_broken_name_the_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_jsonl(path)


def test_a_text_with_odd_line_ends_stays_one_line(tmp_path: Path) -> None:
    row = {"a": "one\u2028two\x85three\nfour"}
    write_jsonl(tmp_path / "rows", [row, row])
    assert read_jsonl(tmp_path / "rows") == [row, row]


@pytest.mark.parametrize(
    ("value", "kind", "fine"),
    [
        (1, int, True),
        (1, float, True),
        (1.5, float, True),
        ("a", str, True),
        (None, (str, type(None)), True),
        (True, bool, True),
        (True, int, False),
        (True, float, False),
        (1.0, int, False),
        (None, str, False),
        ([], dict, False),
    ],
)
def test_expect_checks_the_type(value: object, kind: type | tuple[type, ...], fine: bool) -> None:
    if fine:
        assert expect({"key": value}, "key", kind, Path("file")) is value
    else:
        with pytest.raises(RunError, match="file: key 'key' should be"):
            expect({"key": value}, "key", kind, Path("file"))
    with pytest.raises(RunError, match="file: key 'other' is missing"):
        expect({"key": value}, "other", kind, Path("file"))


# ---- tensors ----


def test_tensors_and_metadata_are_read_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(5, dtype=torch.int64), "c": torch.ones(2).requires_grad_()}
    save_tensors(tmp_path / "file", tensors, {"key": "value"})
    found, metadata = load_tensors(tmp_path / "file", hint="")
    assert metadata == {"key": "value"}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert set(found) == set(tensors)
    save_tensors(tmp_path / "file", tensors)
    assert load_tensors(tmp_path / "file", hint="")[1] == {}


@pytest.mark.parametrize("keep", [0, 4, 8, 40, 0.5, -1])
def test_a_truncated_file_of_tensors_is_a_run_error(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "file"
    save_tensors(path, {"a": torch.randn(100)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(RunError, match="file is damaged or truncated") as error:
        load_tensors(path, hint="again")
    assert error.value.hint == "again"


def test_files_that_hold_no_tensors_are_run_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(500))
    for path, message in ((tmp_path / "file", "damaged"), (tmp_path / "none", "missing"), (tmp_path, "missing")):
        with pytest.raises(RunError, match=message):
            load_tensors(path, hint="")


# ---- the manifest ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run directory: it has no run.json"),
        ("{", r"run\.json is not valid JSON"),
        ("[]", "should hold a JSON object"),
        ({"model": {}, "stages": {}}, "key 'format' is missing"),
        ({"format": "1", "model": {}, "stages": {}}, "key 'format' should be int, not '1'"),
        ({"format": 2, "model": {}, "stages": {}}, "has format 2, this version reads up to 1"),
        ({"format": 1, "stages": {}}, "key 'model' is missing"),
        ({"format": 1, "model": [], "stages": {}}, "key 'model' should be dict"),
        ({"format": 1, "model": {}}, "key 'stages' is missing"),
        ({"format": 1, "model": {}, "stages": None}, "key 'stages' should be dict"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: object, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RunError, match=message) as error:
        RunDirectory.open(tmp_path)
    assert error.value.hint


def test_a_stage_that_is_no_object(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_json(run.manifest_path, run.manifest() | {"stages": {"inflate": 3}})
    with pytest.raises(RunError, match=r"stages\.inflate should be an object"):
        run.require("inflate")


def test_a_new_manifest_says_what_when_and_with_which(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    found = run.manifest()
    assert (found["format"], found["model"], found["versions"], found["stages"]) == (1, MODEL, {"torch": "2"}, {})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["created"])


# ---- which run ----


def test_the_order_is_argument_environment_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, created in (("b", "2026-01-02"), ("c", "2026-01-03"), ("a", "2026-01-01")):
        new_run(Path("runs") / name, created=created)
    new_run(Path("else"), created="2020-01-01")
    assert RunDirectory.open("runs/a", environ={"PGNAS_RUN": "else"}).path == Path("runs/a")
    assert RunDirectory.open(None, environ={"PGNAS_RUN": "else"}).path == Path("else")
    for environ in ({}, {"PGNAS_RUN": ""}):
        assert RunDirectory.open(None, environ=environ).path == Path("runs/c")
    monkeypatch.setenv("PGNAS_RUN", "runs/b")
    assert RunDirectory.open().path == Path("runs/b")


def test_an_old_damaged_run_does_not_hide_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    damaged = new_run(Path("runs/old"))
    damaged.manifest_path.write_text("{")
    long_ago = time.time() - 1e6
    os.utime(damaged.manifest_path, (long_ago, long_ago))
    newest = new_run(Path("runs/new"))
    assert RunDirectory.open(environ={}).path == newest.path
    os.utime(damaged.manifest_path, (time.time() + 1e6,) * 2)
    with pytest.raises(RunError, match="not valid JSON"):  # the newest is damaged: not silently another one
        RunDirectory.open(environ={})


def test_there_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    for given, environ, message in (
        (None, {}, r"there is no run under \./runs"),
        ("nowhere", {}, "no such run directory: nowhere"),
        (None, {"PGNAS_RUN": "nowhere"}, "no such run directory: nowhere"),
        ("runs/empty", {}, "it has no run.json"),
    ):
        with pytest.raises(RunError, match=message) as error:
            RunDirectory.open(given, environ=environ)
        assert "pgnas inflate" in error.value.hint


def test_new_runs_are_numbered(tmp_path: Path) -> None:
    paths = [RunDirectory.create(None, "family:a/b", root=tmp_path / "runs").path for _ in range(3)]
    assert [path.parent for path in paths] == [tmp_path / "runs"] * 3
    assert [re.fullmatch(r"family-a-b-\d{8}-(\d)", path.name)[1] for path in paths] == ["1", "2", "3"]


def test_a_run_takes_an_empty_folder_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", "net").path == tmp_path / "empty"
    assert RunDirectory.create(tmp_path / "a" / "b", "net").path.is_dir()
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="already exists"):
            RunDirectory.create(taken, "net")


# ---- stages ----


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_begins_after_the_one_before_it(tmp_path: Path, stage: str) -> None:
    position = STAGES.index(stage)
    new_run(tmp_path / "ready", *STAGES[:position]).begin(stage)
    new_run(tmp_path / "again", *STAGES[: position + 1]).begin(stage)
    if position:
        early = new_run(tmp_path / "early", *STAGES[: position - 1])
        with pytest.raises(RunError, match=f"has no finished {STAGES[position - 1]} stage") as error:
            early.begin(stage, force=True)
        assert error.value.hint == f"pgnas {STAGES[position - 1]} --run {early.path}"


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_that_was_used_begins_again_by_force(tmp_path: Path, stage: str) -> None:
    run = new_run(tmp_path / "run", *STAGES)
    later = STAGES[STAGES.index(stage) + 1 :]
    with pytest.raises(RunError, match=f"{' and '.join(later)} already used what {stage} wrote") as error:
        run.begin(stage)
    assert "--force" in error.value.hint
    run.begin(stage, force=True)


@pytest.mark.parametrize("stage", STAGES)
def test_forgetting_a_stage_drops_the_later_ones_and_their_files(tmp_path: Path, stage: str) -> None:
    run = new_run(tmp_path / "run", *STAGES)
    assert run.next_stage() is None
    position = STAGES.index(stage)
    run.forget(stage)
    assert list(run.manifest()["stages"]) == list(STAGES[:position])
    assert run.next_stage() == stage
    left = {output for kept in STAGES[: position + 1] for output in OUTPUTS[kept]}
    assert {path.name for path in run.path.iterdir()} == {"run.json", *left}


def test_a_finished_stage_is_recorded_with_its_time(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "inflate")
    run.finish("inflate", {"n": 2, "seconds": 0.5})
    record = run.require("inflate")
    assert record["n"] == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["finished"])
    assert run.stage("train") is None


# ---- folders ----


@pytest.mark.parametrize("there", [True, False])
def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path, there: bool) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    write_bytes(new / "file", b"new")
    if there:
        write_bytes(target / "other", b"old")
    replace_folder(new, target)
    assert list(tmp_path.iterdir()) == [target]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"file": b"new"}


def test_the_old_folder_stays_if_there_is_no_new_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "target" / "file", b"old")
    with pytest.raises(OSError, match="No such file"):
        replace_folder(tmp_path / "new", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "file").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_remove_does_not_follow_links(tmp_path: Path, kind: str) -> None:
    write_bytes(tmp_path / "kept" / "file", b"")
    it = tmp_path / "it"
    if kind == "link":
        it.symlink_to(tmp_path / "kept")
    else:
        write_bytes(it / "a" / "b" if kind == "folder" else it, b"")
    for _ in range(2):
        remove(it)
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
