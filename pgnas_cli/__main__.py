"""The program `pgnas`: runs the app and turns what goes wrong into one message, one hint and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from pgnas_cli.console import console
from pgnas_cli.errors import PgnasError, Stopped

_RANK = "RANK"  # set by torchrun in each of its processes
_COMPLETION = "_PGNAS_COMPLETE"  # set by the shell's completion script
_LONGEST = 300
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the arguments after `pgnas`; default `sys.argv[1:]`.

    Returns:
        The exit code: 0 done, 2 bad usage or input, 3 the run, 4 data, 5 network or Hub, 1 anything else,
        128 + n for signal n. Stdout that was closed early (`pgnas zoo list | head -1`) is 1, without a word.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    console.configure(debug="--debug" in arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name need not be printable in the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _run(arguments)
        sys.stdout.flush()
    except SystemExit as leave:
        return _exit_code(leave)
    except KeyboardInterrupt:
        return _failed(_INTERRUPTED, "interrupted")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 1
        return _explain(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _run(arguments: list[str]) -> None:
    from typer.main import get_command

    from pgnas_cli.app import app

    program = get_command(app)
    if _COMPLETION in os.environ:
        program.main(arguments, prog_name="pgnas", complete_var=_COMPLETION)
    else:  # not main(): it would keep the errors of the parser, of pipes and Ctrl-C to itself
        with program.make_context("pgnas", arguments) as context:
            program.invoke(context)


def _explain(error: Exception) -> int:
    """Print what `error` means for the user; return the exit code."""
    import typer

    match error:
        case Stopped() if _follows():  # the master says it for all
            return error.exit_code
        case PgnasError():
            return _failed(error.exit_code, str(error), error.hint)
        case typer.Exit():
            return error.exit_code
        case typer.Abort() | EOFError():
            return _failed(1, "aborted: an answer was expected on stdin")
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "pgnas"
            console.error(error.format_message(), f"{path} --help")
            return error.exit_code
        case OSError() if error.errno in _NO_SPACE:
            name = error.filename or "the output"
            return _failed(1, f"no space left for {name}: it was not written", "free some space, then run it again")
        case OSError() if error.filename is not None:
            return _failed(
                1, f"{error.filename}: {error.strerror}", "check that the path exists and that you may use it"
            )
    hint = "" if console.debug else "run again with --debug for the traceback"
    said = next(iter(str(error).splitlines()), "")[:_LONGEST]  # a compiler may have put all its output there
    return _failed(1, f"unexpected {type(error).__name__}: {said}", hint)


def _failed(code: int, message: str, hint: str = "") -> int:
    if console.debug:
        console.traceback()
    if os.environ.get("WORLD_SIZE", "1") != "1" and _RANK in os.environ:  # one of several that torchrun started
        message = f"rank {os.environ[_RANK]}: {message}"
    console.error(message, hint)
    return code


def _follows() -> bool:
    """Whether torchrun started this process, and it is not the master."""
    return os.environ.get(_RANK, "0") != "0"


def _exit_code(leave: SystemExit) -> int:
    if leave.code == _TERMINATED:
        return _failed(_TERMINATED, "terminated")
    if leave.code is None or isinstance(leave.code, int):
        return leave.code or 0
    return _failed(1, str(leave.code))


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


def _stdout_is_closed() -> bool:
    """True if nobody reads stdout any more; what is left in its buffer is dropped."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
