"""The markdown table of study.py and found_plain.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from scipy.stats import t
from study_arms import ARMS
from study_runs import Row

Rows = dict[tuple[str, int], Row]
"""(arm, seed) -> its row."""


def difference(rows: dict[int, Row], base: dict[int, Row], column: str) -> str:
    """Mean of (rows - base) in points over the seeds of both, with Student's 95 % interval from two on.

    Args:
        rows, base: seed -> row.
        column: of the accuracy.
    """
    common = sorted(rows.keys() & base.keys())
    if not common:
        return ""
    points = [100 * (rows[seed][column] - base[seed][column]) for seed in common]
    shown = f"{statistics.fmean(points):+.2f}"
    if len(points) > 1:
        half = float(t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / math.sqrt(len(points))
        shown += f" +- {half:.2f}"
    return f"{shown} (n = {len(points)})"


def between(values: list[float], digits: int, unit: str) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{low if low == high else f'{low}-{high}'}{unit}"


def table(found: Rows, names: list[str], split: str, base_of: Callable[[str], str], base: str) -> str:
    """A row for each arm of which there is a run; "-" where one lacks a seed that another has.

    Args:
        found: the runs.
        names: of the arms, in order.
        split: "selection" or "test".
        base_of: arm -> the one it is compared with.
        base: what those are called.
    """
    column = f"{split}_accuracy"
    seeds = sorted({seed for _, seed in found})
    arms = {arm: {seed: found[arm, seed] for seed in seeds if (arm, seed) in found} for arm in names}
    accuracies = f"{split}, %, seeds {' / '.join(map(str, seeds))}"
    lines = [f"| arm | supernet | {accuracies} | - {base}, points | parameters | MACs | seconds |", "|---" * 7 + "|"]
    for name, rows in arms.items():
        if rows:
            shown = [f"{100 * rows[s][column]:.2f}" if s in rows else "-" for s in seeds]
            versus = "" if name == base_of(name) else difference(rows, arms.get(base_of(name), {}), column)
            params = between([row["params"] for row in rows.values()], 0, "")
            macs = between([row["macs"] / 1e6 for row in rows.values()], 1, " M")
            seconds = between([row["seconds"] for row in rows.values()], 0, "")
            columns = ARMS[name].description, ARMS[name].network, " ".join(shown), versus, params, macs, seconds
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)
