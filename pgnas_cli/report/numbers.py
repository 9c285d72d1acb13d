"""Numbers as a report shows them: never more digits than their intervals justify, and with the stored value behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pgnas_cli import units
from pgnas_cli.ranking.intervals import Estimate, wilson
from pgnas_cli.report.document import Number

DASH = "\N{EN DASH}"
NONE = Number(DASH, None)
"""In a cell that has no number."""
_MOST = 4
"""Decimals that are shown at most, whatever the interval says."""
_USUAL = 1
"""Decimals of what has no interval."""


def decimals(half: float) -> int:
    """Decimals that an interval of this half width justifies, by the rule of the Particle Data Group.

    The half width keeps two digits where they are below 35 or round to 100, else one: 0.93 -> 1, 0.08 -> 2, 1.2 -> 1,
    4 -> 0 (Review of Particle Physics, introduction, section 5.3). At most four; one where there is no interval.
    """
    if not half > 0:
        return _USUAL
    power = math.floor(math.log10(half))
    kept = 1 if half / 10**power < 3.55 else 0
    return min(max(0, kept - power), _MOST)


def accuracy(value: float | None, low: float | None = None, high: float | None = None) -> Number:
    """A share in percent, with its interval if both ends are given: "82.8 % (82.0–83.5)". None is no number."""
    if value is None:
        return NONE
    if low is None or high is None:
        return Number(f"{_percent(value, _USUAL)} %", value)
    places = decimals(50 * (high - low))
    shown, least, most = (_percent(end, places) for end in (value, low, high))
    return Number(f"{shown} % ({least}{DASH}{most})", value)


def change(ratio: float, places: int = 1) -> Number:
    """How far a ratio is from one, in percent, "+2.4 %"."""
    return Number(f"{_signed(100 * (ratio - 1), places, '+')} %", ratio - 1)


def _signed(value: float, places: int, sign: str = "-") -> str:
    """Rounded; zero has no sign."""
    text = f"{value:{sign}.{places}f}"
    return text if float(text) else text.lstrip("+-")


def _percent(value: float, places: int) -> str:
    """100 times the value; 0.8364999999999999, a mean of rounded numbers, is 83.65."""
    return f"{round(100 * value, 9):.{places}f}"


def proportion(found: Mapping[str, Any] | None) -> Number:
    """A share as rank/ranking.json stores it: {value, low, high, n}."""
    return NONE if found is None else accuracy(found["value"], found["low"], found["high"])


def share(value: float | None) -> Number:
    """A part of a whole that is known exactly, in percent."""
    return NONE if value is None else Number(f"{100 * value:.1f} %", value)


def count(value: float | None) -> Number:
    """A number of things in three digits, "92.7 k"."""
    return NONE if value is None else Number(units.human(value), value)


def whole(value: int | None) -> Number:
    """A number of things in all its digits, "92,697"."""
    return NONE if value is None else Number(f"{value:,}", value)


def seconds(value: float | None) -> Number:
    """A duration, "3 min 20 s"."""
    return NONE if value is None else Number(units.seconds(value), value)


def latency(found: Mapping[str, Any] | None) -> Number:
    """The median time of a pass with its quartiles, "2.57 ms (2.52–2.65)"; {median, low, high} in seconds."""
    if found is None:
        return NONE
    median, low, high = (1e3 * found[name] for name in ("median", "low", "high"))
    places = decimals((high - low) / 2)
    return Number(f"{median:.{places}f} ms ({low:.{places}f}{DASH}{high:.{places}f})", found["median"])


def points(found: Estimate, sign: str = "+") -> Number:
    """A difference of two shares in percentage points with its interval: "+14.2 points (13.0 to 15.4)".

    `sign` is "-" where only negative ones have a sign.
    """
    if found.value is None or found.low is None or found.high is None:
        return NONE
    places = decimals(50 * (found.high - found.low))
    value, low, high = (100 * end for end in (found.value, found.low, found.high))
    text = f"{_signed(value, places, sign)} points ({_signed(low, places)} to {_signed(high, places)})"
    return Number(text, found.value)


def estimate(found: Mapping[str, Any], *, times: float = 1, unit: str = "") -> Number:
    """A statistic with its interval, {value, low, high}, all of which may be None: "0.5 (-0.2 to 1.0)"."""
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return Number("not defined", None)
    if low is None or high is None:
        return Number(f"{_signed(times * value, _USUAL)}{unit}", value)
    places = decimals(times * (high - low) / 2)
    shown, least, most = (_signed(times * end, places) for end in (value, low, high))
    return Number(f"{shown}{unit} ({least} to {most})", value)


def difference(a: Mapping[str, Any], b: Mapping[str, Any], confidence: float = 0.95) -> Estimate:
    """a - b of two independent shares {value, n}, with Newcombe's hybrid score interval.

        d - sqrt((a - la)^2 + (ub - b)^2) .. d + sqrt((ua - a)^2 + (b - lb)^2)

    l and u are the ends of the two Wilson intervals. R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, method
    10. Of two networks that answered the same images it is wider than it would have to be.

    Raises:
        ValueError: n is below 1, or the confidence out of range.
    """
    first, second = (wilson(round(found["value"] * found["n"]), found["n"], confidence) for found in (a, b))
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high)
