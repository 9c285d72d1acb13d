"""`pgnas zoo new`: the distribution that it writes, and that distribution at work in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from pgnas_cli import scaffold
from pgnas_cli.__main__ import main
from pgnas_cli.errors import UsageError

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "templates" / "plugin"
_ONE_AFTER_THE_OTHER = """
import json, sys
from pgnas_cli.__main__ import main

for arguments in json.loads(sys.argv[1]):
    if code := main([*arguments, "--json", "--quiet"]):
        sys.exit(code)
    print("\x1e", end="")
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what is written ----


@pytest.mark.parametrize("typed", ["tiny-net", "Tiny_Net", "pgnas-tiny-net", "pgnas_tiny_net"])
def test_a_whole_distribution_is_written(here: Path, typed: str) -> None:
    made = scaffold.new_plugin(typed)
    assert (made.name, made.distribution, made.path) == ("tiny_net", "pgnas-tiny-net", Path("pgnas-tiny-net"))
    found = contents(made.path)
    assert sorted(found) == sorted(made.files)
    assert {"pyproject.toml", "README.md", ".gitignore", "src/pgnas_tiny_net/plugin.py"} <= set(found)
    assert not [name for name, data in found.items() if b"example" in data or "example" in name]
    project = tomllib.loads(found["pyproject.toml"].decode())["project"]
    assert (project["name"], project["dependencies"]) == ("pgnas-tiny-net", ["pgnas"])
    assert project["entry-points"] == {"pgnas.zoo": {"tiny_net": "pgnas_tiny_net.plugin:Plugin"}}
    for name, data in found.items():
        if name.endswith(".py"):
            compile(data, name, "exec")
    assert os.listdir(here) == ["pgnas-tiny-net"]


def test_the_template_is_the_distribution_of_its_own_name(here: Path) -> None:
    made = scaffold.new_plugin(scaffold.EXAMPLE)
    assert contents(made.path) == {name: data for name, data in contents(TEMPLATE).items() if "__pycache__" not in name}


def test_the_wheel_carries_every_file_of_the_template() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    carried = {
        path for pattern in settings["package-data"]["pgnas_cli.templates"] for path in TEMPLATE.parent.glob(pattern)
    }
    assert {TEMPLATE / name for name in contents(TEMPLATE) if "__pycache__" not in name} <= carried


@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_can_be_named(here: Path, existed: bool) -> None:
    folder = here / "a" / "b"
    if existed:
        folder.mkdir(parents=True)
    made = scaffold.new_plugin("net5", Path("a/b"))
    assert sorted(contents(folder)) == sorted(made.files)
    assert folder.stat().st_mode & 0o777 == (here / "a").stat().st_mode & 0o777


@pytest.mark.parametrize("failing", [0, 3])
def test_a_failure_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    write, calls = Path.write_text, []

    def limited(path: Path, *arguments: object, **options: object) -> int:
        calls.append(path)
        if len(calls) > failing:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", limited)
    with pytest.raises(OSError, match="No space"):
        scaffold.new_plugin("tiny-net")
    assert os.listdir(here) == []


