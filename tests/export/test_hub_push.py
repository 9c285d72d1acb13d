"""Pushing to a Hub: one commit, nothing twice, and nothing of others is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_answers import Blob
from hub_server import LocalHub, use

from pgnas_cli.errors import HubError, UsageError
from pgnas_cli.export.hub import FILES, parse_repo
from pgnas_cli.export.hub_push import compare, files_of, push
from pgnas_cli.export.hub_target import PushOptions, default_name, find_destination

NAMES = ("config.json", "model.safetensors", "pgnas.safetensors", "README.md", "architecture.png")
CONFIG = json.dumps({"pgnas": {"candidate": {"id": "0123456789ab"}}}).encode()
ARTIFACT = {"config.json": CONFIG, "model.safetensors": b"weights" * 30_000, "pgnas.safetensors": b"proof",
            "README.md": b"---\nlicense: mit\n---\nA card.", "architecture.png": b"picture"}  # fmt: skip


pytestmark = pytest.mark.usefixtures("cards_as_they_stand")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as local:
        use(monkeypatch, local.url, tmp_path / "home")
        yield local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    for name, data in ARTIFACT.items():
        (tmp_path / "export" / name).write_bytes(data)
    return tmp_path / "export"


def content(hub: LocalHub, repo_id: str = "alice/net", revision: str = "main") -> dict[str, bytes]:
    files = hub.repos[repo_id].files(revision)
    return {name: blob.data for name, blob in files.items() if name != ".gitattributes"}


def commits(hub: LocalHub) -> list[str]:
    return [request for request in hub.changing() if "/commit/" in request]


def test_the_first_push_makes_the_repository_and_one_commit(hub: LocalHub, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    pushed = push(folder, PushOptions("net"), lambda done, total: steps.append((done, total)))
    assert content(hub) == ARTIFACT
    assert len(commits(hub)) == 1
    assert (pushed.repo_id, pushed.name, pushed.url) == ("alice/net", "alice/net", f"{hub.url}/alice/net")
    assert pushed.revision == hub.repos["alice/net"].find("main")
    assert (pushed.created, pushed.uploaded, pushed.unchanged, pushed.removed) == (True, NAMES, (), ())
    assert {name for name, blob in hub.repos["alice/net"].files().items() if blob.large} == {*NAMES[1:3]}
    total = sum(map(len, ARTIFACT.values()))
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, total), (total, total))
    assert any(0 < done < total for done, _ in steps)


def test_the_second_push_sends_nothing(hub: LocalHub, folder: Path) -> None:
    first = push(folder, PushOptions("net"))
    before = hub.changing()
    second = push(folder, PushOptions("net"))
    assert hub.changing() == before
    assert (second.revision, second.uploaded, second.unchanged) == (first.revision, (), NAMES)
    assert not second.created


def test_only_what_has_changed_is_sent_and_old_files_go(hub: LocalHub, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"onnx")
    push(folder, PushOptions("net"))
    hub.repos["alice/net"].files()["notes.txt"] = Blob(b"mine")
    (folder / "model.onnx").unlink()
    (folder / "README.md").write_text("Another card.")
    (folder / "secret.txt").write_text("not part of an artifact")
    hub.requests.clear()
    pushed = push(folder, PushOptions("net"))
    assert (pushed.uploaded, pushed.removed) == (("README.md",), ("model.onnx",))
    assert set(pushed.unchanged) == {*NAMES} - {"README.md"}
    assert content(hub) == {**ARTIFACT, "README.md": b"Another card.", "notes.txt": b"mine"}
    assert len(commits(hub)) == 1
    assert not any("/storage/" in request for request in hub.changing())


def test_what_the_storage_holds_is_not_sent_again(hub: LocalHub, folder: Path) -> None:
    push(folder, PushOptions("net"))
    hub.requests.clear()
    push(folder, PushOptions("other"))
    assert content(hub, "alice/other") == ARTIFACT
    assert not any("/storage/" in request for request in hub.changing())


def test_a_long_listing_comes_in_pages(hub: LocalHub, folder: Path) -> None:
    push(folder, PushOptions("net"))
    hub.page = 2
    assert set(compare(files_of(folder), find_destination(PushOptions("net"))).unchanged) == {*NAMES}


def test_the_token_goes_to_the_hub_alone(hub: LocalHub, folder: Path) -> None:
    push(folder, PushOptions("net"))
    storage = [request.authorized for request in hub.requests if request.path.startswith("/storage/")]
    others = [request.authorized for request in hub.requests if request.path.startswith(("/api/models", "/alice"))]
    assert (set(storage), set(others)) == ({False}, {True})


@pytest.mark.parametrize(("private", "visible"), [(True, True), (False, False), (None, False)])
def test_visibility_of_a_new_repository(hub: LocalHub, folder: Path, private: bool | None, visible: bool) -> None:
    push(folder, PushOptions("net", private=private))
    assert hub.repos["alice/net"].private is visible


def test_an_organisation(hub: LocalHub, folder: Path) -> None:
    assert push(folder, PushOptions("run", repo_id="lab/net")).name == "lab/net"
    assert content(hub, "lab/net") == ARTIFACT


# ---- branches and tags ----


def test_a_branch_is_made_where_it_is_not_there(hub: LocalHub, folder: Path) -> None:
    push(folder, PushOptions("net"))
    (folder / "README.md").write_text("Another card.")
    pushed = push(folder, PushOptions("net", branch="small/v2"))
    assert (pushed.branch, pushed.name) == ("small/v2", "alice/net@small/v2")
    assert content(hub) == ARTIFACT
    assert content(hub, revision="small/v2") == {**ARTIFACT, "README.md": b"Another card."}
    assert pushed.uploaded == ("README.md",)
    before = hub.changing()
    push(folder, PushOptions("net", branch="small/v2"))
    assert hub.changing() == before


def test_a_new_repository_with_a_branch(hub: LocalHub, folder: Path) -> None:
    push(folder, PushOptions("net", branch="try"))
    assert (content(hub), content(hub, revision="try")) == ({}, ARTIFACT)


def test_a_tag_on_the_commit_and_on_one_that_is_there(hub: LocalHub, folder: Path) -> None:
    first = push(folder, PushOptions("net", tag="v1"))
    assert (first.name, hub.repos["alice/net"].tags) == ("alice/net@v1", {"v1": first.revision})
    assert push(folder, PushOptions("net", tag="v1")).revision == first.revision
    push(folder, PushOptions("net", tag="v1.0"))
    assert hub.repos["alice/net"].tags == {"v1": first.revision, "v1.0": first.revision}
    assert len(commits(hub)) == 1


@pytest.mark.parametrize("moved_on", [False, True])
def test_a_tag_is_never_moved(hub: LocalHub, folder: Path, moved_on: bool) -> None:
    first = push(folder, PushOptions("net", tag="v1"))
    (folder / "README.md").write_text("Another card.")
    if moved_on:
        push(folder, PushOptions("net"))
    before = hub.changing()
    with pytest.raises(
        HubError, match=f"tag v1 of alice/net names another commit already .{first.revision[:8]}"
    ) as error:
        push(folder, PushOptions("net", tag="v1", again="pgnas export --tag v1"))
    assert error.value.hint == (
        "choose another name, or: hf repos tag delete alice/net v1; then: pgnas export --tag v1"
    )
    assert hub.changing() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PushOptions("net", tag="dev"), "has a branch that is called 'dev'"),
        (PushOptions("net", branch="v1"), "has a tag that is"),
    ],
)
def test_a_name_that_is_something_else_already(hub: LocalHub, folder: Path, options: PushOptions, says: str) -> None:
    push(folder, PushOptions("net", tag="v1"))
    push(folder, PushOptions("net", branch="dev"))
    before = hub.changing()
    with pytest.raises(HubError, match=says):
        push(folder, options)
    assert hub.changing() == before


# ---- what is refused before anything is sent ----


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b'{"architecture": "resnet50"}', "model.safetensors": b"theirs"},
        {"pytorch_model.bin": b"theirs"},
        {"config.json": b"no json"},
        {"config.json": b"[]"},
        {"train.py": b"code"},
    ],
)
def test_a_repository_of_another_kind(hub: LocalHub, folder: Path, files: dict[str, bytes]) -> None:
    hub.add("alice/net", files)
    with pytest.raises(HubError, match=f"holds something else than a network of pgnas, such as {next(iter(files))}"):
        push(folder, PushOptions("net"))
    assert (content(hub), hub.changing()) == (files, [])


def test_an_empty_repository_is_filled(hub: LocalHub, folder: Path) -> None:
    hub.add("alice/net", {"README.md": b"soon", "LICENSE.txt": b"MIT", ".gitignore": b""})
    pushed = push(folder, PushOptions("net"))
    assert (pushed.created, pushed.uploaded) == (False, NAMES)
    assert content(hub)["LICENSE.txt"] == b"MIT"


@pytest.mark.parametrize(("there", "asked", "option"), [(False, True, "--private"), (True, False, "--public")])
def test_the_visibility_of_a_repository_is_not_changed(
    hub: LocalHub, folder: Path, there: bool, asked: bool, option: str
) -> None:
    push(folder, PushOptions("net", private=there))
    before = hub.changing()
    with pytest.raises(HubError, match=f"{option} was given") as error:
        push(folder, PushOptions("net", private=asked))
    assert error.value.hint.startswith(f"hf repos settings alice/net {option}")
    assert hub.changing() == before
    assert push(folder, PushOptions("net")).uploaded == ()


def test_a_folder_that_is_no_artifact(hub: LocalHub, folder: Path) -> None:
    (folder / "pgnas.safetensors").unlink()
    with pytest.raises(UsageError, match="holds no exported network"):
        push(folder, PushOptions("net"))
    assert hub.requests == []


# ---- names ----


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alice/net", ("alice/net", None)),
        ("alice/net@v1", ("alice/net", "v1")),
        ("a-b_c/n.e-t_1@refs/pr/3", ("a-b_c/n.e-t_1", "refs/pr/3")),
        ("alice/net@" + "0" * 40, ("alice/net", "0" * 40)),
    ],
)
def test_names_of_repositories(name: str, parts: tuple[str, str | None]) -> None:
    assert parse_repo(name) == parts


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("net", "no repository"), ("", "no repository"), ("a/b/c", "no repository"), ("alice/", "no repository"),
        ("/net", "no repository"), ("alice/-net", "no repository"), ("alice/n--t", "no repository"),
        ("alice/..", "no repository"), ("../net", "no repository"), ("alice/net.git", "no repository"),
        ("alice/n\N{LATIN SMALL LETTER E WITH ACUTE}t", "no repository"), ("alice/n t", "no repository"),
        ("alice/" + "n" * 97, "no repository"), ("datasets/alice/net", "one of the Hub's datasets"),
        ("spaces/alice", "one of the Hub's spaces"), ("https://huggingface.co/alice/net", "an address"),
        ("alice/net@", "the revision of"), ("alice/net@a..b", "the revision of"), ("alice/net@a b", "the revision of"),
        ("alice/net@/a", "the revision of"), ("alice/net@a.lock", "the revision of"), ("alice/net\n", "no repository"),
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_repository(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_repo(name)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("resnet50-20260101-1", "resnet50-20260101-1"),
        ("my run: no. 1", "my-run-no.-1"),
        ("--x..y--z.git", "x-y-z"),
        ("\N{GREEK SMALL LETTER ALPHA}", "pgnas"),
        ("n" * 95 + "-n", "n" * 95),
        ("-..-", "pgnas"),
    ],
)
def test_the_name_of_a_run_becomes_one_of_the_hub(run: str, name: str) -> None:
    assert default_name("alice", run) == f"alice/{name}"
    assert parse_repo(f"alice/{name}") == (f"alice/{name}", None)


@pytest.mark.parametrize(
    "options", [{"repo_id": "net"}, {"branch": "a b"}, {"tag": ""}, {"tag": "main"}, {"branch": "x", "tag": "x"}]
)
def test_options_that_cannot_be(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        PushOptions("run", **options)  # type: ignore[arg-type]


def test_the_files_of_an_artifact_hold_no_pickle_and_no_code() -> None:
    assert {Path(name).suffix for name in FILES} == {".json", ".safetensors", ".md", ".png", ".onnx", ".pt2"}
