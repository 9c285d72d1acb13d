"""What can fail in a push: one line each, what stands on the Hub then, the command to retry, and never a token."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_answers import Blob
from hub_server import LocalHub, nothing_listens, use
from huggingface_hub import constants, get_session

from pgnas_cli.errors import HubError, UsageError
from pgnas_cli.export import hub_client
from pgnas_cli.export.hub import fetch, parse_repo
from pgnas_cli.export.hub_push import push
from pgnas_cli.export.hub_target import PushOptions

TOKEN = "hf_alice_writes"
AGAIN = "pgnas export --run 'my run' --push-to-hub"
OPTIONS = PushOptions("net", again=AGAIN)
NOTHING = "nothing was changed on the Hub"
EMPTY = "alice/net was made and is empty: nothing was committed"


pytestmark = pytest.mark.usefixtures("cards_as_they_stand")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as local:
        use(monkeypatch, local.url, tmp_path / "home", TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    config = json.dumps({"pgnas": {"candidate": {"id": "0123456789ab"}}}).encode()
    for name, data in (("config.json", config), ("model.safetensors", b"weights" * 50_000),
                       ("pgnas.safetensors", b"proof"), ("README.md", b"card")):  # fmt: skip
        (tmp_path / "export" / name).write_bytes(data)
    return tmp_path / "export"


def failed(folder: Path, options: PushOptions = OPTIONS) -> HubError:
    """The error of a push: one line, with the command to retry, and the folder as it was."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HubError) as caught:
        push(folder, options)
    error = caught.value
    assert error.exit_code == 5
    assert "\n" not in f"{error}{error.hint}"
    assert error.hint.endswith(AGAIN)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shown = "".join(traceback.format_exception(error))
    assert TOKEN not in shown + error.hint
    return error


# ---- who may push ----


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, "cannot push to the Hub: no token of the Hugging Face Hub was found"),
        ("hf_nobody_at_all", "the Hub does not accept the token"),
        ("hf_alice_reads", "cannot push to alice/net: the token of alice may only read"),
        ("hf_alice writes", "the Hub does not accept the token in HF_TOKEN"),
        ("hf_alice_writes\N{EURO SIGN}", "a token has to be plain characters"),
    ],
)
def test_tokens(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, says: str) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    error = failed(folder)
    assert says in str(error)
    assert error.hint.startswith(
        "hf auth login, or HF_TOKEN=... with a token of https://huggingface.co/settings/tokens"
    )
    assert hub.changing() == []


@pytest.mark.parametrize("repo_id", ["bob/net", "club/net"])
def test_a_namespace_of_others(hub: LocalHub, folder: Path, repo_id: str) -> None:
    error = failed(folder, PushOptions("net", repo_id=repo_id, again=AGAIN))
    namespace = repo_id.split("/")[0]
    assert f"the token of alice may not write to {namespace}, only to alice, lab" in str(error)
    assert hub.changing() == []


# ---- where it fails ----

ANSWERS = [
    ("whoami", 401, "cannot push to the Hub: the Hub does not accept the token"),
    ("whoami", 500, "cannot push to the Hub: the Hub answers 500"),
    ("GET /api/models/alice/net$", 403, "cannot read alice/net: the token may not do that: made up"),
    ("repos/create", 403, f"cannot push to alice/net: the token may not do that: made up; {NOTHING}"),
    ("repos/create", 409, f"it is there already, or somebody else is changing it: made up; {NOTHING}"),
    ("repos/create", 429, f"cannot push to alice/net: too many requests: made up; {NOTHING}"),
    ("validate-yaml", 400, f"the Hub refuses the front matter of the card: .* - made up; {EMPTY}"),
    ("preupload", 403, f"cannot push to alice/net: the token may not do that: made up; {EMPTY}"),
    ("objects/batch", 413, f"cannot push to alice/net: the Hub has no room for it: made up; {EMPTY}"),
    ("PUT /storage", 500, f"cannot push to alice/net: the Hub answers 500: made up; {EMPTY}"),
    ("PUT /storage", 403, f"cannot push to alice/net: the token may not do that: made up; {EMPTY}"),
    ("/commit/", 412, f"somebody else has committed to it in the meantime: made up; {EMPTY}"),
    ("/commit/", 500, f"cannot push to alice/net: the Hub answers 500: made up; {EMPTY}"),
    ("/commit/", 404, f"cannot push to alice/net: the Hub answers 404: made up; {EMPTY}"),
    ("/tag/", 409, "made up; the network is there as commit [0-9a-f]{8}, without the tag"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "status", "says"), ANSWERS, ids=lambda part: str(part)[:20])
