"""Exit codes, and the lines that go with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]


def test_version_is_that_of_pyproject(pgnas: Run) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = pgnas("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pgnas {version}\n", "")


def test_without_arguments_it_prints_the_help(pgnas: Run) -> None:
    alone, asked = pgnas(), pgnas("--help")
    assert alone.returncode == asked.returncode == 0
    assert alone.stdout == asked.stdout
    assert "Usage: pgnas" in alone.stdout
    assert alone.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["doctr"], "error: No such command 'doctr'. Did you mean 'doctor'?", "hint: pgnas --help"),
        (["doctor", "--jsn"], "error: No such option: --jsn", "hint: pgnas doctor --help"),
        (["doctor", "there"], "error: Got unexpected extra argument", "hint: pgnas doctor --help"),
    ],
)
def test_bad_usage_is_two_lines_and_exit_2(pgnas: Run, arguments: list[str], message: str, hint: str) -> None:
    done = pgnas(*arguments)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2)
    assert lines[0].startswith(message)
    assert lines[1] == hint


@pytest.mark.parametrize("options", [(), ("--json",), ("--quiet",)])
@pytest.mark.parametrize(
    ("kind", "code"), [("PgnasError", 1), ("UsageError", 2), ("RunError", 3), ("DataError", 4), ("HubError", 5)]
)
def test_each_error_has_its_exit_code_and_two_lines(
    pgnas_with: Run, kind: str, code: int, options: tuple[str, ...]
) -> None:
    done = pgnas_with(f"raise errors.{kind}('no [red]such[/red] thing', 'type this')", "extra", *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "error: no [red]such[/red] thing\nhint: type this\n"


def test_an_error_without_a_hint_is_one_line_however_long(pgnas_with: Run) -> None:
    done = pgnas_with("raise errors.RunError('long ' * 100 + '\\n  folded')", "extra")
    assert done.stderr == "error: " + "long " * 99 + "long folded\n"


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_names_the_file(pgnas_with: Run, name: str) -> None:
    done = pgnas_with(f"raise OSError(errno.{name}, 'full', 'runs/a/run.json')", "extra")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: no space left for runs/a/run.json: it was not written"
    assert done.stderr.splitlines()[1].startswith("hint: ")


def test_a_file_that_is_too_big_for_the_limit(pgnas_with: Run) -> None:
    body = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
    body += "with open('big', 'wb', buffering=0) as file:\n    [file.write(bytes(8)) for _ in range(4)]"
    done = pgnas_with(body, "extra")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left for the output")


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ("raise PermissionError(errno.EACCES, 'Permission denied', 'runs')", "error: runs: Permission denied"),
        ("open('absent/file')", "error: absent/file: No such file or directory"),
        ("raise OSError('odd')", "error: unexpected OSError: odd"),
        ("raise BrokenPipeError(errno.EPIPE, 'Broken pipe')", "error: unexpected BrokenPipeError"),
        ("raise EOFError", "error: aborted"),
        ("{}['key']", "error: unexpected KeyError: 'key'"),
        ("raise SystemExit('a reason')", "error: a reason"),
    ],
)
def test_other_exceptions_are_a_line_without_a_traceback(pgnas_with: Run, body: str, start: str) -> None:
    done = pgnas_with(body, "extra")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(start)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("arguments", [("--debug", "extra"), ("extra", "--debug")])
def test_debug_adds_the_traceback_wherever_it_stands(pgnas_with: Run, arguments: tuple[str, str]) -> None:
    done = pgnas_with("raise errors.DataError('no images')", *arguments)
    assert done.returncode == 4
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("DataError: no images\nerror: no images\n")


def test_only_an_unexpected_error_asks_for_debug(pgnas_with: Run) -> None:
    assert pgnas_with("1 / 0", "extra").stderr.endswith("hint: run again with --debug for the traceback\n")
    assert pgnas_with("1 / 0", "extra", "--debug").stderr.endswith(
        "error: unexpected ZeroDivisionError: division by zero\n"
    )


@pytest.mark.parametrize("body", ["raise typer.Exit(7)", "sys.exit(7)"])
def test_a_command_may_choose_its_exit_code(pgnas_with: Run, body: str) -> None:
    done = pgnas_with(f"import typer\n{body}", "extra")
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "error: terminated\n")],
)
def test_signals_clean_up_and_give_128_plus_n(pgnas_with: Run, number: signal.Signals, code: int, line: str) -> None:
    body = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it\n"
    body += f"try:\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(30)\nfinally:\n    console.line('cleaned')"
    done = pgnas_with(body, "extra")
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned\n", line)


def test_json_is_one_document_and_no_hint(pgnas_with: Run) -> None:
    body = "console.table('t', ['a'], [[1]])\nconsole.next_command('pgnas train')\n"
    body += "console.result({'a': float('nan'), 'b': [1]}, lambda: console.line('a is unknown'))"
    done = pgnas_with(body, "extra", "--json")
    assert json.loads(done.stdout) == {"a": None, "b": [1]}
    assert done.stderr == ""
    text = pgnas_with(body, "extra")
    assert text.stdout.endswith("a is unknown\n")
    assert text.stderr == "next: pgnas train\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--json"]])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, environment: dict[str, str], arguments: list[str]) -> None:
    program = Path(sysconfig.get_path("scripts"), "pgnas")
    with subprocess.Popen(
        [program, *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 1


def test_a_path_that_no_encoding_can_print(pgnas_with: Run) -> None:
    done = pgnas_with("console.line(os.fsdecode(b'caf\\xe9'))", "extra")
    assert (done.returncode, done.stdout) == (0, "caf\\udce9\n")


def test_completion_knows_the_commands(pgnas: Run) -> None:
    done = pgnas(env={"_PGNAS_COMPLETE": "complete_bash", "COMP_WORDS": "pgnas doc", "COMP_CWORD": "1"})
    assert done.stdout == "doctor\n"


def test_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgnas_cli", "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("pgnas ")
