"""Guided against uniform candidates of the same mean size, and the plain network: Fashion-MNIST, without fine-tuning.

    python tests/bench/guided_uniform.py --data-dir DIR --out DIR [--seeds 0 1 2] [--recalibrate 512]

10 000 training images at 14x14, shakeshake26_2x8d, 24 epochs, --target-params 0.5x; the uniform supernet is trained and
drawn at the constant rate whose expected size is the guided candidates' mean size; the plain one is trained without
drops. 40 candidates each, on 6000 selection images; each winner on 10 000 test images. Resumable: a run that has been
ranked is not made again. DIR holds FashionMNIST/raw as torchvision expects it.
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
CANDIDATES = 40


def pgnas(*arguments: object) -> None:
    subprocess.run([PGNAS, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def make(run: Path, size: list[str], strategy: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Inflate, train, sample and rank one run, unless it is there; its ranking."""
    ranking = run / "rank" / "ranking.json"
    if not ranking.is_file():
        if not (run / "run.json").is_file():
            pgnas("inflate", "shakeshake26_2x8d", "--in-chans", 1, "--img-size", 14, "--seed", seed, "--run", run)
        where = ["--data", "torch/fashion_mnist", "--data-dir", options.data_dir, "--limit-train", 10000]
        pgnas("train", "--recipe", "posterior", *where, "--epochs", 24, *size, "--seed", seed, "--force", "--run", run)
        count = 1 if size == ["--fixed-drop", "0"] else CANDIDATES
        pgnas("sample", "-n", count, "--strategy", strategy, "--seed", seed, "--run", run)
        pgnas("rank", "--recalibrate", options.recalibrate, "--run", run)
    found: dict[str, Any] = json.loads(ranking.read_text())
    found["mean_params"] = json.loads((run / "run.json").read_text())["stages"]["sample"]["params"]["mean"]
    return found


def line(name: str, seed: int, ranking: dict[str, Any]) -> str:
    spread, test = ranking["distribution"], ranking["test_accuracy"]
    effect = ranking["recalibration_effect"]
    shown = "" if effect is None else f"  recalibration {100 * effect['mean']:+.2f} +- {100 * effect['std']:.2f}"
    return (
        f"seed {seed}  {name:8} mean size {ranking['mean_params']:9.0f}  selection {100 * spread['mean']:.2f} +- "
        f"{100 * spread['std']:.2f} ({100 * spread['min']:.2f} to {100 * spread['max']:.2f})  winner, test "
        f"{100 * test['value']:.2f} ({100 * test['low']:.2f}-{100 * test['high']:.2f}){shown}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recalibrate", type=int, default=0)
    options = parser.parse_args()
    print(f"{platform.platform()}, python {platform.python_version()}")
    for seed in options.seeds:
        size = "0.5x"
        for name, option, strategy in (
            ("guided", "--target-params", "posterior"),
            ("uniform", "--fixed-drop", "uniform"),
        ):
            ranking = make(options.out / f"{name}-{seed}", [option, size], strategy, options, seed)
            print(line(name, seed, ranking), flush=True)
            size = str(round(ranking["mean_params"]))
        plain = make(options.out / f"plain-{seed}", ["--fixed-drop", "0"], "uniform", options, seed)
        print(line("plain", seed, plain), flush=True)


if __name__ == "__main__":
    main()
