"""What `pgnas show` draws of an architecture."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from terminals import forked_in_terminal

from pgnas_cli import inflate, restore
from pgnas_cli.__main__ import main
from pgnas_cli.commands._tree import Node, count, depth_of, drawn, fitting, tree
from pgnas_cli.commands.show import as_json
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import override, to_toml
from pgnas_cli.report import structure
from pgnas_cli.report.structure import Architecture, Block, Join, Operation, Stage
from pgnas_cli.run import RunDirectory, write_jsonl

WIDE = 10_000


def operation(name: str, kept: int, of: int, params: int = 100, label: str = "3x3") -> Operation:
    """One that keeps so many of its inputs and, if there are none, is dropped."""
    return Operation(
        index=0, name=name, label=label, inputs=of, kept_inputs=kept, outputs=4, kept_outputs=4, params=params,
        kept_params=params * kept // of, gated=True, dropped=not kept,
    )  # fmt: skip


def block(path: str, *nodes: Operation | Join) -> Block:
    return Block(path.rpartition(".")[2], path, nodes, (), (), (), 4, 4, None)


HEAD = Stage("stem", (block("stem", operation("stem", 1, 1)),))
BODY = Stage(
    "body",
    (
        block(
            "body.0",
            operation("body.0.left.conv1", 4, 8),
            operation("body.0.left.conv2", 0, 8),
            operation("body.0.right", 8, 8, 2000),
            Join(0, "+", 1.0),
        ),
        block("body.1", operation("body.1.a", 0, 4), operation("body.1.b", 0, 4, 300, "1x1")),
    ),
)
TAIL = Stage("pool", (block("pool", operation("pool", 3, 12, 0, "avg all")),))
FOUND = Architecture("toy", "winner", "00ff", (HEAD, BODY, TAIL), 2700, 2200, 9000, 3000)


def lines(depth: int, width: int = WIDE, found: Architecture = FOUND) -> list[str]:
    return ["".join(map(str, parts)) for parts in drawn(tree(found), depth, width)]


DRAWN = """
stem         ████████████ 100 %  100 of 100        3x3, 1 input
body         █████████░░░  79 %  2.05 k of 2.60 k  3 of 5 operations dropped
├ 0          ███████████░  93 %  2.05 k of 2.20 k  1 of 3 operations dropped
│ ├ left     ███░░░░░░░░░  25 %  50 of 200         1 of 2 operations dropped
│ │ ├ conv1  ██████░░░░░░  50 %  50 of 100         3x3, 4 of 8 inputs
│ │ └ conv2  dropped             0 of 100          3x3
│ └ right    ████████████ 100 %  2.00 k of 2.00 k  3x3, 8 inputs
└ 1          dropped             0 of 400          2 operations dropped
  ├ a        dropped             0 of 100          3x3
  └ b        dropped             0 of 300          1x1
