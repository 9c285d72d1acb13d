"""The report of a run as a page and as files."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_run, write_training

from pgnas_cli import inflate, restore
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.report import report as made
from pgnas_cli.report.document import Document, Figure, Section
from pgnas_cli.report.drawing import Drawing, Rect
from pgnas_cli.report.report import report, write
from pgnas_cli.run import RunDirectory, read_json, write_json
from pgnas_cli.training.loop import train

IDS = ["result", "architecture", "posterior", "candidates", "front", "race", "training", "fidelity", "cost",
       "provenance", "repeat"]  # fmt: skip
PAGE = Document("title", ("lead",), (Section("one", "One", ()),))
SMALL = Figure("small", "Small", "A box", Drawing(20, 10, (Rect(1, 1, 5, 5, "series1"),)))


class Reader(HTMLParser):
    """Tags, texts and the values of numbers of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def values(self) -> set[float]:
        return {float(value) for name, value in self.attributes if name == "value" and value is not None}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: a real run of one epoch, ranked with its front."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    run = restore.create_run(net, tmp_path_factory.mktemp("ranked") / "run", options={"explicit": ["in_chans"]})
    changes = {"data.name": "digits", "data.batch_size": 64, "data.limit_train": 320, "schedule.epochs": 1}
    train(run, override(load_recipe("posterior"), {**changes, "budget.target_params": "0.5x"}), device="cpu")
    sample(run, n=4, seed=1)
    rank(run, device="cpu", front=True)
    return run


