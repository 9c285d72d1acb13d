"""The generated reference: what stands in the repository is what the commands are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgnas_cli import reference

FILE = Path(__file__).parents[2] / "pgnas_cli" / "commands" / "REFERENCE.md"


def test_the_reference_in_the_repository_is_that_of_today() -> None:
    written = FILE.read_text(encoding="utf-8")
    assert written == reference.reference(), f"the commands have changed: {reference.COMMAND}"


def test_the_command_that_it_names_prints_it_whatever_the_terminal(tmp_path: Path) -> None:
    terminal = {"COLUMNS": "30", "LANG": "C", "TERM": "dumb", "NO_COLOR": "1", "PGNAS_RUN": "elsewhere"}
    words = reference.COMMAND.removesuffix(f" > {FILE.relative_to(FILE.parents[2])}").split()
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=terminal, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == FILE.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "    pgnas zoo list [OPTIONS] [PATTERN]",
        "    pgnas bench [OPTIONS] PATH|USER/REPO",
        "| `--seed` | whole number, at least 0 | `0` | Seed of the random generators. |",
        "| `--set KEY=VALUE` | text, repeatable | Change one key of the recipe; repeatable. |",
        "| `--compare RUN RUN` | path, 2 of them | Two runs on one page, instead of one run. |",
        "| `--compile`, `--no-compile` | flag | `--compile` | Also through torch.compile. |",
        "| `--target-params 0.5x\\|12M` | text | Hold the expected size here. |",
        "| 4 | The data set is missing, unreadable or does not fit. |",
        "| `paper/cifar10-mi` | 1800 | 128 | torch/cifar10 |",
        "| `objective.l2` | number | none |  | squared length scale of the weight prior; None means 1e-4 * N. |",
        '| `schedule.name` | text | `"cosine"` | `--schedule` | "cosine", "restarts" or "step" (times gamma at each '
        "milestone). |",
    ],
)
def test_what_a_line_says(line: str) -> None:
    assert line in FILE.read_text(encoding="utf-8").splitlines()


def test_links_lead_to_headings_and_files() -> None:
    text = FILE.read_text(encoding="utf-8")
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    links = [part.partition(")")[0] for part in text.split("](#")[1:]]
    assert len(links) == len(set(links)) == text.count("\n## ")
    assert set(links) <= headings
    files = re.findall(r"\]\(([^#)][^)]*)\)", text)
    assert files
    assert [path for path in files if not (FILE.parent / path).exists()] == []
