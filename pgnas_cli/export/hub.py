"""An artifact on the Hugging Face Hub: how it is named, and how it is downloaded. hub_push.py uploads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

from pgnas_cli.errors import HubError, RunError, UsageError, nearest
from pgnas_cli.export.artifact import CARD, CONFIG, MOST_CONFIG, PICTURE, PROOF, WEIGHTS
from pgnas_cli.export.hub_client import bounded, printable
from pgnas_cli.export.hub_faults import explained, unreachable
from pgnas_cli.export.onnx_file import ONNX
from pgnas_cli.export.pt2_file import PT2
from pgnas_cli.run import read_json

NEEDED = (CONFIG, WEIGHTS, PROOF)
FILES = (*NEEDED, CARD, PICTURE, "front.png", ONNX, PT2)
"""Every name that an artifact's folder may hold; nothing else is uploaded or downloaded."""
_NAME = re.compile(r"(?!.*(?:--|\.\.|\.git$))\w([\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|[./]$))[\w+@-][\w./+@-]{0,199}", re.ASCII)
_PREFIXES = ("datasets", "spaces", "buckets", "kernels")


def parse_repo(name: str) -> tuple[str, str | None]:
    """`user/repo` or `user/repo@revision` as (repo_id, revision or None).

    Raises:
        UsageError: it is neither.
    """
    repo_id, separator, revision = name.partition("@")
    check_repo_id(repo_id)
    if not separator:
        return repo_id, None
    check_revision(revision, f"the revision of {repo_id}")
    return repo_id, revision


def check_repo_id(repo_id: str) -> None:
    """UsageError unless `repo_id` is a namespace and a name that a model of the Hub may have."""
    shown = printable(repr(repo_id))  # somebody may have typed a token
    hint = "a repository is USER/NAME, of letters, digits, '-', '_' and '.'"
    parts = repo_id.split("/")
    if printable(repo_id) != repo_id and all(map(_NAME.fullmatch, parts)):
        raise UsageError(f"{shown} holds a token: the name of a repository is for everybody to see", hint)
    if parts[0] in _PREFIXES:
        raise UsageError(f"{shown} names one of the Hub's {parts[0]}: a network is a model", hint)
    if "://" in repo_id:
        raise UsageError(f"{shown} is an address, not a repository", f"{hint}: {'/'.join(parts[-2:])}")
    if len(parts) != 2 or not all(map(_NAME.fullmatch, parts)):
        raise UsageError(f"{shown} is no repository of the Hub", hint)


def check_revision(name: str, what: str) -> None:
    """UsageError unless `name` can be a branch, a tag or a commit; `what` names it."""
    if not _REVISION.fullmatch(name) or printable(name) != name:
        raise UsageError(
            f"{what} cannot be {printable(repr(name))}", "letters, digits and '-', '_', '.', '/' in between"
        )


def fetch(repo: str, revision: str | None = None, *, everything: bool = False) -> Path:
    """A local folder that holds the artifact of a repository: downloaded, or in huggingface_hub's cache.

    Only an artifact's own files are downloaded, and nothing but config.json before it says that there is an artifact.
    Without a Hub to be reached, a snapshot is used that holds what is asked for.

    Args:
        repo: "user/repo" or "user/repo@revision".
        revision: branch, tag or commit; the one in `repo`, else the main branch, if None.
        everything: also the files that loading does without: the card, pictures, model.onnx, model.pt2.

    Raises:
        UsageError: `repo` or the revision is malformed, or two revisions are named.
        HubError: it is missing, private, gated, or holds no artifact; or there is no network and no such snapshot.
    """
    repo_id, named = parse_repo(repo)
    if revision is not None:
        check_revision(revision, "a revision")
        if named not in (None, revision):
            raise UsageError(f"{repo!r} and revision {revision!r} name two revisions", "name one")
    with bounded():
        return _fetch(HfApi(), repo_id, revision or named, FILES if everything else NEEDED)


def _fetch(api: HfApi, repo_id: str, wanted: str | None, names: Sequence[str]) -> Path:
    full_name = repo_id if wanted is None else f"{repo_id}@{wanted}"
    doing = f"download {full_name}"
    try:
        commit = api.model_info(repo_id, revision=wanted).sha
    except RevisionNotFoundError:
        with explained(doing, repo_id=repo_id):
            refs = api.list_repo_refs(repo_id)
        known = [ref.name for ref in (*refs.tags, *refs.branches)]
        close = nearest(str(wanted), known)
        raise HubError(
            f"{repo_id} has no revision {wanted!r}{f'; did you mean {close}?' if close else ''}",
            f"its branches and tags: {', '.join(known)}" if known else "",
        ) from None
    except Exception as error:
        if unreachable(error) and (snapshot := _cached(repo_id, wanted, names)) is not None:
            return snapshot
        with explained(doing, repo_id=repo_id):
            raise
    with explained(doing, repo_id=repo_id):
        try:
            if not isinstance(try_to_load_from_cache(repo_id, CONFIG, revision=commit), str):
                size = get_hf_file_metadata(hf_hub_url(repo_id, CONFIG, revision=commit)).size
                if size is not None and size > MOST_CONFIG:
                    raise _no_artifact(full_name, f"its {CONFIG} has {size} bytes, at most {MOST_CONFIG} are read")
            config = Path(hf_hub_download(repo_id, CONFIG, revision=commit))
        except RemoteEntryNotFoundError:
            raise _no_artifact(full_name, f"it has no {CONFIG}") from None
        try:
            holds = "pgnas" in read_json(config, most=MOST_CONFIG)
        except RunError as error:
            raise _no_artifact(full_name, str(error).replace(str(config), f"its {CONFIG}")) from None
        if not holds:
            raise _no_artifact(full_name, f"its {CONFIG} has no section 'pgnas'")
        folder = Path(snapshot_download(repo_id, revision=wanted, allow_patterns=list(names)))
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise _no_artifact(full_name, f"it has no {missing[0]}")
    return folder


def _no_artifact(full_name: str, reason: str) -> HubError:
    return HubError(f"{full_name} holds no network of pgnas: {reason}", "name a repository that pgnas export made")


def _cached(repo_id: str, revision: str | None, wanted: Sequence[str]) -> Path | None:
    """The snapshot of a revision in huggingface_hub's cache, if it has all of the wanted files that its export has."""
    config = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        listed = read_json(folder / CONFIG, most=MOST_CONFIG)["pgnas"].get("files", {})
        names = {*NEEDED, *(name for name in wanted if name in listed)}
    except (OSError, RunError, TypeError, KeyError, AttributeError):
        return None
    return folder if all((folder / name).is_file() for name in names) else None
