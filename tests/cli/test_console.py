"""What is printed where, how numbers are written, and the options that commands share."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from pgnas_cli.commands import _options
from pgnas_cli.commands._options import RunOption, SeedOption, command, group
from pgnas_cli.console import console, human, percent, seconds
from pgnas_cli.errors import UsageError
from pgnas_cli.sizes import Relative, parse_count

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _fresh_console() -> Iterator[None]:
    console.configure()
    yield
    console.configure()


def test_a_table_is_neither_wrapped_nor_read_as_markup(capsys: Capture) -> None:
    path = "/a[red]/" * 60
    console.table("Candidates", ["id", "path"], [[7, path], [None, "x"]], justify=["right"])
    out, err = capsys.readouterr()
    assert err == ""
    title, header, rule, first, second = out.splitlines()
    assert title == "Candidates"
    assert header.split() == ["id", "path"]
    assert set(rule) == {"─"}
    assert first.split() == ["7", path]
    assert second == " -   x"
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_notes_go_to_stderr_and_quiet_hides_all_but_warnings(capsys: Capture) -> None:
    def say() -> None:
        console.note("[b]built[/b] 3")
        console.next_command("pgnas train")
        console.warn("low\n disk")
        console.error("bad", "mend")

    say()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[b]built[/b] 3\nnext: pgnas train\nwarning: low disk\nerror: bad\nhint: mend\n"
    console.configure(quiet=True)
    say()
    assert capsys.readouterr().err == "warning: low disk\nerror: bad\nhint: mend\n"
    console.configure(json=True)
    say()
    assert capsys.readouterr().err == "[b]built[/b] 3\nwarning: low disk\nerror: bad\nhint: mend\n"


def test_result_is_json_or_text_and_once(capsys: Capture) -> None:
    @dataclass
    class Row:
        path: Path
        value: float

    def answer() -> None:
        console.result({"rows": [Row(Path("a/ü"), float("inf"))], 1: (2,)}, lambda: console.line("[text]"))

    answer()
    assert capsys.readouterr().out == "[text]\n"
    console.configure(json=True)
    answer()
    out = capsys.readouterr().out
    assert json.loads(out) == {"rows": [{"path": "a/ü", "value": None}], "1": [2]}
    assert "ü" in out
    with pytest.raises(AssertionError, match="one JSON document"):
        answer()


def test_progress_without_a_terminal_prints_the_first_and_the_last_line(capsys: Capture) -> None:
    with console.progress("train", 5, unit="epochs", every=1000) as bar:
        for step in range(5):
            bar.update(1, metrics={"loss": step / 3, "E[parameters]": 44_400_000, "data": "digits"})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train  1/5 epochs  loss 0  E[parameters] 44.4 M  data digits",
        "train  5/5 epochs  loss 1.333  E[parameters] 44.4 M  data digits",
    ]


def test_progress_keeps_metrics_prints_after_an_interval_and_survives_errors(capsys: Capture) -> None:
    def draw() -> None:
        with console.progress("draw", every=0) as bar:
            bar.update(completed=10, metrics={"accuracy": 0.5})
            bar.update(2)
            raise KeyError

    with pytest.raises(KeyError):
        draw()
    assert capsys.readouterr().err.splitlines() == ["draw  10  accuracy 0.5", "draw  12  accuracy 0.5"]


def test_quiet_progress_prints_nothing(capsys: Capture) -> None:
    console.configure(quiet=True)
    with console.progress("train", 5) as bar:
        bar.update(1, metrics={"loss": 1})
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar_and_notes_stand_above_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress("train [x]", 4, unit="epochs") as bar:
        bar.update(completed=3, metrics={"loss": 0.25})
        console.note("checkpoint")
        bar.update(1)
    err = capsys.readouterr().err
    assert "train [x]" in err
    assert "checkpoint\n" in err
    last = err[err.rindex("train [x]") :]
    assert "4/4 epochs" in last
    assert "loss 0.25" in last


def screen(written: str) -> list[str]:
    """What a terminal shows after all that was written to it: cursor up and down, erased lines, colours left out."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", written):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.endswith("A") and token.startswith("\x1b["):
            row = max(0, row - int(token[2:-1] or 1))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b["):
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stderr a terminal for rich."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)


COLUMNS = ["rank", "candidate"]


class Terminal:
    """What has been written to stderr; the bar is drawn anew ten times a second."""

    def __init__(self, capsys: Capture) -> None:
        self.capsys, self.written = capsys, ""

    def now(self) -> list[list[str]]:
        """The words of every line on the screen."""
        self.written += self.capsys.readouterr().err
        return [line.split() for line in screen(self.written)]

    def until(self, word: str) -> list[list[str]]:
        """Wait for a word."""
        deadline = time.monotonic() + 20
        while True:
            lines = self.now()
            if any(word in line for line in lines):
                return lines
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)


def test_a_table_stands_under_the_bar_while_it_moves_and_is_gone_at_the_end(capsys: Capture, terminal: None) -> None:
    shown = Terminal(capsys)
    with console.progress("rank", 4, unit="images") as bar:
        bar.update(1, below=(COLUMNS, [["1", "ab[x]"], ["2", "cdef"]]))
        first, header, (rule,), *rows = shown.until("cdef")
        assert first[0] == "rank"
        assert "1/4" in first
        assert header == COLUMNS
        assert set(rule) == {"─"}
        assert rows == [["1", "ab[x]"], ["2", "cdef"]]
        console.note("note")
        bar.update(1)  # without one the last stays
        assert shown.until("2/4")[4:] == rows
        bar.update(1, below=(COLUMNS, [["1", "9876"]]))
        assert shown.until("9876")[4:] == [["1", "9876"]]
        bar.update(1)
    note, last = shown.now()
    assert note == ["note"]
    assert last[0] == "rank"
    assert "4/4" in last


