"""Foreign words in a Markdown file: whatever a name holds, a reader sees it as text.

A template that is rendered with `finalize` escapes every string that it puts in, but for what a filter of here made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 200
"""Characters of a name that are shown."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&$@]|:(?=\S)|(?<=www)\.)", re.IGNORECASE)
"""What begins markup, an address or a mention."""


class Markdown(str):
    """Text that is Markdown already."""


def plain(value: object) -> str:
    """One line without control characters or characters that change a line's direction, at most `LONGEST` long."""
    line = " ".join(str(value).split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def text(value: object) -> Markdown:
    """A sentence of any length in which nothing is markup; not for the start of a line."""
    words = " ".join(plain(word) for word in str(value).split())
    return Markdown(_MARKS.sub(r"\\\1", words))


def code(value: object) -> Markdown:
    """A name as a code span; not for table cells, whose bars would end it."""
    name = plain(value) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", name)), default=0) + 1)
    pad = " " if name.startswith("`") or name.endswith("`") else ""
    return Markdown(f"{fence}{pad}{name}{pad}{fence}")


def line(value: object) -> Markdown:
    """A name as it is, for a line of an indented block of code, in which nothing is markup."""
    return Markdown(plain(value))


def names(values: Iterable[object], most: int) -> Markdown:
    """Names as code spans; of more than `most` the first, and how many there are besides."""
    every = list(values)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return Markdown(", ".join(map(code, every[:most])) + more)


def literal(value: object) -> Markdown:
    """A string as a literal of Python and of JSON, for a block of code."""
    return Markdown(json.dumps(plain(value)))


def finalize(value: Any) -> Any:
    """What Jinja's environment calls with every expression of a template."""
    return text(value) if isinstance(value, str) and not isinstance(value, Markdown) else value