pool         ███░░░░░░░░░  25 %  none              avg all, 3 of 12 inputs
"""


def test_a_tree_with_every_operation() -> None:
    assert lines(4) == DRAWN.strip().splitlines()


@pytest.mark.parametrize(
    ("depth", "names"), [(1, "stem body pool"), (2, "stem body 0 1 pool"), (9, "stem body 0 left conv1")]
)
def test_a_tree_is_folded(depth: int, names: str) -> None:
    shown = [re.sub("[├└│ ]+", "", line.split("█")[0].split("dropped")[0]) for line in lines(depth)]
    assert shown[: len(names.split())] == names.split()
    assert len(shown) == count(tree(FOUND), depth)


@pytest.mark.parametrize(("room", "depth"), [(1, 2), (5, 2), (8, 2), (9, 3), (10, 3), (11, 4), (99, 4)])
def test_as_many_levels_as_fit_are_shown(room: int, depth: int) -> None:
    assert (depth_of(tree(FOUND)), fitting(tree(FOUND), room)) == (4, depth)


@pytest.mark.parametrize(
    ("width", "first", "lost"),
    [
        (76, "├ 0          ███████████░  93 %  2.05 k of 2.20 k  1 of 3 operations dropped", "└ 1          dropped"),
        (75, "├ 0          ███████████░  93 %  2.05 k of 2.20 k", "└ 1          dropped"),
        (50, "├ 0          █████░  93 %  2.05 k of 2.20 k", "└ 1          dropped       0 of 400"),
        (40, "├ 0          █████░  93 %", "└ 1          dropped"),
        (20, "├ 0          █████░  93 %", "└ 1          dropped"),
    ],
)
def test_what_does_not_fit_is_left_out(width: int, first: str, lost: str) -> None:
    found = lines(4, width)
    assert found[2] == first
    assert found[7].startswith(lost)
    assert max(map(len, found)) <= max(width, 27)  # names of twelve characters are always shown


def test_long_names_are_cut_in_a_narrow_terminal() -> None:
    long = Architecture("", "", "", (Stage("x" * 60, (block("x" * 60, operation("x" * 60, 1, 2)),)),), 1, 1, 1, 1)
    assert lines(1, 40, long) == [f"{'x' * 25}…  ███░░░  50 %"]
    assert lines(1, 100, long) == ["x" * 60 + "  ██████░░░░░░  50 %  50 of 100"]


def test_parents_and_only_children_are_one() -> None:
    only = Stage("a", (block("a.0", operation("a.0.b.c", 1, 2)),))
    stage = Stage("d", (block("d.0", operation("d.0", 1, 2)), block("d.1", operation("d.1.e", 1, 1))))
    nodes = tree(Architecture("", "", "", (only, stage), 1, 1, 1, 1))
    assert [(node.name, [child.name for child in node.children]) for node in nodes] == [
        ("a.0.b.c", []),
        ("d", ["0", "1.e"]),
    ]
    assert all(isinstance(node.operation, Operation) for node in (nodes[0], *nodes[1].children))


def test_without_parameters_a_branch_counts_operations() -> None:
    pools = [Node(name, operation(name, kept, 2, 0)) for name, kept in (("a", 1), ("b", 0), ("c", 2), ("d", 0))]
    assert Node("pools", children=pools).share == 0.5


def test_the_tree_as_json() -> None:
    found = as_json(FOUND)
    assert [(stage["name"], [part["path"] for part in stage["blocks"]]) for stage in found["stages"]] == [
        ("stem", ["stem"]), ("body", ["body.0", "body.1"]), ("pool", ["pool"]),
    ]  # fmt: skip
    assert [part["dropped"] for part in found["stages"][1]["blocks"]] == [False, True]
    assert (found["kept_params"], found["candidate"], found["source"]) == (2200, "00ff", "winner")
    first = found["stages"][1]["blocks"][0]
    assert (first["kept_params"], first["params"]) == (2050, 2200)
    assert [(row["name"], row["kept_inputs"], row["share"]) for row in first["operations"]] == [
        ("body.0.left.conv1", 4, 0.5), ("body.0.left.conv2", 0, 0.0), ("body.0.right", 8, 1.0),
    ]  # fmt: skip


# ---- the command -------------------------------------------------------------------------------------------

PART = "stage1.1.branch1.conv1"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose training is under way: all is kept but one branch."""
    net = inflate("shakeshake26_2x2d", in_chans=1, img_size=8)
    run = restore.create_run(net, tmp_path / "run")
    run.train_path.mkdir()
    (run.train_path / "recipe.toml").write_text(to_toml(override(Recipe(), {"objective.granularity": "channel"}), ""))
    p = {name: [0.9 if name == PART else 0.1] * gate.channels for name, gate in net.gates.items()}
    write_jsonl(run.train_path / "posterior.jsonl", [{"epoch": 1, "p": p}])
    return run


