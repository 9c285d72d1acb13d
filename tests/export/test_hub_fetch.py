"""Downloading from a Hub: an artifact's own files, from the cache where there is no Hub, one clear error otherwise."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_answers import Blob
from hub_server import LocalHub, nothing_listens, use
from huggingface_hub import constants

from pgnas_cli.errors import HubError, UsageError
from pgnas_cli.export import hub_client
from pgnas_cli.export.hub import fetch

CONFIG = b'{"pgnas": {"files": {"model.safetensors": {}, "README.md": {}}}}'
ARTIFACT = {"config.json": CONFIG, "model.safetensors": b"weights" * 9_000, "pgnas.safetensors": b"proof",
            "README.md": b"card"}  # fmt: skip
OTHERS = {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "sub/config.json": b"{}", "weights.pkl": b"pickle"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as local:
        use(monkeypatch, local.url, tmp_path / "home", token=None)
        local.add("alice/net", ARTIFACT | OTHERS)
        yield local


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("redirects", [True, False])
def test_the_files_of_an_artifact_and_no_others(hub: LocalHub, redirects: bool) -> None:
    hub.redirects = redirects
    folder = fetch("alice/net", everything=True)
    assert content(folder) == ARTIFACT
    assert folder.name == hub.repos["alice/net"].find("main")
    before = len(hub.requests)
    assert fetch("alice/net", everything=True) == folder
    assert not any("/resolve/" in request.path for request in hub.requests[before:])


def test_each_kind_of_revision(hub: LocalHub) -> None:
    repo = hub.repos["alice/net"]
    old = repo.branches["main"]
    repo.tags["v1"] = old
    new = repo.commit("dev", {**repo.files(), "README.md": Blob(b"new")})
    for name, revision, commit in (
        ("alice/net@v1", None, old), ("alice/net@dev", None, new), (f"alice/net@{new}", None, new),
        ("alice/net", "dev", new), ("alice/net@dev", "dev", new), ("alice/net", None, old),
    ):  # fmt: skip
        assert fetch(name, revision, everything=True).name == commit
    with pytest.raises(UsageError, match="two revisions"):
        fetch("alice/net@v1", "dev", everything=True)


def test_a_private_repository_with_a_token(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("bob/secret", ARTIFACT, private=True)
    with pytest.raises(HubError, match="is private and no token is there") as error:
        fetch("bob/secret", everything=True)
    assert "hf auth login" in error.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_alice_writes")
    with pytest.raises(HubError, match="not the token's to see"):
        fetch("bob/secret", everything=True)
    monkeypatch.setenv("HF_TOKEN", "hf_bob_writes")
    assert content(fetch("bob/secret", everything=True)) == ARTIFACT


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("alice/nothing", "download alice/nothing: it does not exist on http://127.0.0.1", "hf auth login"),
        ("alice/net@v2", "alice/net has no revision 'v2'; did you mean v1?", "branches and tags: v1, main"),
        ("alice/gated", "download alice/gated: access to it has to be granted", "/alice/gated"),
        ("alice/other", "alice/other holds no network of pgnas: its config.json has no section 'pgnas'", ""),
        ("alice/none", "alice/none holds no network of pgnas: it has no config.json", ""),
        ("alice/huge", "its config.json has 4194305 bytes, at most 4194304 are read", "that pgnas export made"),
        ("alice/deep", "its config.json is not valid JSON: it is nested too deeply", "that pgnas export made"),
        ("alice/half", "alice/half holds no network of pgnas: it has no pgnas.safetensors", ""),
    ],
)
def test_what_cannot_be_downloaded(hub: LocalHub, name: str, says: str, hint: str) -> None:
    hub.repos["alice/net"].tags["v1"] = hub.repos["alice/net"].branches["main"]
    hub.add("alice/gated", ARTIFACT, gated=True)
    hub.add("alice/other", {"config.json": b"{}", "model.safetensors": b"theirs"})
    hub.add("alice/none", {"model.safetensors": b"theirs"})
    hub.add("alice/huge", {"config.json": b" " * (2**22 + 1), "model.safetensors": b"theirs"})
    hub.add("alice/deep", {"config.json": b"[" * 100_000, "model.safetensors": b"theirs"})
    hub.add("alice/half", {name: data for name, data in ARTIFACT.items() if name != "pgnas.safetensors"})
    with pytest.raises(HubError) as error:
        fetch(name, everything=True)
    assert says in str(error.value)
    assert hint in error.value.hint
    weights = [str(request) for request in hub.requests if "model.safetensors" in request.path]
    assert (weights == []) is (name != "alice/half")


def test_a_download_that_breaks_off_is_resumed(hub: LocalHub) -> None:
    hub.fail("GET /storage/", kind="cut", times=1)
    assert content(fetch("alice/net", everything=True)) == ARTIFACT


def test_a_download_that_never_ends_is_given_up(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "ANSWER", 0.4)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.fail("GET /storage/", kind="silent")
    with pytest.raises(HubError, match=r"download alice/net: http://127.0.0.1:\d+ is silent"):
        fetch("alice/net", everything=True)
    asked = Counter(request.path for request in hub.requests if "/storage/" in request.path)
    assert set(asked.values()) == {hub_client.ATTEMPTS}


# ---- without a Hub ----


def gone(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "refused":
        with nothing_listens() as address:
            monkeypatch.setattr(constants, "ENDPOINT", address)
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "silent":
        monkeypatch.setattr(hub_client, "ANSWER", 0.4)
        hub.fail(".", kind="silent")
    else:
        hub.fail(".", status=503, message="maintenance")


GONE = {
    "refused": "cannot be reached", "offline": "HF_HUB_OFFLINE is set", "silent": "is silent: nothing was sent",
    "broken": "the Hub answers 503: maintenance",
}  # fmt: skip


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("name", ["alice/net", "alice/net@v1"])
def test_a_complete_snapshot_serves_without_a_hub(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, how: str, name: str
) -> None:
    hub.repos["alice/net"].tags["v1"] = hub.repos["alice/net"].branches["main"]
    folder = fetch(name, everything=True)
    gone(hub, monkeypatch, how)
    assert fetch(name, everything=True) == folder
    assert fetch(f"alice/net@{folder.name}", everything=True) == folder


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("lacks", ["model.safetensors", "README.md", "everything"])
def test_an_incomplete_snapshot_does_not(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, how: str, lacks: str) -> None:
    folder = fetch("alice/net", everything=True)
    if lacks == "everything":
        shutil.rmtree(folder)
    else:
        (folder / lacks).unlink()
    gone(hub, monkeypatch, how)
    with pytest.raises(HubError, match=f"cannot download alice/net: .*{GONE[how]}"):
        fetch("alice/net", everything=True)


def test_what_is_refused_is_not_taken_from_the_cache(hub: LocalHub) -> None:
    fetch("alice/net", everything=True)
    del hub.repos["alice/net"]
    with pytest.raises(HubError, match="does not exist"):
        fetch("alice/net", everything=True)


def test_the_programs_own_client_is_left_as_it_was(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import get_session, utils

    bars, xet, before = utils.are_progress_bars_disabled(), constants.HF_HUB_DISABLE_XET, type(get_session())
    fetch("alice/net", everything=True)
    hub.fail(".", status=404, message="gone")
    with pytest.raises(HubError):
        fetch("alice/net", everything=True)
    assert (utils.are_progress_bars_disabled(), constants.HF_HUB_DISABLE_XET) == (bars, xet)
    assert type(get_session()) is before is not hub_client._Client
