"""Time of `pgnas --help` as a share of `python -c "import torch"`: at most 0.15.

    python tests/bench/help_time.py [PAIRS]

Both sides in turns, after one warm-up each; prints the median, smallest and largest ratio.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HELP = [str(Path(sysconfig.get_path("scripts"), "pgnas")), "--help"]
TORCH = [sys.executable, "-c", "import torch"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seconds(HELP), seconds(TORCH)
    ratios = [seconds(HELP) / seconds(TORCH) for _ in range(pairs)]
    print(f"{platform.platform()}, python {platform.python_version()}, {pairs} pairs")
    print(f"median {statistics.median(ratios):.3f}, smallest {min(ratios):.3f}, largest {max(ratios):.3f}")


if __name__ == "__main__":
    main()