def show(capsys, run: RunDirectory, *options: str) -> tuple[int, str, str]:
    code = main(["show", "--run", str(run.path), *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_most_probable_network_of_a_training(run: RunDirectory, capsys) -> None:
    code, out, err = show(capsys, run, "--layers")
    assert (code, err) == (0, "")
    title, params, macs, _, *rows = out.splitlines()
    assert title == "shakeshake26_2x2d: most probable"
    found = json.loads(show(capsys, run, "--json")[1])
    assert params.split(" of ")[0] == f"{found['kept_params'] / 1000:.1f} k"
    assert params.endswith(f" parameters ({100 * found['kept_params'] / found['params']:.1f} %)")
    assert macs.endswith(f" MACs ({100 * found['kept_macs'] / found['macs']:.1f} %)")
    assert [row for row in rows if " dropped " in row and "conv1 " in row] == [
        "│ │ ├ conv1  dropped             0 of 36           3x3"
    ]
    assert (found["source"], found["run"]) == ("most probable", str(run.path))
    names = [row["name"] for stage in found["stages"] for part in stage["blocks"] for row in part["operations"]]
    assert sum("x" in row or "linear" in row or "avg" in row for row in rows) == len(names)


@pytest.mark.parametrize(
    ("options", "said"), [(("--depth", "1"), 1), (("--depth", "3"), 3), ((), 3), (("--layers",), 0)]
)
def test_levels(run: RunDirectory, capsys, options: tuple[str, ...], said: int) -> None:
    code, out, err = show(capsys, run, *options)
    assert code == 0
    assert err == (f"{said} of 4 levels are shown: --depth N shows N of them, --layers all\n" if said else "")
    assert max(len(re.findall("[├└│]|^  +[└├]", line)) for line in out.splitlines()) == (said or 4) - 1


def test_depth_and_layers_exclude_each_other(run: RunDirectory, capsys) -> None:
    code, out, err = show(capsys, run, "--depth", "2", "--layers")
    assert (code, out) == (2, "")
    assert err.startswith("error: --depth and --layers exclude each other")


def test_a_run_that_is_not_trained_keeps_everything(run: RunDirectory, capsys) -> None:
    (run.train_path / "posterior.jsonl").unlink()
    out = show(capsys, run)[1]
    assert out.startswith("shakeshake26_2x2d: everything is kept\n")
    assert "dropped" not in out


def test_a_candidate_by_the_beginning_of_its_id(run: RunDirectory, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    net = structure.network_of(run)
    masks = {name: np.ones(gate.channels, dtype=bool) for name, gate in net.gates.items()}
    whole = SimpleNamespace(id="aabbccdd", masks=masks)
    thin = SimpleNamespace(id="aabbffff", masks={**masks, PART: ~masks[PART]})
    for place in ("pgnas_cli.export.choice", "pgnas_cli.ranking.candidates"):
        monkeypatch.setattr(f"{place}.ranked_candidates", lambda run: [whole, thin])
    found: dict[str, Any] = json.loads(show(capsys, run, "--candidate", "AABBF", "--json")[1])
    assert (found["source"], found["candidate"]) == ("candidate", "aabbffff")
    assert found["kept_params"] < json.loads(show(capsys, run, "--candidate", "aabbc", "--json")[1])["kept_params"]
    code, _, err = show(capsys, run, "--candidate", "aabb")
    assert (code, "2 candidates" in err) == (2, True)


def test_without_candidates_none_can_be_shown(run: RunDirectory, capsys) -> None:
    code, out, err = show(capsys, run, "--candidate", "aabb")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == f"hint: pgnas sample --run {run.path}"


def test_in_a_terminal_it_has_colours_and_fits(run: RunDirectory, environment) -> None:
    shown = forked_in_terminal(["show", "--run", str(run.path), "--layers"], environment, columns=40)
    assert (shown.code, "\x1b[36m█" in shown.written, "\x1b[2m" in shown.written) == (0, True, True)
    drawn = [line for line in shown.lines if "█" in line or "dropped" in line]
    assert len(drawn) > 60
    assert max(map(len, drawn)) <= 40


def test_piped_it_is_plain_text_in_any_encoding(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["show", "--run", str(run.path), "--layers"]) == 0
    out = written.getvalue().decode("ascii")
    assert "\x1b" not in out
    assert "|  |  |- conv1  dropped" in out
