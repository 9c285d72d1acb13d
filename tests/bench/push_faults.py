"""Pushes that fail, for hub_round_trip.py: each fault, what `pgnas export --push-to-hub` makes of it, and the retry."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from commands import PGNAS

from pgnas_cli.export.artifact import CARD
from pgnas_cli.export.card import card_for
from pgnas_cli.export.hub_client import ANSWER, ATTEMPTS

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_answers import Blob
from hub_server import Fault, LocalHub, Request, environment, nothing_listens

QUICK = """
import sys
from pgnas_cli.__main__ import main
from pgnas_cli.export import hub_client
hub_client.ANSWER = 2.0
sys.exit(main())
"""
ALICE, BOB, READER, STRANGER = "hf_alice_writes", "hf_bob_writes", "hf_alice_reads", "hf_somebody_else"
REPO = "alice/run"  # the token's user and the run's name
LONGEST = ATTEMPTS * ANSWER + 3 + 15  # seconds: of hub_client, and for the process to end beside others


class WatchedHub(LocalHub):
    """Notes when a fault has met a request for the first time.

    Where `intruder` is set, somebody else commits to the repository while files are sent to it.
    """

    met: float | None = None
    intruder = False

    def fault_of(self, request: Request) -> Fault | None:
        fault = super().fault_of(request)
        intrudes = self.intruder and "/preupload/" in request.path
        if intrudes:
            self.intruder, repo = False, self.repos[REPO]
            repo.commit("main", {**repo.files(), "notes.txt": Blob(b"theirs")})
        if (fault is not None or intrudes) and self.met is None:
            self.met = time.perf_counter()
        return fault


def start(
    words: list[str], place: Path, url: str, token: str | None = None, home: str = "home"
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, for a Hub, with a cache of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE", "PGNAS"))}
    chosen = {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "HF_HUB_DISABLE_XET": "1"}
    variables = plain | chosen | environment(url, place / home, token)
    return subprocess.run(words, cwd=place, env=variables, capture_output=True, text=True, timeout=1800)


@dataclass(frozen=True)
class Case:
    """A push that fails.

    Args:
        name: what is wrong.
        pattern, how: the fault of the Hub, see `LocalHub.fail`; none if empty.
        token, again: of who pushes, and of who tries again.
        options: more words for `pgnas export`.
        there: what the repository holds before: it is missing, a network with an older card, or something else.
        how_else: "down", nobody listens; "conflict", somebody else commits.
    """

    name: str
    pattern: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    token: str | None = ALICE
    again: str = ALICE
    options: str = ""
    there: Literal["missing", "network", "other"] = "missing"
    how_else: Literal["", "down", "conflict"] = ""

    @property
    def waits(self) -> bool:
        return self.how.get("kind") == "silent"


def cases(export: Path) -> list[Case]:
    """Every fault that is measured."""
    read = f"GET /api/models/{REPO}"
    large = f"PUT /storage/{hashlib.sha256((export / 'model.safetensors').read_bytes()).hexdigest()}"
    hour = {"Retry-After": "3600"}
    silent = {
        "who am I": "whoami", "the repository": f"{read}$", "making it": "repos/create", "the card": "validate-yaml",
        "how to send": "preupload", "LFS": "objects/batch", "sending a file": "PUT /storage", "the commit": "/commit/",
    }  # fmt: skip
    silent_later = {"branches and tags": f"{read}/refs", "its files": f"{read}/tree", "its config.json": "/resolve/"}
    return [
        Case("no token", token=None),
        Case("wrong token", token=STRANGER),
        Case("token may only read", token=READER),
        Case("another user's namespace", options="--repo-id bob/net", again=BOB),
        Case("no rights: making the repository", "repos/create", {"status": 403}),
        Case("no rights: the commit", "/commit/", {"status": 403}),
        Case("repository of another kind", there="other"),
        Case("network down", how_else="down"),
        Case("half-way: one of two files is cut off", large, {"kind": "cut"}),
        Case("half-way: the storage answers 500", large, {"status": 500}),
        Case("half-way: the commit answers 503", "/commit/", {"status": 503}),
        Case("half-way: the tag answers 500", "/tag/", {"status": 500}, options="--tag v1"),
        Case("500: who am I", "whoami", {"status": 500}),
        Case("502: making the repository", "repos/create", {"status": 502}),
        Case("412: somebody else commits meanwhile", there="network", how_else="conflict"),
        Case("429, Retry-After: 3600: who am I", "whoami", {"status": 429, "headers": hour}),
        Case("429, Retry-After: 3600: how to send", "preupload", {"status": 429, "headers": hour}),
        Case("503, Retry-After: 3600: LFS", "objects/batch", {"status": 503, "headers": hour}),
        *(Case(f"silent: {name}", pattern, {"kind": "silent"}) for name, pattern in silent.items()),
        Case("silent: the tag", "/tag/", {"kind": "silent"}, options="--tag v1"),
        *(Case(f"silent: {name}", pattern, {"kind": "silent"}, there="network")
          for name, pattern in silent_later.items()),
    ]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a push did: a row of the table."""

    case: Case
    code: int
    seconds: float
    since: float | None
    message: str
    lines: bool
    intact: bool
    hidden: bool
    retried: str

    @property
    def row(self) -> str:
        since = "-" if self.since is None else f"{self.since:.1f}"
        words = ["no" if not each else "yes" for each in (self.intact, self.hidden)]
        numbers = f"{self.code} | {self.seconds:.1f} | {since}"
        return f"| {self.case.name} | {numbers} | {self.message} | {' | '.join(words)} | {self.retried} |"

    @property
    def good(self) -> bool:
        bounded = (self.since if self.since is not None else self.seconds) <= LONGEST
        return self.code == 5 and bounded and self.lines and self.intact and self.hidden and self.retried == "yes"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare(case: Case, hub: WatchedHub, export: Path) -> None:
    """Put a case's repository on the Hub, and let it fail."""
    if case.there == "network":
        hub.add(REPO, content(export) | {"README.md": b"---\nlicense: mit\n---\nAn older card.\n"})
    elif case.there == "other":
        hub.add(REPO, {"pytorch_model.bin": b"theirs"})
    hub.intruder = case.how_else == "conflict"
    if case.pattern:
        hub.fail(case.pattern, message=f"{ALICE} is not welcome", **case.how)


