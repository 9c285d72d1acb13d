"""`pgnas report`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from report_runs import write_run, write_training

from pgnas_cli.__main__ import main


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["report", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_page_is_written_and_the_next_command_named(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run", "inflate")
    code, out, err = report(capsys, "--run", str(run.path))
    page = run.path / "report.html"
    assert (code, err) == (0, f"next: pgnas train --run {run.path}\n")
    assert out.startswith(f"{page}  (")
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(("seconds", "resumes"), [(0, False), (1000, True)])
def test_a_training_that_runs_is_left_alone_and_another_resumed(
    tmp_path: Path, capsys, seconds: int, resumes: bool
) -> None:
    run = write_run(tmp_path / "a run", "inflate")
    write_training(run, epochs=1)
    for path in run.train_path.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)
    code, _, err = report(capsys, "--run", str(run.path))
    assert (code, err) == (0, f"next: pgnas train --resume --run '{run.path}'\n" if resumes else "")


def test_json_names_what_was_written(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run", "inflate")
    code, out, err = report(capsys, "--run", str(run.path), "--json", "--figures", "-o", str(tmp_path / "x.html"))
    told = json.loads(out)
    assert (code, err, told["path"]) == (0, "", str(tmp_path / "x.html"))
    assert told["runs"] == [str(run.path)]
    assert told["figures"] == [str(tmp_path / "x-figures" / f"architecture.{kind}") for kind in ("svg", "png")]
    assert all(Path(file).is_file() for file in told["figures"])
    assert not (run.path / "report.html").exists()


def test_two_runs_are_compared(tmp_path: Path, capsys, monkeypatch) -> None:
    a, b = (write_run(tmp_path / name, "rank") for name in ("a", "b"))
    monkeypatch.chdir(tmp_path)
    code, out, err = report(capsys, "--compare", "a", "b", "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["runs"], json.loads(out)["path"]) == (["a", "b"], "report-a-vs-b.html")
    assert (a.path / "report.html").exists() is (b.path / "report.html").exists() is False


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--compare", "run", "run", "--run", "run"], 2, "--compare names its two runs: it excludes --run"),
        (["--compare", "run", "nowhere"], 3, "no such run directory: nowhere"),
        (["--run", "run", "-o", "run"], 2, "run is a folder, the page is a file"),
        (["--run", "damaged"], 3, "damaged/train/log.jsonl, line 1, is not valid JSON"),
    ],
)
def test_errors_are_one_line_and_a_hint(
    tmp_path: Path, capsys, monkeypatch, arguments: list[str], code: int, message: str
) -> None:
    write_run(tmp_path / "run", "inflate")
    damaged = write_run(tmp_path / "damaged", "train")
    (damaged.train_path / "log.jsonl").write_text("{\n")
    monkeypatch.chdir(tmp_path)
    found, out, err = report(capsys, *arguments)
    first, second = err.splitlines()
    assert (found, out) == (code, "")
    assert first.startswith(f"error: {message}")
    assert second.startswith("hint: ")


@pytest.mark.parametrize("works", [True, False])
def test_open_shows_it_in_the_browser(tmp_path: Path, capsys, monkeypatch, works: bool) -> None:
    run = write_run(tmp_path / "run", "inflate")
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: shown.append(address) or works)
    code, _, err = report(capsys, "--run", str(run.path), "--open", "--quiet")
    assert (code, shown) == (0, [(run.path / "report.html").as_uri()])
    assert ("no browser was found" in err) == (not works)
