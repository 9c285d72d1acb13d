"""README.md and MEASURED.md say what is so: their commands parse, their links lead somewhere, quoted messages exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme
from readme_steps import ELSEWHERE, EXECUTED, PARSED, SHELL

from pgnas_cli.commands import _train_options
from pgnas_cli.commands.inflate import parse_kernels
from pgnas_cli.commands.train import make_recipe
from pgnas_cli.plugin import Inflation
from pgnas_cli.registry import make_spec

DOCUMENTS = (readme.ROOT / "README.md", readme.MEASURED)
COMMANDS = readme.commands()
OURS = [line for line in COMMANDS if readme.program_of(line) == "pgnas" and line != "pgnas --help"]
BENCHES = [line for line in COMMANDS if line.startswith("python tests/")]


# ---- commands ----


def test_every_command_is_accounted_for() -> None:
    known = {line for line, _ in EXECUTED} | {*ELSEWHERE, *PARSED, *SHELL}
    new = [line for line in COMMANDS if line not in known and line not in BENCHES]
    assert not new, f"say in tests/cli/readme_steps.py how these are tested: {new}"
    assert sorted(known - {*COMMANDS, *readme.mentions()}) == [], "these are not in the README any more"
    twice = {line for line, _ in EXECUTED} & {*ELSEWHERE, *PARSED} | {*ELSEWHERE} & {*PARSED}
    assert not twice


@pytest.mark.parametrize("line", OURS)
def test_the_parser_takes_it(line: str) -> None:
    parsed = readme.parse(line)
    if parsed.path[1:] == ("train",):
        values = parsed.values
        make_recipe(values["recipe"], _train_options.changes(values), values["settings"] or [], values["fixed_drop"])
    elif parsed.path[1:] == ("inflate",) and parsed.values["arch"] not in ("ARCH", "tiny_net"):
        values = parsed.values
        inflation = Inflation(width=values["width"], kernels=parse_kernels(values["kernels"]))
        make_spec(values["arch"], inflation, img_size=values["img_size"])


@pytest.mark.parametrize("line", [line for line in COMMANDS if "pgnas_cli" in line])
def test_what_torchrun_starts_is_parsed_too(line: str) -> None:
    assert readme.parse("pgnas " + line.partition("-- pgnas_cli ")[2]).path == ("pgnas", "train")


def test_commands_that_the_text_speaks_of_are_executed() -> None:
    lines = [
        line for line in (*dict(EXECUTED), *ELSEWHERE) if readme.program_of(line) == "pgnas" and "--help" not in line
    ]
    assert readme.mentions() <= {" ".join(readme.parse(line).path) for line in lines}


@pytest.mark.parametrize(("line", "typed"), [pair for pair in EXECUTED if pair[0] in OURS], ids=lambda text: text)
def test_what_is_typed_has_the_options_of_the_readme(line: str, typed: str) -> None:
    said, given = readme.parse(line), readme.parse(typed)
    assert given.path == said.path
    assert said.options <= given.options


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values()}))
def test_the_test_that_executes_it_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (readme.ROOT / file).read_text(encoding="utf-8")


def test_tests_that_a_reason_names_are_there() -> None:
    named = {path for reason in PARSED.values() for path in re.findall(r"tests/\S+\.py", reason)}
    assert {path for path in named if not (readme.ROOT / path).is_file()} == set()


@pytest.mark.parametrize("line", BENCHES)
def test_a_bench_is_there_with_its_options(line: str) -> None:
    _, file, *words = shlex.split(line)
    source = (readme.ROOT / file).read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def test_blocks_for_a_shell_are_its_language() -> None:
    for block in readme.blocks():
        if not block.language:
            done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), block.text


# ---- links and files ----


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_headings_and_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    assert len(links) > 15
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        if anchor:
            slugs = {heading_slug(line) for line in target.read_text(encoding="utf-8").splitlines() if line[0:1] == "#"}
            assert anchor in slugs, link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_chapter_is_in_the_contents(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    contents = text.partition("## ")[0]
    chapters = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert chapters
    assert [title for title in chapters if f"](#{heading_slug(title)})" not in contents] == []


def test_files_of_the_repository_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:pgnas_cli|tests|zoo|templates)/[\w/]+\.\w+)`", readme.TEXTS))
    assert named
    assert {name for name in named if not (readme.ROOT / name).is_file()} == set()


def heading_slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


# ---- troubleshooting ----


def test_the_messages_that_it_explains_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", readme.TEXT.partition("## Troubleshooting")[2], re.MULTILINE)
    assert len(rows) > 20
    said = "\n".join(templates())
    assert [row for row in rows if row not in said] == []


def templates() -> Iterator[str]:
    """Every string of the program, with `...` where something is filled in."""
    for path in sorted((readme.ROOT / "pgnas_cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
