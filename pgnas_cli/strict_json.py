"""JSON as the standard has it: what Python's own parser takes beyond it is refused, whoever wrote it.

And how a value that came from there is shown in a message.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

from pgnas_cli.errors import RunError

LONGEST = 80
"""Characters of a foreign value that a message shows."""
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = LONGEST
_REPR.maxlevel = 2


def shown(value: object) -> str:
    """A foreign value in one short line, control characters escaped."""
    text = _REPR.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def parse_json(data: bytes, where: str, *, hint: str = "") -> dict[str, Any]:
    """One JSON object as the standard has it: UTF-8, no key twice, finite numbers.

    Raises:
        RunError: it is anything else, or nested too deeply; `where` names it.
    """
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once_each, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise RunError(f"{where} is not valid JSON: it is nested too deeply", hint) from None
    except ValueError as error:  # also of bytes that are not UTF-8
        raise RunError(f"{where} is not valid JSON: {error}", hint) from None
    if not isinstance(document, dict):
        raise RunError(f"{where} should hold a JSON object, not a {type(document).__name__}", hint)
    return document


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return document


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:LONGEST]} is not finite")
    return value
