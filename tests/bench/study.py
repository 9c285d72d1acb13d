"""Training schedules compared on the selection split: README's table "All arms", by the commands of this package.

    python tests/bench/study.py --data-dir DIR --out DIR [--arms NAME ...] [--seeds 0 1 2] [--jobs 1] [--device cpu]
        [--epochs 24] [--minutes M] [--results DIR]

Fashion-MNIST, 10 000 training images at 14x14, batches of 128, the winner's accuracy on 6000 selection images. ARMS
holds the arms: all are run in its order, or those named, as they are named; all seeds of one before the next. `--arms
none` prints the table of what is there. Arms of other than 24 epochs keep their ratio to them at another --epochs.

A run is inflate, train, sample and rank in OUT/ARM-SEED, with one thread; --jobs of them at once. It adds a row to
study.csv in --results, by default that of the repository: its arm and seed, the winner's parameters, MACs and selection
accuracy, the seconds of the training, and what the posterior was before a commit. The test split is scored by `pgnas
rank`, and neither kept in that row nor printed. What has a row is not run again, and what was interrupted goes on.
Rows of several sittings stand in one table; the same seed gives other rounding on another processor, so that pairs of
different sittings are paired by their data only. After --minutes, or at SIGINT or SIGTERM, nothing new starts and what
runs gets SIGTERM; the table shows what is done. Exit status 1 if a run failed.

One core: 24 epochs take 151 s (plain) and 255 to 271 s (commit) by README, the other commands up to a minute, the
ranking of 50 candidates five; from that, not measured, all arms take about two hours a seed, one run at a time.
The data folder holds FashionMNIST/raw as torchvision expects it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import statistics
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from commands import Commands, Failed, Stopped
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parent / "evidence"))
from ledger import RESULTS, Ledger

EPOCHS, BATCH, IMAGES = 24, 128, 10_000
SIZE = "105774"
"""Parameters of shakeshake26_2x6d, one channel, ten classes."""
PLAIN, FOUND, WIDE = ["--fixed-drop", "0"], ["--target-params", SIZE], "shakeshake26_2x16d"
Row = dict[str, Any]
"""Column -> value of a row of study.csv."""
TYPES = {
    "arm": str, "seed": int, "params": int, "macs": int, "selection_accuracy": float, "selection_images": int,
    "candidates": int, "epochs": int, "seconds": float, "device": str, "soft_expected_params": float,
    "soft_sampled_params": float,
}  # fmt: skip
"""Column -> type; the last two are of the posterior before a commit, empty without one."""


class Arm(NamedTuple):
    description: str
    network: str
    """The supernet, or the plain network."""
    train: list[str]
    """Options of `pgnas train`."""
    epochs: int = EPOCHS
    """Where the others have EPOCHS."""
    sample: tuple[str, ...] = ()
    """Options of `pgnas sample`."""

    def scaled(self, epochs: int) -> int:
        """Its epochs where the others have `epochs`."""
        return max(1, round(self.epochs * epochs / EPOCHS))


def changed(*keys: str) -> list[str]:
    return [text for key in keys for text in ("--set", key)]


ONE, FIFTY = ("-n", "1", "--strategy", "uniform"), ("-n", "50")
DEFAULT_WITHOUT_COMMIT = changed(
    "objective.granularity=channel", "annealing.warmup=0.1", "budget.start=0.19", "budget.reached=0.82"
)
ARMS = {
    "commit": Arm("default recipe: commit at 0.2 of the epochs", WIDE, FOUND),
    "plain": Arm("plain", "shakeshake26_2x6d", PLAIN, sample=ONE),
    "batch": Arm("commit, noise per batch", WIDE, FOUND + changed("objective.noise=batch")),
    "anneal": Arm(
        "commit, temperature 1 to 0.2", WIDE, [*FOUND, "--temperature", "1", *changed("annealing.temperature_end=0.2")]
    ),
    "harden": Arm("commit, temperature 0.2 to 0.05", WIDE, FOUND + changed("annealing.temperature_end=0.05")),
    "nowarm": Arm("commit, noise from the first step", WIDE, FOUND + changed("annealing.warmup=0")),
    "glr03": Arm("commit, gates at a rate of 0.03", WIDE, [*FOUND, "--gate-lr", "0.03"]),
    "glr-sgd": Arm("commit, gates under SGD", WIDE, [*FOUND, "--gate-optimizer", "sgd"]),
    "budget-early": Arm("commit, target reached at 0.3 of the search", WIDE, FOUND + changed("budget.reached=0.3")),
    "group": Arm("commit, one p per group: here, per layer", WIDE, [*FOUND, "--granularity", "group"]),
    "ema": Arm("commit, weights averaged (0.99)", WIDE, [*FOUND, "--ema", "0.99"]),
    "commit45": Arm("commit at 0.45 of the epochs", WIDE, FOUND + changed("commit.at=0.45")),
    "commit60": Arm("commit at 0.6 of the epochs", WIDE, FOUND + changed("commit.at=0.6")),
    "never": Arm(
        "no commit, the best of 50 candidates", WIDE, ["--recipe", "posterior", *FOUND, *DEFAULT_WITHOUT_COMMIT],
        sample=FIFTY,
    ),
    "2x12d": Arm("commit", "shakeshake26_2x12d", FOUND),
    "2x8d": Arm("commit", "shakeshake26_2x8d", FOUND),
    "plain-73": Arm("plain, 73 epochs instead of 24", "shakeshake26_2x6d", PLAIN, 73, ONE),
    "commit-60": Arm("commit at 0.2 of 60 epochs instead of 24", WIDE, FOUND, 60),
    "plain-183": Arm("plain, 183 epochs instead of 24", "shakeshake26_2x6d", PLAIN, 183, ONE),
}  # fmt: skip
"""name -> the arm, in the order in which they are run: long ones last."""


class Study:
    """The runs of one folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.pgnas, self.failures = options, Commands(), 0
        options.out.mkdir(parents=True, exist_ok=True)
        about = (
            f"Training schedules: Fashion-MNIST, {IMAGES} images at 14x14, {options.epochs} epochs, batches of {BATCH}"
        )
        self.ledger = Ledger("study", about, list(TYPES), ("arm", "seed"), options.results)

    def rows(self) -> dict[tuple[str, int], Row]:
        """(arm, seed) -> its row."""
        rows = [{name: kind(row[name]) if row[name] else None for name, kind in TYPES.items()}
                for row in self.ledger.rows()]  # fmt: skip
        found = {(row["arm"], row["seed"]): row for row in rows}
        for (arm, seed), row in found.items():
            wanted = ARMS[arm].scaled(self.options.epochs)
            if row["epochs"] != wanted:
                raise SystemExit(
                    f"{self.ledger.path}: arm {arm}, seed {seed} had {row['epochs']} epochs, not {wanted}: "
                    "give its --epochs, or another --results"
                )
        return found

    def run(self, arm: str, seed: int) -> None:
        """One run from where it is to its row; says how it ended."""
        if self.pgnas.stopped:
            return
        try:
            row = self.made(arm, seed)
            self.ledger.add(row)
            said = f"{100 * row['selection_accuracy']:.2f}  {row['params']:,} parameters  {row['seconds']:.0f} s"
        except Stopped:
            said = "stopped; the next call goes on with it"
        except Exception as error:  # the other runs go on
            self.failures += 1
            said = f"FAILED: {error}" if isinstance(error, Failed) else f"FAILED:\n{traceback.format_exc()}"
        print(f"{time.strftime('%H:%M:%S')}  {arm}, seed {seed}: {said}", flush=True)

    def made(self, arm: str, seed: int) -> Row:
        """Do the stages of a run that are not done; its row."""
        run, (_, network, train, _, sample), options = self.options.out / f"{arm}-{seed}", ARMS[arm], self.options
        epochs = ARMS[arm].scaled(options.epochs)
        where = ["--data-dir", options.data_dir, "--device", options.device, "--run", run]
        if not (run / "run.json").is_file():
            shutil.rmtree(run, ignore_errors=True)  # of an interrupted inflate
            self.pgnas("inflate", network, "--in-chans", 1, "--img-size", 14, "--seed", seed, "--run", run)
        if "train" not in manifest(run)["stages"]:
            how: list[object] = ["--resume"]
            if not (run / "train" / "recipe.toml").is_file():  # nothing to go on with
                how = ["--data", "torch/fashion_mnist", "--limit-train", IMAGES, "--batch-size", BATCH, *train]
                how += ["--epochs", epochs, "--seed", seed, "--channels-last"]
            self.pgnas("train", *how, *where)
        if "sample" not in manifest(run)["stages"]:
            self.pgnas("sample", *sample, "--seed", seed, "--run", run)
        if "rank" not in manifest(run)["stages"]:
            self.pgnas("rank", "--method", "exhaustive", *where)
        trained, ranking = manifest(run)["stages"]["train"], json.loads((run / "rank" / "ranking.json").read_text())
        if trained["epochs"] != epochs:
            raise ValueError(f"{run} was trained for {trained['epochs']} epochs, not {epochs}: remove it")
        soft = trained["soft"] or {}  # the posterior before the commit
        return {
            "arm": arm, "seed": seed, "params": ranking["params"], "macs": ranking["macs"],
            "selection_accuracy": ranking["selection_accuracy"]["value"],
            "selection_images": ranking["selection_accuracy"]["n"], "candidates": ranking["candidates"],
            "epochs": trained["epochs"], "seconds": round(trained["seconds"], 1), "device": trained["device"],
            "soft_expected_params": soft.get("expected_params"),
            "soft_sampled_params": soft["sampled"]["params"]["mean"] if soft else None,
        }  # fmt: skip


