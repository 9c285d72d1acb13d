"""Bars and small curves made of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pgnas_cli.console import console

_FULL, _HALF, _EMPTY, _MARK = ("█", "#"), ("▒", "+"), ("░", "."), ("│", "|")
"""Each as a block character, and for an encoding that has none."""
_LEVELS = ("▁▂▃▄▅▆▇█", "_.,-=+*#")


def _character(pair: tuple[str, str]) -> str:
    return pair[0 if console.blocks else 1]


def bar(share: float, width: int, *, mark: float | None = None) -> str:
    """A bar of `width` characters of which a share in [0, 1] is full.

    Only nothing is quite empty, and only everything quite full.

    Args:
        share: what is full; taken as 0 or 1 if it lies outside.
        width: characters, at least 2.
        mark: share at which a line is drawn, in the place of a character.
    """
    filled = min(max(round(share * width), 1), width - 1) if 0 < share < 1 else width * (share >= 1)
    drawn = _character(_FULL) * filled + _character(_EMPTY) * (width - filled)
    if mark is None:
        return drawn
    place = min(max(math.floor(mark * width), 0), width - 1)
    return drawn[:place] + _character(_MARK) + drawn[place + 1 :]


def parts(first: float, second: float, width: int) -> str:
    """A bar in three parts: two shares of it, full and half full, and the rest."""
    ends = round(first * width), round((first + second) * width)
    drawn = _character(_FULL) * ends[0] + _character(_HALF) * (ends[1] - ends[0])
    return drawn + _character(_EMPTY) * (width - ends[1])


def curve(values: Sequence[float | None], width: int) -> str:
    """A line of at most `width` characters, from the smallest value at the bottom to the largest at the top.

    Where there are more values each character shows the last of several. A character without a value is a space.
    """
    count = min(len(values), width)
    shown = [values[(place + 1) * len(values) // count - 1] for place in range(count)]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high, levels = min(known), max(known), _LEVELS[0 if console.blocks else 1]
    top = len(levels) - 1
    span = high - low
    return "".join(
        " " if value is None else levels[round((value - low) / span * top) if span else top // 2] for value in shown
    )