def test_a_refusal_says_what_stands_on_the_hub(hub: LocalHub, folder: Path, where: str, status: int, says: str) -> None:
    fault = hub.fail(where, status=status)
    options = PushOptions("net", tag="v1" if "tag" in where else None, again=AGAIN)
    assert re.search(says, str(failed(folder, options)))
    fault.times = 0
    pushed = push(folder, options)
    files = hub.repos["alice/net"].files()
    assert {name: files[name].data for name in files if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert pushed.revision == hub.repos["alice/net"].find("v1" if options.tag else "main")


READ = "GET /api/models/alice/net$"
STEPS = ("whoami", READ, "repos/create", "preupload", "objects/batch", "PUT /storage", "/commit/")


@pytest.mark.parametrize("where", STEPS)
@pytest.mark.parametrize("kind", ["silent", "cut"])
def test_no_step_waits_for_ever(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, kind: str
) -> None:
    monkeypatch.setattr(hub_client, "ANSWER", 0.4)
    hub.fail(where, kind=kind)
    start = time.monotonic()
    error = failed(folder)
    assert time.monotonic() - start < hub_client.ATTEMPTS * 0.4 + 5
    assert ("is silent: nothing was sent or taken for 0.4 s" if kind == "silent" else "the connection to") in str(error)
    unsure = "as far as is known: the last request was sent, and may have been carried out" in str(error)
    assert unsure is (where in ("repos/create", "/commit/"))
    asked = sum(re.search(where, str(request)) is not None for request in hub.requests)
    assert 1 <= asked <= 2 * hub_client.ATTEMPTS  # two files go to the storage
    if "alice/net" in hub.repos:
        assert list(hub.repos["alice/net"].files()) == [".gitattributes"]
        assert "nothing was committed" in str(error)


@pytest.mark.parametrize(
    ("asked", "connect", "read"), [({}, 10, 30), ({"timeout": None}, 10, 30), ({"timeout": 4}, 4, 4),
                                   ({"timeout": 600}, 10, 30)],
)  # fmt: skip
def test_a_request_has_limits_whatever_a_call_says(
    hub: LocalHub, asked: dict[str, float | None], connect: float, read: float
) -> None:
    with hub_client.bounded():
        answer = get_session().get(f"{hub.url}/api/models/alice/net", **asked)
    assert answer.request.extensions["timeout"] == {"connect": connect, "read": read, "write": read, "pool": read}


def test_an_upload_that_is_cut_off_once_goes_on(hub: LocalHub, folder: Path) -> None:
    hub.fail("PUT /storage", kind="cut", times=1)
    assert push(folder, OPTIONS).created
    assert hub.repos["alice/net"].files()["model.safetensors"].data == b"weights" * 50_000


def test_after_half_an_upload_only_the_rest_is_sent(hub: LocalHub, folder: Path) -> None:
    fault = hub.fail("/commit/", status=503)
    failed(folder)
    fault.times = 0
    hub.requests.clear()
    push(folder, OPTIONS)
    assert [request for request in hub.changing() if "/storage/" in request] == []


def test_a_storage_that_refuses_a_file(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"oid": "0" * 64, "size": 1, "error": {"code": 422, "message": "quota exceeded"}}
    monkeypatch.setattr("huggingface_hub._commit_api.post_lfs_batch_info", lambda **asked: ([], [refused], None))
    assert "the Hub's storage refuses a file" in (said := str(failed(folder)))
    assert "quota exceeded" in said


def test_a_commit_by_somebody_else_in_between(hub: LocalHub, folder: Path) -> None:
    push(folder, OPTIONS)
    (folder / "README.md").write_text("new")
    repo = hub.repos["alice/net"]
    with pytest.raises(
        HubError, match="somebody else has committed to it in the meantime: A commit has happened since"
    ):
        push(folder, OPTIONS, lambda done, total: done or repo.commit("main", {**repo.files(), "theirs": Blob(b"")}))
    assert {"theirs", "README.md"} <= repo.files().keys()
    assert repo.files()["README.md"].data == b"card"


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "3600"}), (503, {"Retry-After": "3600"}),
                                                 (429, {"RateLimit": '"api";r=0;t=3600'})])  # fmt: skip
def test_a_wait_of_an_hour_is_not_waited(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    hub.fail("preupload", status=status, headers=headers)
    failed(folder)
    assert slept == []


def test_no_network(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_listens() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert f"cannot push to the Hub: {address} cannot be reached: " in str(failed(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot push to the Hub: HF_HUB_OFFLINE is set" in str(failed(folder))


@pytest.mark.parametrize("body", [b"<html>a proxy's page</html>", b"[]", b"{}"])
def test_an_answer_that_is_none_of_the_hubs(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("hub_server.ROUTES", (("GET", "/api/whoami-v2", lambda handler: handler.send(body)),))
    assert "cannot push to " in str(failed(folder))


# ---- tokens ----


ECHOES = [(where, status) for where in STEPS for status in (400, 401, 403, 404, 500) if (where, status) != (READ, 404)]


@pytest.mark.parametrize(("where", "status"), ECHOES)
def test_a_hub_that_repeats_the_token(hub: LocalHub, folder: Path, where: str, status: int) -> None:
    hub.fail(where, status=status, message=f"Bearer {TOKEN} is bad, and so are {TOKEN} and hf_anotherToken12")
    error = failed(folder)
    everything = "".join(traceback.format_exception(error)) + error.hint
    assert "hf_another" not in everything
    assert ("<token>" in everything) is ((where, status) != ("whoami", 401))  # there huggingface_hub has its own words


def test_a_download_that_repeats_the_token(hub: LocalHub) -> None:
    hub.fail(".", status=500, message=f"{TOKEN} is bad")
    with pytest.raises(HubError, match="<token> is bad") as caught:
        fetch("alice/net")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_token_that_was_typed_as_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x-y/z/1234")
    monkeypatch.setenv("HF_TOKEN", "hf_abcd1234")
    with pytest.raises(UsageError, match="'<token>/net' holds a token") as caught:
        parse_repo("hf_abcd1234/net")
    assert "1234" not in f"{caught.value}{caught.value.hint}"
    monkeypatch.setenv("HF_TOKEN", "hf_x-y/z/1234")
    for name in ("hf_x-y/z/1234", "hf_abcd1234efgh", "alice/net@hf_abcd1234 efgh"):
        with pytest.raises(UsageError) as caught:
            parse_repo(name)
        assert "<token>" in str(caught.value)
        assert "1234" not in f"{caught.value}{caught.value.hint}"
