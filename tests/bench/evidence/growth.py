"""How cost grows: time and memory of inflating, training, sampling, compacting and evaluating, in four sweeps.

    python tests/bench/evidence/growth.py [--sweeps parameters candidates classes image] [--repeats 5] [--points N]
        [--minutes M] [--results DIR]

Against the supernet's parameters (0.1 M to 73 M), candidates (10 to 10 000), classes (10 to 20 000) and pixels per side
(16 to 224), seven points each in geometric steps, all else at the base that `growth_points.py` states. Every point is
a process of its own with one thread and at most 7 GiB (`growth_measure.py` says how time and memory are taken); its
rows go to DIR/growth.csv. What has a row is not measured again. A point that needs more memory, or whose process dies,
gets a row with the reason, and the exit status is 1. `--points 3` stops after the three smallest of each sweep. After
--minutes, or at Ctrl-C, the point that is being measured is given up; the same command goes on with it.

Prints the section of RESULTS.md with the exponents, and writes DIR/figures/growth-*.svg and .png (`growth_page.py`).

The whole grid is estimated at 13 minutes of one quiet core, by arithmetic from points that were measured (2x6d to
2x54d, 10 000 candidates): 5 for parameters, 2 for candidates, 2 for classes, 4 for images. Half of it is the largest
point of parameters and of images. Run it alone: beside other work CPU time was up to twice as long.

What is compared is one version with itself at other sizes: nothing is set against another tool here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from growth_page import ledger, render, write_figures
from growth_points import SWEEPS, Setting
from ledger import RESULTS, Ledger

MEASURE = Path(__file__).with_name("growth_measure.py")
NUMBERS = ("seconds", "low", "high", "wall", "megabytes", "n", "reason")
Point = tuple[str, Setting, list[str]]
"""Sweep, setting, and the work that has no row."""


def missing(table: Ledger, sweeps: Sequence[str], most: int | None = None) -> Iterator[Point]:
    """The points that lack rows: the smallest of all sweeps first, so that early rows cover all of them."""
    grids = [(name, SWEEPS[name].settings()[:most]) for name in sweeps]
    for index in range(max((len(grid) for _, grid in grids), default=0)):
        for name, grid in grids:
            if index < len(grid):
                setting = grid[index]
                work = [w for w in SWEEPS[name].work if not table.has(sweep=name, setting=setting, what=w)]
                if work:
                    yield name, setting, work


def measured(setting: Setting, work: Sequence[str], repeats: int, seconds: float | None = None) -> dict[str, Any]:
    """What `growth_measure.py` says of a point.

    Raises:
        TimeoutError: it was not done in so many seconds.
    """
    asked = json.dumps({"setting": asdict(setting), "work": list(work), "repeats": repeats})
    process = subprocess.Popen(
        [sys.executable, str(MEASURE), asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, start_new_session=True,
    )  # fmt: skip
    try:
        said, errors = process.communicate(timeout=seconds)
    except BaseException as error:  # the children that it has forked are of its session
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError from None
        raise
    if process.returncode == 0:
        found: dict[str, Any] = json.loads(said)
        return found
    reason = f"its process ended with exit code {process.returncode}: {(errors.splitlines() or ['nothing said'])[-1]}"
    return {"params": None, "rows": {name: {"reason": reason} for name in work}}


def rows(sweep: str, setting: Setting, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a point; numbers with five digits."""
    x = found["params"] if SWEEPS[sweep].field == "width" else getattr(setting, SWEEPS[sweep].field)
    for what, numbers in found["rows"].items():
        cells = {name: numbers.get(name) for name in NUMBERS}
        cells = {name: f"{v:.5g}" if isinstance(v, float) else v for name, v in cells.items()}
        yield {"sweep": sweep, "setting": str(setting), "what": what, "x": x, **cells}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}, it should be at least 1")
    table, began = ledger(options.results), time.monotonic()
    try:
        for sweep, setting, work in missing(table, options.sweeps, options.points):
            spent = time.monotonic() - began
            print(f"{spent:6.0f} s  {sweep}: {setting}", file=sys.stderr, flush=True)
            left = None if options.minutes is None else max(0.0, 60 * options.minutes - spent)
            for row in rows(sweep, setting, measured(setting, work, options.repeats, left)):
                table.add(row)
    except (TimeoutError, KeyboardInterrupt):
        print("stopped: the same command goes on", file=sys.stderr)
    print(render(options.results))
    write_figures(table.rows(), options.results / "figures")
    return int(any(row["reason"] for row in table.rows()))


if __name__ == "__main__":
    raise SystemExit(main())