def suffer(case: Case, base: Path, program: list[str]) -> Outcome:
    """Push under a fault from a copy of a run, then do what the hint says without it."""
    hub = WatchedHub()
    with tempfile.TemporaryDirectory() as folder, hub, nothing_listens() as nowhere:
        place = Path(folder)
        shutil.copytree(base / "run", place / "run")
        before = content(place / "run" / "export")
        prepare(case, hub, place / "run" / "export")
        words = [*program, "export", "--run", "run", "--push-to-hub", *case.options.split()]
        url = nowhere if case.how_else == "down" else hub.url
        began = time.perf_counter()
        done = start(words, place, url, case.token)
        ended = time.perf_counter()
        hub.faults.clear()
        intact = content(place / "run" / "export") == before
        files = [path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()]
        said = done.stdout + done.stderr
        tokens = {token for token in (case.token, ALICE) if token}
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        one_line = len(errors) == 1 and lines[-2:-1] == errors and lines[-1].startswith("hint: ")
        message = (errors or [said.strip()])[0].replace(url, "http://HUB").replace("|", "\\|").removeprefix("error: ")
        hidden = not any(token in said or any(token.encode() in file for file in files) for token in tokens)
        retried = retry(lines[-1] if lines else "", place, hub, case)
    since = None if hub.met is None else ended - hub.met
    return Outcome(case, done.returncode, ended - began, since, message, one_line, intact, hidden, retried)


def retry(hint: str, place: Path, hub: LocalHub, case: Case) -> str:
    """Whether the command at the end of a hint pushes everything to a Hub that is well: "yes", or what happens."""
    command = shlex.split(hint.removeprefix("hint: ").split("; then: ")[-1].replace("USER/NAME", "alice/other"))
    if command[:2] != ["pgnas", "export"]:
        return f"no command is printed ({hint})"
    done = start([PGNAS, *command[1:]], place, hub.url, case.again)
    if done.returncode:
        return f"exit {done.returncode}: {done.stderr.splitlines()[-2:]}"
    pushed = json.loads((place / "run" / "run.json").read_text())["stages"]["export"]["hub"]
    there = hub.repos[pushed["repo_id"]].files(pushed["revision"])
    local = content(place / "run" / "export") | {CARD: card_for(place / "run" / "export", pushed["repo_id"]).encode()}
    same = all(there[name].data == data for name, data in local.items())
    tagged = pushed["tag"] is None or hub.repos[pushed["repo_id"]].find(pushed["tag"]) == pushed["revision"]
    return "yes" if same and tagged else "the files there are others"


def outcomes(chosen: list[Case], measure: Callable[[Case], Outcome], at_once: int) -> Iterator[Outcome]:
    """One after the other; those that wait for a silent Hub `at_once` at a time."""
    yield from (measure(case) for case in chosen if not case.waits)
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(measure, (case for case in chosen if case.waits))


def all_faults(base: Path, *, only: str, quick: bool, at_once: int) -> Iterator[str]:
    """Prints a row for each fault whose name holds `only`; the rows that are not as they should be.

    Args:
        base: holds run/, with its export.
        quick: wait 2 s for an answer.
        at_once: pushes that wait, at a time.
    """
    program = [sys.executable, "-c", QUICK] if quick else [PGNAS]
    chosen = [case for case in cases(base / "run" / "export") if only in case.name]
    print("\n| fault | exit | s | s since | message | intact | no token | retry |")
    print("|---|---:|---:|---:|---|---|---|---|", flush=True)
    for outcome in outcomes(chosen, partial(suffer, base=base, program=program), at_once):
        print(outcome.row, flush=True)
        if not outcome.good:
            yield outcome.row