def manifest(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def difference(rows: dict[int, Row], base: dict[int, Row]) -> str:
    """Mean of (rows - base) in points over the seeds of both, with Student's 95 % interval from two on."""
    common = sorted(rows.keys() & base.keys())
    if not common:
        return ""
    points = [100 * (rows[seed]["selection_accuracy"] - base[seed]["selection_accuracy"]) for seed in common]
    shown = f"{statistics.fmean(points):+.2f}"
    if len(points) > 1:
        half = float(t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / math.sqrt(len(points))
        shown += f" +- {half:.2f}"
    return f"{shown} (n = {len(points)})"


def between(values: list[float], digits: int, unit: str) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{low if low == high else f'{low}-{high}'}{unit}"


def table(found: dict[tuple[str, int], Row]) -> str:
    """The markdown table of all arms of which there is a run; "-" where one lacks a seed that another has."""
    seeds = sorted({seed for _, seed in found})
    arms = {arm: {seed: found[arm, seed] for seed in seeds if (arm, seed) in found} for arm in ARMS}
    accuracies = f"selection, %, seeds {' / '.join(map(str, seeds))}"
    lines = [f"| arm | supernet | {accuracies} | - commit, points | parameters | MACs | seconds |", "|---" * 7 + "|"]
    for name, rows in arms.items():
        if rows:
            shown = [f"{100 * rows[s]['selection_accuracy']:.2f}" if s in rows else "-" for s in seeds]
            versus = "" if name == "commit" else difference(rows, arms["commit"])
            params = between([row["params"] for row in rows.values()], 0, "")
            macs = between([row["macs"] / 1e6 for row in rows.values()], 1, " M")
            seconds = between([row["seconds"] for row in rows.values()], 0, "")
            columns = ARMS[name].description, ARMS[name].network, " ".join(shown), versus, params, macs, seconds
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, "none"], default=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = Study(options)
    done, arms = study.rows(), [arm for arm in options.arms if arm != "none"]
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}, {options}")
    if arms:
        study.pgnas.stop_at_signals(options.minutes)
        with ThreadPoolExecutor(options.jobs) as pool:
            for arm in dict.fromkeys(arms):
                for seed in dict.fromkeys(options.seeds):
                    if (arm, seed) not in done:
                        pool.submit(study.run, arm, seed)
    print(table(study.rows()))
    if study.failures:
        print(f"runs that failed: {study.failures}", file=sys.stderr)
        return 1
    return 128 + study.pgnas.signum if study.pgnas.signum else 0


if __name__ == "__main__":
    raise SystemExit(main())
