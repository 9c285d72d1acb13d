"""What the Hub of hub_server.py keeps, and its answers: one function for each call of the real client."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from hub_server import Handler

MAIN = "main"
LARGE = (".safetensors", ".onnx", ".pt2", ".bin")  # the endings that a new repository keeps in the storage
ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE).encode()


@dataclass(frozen=True)
class User:
    """Who a token belongs to: `orgs` maps organisations to the role there; `role` is the token's."""

    name: str
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)

    def may_write(self, namespace: str) -> bool:
        return namespace == self.name or self.orgs.get(namespace, "read") != "read"


USERS = {
    "hf_alice_writes": User("alice", orgs={"lab": "write", "club": "read"}),
    "hf_alice_reads": User("alice", role="read"),
    "hf_bob_writes": User("bob"),
}


@dataclass(frozen=True)
class Blob:
    """A file's bytes; `large` if the repository holds a pointer to the storage."""

    data: bytes
    large: bool = False

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class Repo:
    """A model repository: commits by id, each with all its files."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        seed = f"{len(self.commits)} {branch} {sorted((name, blob.oid) for name, blob in files.items())}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None

    def files(self, revision: str = MAIN) -> dict[str, Blob]:
        return self.commits[self.find(revision) or ""]


class Refusal(Exception):  # noqa: N818 - named for what it is
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _whoami(handler: Handler) -> None:
    user = handler.signed_in()
    orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in user.orgs.items()]
    access = {"type": "access_token", "accessToken": {"displayName": "tests", "role": user.role}}
    handler.send({"type": "user", "name": user.name, "orgs": orgs, "auth": access})


def _create(handler: Handler) -> None:
    asked, user = handler.json(), handler.signed_in()
    namespace = asked.get("organization") or user.name
    repo_id = f"{namespace}/{asked['name']}"
    if user.role == "read" or not user.may_write(namespace):
        raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    if repo_id in handler.hub.repos:
        raise Refusal(409, "You already created this model repo")
    handler.hub.add(repo_id, {}, private=asked.get("visibility") == "private")
    handler.send({"url": f"{handler.hub.url}/{repo_id}", "name": repo_id})


def _card_is_valid(handler: Handler) -> None:
    handler.send({"errors": [], "warnings": []})


def _info(handler: Handler, repo_id: str, revision: str) -> None:
    repo = handler.repo(repo_id)
    sha = handler.commit_of(repo, revision or MAIN)
    siblings = [{"rfilename": name} for name in repo.commits[sha]]
    facts = {"id": repo_id, "sha": sha, "private": repo.private, "gated": "manual" if repo.gated else False}
    handler.send({**facts, "tags": [], "siblings": siblings})


def _refs(handler: Handler, repo_id: str) -> None:
    repo = handler.repo(repo_id)

    def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]

    handler.send({"branches": listed("heads", repo.branches), "converts": [], "tags": listed("tags", repo.tags)})


def _tree(handler: Handler, repo_id: str, revision: str) -> None:
    repo = handler.repo(repo_id)
    entries = []
    for path, blob in sorted(repo.commits[handler.commit_of(repo, revision)].items()):
        large = {"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}} if blob.large else {}
        entries.append({"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid, **large})
    start = int(handler.query.get("cursor", ["0"])[0])
    following = start + handler.hub.page
    path = urlsplit(handler.path).path
    link = f'<{handler.hub.url}{path}?recursive=true&cursor={following}>; rel="next"'
    handler.send(entries[start:following], headers={"Link": link} if following < len(entries) else {})


def _preupload(handler: Handler, repo_id: str, revision: str) -> None:
    repo = handler.repo(repo_id, write=True)
    files = repo.commits[handler.commit_of(repo, revision)]

    def mode(asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["path"]
        large = name.endswith(LARGE) or asked["size"] > 10 << 20
        there = files[name].etag if name in files else None
        return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": there}

    handler.send({"files": [mode(asked) for asked in handler.json()["files"]]})


def _batch(handler: Handler, repo_id: str) -> None:
    handler.repo(repo_id, write=True)
    objects = []
    for asked in handler.json()["objects"]:
        found = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in handler.hub.storage:
            found["actions"] = {"upload": {"href": f"{handler.hub.storage_url}/storage/{asked['oid']}"}}
        objects.append(found)
    handler.send({"transfer": "basic", "objects": objects})


def _store(handler: Handler, oid: str) -> None:
    if handler.command == "PUT":
        if hashlib.sha256(handler.body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its name says")
        handler.hub.storage[oid] = handler.body
        handler.send(b"")
    elif oid in handler.hub.storage:
        _content(handler, handler.hub.storage[oid], {})
    else:
        raise Refusal(404, "no such object")


def _commit(handler: Handler, repo_id: str, branch: str) -> None:
    repo = handler.repo(repo_id, write=True)
    if branch not in repo.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    files = dict(repo.files(branch))
    for line in handler.body.splitlines():
        key, value = (json.loads(line)[name] for name in ("key", "value"))
        if key == "header" and value.get("parentCommit") not in (None, repo.branches[branch]):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in handler.hub.storage:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = Blob(handler.hub.storage[value["oid"]], large=True)
        elif key == "deletedFile" and files.pop(value["path"], None) is None:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
    sha = repo.commit(branch, files)
    handler.send({"success": True, "commitOid": sha, "commitUrl": f"{handler.hub.url}/{repo_id}/commit/{sha}"})


def _branch(handler: Handler, repo_id: str, branch: str) -> None:
    repo = handler.repo(repo_id, write=True)
    if branch in repo.branches:
        raise Refusal(409, "Branch reference exists already")
    repo.branches[branch] = handler.commit_of(repo, handler.json().get("startingPoint") or MAIN)
    handler.send({})


def _tag(handler: Handler, repo_id: str, revision: str) -> None:
    repo, tag = handler.repo(repo_id, write=True), handler.json()["tag"]
    if tag in repo.tags:
        raise Refusal(409, "Tag reference exists already")
    repo.tags[tag] = handler.commit_of(repo, revision)
    handler.send({})


def _resolve(handler: Handler, repo_id: str, revision: str, path: str) -> None:
    repo = handler.repo(repo_id)
    if repo.gated and (handler.user is None or handler.user.name != repo_id.split("/")[0]):
        raise Refusal(403 if handler.user else 401, f"Access to model {repo_id} is restricted", "GatedRepo")
    sha = handler.commit_of(repo, revision)
    blob = repo.commits[sha].get(path)
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'}
    if blob.large and handler.hub.redirects:
        handler.hub.storage[blob.sha256] = blob.data
        linked = {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
        location = f"{handler.hub.storage_url}/storage/{blob.sha256}"
        handler.send(b"", status=302, headers={**headers, **linked, "Location": location})
    else:
        _content(handler, blob.data, headers)


def _content(handler: Handler, data: bytes, headers: dict[str, str]) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if asked is None:
        handler.send(data, headers=headers)
        return
    first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    span = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
    handler.send(data[first : last + 1], status=206, headers={**headers, **span})


_ID = r"([^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/validate-yaml", _card_is_valid),
    ("POST", "/api/repos/create", _create),
    ("GET", f"/api/models/{_ID}(?:/revision/([^/]+))?", _info),
    ("GET", f"/api/models/{_ID}/refs", _refs),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)", _tree),
    ("POST", f"/api/models/{_ID}/preupload/([^/]+)", _preupload),
    ("POST", f"/api/models/{_ID}/commit/([^/]+)", _commit),
    ("POST", f"/api/models/{_ID}/branch/([^/]+)", _branch),
    ("POST", f"/api/models/{_ID}/tag/([^/]+)", _tag),
    ("POST", f"/{_ID}\\.git/info/lfs/objects/batch", _batch),
    ("GET HEAD", f"/{_ID}/resolve/([^/]+)/(.+)", _resolve),
    ("GET HEAD PUT", "/storage/([0-9a-f]{64})", _store),
)
