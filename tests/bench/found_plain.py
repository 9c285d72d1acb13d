"""The default recipe against a plain network of the found one's size: Fashion-MNIST, the same epochs and images.

    python tests/bench/found_plain.py --data-dir DIR --out DIR [--seeds 3 4 5] [--family shakeshake|resnet]

10 000 training images at 14x14, 24 epochs, batches of 128. The plain network is shakeshake26_2x6d (105 774 parameters),
trained without drops; the found one comes out of shakeshake26_2x16d with `--target-params` at the plain one's size, by
the default recipe: searched, settled and trained on inside the same 24 epochs. Both are scored on the 10 000 test
images, once. Resumable: a run that has been ranked is not made again. DIR holds FashionMNIST/raw as torchvision has it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))
NETWORKS = {"shakeshake": ("shakeshake26_2x6d", "shakeshake26_2x16d")}
"""family -> the plain network, and the supernet that a network of its size is found in."""


def pgnas(*arguments: object) -> None:
    subprocess.run([PGNAS, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def stage(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["stages"][name]
    return found


def make(run: Path, arch: str, size: list[str], options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Inflate, train, sample and rank one run, unless it is there; what came of it."""
    if not (run / "rank" / "ranking.json").is_file():
        if not (run / "run.json").is_file():
            pgnas("inflate", arch, "--in-chans", 1, "--img-size", 14, "--seed", seed, "--run", run)
        where = ["--data", "torch/fashion_mnist", "--data-dir", options.data_dir, "--limit-train", 10000]
        how = ["--epochs", 24, "--seed", seed, "--channels-last", "--device", "cpu", "--force"]
        pgnas("train", *where, *size, *how, "--run", run)
        drawn = ["-n", 1, "--strategy", "uniform"] if size[0] == "--fixed-drop" else []
        pgnas("sample", *drawn, "--seed", seed, "--run", run)
        pgnas("rank", "--run", run)
    ranking: dict[str, Any] = json.loads((run / "rank" / "ranking.json").read_text())
    drawn_params = stage(run, "sample")["params"]["mean"]
    return {
        "params": round(drawn_params),
        "macs": round(stage(run, "sample")["macs"]["mean"]),
        "selection": 100 * ranking["selection_accuracy"]["value"],
        "test": 100 * ranking["test_accuracy"]["value"],
        "seconds": stage(run, "train")["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--family", choices=sorted(NETWORKS), default="shakeshake")
    options = parser.parse_args()
    plain_arch, supernet = NETWORKS[options.family]
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}")
    differences = []
    for seed in options.seeds:
        plain = make(options.out / f"plain-{seed}", plain_arch, ["--fixed-drop", "0"], options, seed)
        size = ["--target-params", str(plain["params"])]
        found = make(options.out / f"found-{seed}", supernet, size, options, seed)
        for name, row in (("plain", plain), ("found", found)):
            print(
                f"seed {seed}  {name}  {row['params']:>7,} parameters  {row['macs']:>10,} MACs  "
                f"selection {row['selection']:.2f}  test {row['test']:.2f}  {row['seconds']:.0f} s",
                flush=True,
            )
        differences.append(found["test"] - plain["test"])
    mean = statistics.fmean(differences)
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        half = float(t.ppf(0.975, len(differences) - 1)) * error
        print(f"found - plain, test: {mean:+.2f} points (95 % of {len(differences)} paired seeds: +- {half:.2f})")
    else:
        print(f"found - plain, test: {mean:+.2f} points")


if __name__ == "__main__":
    main()
