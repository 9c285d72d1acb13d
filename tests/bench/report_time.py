"""How long a report takes, and how large it is: a supernet of 73 M parameters with 1500 ranked candidates.

    python tests/bench/report_time.py --out DIR [--turns 5] [--epochs 20] [--candidates 1500] [--arch supnet-mi]

Makes the run in OUT/run by the package's commands (digits at 8x8, 64 training images an epoch, a race), which takes
about half an hour and 3 GB of disk, and goes on with what is there. Then it times the whole command `pgnas report`,
process start included, and `pgnas report --figures` in turns; one warming turn of each is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sysconfig
import time
from pathlib import Path

import torch

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))


def pgnas(*arguments: object) -> str:
    """Run one command with one thread; its stdout."""
    done = subprocess.run(
        [PGNAS, *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout


def make(run: Path, options: argparse.Namespace) -> None:
    """Whatever the run lacks up to its ranking."""
    if not (run / "run.json").is_file():
        pgnas("inflate", options.arch, "--in-chans", 1, "--img-size", 8, "--run", run, "--quiet")
    stages = json.loads((run / "run.json").read_text())["stages"]
    if "train" not in stages:
        pgnas("train", "--data", "digits", "--limit-train", 64, "--batch-size", 32, "--epochs", options.epochs,
              "--recipe", "posterior", "--target-params", "0.5x", "--run", run, "--quiet")  # fmt: skip
    if "sample" not in stages:
        pgnas("sample", "-n", options.candidates, "--run", run, "--quiet")
    if "rank" not in stages:
        pgnas("rank", "--method", "race", "--budget", 0.25, "--run", run, "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=1500)
    parser.add_argument("--arch", default="supnet-mi")
    options = parser.parse_args()
    run = options.out / "run"
    make(run, options)
    stages = json.loads((run / "run.json").read_text())["stages"]
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}")
    print(f"{options.arch}: {stages['inflate']['params']:,} parameters, {stages['train']['epochs']} epochs, "
          f"{stages['sample']['candidates']} candidates")  # fmt: skip
    ways: dict[str, list[str]] = {"report": [], "report --figures": ["--figures"]}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.turns + 1):
        for name, extra in ways.items():
            started = time.perf_counter()
            written = json.loads(pgnas("report", *extra, "--run", run, "--json"))
            if turn:
                times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        print(f"{name}: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} "
              f"(n = {len(seconds)}); {written['bytes']:,} bytes")  # fmt: skip


if __name__ == "__main__":
    main()
