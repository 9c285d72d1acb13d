"""The commands and the Python of README.md, executed one after the other in one folder, with smaller values.

`readme_steps.py` says what is typed instead of what. Any one of them may be chosen with -k: what stands before it there
is executed first.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readme
import torch
from hub_server import LocalHub, use
from PIL import Image
from readme_steps import EXECUTED, SHELL

from pgnas_cli.__main__ import main
from pgnas_cli.run import RunDirectory, read_jsonl

pytestmark = pytest.mark.slow

CLASSES, PIXELS = ("cat", "dog"), 8
PUSH = "pgnas export --push-to-hub --repo-id lab/net --private --tag v1"
LINES = [line for line, _ in EXECUTED]


@dataclass
class Done:
    """What a command has printed, and the run that it was about: the newest one."""

    code: int
    out: str
    err: str
    run: Path | None


class Reader:
    """Types the commands of the README one after the other, as far as they are asked for."""

    def __init__(self) -> None:
        self.done: list[Done] = []

    def at(self, place: int) -> Done:
        """What was printed there, after all that stands before it."""
        while len(self.done) <= place:
            self._type(EXECUTED[len(self.done)][1])
        return self.done[place]

    def after(self, line: str) -> Path:
        """The run that `line` was about."""
        found = self.at(LINES.index(line)).run
        assert found is not None
        return found

    def _type(self, typed: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(shlex.split(self._filled(typed))[1:])
        runs = self._runs()
        self.done.append(Done(code, out.getvalue(), err.getvalue(), runs[0] if runs else None))

    def _filled(self, typed: str) -> str:
        """With the runs that are there now in the places of {run}, {other}, {export} and {candidate}."""
        runs = self._runs()
        if not runs:
            return typed
        run = RunDirectory(runs[0])
        rows = read_jsonl(run.rank_path / "leaderboard.jsonl") if "{candidate}" in typed else [{"id": ""}]
        names = {"run": run.path, "other": runs[1] if len(runs) > 1 else "", "export": run.export_path}
        return typed.format(**names, candidate=rows[-1]["id"])

    @staticmethod
    def _runs() -> list[Path]:
        """All runs, the newest first."""
        files = Path("runs").glob("*/run.json")
        return sorted((file.parent for file in files), key=lambda path: RunDirectory(path)._created(), reverse=True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with LocalHub() as local, pytest.MonkeyPatch.context() as patch:
        use(patch, local.url, tmp_path_factory.mktemp("home"))
        yield local


@pytest.fixture(scope="module")
def reader(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("PGNAS_RUN", "PGNAS_DATA"):
            patch.delenv(name, raising=False)
        patch.setattr("webbrowser.open", lambda address: address.startswith("file://"))
        take_photos(folder / "photos")
        yield Reader()


def take_photos(folder: Path) -> None:
    """Two classes, bright above and bright below, as the files that the README names."""
    random = np.random.default_rng(0)
    for part, each in (("train", 24), ("val", 8)):
        for label, name in enumerate(CLASSES):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(1, each + 1):
                pixels = random.integers(0, 80, (PIXELS, PIXELS, 3), dtype=np.uint8)
                half = slice(PIXELS // 2 * label, PIXELS // 2 * (label + 1))
                pixels[half] += 150
                Image.fromarray(pixels).save(place / f"{number}.jpg")


# ---- commands ----


@pytest.mark.parametrize("place", range(len(EXECUTED)), ids=[typed for _, typed in EXECUTED])
def test_it_ends_well(reader: Reader, place: int) -> None:
    done = reader.at(place)
    if "'pgnas[onnx]'" in done.err:
        pytest.skip(done.err.strip())
    assert done.code == 0, done.err
    assert done.out
    assert "Traceback" not in done.err


def test_what_the_shell_does(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"labels"))
    for typed in SHELL.values():
        subprocess.run(["bash", "-e", "-c", typed], cwd=tmp_path, check=True)
    unpacked = tmp_path / "data" / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    assert unpacked.read_bytes() == b"labels"
    assert list(SHELL) == [line for line in readme.commands() if line in SHELL]


# ---- Python ----

PHOTO, SUPERNET, DOWNLOAD, TIMM = "Image.open", "net.masked", "features_only", "timm.create_model"
"""What each Python block is known by."""


def snippet(mark: str) -> str:
    (found,) = [block.text for block in readme.blocks() if block.language == "python" and mark in block.text]
    return found


def executed(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_every_python_block_is_executed_below() -> None:
    for block in readme.blocks():
        assert block.language in ("", "python")
        if block.language:
            assert sum(mark in block.text for mark in (PHOTO, SUPERNET, DOWNLOAD, TIMM)) == 1, block.text


def test_the_class_of_a_photo(reader: Reader, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("PGNAS_RUN", str(reader.after("pgnas export")))
    names = executed(snippet(PHOTO))
    assert capsys.readouterr().out.strip() in CLASSES
    assert names["image"].shape == (3, PIXELS, PIXELS)


def test_a_supernet_in_python(reader: Reader) -> None:
    run = reader.after("pgnas export")
    code = snippet(SUPERNET).replace('"resnet50", width=1.7', '"test_resnet"').replace("=64", "=8")
    code, _, last = code.partition("small = pgnas.load")
    names = executed(code, images=torch.randn(2, 3, 8, 8))
    small = names["small"]
    torch.testing.assert_close(small.eval()(names["images"]), names["logits"], atol=1e-5, rtol=1e-5)
    export = str(RunDirectory(run).export_path)
    last = last.replace("runs/resnet50-20261124-1/export", export)
    assert executed(f"import pgnas_cli as pgnas\nsmall = pgnas.load{last}")["small"](names["images"]).shape == (2, 2)


def test_a_network_of_the_hub(reader: Reader) -> None:
    reader.after(PUSH)
    names = executed(snippet(DOWNLOAD).replace("(1, 2, 3)", "(0, 1)"))  # a small network has fewer
    images = torch.randn(2, 1, 8, 8)
    assert names["net"](images).shape == (2, 5)
    assert len(names["maps"](images)) == len(names["maps"].feature_info.channels()) == 2


def test_a_network_of_the_hub_in_timm(reader: Reader) -> None:
    reader.after(PUSH)
    names = executed(snippet(TIMM))
    assert names["net"](torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert names["config"]["input_size"] == [1, 8, 8]