def test_a_table_is_gone_after_an_error_too(capsys: Capture, terminal: None) -> None:
    shown = Terminal(capsys)

    def fail() -> None:
        with console.progress("rank", 4) as bar:
            bar.update(1, below=(COLUMNS, [["1", "abcd"]]))
            shown.until("abcd")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    (last,) = shown.now()
    assert last[0] == "rank"


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_there_is_no_table_under_a_bar(capsys: Capture, quiet: bool) -> None:
    console.configure(quiet=quiet)
    with console.progress("rank", 4, unit="images", every=0) as bar:
        bar.update(3, metrics={"leader": "abcd"}, below=(COLUMNS, [["1", "9876"]]))
        bar.update(1, below=(COLUMNS, [["1", "9876"]]))
    out, err = capsys.readouterr()
    assert out == ""
    lines = ["rank  3/4 images  leader abcd", "rank  4/4 images  leader abcd"]
    assert err.splitlines() == ([] if quiet else lines)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (512, "512"),
        (999, "999"),
        (999.7, "1.00 k"),
        (1000, "1.00 k"),
        (193_000, "193 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (9_994_000, "9.99 M"),
        (9_996_000, "10.0 M"),
        (44_400_000, "44.4 M"),
        (1.5e9, "1.50 G"),
        (-44_400_000, "-44.4 M"),
        (2e15, "2000 T"),
    ],
)
def test_human(n: float, text: str) -> None:
    assert human(n) == text


def test_percent_and_seconds() -> None:
    assert percent(0.9725, 0.951, 0.985) == "97.25 % (95.1-98.5)"
    assert percent(1.0) == "100.00 %"
    durations = [0.416, 9.996, 12.34, 59.94, 59.96, 200, 3599.6, 7500]
    assert [seconds(duration) for duration in durations] == [
        "0.42 s",
        "10.0 s",
        "12.3 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("44M", 44_000_000),
        ("44.4 M", 44_400_000),
        ("1.5G", 1_500_000_000),
        ("120k", 120_000),
        ("120K", 120_000),
        ("193_000", 193_000),
        (" 7 ", 7),
        ("0.001k", 1),
        ("1.1k", 1100),
        ("0.5x", Relative(0.5)),
        ("2X", Relative(2.0)),
        (".5x", Relative(0.5)),
    ],
)
def test_parse_count(text: str, value: int | Relative) -> None:
    assert parse_count(text) == value
    assert isinstance(value, Relative) or type(parse_count(text)) is int


@pytest.mark.parametrize("text", ["", "M", "44Q", "-3M", "0", "0x", "1.5", "0.0001k", "nan", "inf", "4 4M", "4,4M"])
def test_parse_count_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="--target-params") as caught:
        parse_count(text, "--target-params")
    assert repr(text) in str(caught.value)
    assert "44M" in caught.value.hint


def test_human_counts_can_be_typed_back() -> None:
    assert [parse_count(human(n)) for n in (512, 193_000, 44_400_000)] == [512, 193_000, 44_400_000]


def test_relative_size() -> None:
    assert Relative(0.5).of(385) == 192


@pytest.fixture
def program() -> typer.Typer:
    """An app with a command and a group, as app.py builds it."""
    app = typer.Typer()

    def grow_net(
        arch: Annotated[str, typer.Argument(help="A timm name.")], run: RunOption = None, seed: SeedOption = 3
    ) -> None:
        """Grow a network."""
        modes = [console.json, console.quiet, console.debug]
        console.configure()
        console.line(f"{arch} {run} {seed} {modes}")

    zoo = group("zoo", "The zoo.")
    command(zoo, grow_net, "show")
    command(app, grow_net)
    app.add_typer(zoo)
    return app


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("grow-net r18", "r18 None 3 [False, False, False]"),
        ("grow-net r18 --run a/b --seed 5 -q", "r18 a/b 5 [False, True, False]"),
        ("grow-net --json r18 --debug", "r18 None 3 [True, False, True]"),
        ("zoo --debug show r18 --quiet", "r18 None 3 [False, True, True]"),
    ],
)
def test_every_command_takes_the_output_options(program: typer.Typer, line: str, printed: str) -> None:
    done = CliRunner().invoke(program, line.split())
    assert done.exit_code == 0
    assert done.stdout == printed + "\n"


@pytest.mark.parametrize(
    "line", ["grow-net r18 --seed -1", "grow-net r18 --seed x", "grow-net", "grow-net r18 --json=1"]
)
def test_bad_options_exit_with_2(program: typer.Typer, line: str) -> None:
    assert CliRunner().invoke(program, line.split()).exit_code == 2


def test_a_group_alone_prints_its_help(program: typer.Typer) -> None:
    done = CliRunner().invoke(program, ["zoo"])
    assert done.exit_code == 0
    assert "The zoo." in done.stdout
    assert "show" in done.stdout


def test_the_shared_options_say_what_they_default_to(program: typer.Typer) -> None:
    text = " ".join(CliRunner().invoke(program, ["grow-net", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "default $PGNAS_RUN, else the newest in ./runs" in text
    for option in ("--json", "--quiet", "-q", "--debug", "--seed"):
        assert option in text


def test_options_resolve_at_run_time() -> None:
    def late(run: RunOption = None) -> None:
        """Annotated in a module whose annotations are strings."""

    assert late.__annotations__["run"] == "RunOption"
    wrapped = _options.with_output_options(late)
    assert wrapped.__annotations__["run"] == RunOption