def test_the_numbers_on_the_page_are_those_of_the_files(ranked: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    told = report(ranked, output=path)
    assert (told["path"], told["sections"], told["figures"], told["warnings"]) == (str(path), IDS, [], [])
    assert told["bytes"] == path.stat().st_size
    page, ranking = Reader(path), read_json(ranked.rank_path / "ranking.json")
    wanted = {ranking[key] for key in ("params", "macs", "images", "candidates", "seconds")}
    wanted |= {ranking[f"{split}_accuracy"]["value"] for split in ("selection", "test")}
    wanted |= {ranking["distribution"][key] for key in ("mean", "std", "min", "median", "max")}
    wanted |= {point["latency"]["median"] for point in ranking["front"]["points"]}
    assert wanted <= page.values
    assert ranking["winner"] in page.text


# ---- in a browser ----

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
UNITS = {"": 1, " %": 1e-2, " points": 1e-2, " k": 1e3, " M": 1e6, " ms": 1e-3, " s": 1}
EVERY = """all => all.map(data => ({
    value: Number(data.value), text: data.textContent, figure: data.closest("figure")?.id ?? null,
    row: [...data.closest("tr")?.querySelectorAll("th, td") ?? []].map(cell => cell.textContent)}))"""


def leaves(found: Any) -> Iterator[float]:
    """Every number of a JSON document."""
    if isinstance(found, dict | list):
        for inner in found.values() if isinstance(found, dict) else found:
            yield from leaves(inner)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield found


def numbers_of(run: RunDirectory) -> set[float]:
    """The numbers of the run's files, and those that the page makes of two of them."""
    files = [run.manifest_path, run.rank_path / "ranking.json", run.rank_path / "leaderboard.jsonl"]
    found = {number for path in files for line in _documents(path) for number in leaves(line)}
    train, ranking, last = run.require("train"), read_json(run.rank_path / "ranking.json"), _last(run)
    found |= {last["mode_params"]}
    found |= {params / train["params"] for params in (train["params"], ranking["params"], last["mode_params"])}
    return found | {train["expected_params"] / train["target_params"] - 1}


def _documents(path: Path) -> list[Any]:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


def _last(run: RunDirectory) -> dict[str, Any]:
    row: dict[str, Any] = _documents(run.train_path / "log.jsonl")[-1]
    return row


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_every_number_that_a_browser_shows_is_one_of_the_files(ranked: RunDirectory, tmp_path: Path) -> None:
    """What a reader sees is the stored number, rounded; and what is stored is what the ranking wrote."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'pgnas[browser]'")
    path = Path(report(ranked, output=tmp_path / "page.html")["path"])
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(path.as_uri())
        found = page.locator("data").evaluate_all(EVERY)
        chromium.close()
    assert len(found) > 100
    for number in found:
        if " min" in number["text"]:
            continue  # "1 min 02 s"
        written = re.match(r"([+-]?[\d,]+(?:\.(\d+))?)( (?:%|points|k|M|ms|s)(?!\w))?", number["text"])
        assert written, number
        unit = UNITS[written[3] or ""]
        step = unit / 10 ** len(written[2] or "")
        assert abs(float(written[1].replace(",", "")) * unit - number["value"]) <= 0.5001 * step, number
    stored = numbers_of(ranked)
    assert [number for number in found if number["figure"] is None and number["value"] not in stored] == []
    front = read_json(ranked.rank_path / "ranking.json")["front"]
    for point in front["points"]:
        shown = {n["value"] for n in found if n["figure"] == "figure-front-params" and n["row"][0] == point["id"]}
        assert shown == {
            point["params"], point["macs"], point["latency"]["median"], point["selection_accuracy"]["value"]
        }  # fmt: skip


# ---- texts ----


def test_names_that_look_like_markup_stay_text(ranked: RunDirectory, tmp_path: Path) -> None:
    plain = Reader(Path(report(ranked, output=tmp_path / "plain.html")["path"]))
    run = RunDirectory(shutil.copytree(ranked.path, tmp_path / '<img src=x onerror="alert(1)">'))
    manifest = run.manifest()
    names = ["<script>alert(2)</script>", "{{ 7 * 7 }}", "</title><b>"]
    data: dict[str, Any] = manifest["stages"]["train"]["data"]
    data |= {"class_names": names, "spec": "folder:/<svg onload=alert(3)>", "split_rule": "</section>"}
    write_json(run.manifest_path, manifest)
    page = Reader(Path(report(run)["path"]))
    assert page.tags == plain.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(text in page.text for text in (*names, data["spec"], data["split_rule"], run.path.name))


@pytest.mark.parametrize("epochs", [None, 0, 1])
def test_a_run_is_reported_from_its_beginning(tmp_path: Path, epochs: int | None) -> None:
    run = write_run(tmp_path / "run", "inflate")
    if epochs is not None:
        write_training(run, epochs)
        for name in ("log.jsonl", "posterior.jsonl") if epochs == 0 else ():
            (run.train_path / name).unlink()
    told = report(run)
    assert told["sections"] == IDS
    page = Reader(run.path / "report.html")
    assert f"pgnas train {'' if epochs is None else '--resume '}--run {run.path}" in page.text


# ---- files ----


def test_figures_lie_beside_the_page_and_replace_the_last_ones(tmp_path: Path) -> None:
    page = Document("title", ("lead",), (Section("one", "One", (SMALL,)),))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.svg").touch()
    told = write(page, tmp_path / "report.html", figures=True)
    assert told["figures"] == [str(tmp_path / "figures" / f"small.{kind}") for kind in ("svg", "png")]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["small.png", "small.svg"]
    assert (tmp_path / "figures" / "small.png").read_bytes().startswith(b"\x89PNG")
    assert "<rect" in (tmp_path / "figures" / "small.svg").read_text()
    write(page, tmp_path / "other.html", figures=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "other-figures", "other.html", "report.html"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"holds something else: thesis\.tex"):
        write(PAGE, tmp_path / "report.html", figures=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["figures", "thesis.tex"]


def test_a_page_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "report.html"
    write(PAGE, path)
    before = path.read_bytes()

    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "no space", str(target))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write(Document("another", (), ()), path)
    assert (path.read_bytes(), [file.name for file in tmp_path.iterdir()]) == (before, ["report.html"])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch, number: int) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(made, "write_bytes", refuse)
    with pytest.raises(RunError, match=f"{tmp_path} may not be written to") as error:
        write(PAGE, tmp_path / "report.html")
    assert error.value.hint == "--output FILE writes the page elsewhere"


def test_the_page_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write(PAGE, tmp_path)


@pytest.mark.parametrize("name", ["run.json", "thesis.tex"])
def test_a_file_that_is_no_page_is_not_replaced(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", "inflate")
    path = run.path / name
    before = path.read_bytes() if path.exists() else b"mine"
    path.write_bytes(before)
    with pytest.raises(UsageError, match=f"{name} exists and is no HTML page"):
        report(run, output=path)
    assert path.read_bytes() == before


def test_a_large_page_is_warned_of(tmp_path: Path, monkeypatch) -> None:
    assert write(PAGE, tmp_path / "a.html")["warnings"] == []
    monkeypatch.setattr(made, "LARGEST", 1000)
    (warning,) = write(PAGE, tmp_path / "a.html")["warnings"]
    assert warning.startswith(f"{tmp_path / 'a.html'} has 0.0 MB")
