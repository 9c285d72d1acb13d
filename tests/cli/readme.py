"""What README.md and MEASURED.md hold: code, the commands in it and in the text, what the parser makes of one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from pgnas_cli.app import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = ROOT / "tests/bench/MEASURED.md"
TEXTS = f"{TEXT}\n\n{MEASURED.read_text(encoding='utf-8')}"
"""The guide, and what was measured: the commands of both are tested."""
PROGRAMS = {"pgnas", "python", "python3", "pip", "pytest", "torchrun", "apt-get", "tensorboard", "hf"}
"""What in the text begins with one of these is a command; in a block for a shell every line is one."""
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block; `language` is empty for what is typed into a shell."""

    language: str
    text: str


def blocks(text: str = TEXTS) -> Iterator[Block]:
    """The blocks in order."""
    for part in _parts(text):
        if isinstance(part, Block):
            yield part


def commands(text: str = TEXTS) -> list[str]:
    """Every command line in the blocks and in the text, without comments, once each.

    In the text only what has more to it than the name of a command: `pgnas inflate` is a way to speak of it.
    """
    found: dict[str, None] = {}
    names = {" ".join(path) for path in command_paths()}
    for part in _parts(text):
        if isinstance(part, Block) and not part.language:
            found |= dict.fromkeys(shell_lines(part.text))
        found |= dict.fromkeys(c for c in inline(part) if program_of(c) in PROGRAMS and c not in names)
    return list(found)


def mentions(text: str = TEXTS) -> set[str]:
    """What the text calls commands, without options: `pgnas zoo list`."""
    return {code for part in _parts(text) for code in inline(part) if re.fullmatch(r"pgnas( [a-z]+)+", code)}


def inline(part: Block | str) -> list[str]:
    """The code in a paragraph, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", part)] if isinstance(part, str) else []


def shell_lines(text: str) -> list[str]:
    """The commands of a block: continued lines joined, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s\s+)#.*", "", line) for line in lines)
    return [" ".join(line.split()) for line in bare if line.strip()]


def program_of(line: str) -> str:
    """The first word that is no assignment of a variable."""
    return next((word for word in line.split() if not _ASSIGNMENT.fullmatch(word)), "")


def _parts(text: str) -> Iterator[Block | str]:
    """Blocks, and the paragraphs between them."""
    lines, paragraph = iter(text.splitlines()), ""
    held: list[str] = []
    for line in lines:
        if line.startswith("```"):
            inside = []
            for line_inside in lines:
                if line_inside.startswith("```"):
                    break
                inside.append(line_inside)
            yield Block(line[3:].strip(), "\n".join(inside))
        elif line.startswith("    ") and not paragraph:
            held.append(line[4:])
            continue
        elif not line.strip():
            if held:
                held.append("")
            if paragraph:
                yield paragraph
            paragraph = ""
            continue
        else:
            paragraph += line + "\n"
        if held:
            yield Block("", "\n".join(held).rstrip())
            held = []
    if held:
        yield Block("", "\n".join(held).rstrip())
    if paragraph:
        yield paragraph


# ---- the parser ----


@dataclass(frozen=True)
class Parsed:
    """A command line of pgnas: the command, its option names, and the values that the command would get."""

    path: tuple[str, ...]
    options: frozenset[str]
    values: dict[str, Any]


@cache
def _program() -> Any:
    """The commands, each of which only tells who it is and what it would get, in `_called`."""
    program: Any = get_command(app)

    def replace(command: Any, path: tuple[str, ...]) -> None:
        for parameter in command.params:
            parameter.callback = None
        children = getattr(command, "commands", {})
        command.callback = (lambda **values: None) if children else lambda **values: _called.append((path, values))
        for name, child in children.items():
            replace(child, (*path, name))

    replace(program, ("pgnas",))
    return program


_called: list[tuple[tuple[str, ...], dict[str, Any]]] = []


def command_paths() -> list[tuple[str, ...]]:
    """("pgnas",), ("pgnas", "inflate"), ... ("pgnas", "zoo", "list"), ..."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, (*path, name))

    return list(below(_program(), ("pgnas",)))


def parse(line: str) -> Parsed:
    """What the parser makes of a line; nothing is run. A trailing `...` stands for more options.

    Raises:
        typer.TyperException: it refuses the line.
    """
    words = [word for word in shlex.split(line) if not _ASSIGNMENT.fullmatch(word)]
    words = words[:-1] if words[-1] == "..." else words
    assert words[0] == "pgnas", line
    _called.clear()
    with _program().make_context("pgnas", words[1:]) as context:
        context.command.invoke(context)
    path, values = _called[0] if _called else (("pgnas",), {})
    return Parsed(path, frozenset(word.partition("=")[0] for word in words if word.startswith("-")), values)