def test_a_folder_that_cannot_be_made_is_named_as_it_was_typed(here: Path) -> None:
    (here / "file").write_text("mine")
    with pytest.raises(OSError, match=r"'file/net'$"):
        scaffold.new_plugin("tiny-net", Path("file/net"))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no name for a plugin"),
        ("9net", "is no name for a plugin: up to 64 letters and digits, words joined by - or _"),
        ("tiny net", "is no name"),
        ("tiny.net", "is no name"),
        ("tiny--net", "is no name"),
        ("-tiny", "is no name"),
        ("tiny_", "is no name"),
        ("../tiny", "is no name"),
        ("kätzchen", "is no name"),
        ("x" * 65, "is no name"),
        ("pgnas-", "is no name"),
        ("class", "'class' is a word of the Python language"),
        ("ResNet", "pgnas .* has a plugin called 'resnet'"),
        ("resnet50", "pgnas .* has an architecture called 'resnet50'"),
        ("supnet-m", "pgnas .* has an architecture called 'supnet-m'"),
        ("cli", "a package pgnas_cli is installed"),
        ("pgnas-zoo", "a package pgnas_zoo is installed"),
    ],
)
def test_a_name_that_does_not_serve_is_refused(here: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        scaffold.new_plugin(name)
    assert error.value.hint
    assert os.listdir(here) == []


def test_a_folder_in_use_is_refused(here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    (here / "file").write_text("mine")
    before = contents(here)
    for name in ("full", "file"):
        with pytest.raises(UsageError, match=f"{name} exists and is not an empty folder"):
            scaffold.new_plugin("tiny-net", Path(name))
    assert contents(here) == before
    (here / "empty").mkdir()
    os.chdir("empty")
    with pytest.raises(UsageError, match="is the current folder"):
        scaffold.new_plugin("tiny-net", Path())


# ---- the command ----


def test_new_says_what_to_type_next(here: Path, capsys) -> None:
    assert main(["zoo", "new", "tiny-net", "--directory", "my net"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "my net: the distribution pgnas-tiny-net with the plugin tiny_net"
    assert err.splitlines() == [
        "next: pip install -e 'my net[test]'",
        "next: pytest 'my net'",
        "next: pgnas zoo list tiny_net",
        "next: pgnas zoo check tiny_net",
        "next: pgnas inflate tiny_net",
    ]
    assert main(["zoo", "new", "other", "--json"]) == 0
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert (made["name"], made["distribution"], made["path"], err) == ("other", "pgnas-other", "pgnas-other", "")
    assert "pyproject.toml" in made["files"]
    assert main(["zoo", "new", "other"]) == 2
    assert "pgnas-other exists and is not an empty folder" in capsys.readouterr().err


# ---- at work ----


def pip() -> list[str]:
    """A pip that installs into other environments; a virtual environment may have none of its own."""
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return [python, "-m", "pip", "--disable-pip-version-check"]
    pytest.skip("no pip in this environment, nor in the Python it was made from")


@pytest.mark.slow
def test_the_distribution_works_in_an_environment_of_its_own(tmp_path: Path, environment: dict[str, str]) -> None:
    """Installed without network into a fresh environment that sees this one's packages."""

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def pgnas(*arguments: str) -> dict | list:
        return json.loads(run(python, "-m", "pgnas_cli", *arguments, "--json", "--quiet"))

    def several(*lines: str) -> list[dict]:
        """These command lines in one process: its imports take longer than they do."""
        said = run(python, "-c", _ONE_AFTER_THE_OTHER, json.dumps([line.split() for line in lines]))
        return [json.loads(document) for document in said.split("\x1e")[:-1]]

    venv, python = tmp_path / "venv", tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    packages = sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)})
    Path(packages, "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    assert "acme_net" not in {row["name"] for row in pgnas("zoo", "list")}

    made = pgnas("zoo", "new", "acme-net")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    run(*pip(), "--python", str(python), "install", "--quiet", *offline, str(tmp_path / made["path"]))
    (row,) = pgnas("zoo", "list", "acme_net")
    assert row["plugin"] == "acme_net"
    assert "passed" in run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / made["path"]))

    inflated, trained, sampled, checked = several(
        "inflate acme_net --width 1.5 --in-chans 1 --img-size 8",
        "train --data digits --limit-train 64 --batch-size 32 --epochs 1",
        "sample -n 3",
        "zoo check acme_net -n 3 --img-size 8",
    )
    assert (inflated["plugin"], inflated["baseline"]["params"] < inflated["supernet"]["params"]) == ("acme_net", True)
    assert trained["images"] == 64
    assert sampled["candidates"] == 3
    assert (checked["passed"], len(checked["gated"])) == (True, 14)
    assert row["params"] == checked["params"]
