"""What can go wrong on the user's side: one message, one hint, one exit code each.

Exit codes: 0 done, 2 bad usage or input, 3 the run or its stages, 4 data, 5 network or Hub, 1 anything
else, 128 + n for signal n.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PgnasError(Exception):
    """An error that the user can mend.

    Args:
        message: one line: what was given and what was expected.
        hint: one line: what to type or change next; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[type[PgnasError], tuple[str, str]]:
        return type(self), (str(self), self.hint)


class UsageError(PgnasError, ValueError):
    """A bad option, argument or configuration value."""

    exit_code = 2


class RunError(PgnasError):
    """The run directory, or one of its stages, is missing, damaged or out of order."""

    exit_code = 3


class DataError(PgnasError):
    """The data set is missing, unreadable or does not fit."""

    exit_code = 4


class HubError(PgnasError):
    """The network or the Hugging Face Hub refused or failed."""

    exit_code = 5


class Stopped(PgnasError):  # noqa: N818 - named for what happened, as KeyboardInterrupt is
    """SIGINT or SIGTERM arrived, and what was under way has been saved.

    Args:
        signum: the signal; the exit code is 128 more.
        message, hint: as for any PgnasError.
    """

    def __init__(self, signum: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.signum = signum
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type[Stopped], tuple[int, str, str]]:  # type: ignore[override]
        return type(self), (self.signum, str(self), self.hint)


def one_line(error: Exception, longest: int = 300) -> str:
    """What an error of others says, in one line of at most `longest` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def nearest(word: str, known: Iterable[str], n: int = 3) -> str:
    """Up to `n` known words that `word` may have meant, as `a, b or c`; empty if nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=n, cutoff=0.5)
    if len(found) < 2:
        return "".join(found)
    return ", ".join(found[:-1]) + " or " + found[-1]
