"""Sizes as they are typed: 44M, 1.5G, 120k, 0.5x."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pgnas_cli.errors import UsageError


@dataclass(frozen=True)
class Relative:
    """A size as a factor of another: what `0.5x` means."""

    factor: float

    def of(self, whole: int) -> int:
        """The factor times `whole`, rounded."""
        return round(self.factor * whole)


_COUNT = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?(?:e\d{1,2})?|\.\d+)\s*(?P<unit>[kmgtx]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_count(text: str, option: str = "") -> int | Relative:
    """Read a size: `44M` -> 44_000_000, `1.5G`, `120k`, `193000`, `0.5x` -> Relative(0.5).

    Args:
        text: what the user typed.
        option: the option it was typed for, named in the error (`--target-params`).

    Raises:
        UsageError: it is no such number, or it is not a whole number above zero.
    """
    given = f"{option} {text!r}".lstrip()
    hint = "write a size as 44M, 1.5G, 120k or 193000, or a part of the whole as 0.5x"
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{given} is not a size", hint)
    number, unit = float(match["number"].replace("_", "")), match["unit"].lower()
    if unit == "x":
        if number <= 0 or math.isinf(number):
            raise UsageError(f"{given} is not above zero", hint)
        return Relative(number)
    count = round(number * _UNITS[unit], 6)
    if count < 1 or not float(count).is_integer():
        raise UsageError(f"{given} is not a whole number above zero", hint)
    return int(count)


_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>us|ms|s|x)", re.IGNORECASE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse_seconds(text: str, option: str = "") -> float | Relative:
    """Read a time: `3ms` -> 0.003, `250us`, `0.1s`, `0.5x` -> Relative(0.5).

    Raises:
        UsageError: it is no such time, has no unit, or is not above zero.
    """
    given = f"{option} {text!r}".lstrip()
    hint = "write a time as 3ms, 250us or 0.1s, or a part of the whole as 0.5x"
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{given} is not a time", hint)
    number, unit = float(match["number"]), match["unit"].lower()
    if number <= 0 or math.isinf(number):
        raise UsageError(f"{given} is not above zero", hint)
    return Relative(number) if unit == "x" else number * _SECONDS[unit]
