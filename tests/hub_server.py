"""A small Hub on 127.0.0.1: what the real client of huggingface_hub asks for when it pushes and downloads models.

    with LocalHub() as hub:
        HfApi(endpoint=hub.url, token="hf_alice_writes").create_repo("alice/net")

It keeps repositories as the Hub does (commits, branches, tags, large files in a storage with another address), logs
every request, and fails where it is told to: `hub.fail("PUT /storage", kind="cut")`.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hub_answers import ATTRIBUTES, LARGE, MAIN, ROUTES, USERS, Blob, Refusal, Repo, User


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    authorized: bool
    received: int

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def changes(self) -> bool:
        """Whether it may change something on the Hub."""
        harmless = re.search(r"/preupload/|/validate-yaml|/paths-info", self.path)
        return self.method not in ("GET", "HEAD") and not harmless


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD /path` holds `pattern`.

    kind "answer" sends `status` with `message`; "silent" never answers; "cut" closes the connection after half of the
    request's or of the answer's body.
    """

    pattern: str
    kind: Literal["answer", "silent", "cut"] = "answer"
    status: int = 500
    message: str = "made up"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000


class LocalHub:
    """The server, as a context manager.

    `page` is how many entries of a tree one answer lists; `redirects` sends downloads of large files to the storage.
    """

    def __init__(self, users: dict[str, User] | None = None) -> None:
        self.users = USERS if users is None else users
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.page, self.redirects = 1000, True
        self.closing = threading.Event()
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.storage_url = f"http://localhost:{self.server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, **how: Any) -> Fault:
        """Let requests fail from now on; see `Fault`."""
        self.faults.append(Fault(pattern, **how))
        return self.faults[-1]

    def fault_of(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, str(request)):
                fault.times -= 1
                return fault
        return None

    def add(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """Put a repository there, past the protocol."""
        repo = self.repos[repo_id] = Repo(private, gated)
        blobs = {name: Blob(data, name.endswith(LARGE)) for name, data in files.items()}
        repo.commit(MAIN, {".gitattributes": Blob(ATTRIBUTES), **blobs})
        return repo

    def changing(self) -> list[str]:
        """The requests so far that may have changed something, as `METHOD /path`."""
        return [str(request) for request in self.requests if request.changes]


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    cut = False

    def log_message(self, *arguments: object) -> None:
        """Print nothing: `LocalHub.requests` is the log."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        bearer = self.headers.get("Authorization", "")
        request = Request(self.command, unquote(self.path), bool(bearer), length)
        self.hub.requests.append(request)
        fault = self.hub.fault_of(request)
        self.cut = fault is not None and fault.kind == "cut"
        if fault is not None and fault.kind == "silent":
            self.hub.closing.wait()
            self.close_connection = True
            return
        if self.cut and length:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        try:
            if fault is not None and fault.kind == "answer":
                raise Refusal(fault.status, fault.message, fault.code)
            self.user = self.hub.users.get(bearer.removeprefix("Bearer "))
            if bearer and self.user is None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            self.dispatch()
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
            errors = {"error": str(refusal), "errors": [{"message": str(refusal)}]}
            self.send(errors, status=refusal.status, headers=headers | (fault.headers if fault else {}))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def dispatch(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        for methods, pattern, function in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match and self.command in methods.split():
                function(self, *(unquote(group or "") for group in match.groups()))
                return
        raise Refusal(404, f"no route for {self.command} {self.path}")

    def send(self, body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.cut else data)
        self.wfile.flush()
        self.close_connection = self.close_connection or self.cut

    # what is asked for ----

    def signed_in(self) -> User:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def repo(self, repo_id: str, *, write: bool = False) -> Repo:
        repo, namespace = self.hub.repos.get(repo_id), repo_id.split("/")[0]
        member = self.user is not None and (namespace in (self.user.name, *self.user.orgs))
        if repo is None or (repo.private and not member):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not (self.signed_in().may_write(namespace) and self.signed_in().role != "read"):
            raise Refusal(403, f"You have read access but not the required permissions for {repo_id}")
        return repo

    def commit_of(self, repo: Repo, revision: str) -> str:
        sha = repo.find(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def nothing_listens() -> Iterator[str]:
    """An address where no server is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    server.server_close()
    yield address


def use(monkeypatch: pytest.MonkeyPatch, url: str, home: Path, token: str | None = "hf_alice_writes") -> None:
    """Let huggingface_hub talk to the Hub at `url` from within this process, with a cache and a token of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    for name, value in (("ENDPOINT", url), ("HF_HUB_CACHE", str(home / "hub")), ("HF_TOKEN_PATH", str(home / "token"))):
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


def environment(url: str, home: Path, token: str | None = "hf_alice_writes") -> dict[str, str]:
    """The same for another process: variables to add."""
    found = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return found if token is None else {**found, "HF_TOKEN": token}
