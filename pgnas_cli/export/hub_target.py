"""Where a push goes: what is asked for, whether the token may do it, and what stands on the Hub already."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token, hf_hub_download
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pgnas_cli.errors import HubError, UsageError
from pgnas_cli.export.artifact import CONFIG, is_artifact
from pgnas_cli.export.hub import check_repo_id, check_revision
from pgnas_cli.export.hub_client import bounded
from pgnas_cli.export.hub_faults import SIGN_IN, explained, then

MAIN = "main"
_NEUTRAL = re.compile(r"\.git(attributes|ignore)|README\.md|LICEN[SC]E(\.\w+)?", re.IGNORECASE)
"""Files at the root of a repository that say nothing of what it holds."""


@dataclass(frozen=True)
class PushOptions:
    """What a push is asked for.

    Args:
        run_name: what the repository is called in the namespace of the token's user, without `repo_id`.
        repo_id: namespace and name.
        private: of a repository that is made; the Hub's own default if None.
        branch: made from the main branch where it is not there; main if None.
        tag: set on the commit.
        again: the command to type when something has failed.
        elsewhere: the same with another repository, USER/NAME.
    """

    run_name: str
    repo_id: str | None = None
    private: bool | None = None
    branch: str | None = None
    tag: str | None = None
    again: str = ""
    elsewhere: str = ""

    def __post_init__(self) -> None:
        if self.repo_id is not None:
            check_repo_id(self.repo_id)
        for what, name in (("--branch", self.branch), ("--tag", self.tag)):
            if name is not None:
                check_revision(name, what)
        if self.tag is not None and self.tag == (self.branch or MAIN):
            raise UsageError(f"branch and tag are both called {self.tag!r}", "give them different names")


@dataclass(frozen=True)
class Destination:
    """What stands on the Hub where a push goes.

    Args:
        repo_id: namespace and name.
        exists: whether the repository is there.
        branch: where the commit goes.
        head: the commit that it follows; None if there is none yet.
        new_branch: whether the branch has to be made.
        tagged: the commit that the tag names already; None if it is free or none is asked for.
        digests: file at the root -> its Git or SHA-256 digest.
    """

    repo_id: str
    exists: bool = False
    branch: str = MAIN
    head: str | None = None
    new_branch: bool = False
    tagged: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the card calls it: "user/repo", or "user/repo@branch"."""
        return self.repo_id if self.branch == MAIN else f"{self.repo_id}@{self.branch}"


def default_name(user: str, run_name: str) -> str:
    """`user/run_name`, with what a name on the Hub may not hold replaced by hyphens."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", run_name)
    plain = re.sub(r"-{2,}|\.{2,}", "-", plain)[:96].strip("-._")
    return f"{user}/{plain.removesuffix('.git') or 'pgnas'}"


def find_destination(options: PushOptions) -> Destination:
    """Whether the token may push there, and what stands there. Nothing is changed.

    Raises:
        HubError: no token, a wrong one, one that may not write there; a repository of something else; a branch or a tag
            that is in the way; another visibility than was asked for; no network.
    """
    with bounded():
        return _found(HfApi(), options)


def _found(api: HfApi, options: PushOptions) -> Destination:
    with explained("push to the Hub", again=options.again):
        if get_token() is None:
            raise LocalTokenNotFoundError
        repo_id = _writable(api.whoami(), options)
    with explained(f"read {repo_id}", repo_id=repo_id, again=options.again):
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError:
            return Destination(repo_id, branch=options.branch or MAIN, new_branch=options.branch not in (None, MAIN))
        refs = api.list_repo_refs(repo_id)
    if options.private is not None and info.private is not None and info.private != options.private:
        asked, found = ("private", "public") if options.private else ("public", "private")
        raise HubError(
            f"{repo_id} is {found}, --{asked} was given: a push does not change that",
            then(f"hf repos settings {repo_id} --{asked}", options.again),
        )
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    branch = options.branch or MAIN
    for what, name, others in (("branch", options.tag, branches), ("tag", options.branch, tags)):
        if name in others:
            raise HubError(f"{repo_id} has a {what} that is called {name!r}", "choose another name")
    head = branches.get(branch, branches.get(MAIN, info.sha))
    tagged = tags.get(options.tag or "")
    if tagged is not None and tagged != head:
        raise tag_in_the_way(repo_id, options, tagged)
    with explained(f"read {repo_id}", repo_id=repo_id, again=options.again):
        listed = list(api.list_repo_tree(repo_id, revision=head)) if head is not None else []
        digests = {
            entry.path: entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
            for entry in listed
            if isinstance(entry, RepoFile)
        }
        holds_artifact = CONFIG in digests and is_artifact(Path(hf_hub_download(repo_id, CONFIG, revision=head)).parent)
    other = next((entry.path for entry in listed if not _NEUTRAL.fullmatch(entry.path)), None)
    if other is not None and not holds_artifact:
        raise HubError(
            f"{repo_id} holds something else than a network of pgnas, such as {other}: it is left alone",
            then("name another repository", options.elsewhere),
        )
    return Destination(repo_id, True, branch, head, branch not in branches and branch != MAIN, tagged, digests)


def _writable(user: Mapping[str, Any], options: PushOptions) -> str:
    """The repository that is meant, if the token may write in its namespace as far as one can tell.

    Raises:
        HubError: it may not.
    """
    name = str(user["name"])
    repo_id = options.repo_id or default_name(name, options.run_name)
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise HubError(f"cannot push to {repo_id}: the token of {name} may only read", then(SIGN_IN, options.again))
    spaces = [name, *(org["name"] for org in user.get("orgs", ()) if org.get("roleInOrg") != "read")]
    namespace = repo_id.split("/")[0]
    if namespace.casefold() not in map(str.casefold, spaces):
        raise HubError(
            f"cannot push to {repo_id}: the token of {name} may not write to {namespace}, only to {', '.join(spaces)}",
            then("name another repository with --repo-id USER/NAME, or sign in as somebody else", options.again),
        )
    return repo_id


def tag_in_the_way(repo_id: str, options: PushOptions, tagged: str) -> HubError:
    """That a tag names another commit already."""
    return HubError(
        f"the tag {options.tag} of {repo_id} names another commit already ({tagged[:8]}): it is not moved",
        then(f"choose another name, or: hf repos tag delete {repo_id} {options.tag}", options.again),
    )
