"""Uploading an artifact: one commit with what has changed, and nothing where nothing has."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

from pgnas_cli.errors import UsageError
from pgnas_cli.export.artifact import CARD, CONFIG, is_artifact
from pgnas_cli.export.card import card_for
from pgnas_cli.export.hub import FILES, NEEDED
from pgnas_cli.export.hub_client import bounded
from pgnas_cli.export.hub_faults import explained
from pgnas_cli.export.hub_target import MAIN, Destination, PushOptions, find_destination, tag_in_the_way
from pgnas_cli.run import read_json

Progress = Callable[[int, int], None]
"""Called with bytes sent so far, and bytes to send."""


@dataclass(frozen=True)
class Changes:
    """What a push does to the files of a repository: names that are sent, left as they are, and removed."""

    upload: tuple[str, ...]
    unchanged: tuple[str, ...]
    remove: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.upload or self.remove)


@dataclass(frozen=True)
class Pushed:
    """A push that is done.

    Args:
        repo_id, url: where the network is now.
        revision: the commit that holds it.
        name: what loads it: "user/repo", or "user/repo@tag" or "@branch".
        branch, tag: as asked for.
        uploaded, unchanged, removed: names of files.
        created: whether the repository was made.
        tagged: whether a tag was set; False without one, or where it was there already, on this commit.
    """

    repo_id: str
    url: str
    revision: str
    name: str
    branch: str
    tag: str | None
    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    created: bool
    tagged: bool


Content = Path | bytes
"""A file on this machine, or what stands in one."""


def files_of(folder: Path) -> dict[str, Content]:
    """The files of an artifact that an upload may hold, by name.

    Raises:
        UsageError: the folder holds no artifact.
    """
    if not is_artifact(folder) or any(not (folder / name).is_file() for name in NEEDED):
        raise UsageError(f"{folder} holds no exported network", "pgnas export writes one")
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def upload_of(folder: Path, name: str) -> dict[str, Content]:
    """What a push sends: the files of an artifact, and the card written for the repository that it goes to.

    A card that is not the one that was exported, since somebody has edited it, is sent as it stands.

    Args:
        folder: of the artifact.
        name: of its place on the Hub, "user/repo" or "user/repo@branch".

    Raises:
        UsageError: the folder holds no artifact.
        RunError: its config.json is damaged.
    """
    found, card = files_of(folder), folder / CARD
    if card.is_file() and card.read_text() == card_for(folder):
        found[CARD] = card_for(folder, name).encode()
    return found


def size_of(content: Content) -> int:
    """In bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def compare(here: Mapping[str, Content], destination: Destination) -> Changes:
    """What a push of these files would change."""
    there = destination.digests
    same = {name for name in here if name in there and there[name] in _digests(here[name])}
    removed = tuple(name for name in FILES if name in there and name not in here)
    return Changes(tuple(name for name in here if name not in same), tuple(n for n in here if n in same), removed)


def _digests(content: Content) -> tuple[str, str]:
    """What the Hub may call a file's content: SHA-256, and Git's SHA-1 for files that are not in its storage."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return hashlib.sha256(data).hexdigest(), git.hexdigest()


class _Counted(io.BufferedReader):
    """A file that tells how far it has been read, from the moment that `tell_to` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.tell_to: Callable[[int], None] | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.tell_to is not None:
            self.tell_to(self.tell())
        return data


def push(folder: Path, options: PushOptions, progress: Progress = lambda done, total: None) -> Pushed:
    """Bring a repository of the Hub to the state of an artifact's folder, with at most one commit.

    The repository and the branch are made where they are not there. Files of an artifact that the folder no longer
    holds are removed, other files of the repository stay.

    Raises:
        UsageError: the folder holds no artifact.
        HubError: see `find_destination`; or it has failed half-way, and what stands on the Hub then.
    """
    files_of(folder)
    with bounded():
        return _push(folder, options, find_destination(options), progress)


def _push(folder: Path, options: PushOptions, destination: Destination, progress: Progress) -> Pushed:
    repo_id, branch, head = destination.repo_id, destination.branch, destination.head
    files = upload_of(folder, destination.name)
    changes = compare(files, destination)
    if changes and destination.tagged is not None:
        raise tag_in_the_way(repo_id, options, destination.tagged)
    api, stands = HfApi(), "nothing was changed on the Hub"
    with explained(f"push to {repo_id}", repo_id=repo_id, again=options.again, state=lambda: stands):
        if not destination.exists:
            api.create_repo(repo_id, private=options.private)
            stands = f"{repo_id} was made and is empty: nothing was committed"
            head = api.model_info(repo_id).sha
        if destination.new_branch:
            api.create_branch(repo_id, branch=branch, revision=head)
            stands = f"the branch {branch} was made, nothing was committed"
        if changes:
            head = _commit(api, files, destination, changes, head, progress)
            stands = f"the network is there as commit {head[:8]}, without the tag"
        new_tag = options.tag if destination.tagged is None else None
        if new_tag is not None:
            api.create_tag(repo_id, tag=new_tag, revision=head)
    assert head is not None
    label = options.tag or (branch if branch != MAIN else None)
    return Pushed(
        repo_id,
        f"{constants.ENDPOINT}/{repo_id}" + (f"/tree/{label}" if label else ""),
        head,
        repo_id + (f"@{label}" if label else ""),
        branch,
        options.tag,
        changes.upload,
        changes.unchanged,
        changes.remove,
        created=not destination.exists,
        tagged=new_tag is not None,
    )


class _Sent:
    """How far each file has been sent."""

    def __init__(self, sizes: Mapping[str, int], progress: Progress) -> None:
        self._progress, self._total = progress, sum(sizes.values())
        self._done = dict.fromkeys(sizes, 0)
        progress(0, self._total)

    def reached(self, name: str, position: int) -> None:
        self._done[name] = max(self._done[name], position)
        self._progress(sum(self._done.values()), self._total)

    def finish(self) -> None:
        self._progress(self._total, self._total)


def _commit(
    api: HfApi,
    files: Mapping[str, Content],
    destination: Destination,
    changes: Changes,
    parent: str | None,
    progress: Progress,
) -> str:
    """Send the files that have changed, then one commit; its id."""
    with ExitStack() as stack:
        sent = _Sent({name: size_of(files[name]) for name in changes.upload}, progress)
        operations: list[Any] = [CommitOperationDelete(name) for name in changes.remove]
        for name in changes.upload:
            content = files[name]
            if isinstance(content, bytes):  # small, and sent with the commit itself
                operations.append(CommitOperationAdd(name, content))
                continue
            file = stack.enter_context(_Counted(content))
            operations.append(CommitOperationAdd(name, file))
            file.tell_to = lambda position, name=name: sent.reached(name, position)
        config = files[CONFIG]
        assert isinstance(config, Path)
        candidate = read_json(config)["pgnas"].get("candidate", {}).get("id", "")
        found = api.create_commit(
            destination.repo_id,
            operations,
            commit_message=f"Network {candidate} of pgnas" if candidate else "A network of pgnas",
            revision=destination.branch,
            parent_commit=parent,
        )
        sent.finish()
    return str(found.oid)
