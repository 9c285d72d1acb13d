"""The direction of imports, and what may not be imported before a command runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pgnas_cli.app import app

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "timm", "numpy")

# What stands in a line may import its own room and every later line, never an earlier line or a neighbour. The
# public API (pgnas_cli/__init__.py) stands right of the commands: they may import it, no library may.
ORDER = (
    ("__main__", "reference"),
    ("app",),
    ("commands",),
    ("__init__",),
    ("export", "timm_models"),
    ("report",),
    ("ranking",),
    ("training",),
    ("restore", "scaffold"),
    ("inflation",),
    ("registry",),
    ("contract",),
    ("supernet",),
    ("posterior",),
    ("compact",),
    ("recipe_file",),
    ("plugin", "recipe", "run", "sizes"),
    ("sizes", "strict_json"),
    ("errors",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
SAME_ROOM = {"timm_models": "export"}  # beside export: the two may import each other
PRINTING = ("__main__", "app", "commands")  # the only ones that may import console
FOR_ALL = ("errors", "templates", "units")
ZOO = ("plugin", "supernet", "errors")  # what a plugin builds on
LIGHT = (
    "__init__",
    "__main__",
    "app",
    "commands",
    "console",
    "contract",
    "errors",
    "inflation",
    "plugin",
    "recipe",
    "recipe_file",
    "reference",
    "registry",
    "restore",
    "run",
    "scaffold",
    "units",
)


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every import in a module of `package`, also inside functions: its line and the dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


def modules(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Each module of pgnas_cli and of the zoo: its file, its package, and its room (`pgnas_zoo` for the zoo)."""
    for path in sorted((root / "pgnas_cli").rglob("*.py")):
        inside = path.relative_to(root / "pgnas_cli").with_suffix("").parts
        yield path, ".".join(("pgnas_cli", *inside[:-1])), inside[0]
    for path in sorted((root / "zoo").rglob("*.py")):
        inside = path.relative_to(root / "zoo").parts
        yield path, ".".join(("pgnas_zoo", *inside[:-1])), "pgnas_zoo"


def rooms(root: Path) -> set[str]:
    return {room for _, _, room in modules(root)} | {*LEVEL, "console", "templates"}


def why_not(room: str, target: str, known: set[str]) -> str:
    """Why a module in `room` may not import `target`; empty if it may."""
    package, _, rest = target.partition(".")
    if package == "zoo":
        return "the zoo is imported as pgnas_zoo"
    if package == "pgnas_zoo":
        return "" if room == "pgnas_zoo" else "pgnas_cli finds the zoo through the entry points"
    if package != "pgnas_cli":
        return ""
    first = rest.split(".")[0]
    wanted = first if first in known else "__init__"
    if wanted in FOR_ALL or wanted == room:
        return ""
    if room == "pgnas_zoo":
        return "" if wanted in ZOO else f"the zoo imports only {', '.join(ZOO)}"
    if wanted == "console":
        return "" if room in PRINTING else "only app and commands print"
    if room == "console":
        return "console imports only errors and units"
    if room not in LEVEL or wanted not in LEVEL:
        return f"{room if room not in LEVEL else wanted} has no place in the order"
    if LEVEL[room] < LEVEL[wanted] or SAME_ROOM.get(room, room) == SAME_ROOM.get(wanted, wanted):
        return ""
    return f"{room} stands right of {wanted}" if LEVEL[room] > LEVEL[wanted] else f"{room} stands beside {wanted}"


def wrong_arrows(root: Path) -> list[str]:
    """`file:line imports name: reason` for each import against the order."""
    known, found = rooms(root), []
    for path, package, room in modules(root):
        if room == "templates":
            continue
        for line, target in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            reason = why_not(room, target, known)
            if reason:
                found.append(f"{path.relative_to(root)}:{line} imports {target}: {reason}")
    return found


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not those in functions, nor those for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_import(child)


def heavy_at_import(source: str) -> list[str]:
    """The heavy packages that a module imports as soon as it is imported itself."""
    found = []
    for node in at_import(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in HEAVY]
    return found


