"""What `pgnas export --push-to-hub` does after the export, and what it says of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli.console import console, human
from pgnas_cli.errors import HubError
from pgnas_cli.run import RunDirectory

if TYPE_CHECKING:
    from pgnas_cli.export.hub_push import Pushed
    from pgnas_cli.export.hub_target import Destination, PushOptions

_RECORDED = ("repo_id", "url", "revision", "name", "branch", "tag")


def typed(options: Mapping[str, Any]) -> str:
    """The command line of `pgnas export` with these options, quoted for a shell; None and False are left out."""
    words = ["pgnas", "export"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return shlex.join(words)


def look(options: PushOptions, *, dry_run: bool) -> Destination | None:
    """What stands where the push goes, before anything expensive; None for a dry run without a token."""
    from huggingface_hub import get_token

    from pgnas_cli.export.hub_target import find_destination

    return None if dry_run and get_token() is None else find_destination(options)


def push(folder: Path, options: PushOptions) -> Pushed:
    """Upload, under a bar.

    Raises:
        HubError: with the folder in its message: the artifact is there, whatever has failed.
    """
    from pgnas_cli.export.hub_push import push as push_to_hub

    with console.progress("upload", 100, unit="%") as bar:

        def progress(done: int, total: int) -> None:
            bar.update(completed=100 * done // max(total, 1))

        try:
            return push_to_hub(folder, options, progress)
        except HubError as error:
            raise HubError(f"{error}; the exported network is in {folder}", error.hint) from error


def enter(run: RunDirectory, record: Mapping[str, Any], pushed: Pushed) -> None:
    """Enter a push into the record of the export stage, run.json."""
    run.finish("export", {**record, "hub": {name: getattr(pushed, name) for name in _RECORDED}})


def snippet(name: str) -> tuple[str, ...]:
    """The lines that load a network from the Hub and run it."""
    return ("import pgnas_cli as pgnas", f'network = pgnas.load("{name}")', "logits = network(images)")


def pushed_document(pushed: Pushed) -> dict[str, Any]:
    return {**dataclasses.asdict(pushed), "snippet": "\n".join(snippet(pushed.name))}


def render_pushed(pushed: Pushed) -> None:
    changed = [f"{len(pushed.uploaded)} files uploaded", f"{len(pushed.unchanged)} unchanged"]
    if pushed.removed:
        changed.append(f"{', '.join(pushed.removed)} removed")
    nothing = not pushed.uploaded and not pushed.removed
    if nothing:
        changed = ["every file is there already" if pushed.tagged else "nothing to do: every file is there already"]
    if pushed.tagged:
        changed.append(f"tag {pushed.tag} set")
    made = ["made"] if pushed.created else []
    console.line(f"{pushed.url}: {', '.join(made + changed)}; commit {pushed.revision[:8]}")
    for line in snippet(pushed.name):
        console.line(f"    {line}")


def dry_document(folder: Path, options: PushOptions, destination: Destination | None) -> dict[str, Any]:
    """What a push would do: files, and whether each would be sent (None where the Hub was not asked); the card."""
    from pgnas_cli.export.artifact import CARD
    from pgnas_cli.export.hub_push import compare, size_of, upload_of
    from pgnas_cli.export.hub_target import MAIN, Destination, default_name

    unasked = Destination(options.repo_id or default_name("USER", options.run_name), branch=options.branch or MAIN)
    files = upload_of(folder, (destination or unasked).name)
    changes = compare(files, destination) if destination is not None else None
    card = files[CARD]
    return {
        "repo_id": (destination or unasked).repo_id,
        "create": None if destination is None else not destination.exists,
        "private": options.private,
        "branch": options.branch or "main",
        "tag": options.tag,
        "files": [
            {"name": name, "bytes": size_of(file), "upload": None if changes is None else name in changes.upload}
            for name, file in files.items()
        ],
        "remove": None if changes is None else list(changes.remove),
        "card": card.decode() if isinstance(card, bytes) else card.read_text(),
    }


def render_dry(document: Mapping[str, Any]) -> None:
    words = {True: "would be sent", False: "is there already", None: "not compared: no token"}
    rows = [[file["name"], f"{human(file['bytes'])}B", words[file["upload"]]] for file in document["files"]]
    rows += [[name, "-", "would be removed"] for name in document["remove"] or ()]
    new = ", which would be made" if document["create"] else ""
    visibility = {True: " (private)", False: " (public)", None: ""}[document["private"]]
    title = f"{document['repo_id']}{new}{visibility}, branch {document['branch']}"
    title += f", tag {document['tag']}" if document["tag"] else ""
    console.table(f"dry run, nothing is sent: {title}", ["file", "size", ""], rows, justify=["left", "right"])
    console.line("")
    for line in document["card"].splitlines():
        console.line(line)
