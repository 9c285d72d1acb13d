"""One training run, a front of sizes: tilted candidates of 0.3 to 0.9 of a supernet, Fashion-MNIST, no fine-tuning.

    python tests/bench/tilt.py --data-dir DIR --out DIR [--epochs 12] [--candidates 20] [--seed 0] [--recalibrate 512]

10 000 training images at 14x14, shakeshake26_2x8d, recipe posterior, --target-params 0.5x. Of every target: the mean
size of the candidates and of 200 other draws, and the candidates' accuracy on 6000 selection images. The test split is
read once per target, by `pgnas rank`, for its winner. A few minutes of one core; the training is not repeated if it is
there. DIR holds FashionMNIST/raw as torchvision expects it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))
TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pgnas(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([PGNAS, *map(str, arguments), "--json", "--quiet"], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trained(run: Path, options: argparse.Namespace) -> None:
    if not (run / "run.json").is_file():
        pgnas("inflate", "shakeshake26_2x8d", "--in-chans", 1, "--img-size", 14, "--seed", options.seed, "--run", run)
    if "train" not in json.loads((run / "run.json").read_text())["stages"]:
        where = ["--data", "torch/fashion_mnist", "--data-dir", options.data_dir, "--limit-train", 10000]
        how = ["--recipe", "posterior", "--target-params", "0.5x", "--epochs", options.epochs, "--seed", options.seed]
        pgnas("train", *how, *where, "--force", "--run", run)


def line(run: Path, share: float, options: argparse.Namespace) -> str:
    how = ["--strategy", "tilted", "--params", f"{share}x", "-n", options.candidates, "--seed", options.seed]
    sample = pgnas("sample", *how, "--force", "--run", run)
    facts = sample["strategy_facts"]
    ranking = pgnas("rank", "--recalibrate", options.recalibrate, "--force", "--run", run)
    best, spread, test = ranking["selection_accuracy"], ranking["distribution"], ranking["test_accuracy"]
    off = facts["calibration"]["mean"] / facts["target"] - 1
    return (
        f"{share:.1f}x  target {facts['target']:7.0f}  mean of {facts['candidates']} {facts['sampled']:9.1f} "
        f"({100 * facts['relative_error']:+.2f} %), of {facts['calibration']['usable']} others {100 * off:+.2f} %  "
        f"expected {facts['expected']:9.1f}  lambda {facts['lambda']:+.2e}  differ in "
        f"{100 * sample['diversity']['hamming_share']:.1f} %  selection {100 * spread['mean']:.2f} +- "
        f"{100 * spread['std']:.2f}, best {100 * best['value']:.2f} ({ranking['params']})  its test "
        f"{100 * test['value']:.2f} ({100 * test['low']:.2f}-{100 * test['high']:.2f})  {sample['seconds']:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recalibrate", type=int, default=0)
    options = parser.parse_args()
    print(f"{platform.platform()}, python {platform.python_version()}")
    run = options.out / f"tilt-{options.seed}"
    trained(run, options)
    for share in TARGETS:
        print(line(run, share, options), flush=True)


if __name__ == "__main__":
    main()