def test_no_import_goes_against_the_order() -> None:
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("pgnas_cli/supernet/gate.py", "from pgnas_cli.training import loop", "supernet stands right of training"),
        ("pgnas_cli/supernet/gate.py", "def f():\n    import pgnas_cli.ranking.race", "right of ranking"),
        ("pgnas_cli/supernet/gate.py", "from ..registry import find", "right of registry"),
        ("pgnas_cli/supernet/gate.py", "from .. import registry", "right of registry"),
        ("pgnas_cli/supernet/gate.py", "from pgnas_cli import inflate", "right of __init__"),
        ("pgnas_cli/compact/build.py", "from pgnas_cli.posterior import Candidate", "right of posterior"),
        ("pgnas_cli/run.py", "from pgnas_cli.recipe import Recipe", "run stands beside recipe"),
        ("pgnas_cli/recipe/data.py", "import pgnas_cli.plugin", "recipe stands beside plugin"),
        ("pgnas_cli/training/loop.py", "from pgnas_cli.console import console", "only app and commands print"),
        ("pgnas_cli/console.py", "from pgnas_cli.run import RunDirectory", "console imports only errors and units"),
        ("pgnas_cli/commands/train.py", "from pgnas_cli.app import app", "commands stands right of app"),
        ("pgnas_cli/errors.py", "from pgnas_cli.run import RunDirectory", "errors stands right of run"),
        ("pgnas_cli/utils.py", "from pgnas_cli.run import RunDirectory", "utils has no place in the order"),
        ("pgnas_cli/run.py", "import pgnas_cli.utils", "utils has no place in the order"),
        ("pgnas_cli/registry.py", "import pgnas_zoo.resnet", "through the entry points"),
        ("pgnas_cli/registry.py", "import importlib\nimportlib.import_module('pgnas_zoo')", "through the entry points"),
        ("zoo/resnet.py", "from pgnas_cli.registry import find", "the zoo imports only"),
        ("zoo/resnet.py", "import zoo.enas", "imported as pgnas_zoo"),
        ("zoo/resnet.py", "import pgnas_cli as pgnas", "the zoo imports only"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, file: str, source: str, reason: str) -> None:
    for room in (*LEVEL, "utils", "console"):
        place = tmp_path / "pgnas_cli" / f"{room}.py"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source)
    (found,) = wrong_arrows(tmp_path)
    assert found.startswith(f"{file}:")
    assert reason in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pgnas_cli/commands/train.py", "import torch, pgnas_cli as pgnas\nfrom pgnas_cli.console import console"),
        ("pgnas_cli/commands/train.py", "from pgnas_cli.commands._options import RunOption\nfrom . import _options"),
        ("pgnas_cli/export/hub.py", "from pgnas_cli import timm_models\nfrom pgnas_cli.errors import HubError"),
        ("pgnas_cli/timm_models.py", "from pgnas_cli.export.artifact import load"),
        ("pgnas_cli/training/loop.py", "from pgnas_cli.run import RunDirectory\nfrom pgnas_cli import templates"),
        ("zoo/resnet.py", "from pgnas_cli.plugin import ZooPlugin\nfrom pgnas_zoo.enas_net import Net"),
        ("zoo/enas.py", "from pgnas_cli.supernet.gate import Gate\nfrom . import enas_net"),
    ],
)
def test_the_arrows_of_the_architecture_are_allowed(tmp_path: Path, file: str, source: str) -> None:
    for room in ("timm_models", "export", "templates", "run", "plugin", "console"):
        place = tmp_path / "pgnas_cli" / f"{room}.py"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source)
    assert wrong_arrows(tmp_path) == []


def test_light_modules_import_nothing_heavy() -> None:
    light = [path for path, _, room in modules(ROOT) if room in LIGHT]
    assert len(light) > 5
    assert {path.name: heavy for path in light if (heavy := heavy_at_import(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    ("source", "heavy"),
    [
        ("import os, torch.nn", ["torch.nn"]),
        ("from timm.models import create_model", ["timm.models"]),
        ("try:\n    import numpy\nexcept ImportError:\n    pass", ["numpy"]),
        ("class A:\n    import torchvision", ["torchvision"]),
        ("def f():\n    import torch", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", []),
        ("import torchmetrics", []),
    ],
)
def test_a_heavy_import_is_found(source: str, heavy: list[str]) -> None:
    assert heavy_at_import(source) == heavy


def python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=60)


BLOCK = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"


def test_light_modules_and_plugins_load_without_torch() -> None:
    light = sorted({room for _, _, room in modules(ROOT) if room in LIGHT} - {"__init__"})
    source = (
        BLOCK + "from importlib import import_module\nfrom importlib.metadata import entry_points\nimport pgnas_cli\n"
    )
    source += f"for name in {light}: import_module('pgnas_cli.' + name)\n"
    source += "for entry in entry_points(group='pgnas.zoo'): print(entry.load().__name__)"
    done = python(source)
    assert done.stderr == ""
    assert done.stdout.count("Plugin") >= 2


def command_paths(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from command_paths(child, (*path, name))


@pytest.mark.parametrize(
    "arguments", [*((*path, "--help") for path in command_paths(get_command(app))), ("--version",)], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    run = "from pgnas_cli.__main__ import main\ncode = main(sys.argv[1:])\n"
    blocked = python(BLOCK + run + "sys.exit(code)", *arguments)
    assert (blocked.returncode, blocked.stderr) == (0, "")
    assert ("Usage: pgnas" if "--help" in arguments else "pgnas ") in blocked.stdout
    free = python(f"import sys\n{run}print({{*{HEAVY}}} & {{*sys.modules}}, file=sys.stderr)", *arguments)
    assert free.stderr == "set()\n"


def test_every_command_is_listed_in_the_help() -> None:
    assert set(listed(get_command(app))) == {path[0] for path in command_paths(get_command(app)) if path}


def listed(program: Any) -> list[str]:
    return list(program.list_commands(None))
