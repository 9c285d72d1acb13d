"""Guided, tilted, uniform and evolved candidates at one size and one budget of selection images: Fashion-MNIST.

    python tests/bench/strategies.py --data-dir DIR --out DIR [--seeds 0 1 2] [--jobs 1] [--device cpu] [--epochs 24]
        [--candidates 100] [--recalibrate 512] [--limit-train 10000] [--minutes M]

10 000 training images at 14x14, shakeshake26_2x8d, recipe posterior. Three trainings a seed: guided (--target-params
0.5x), wide (0.7x) and uniform (--fixed-drop 0.5x). Four arms a seed, each of 100 candidates that all see the 6000
selection images (rank --method exhaustive); nothing is fine-tuned:

    guided     the guided training, drawn from its posterior
    evolution  the guided training, half drawn from its posterior, half proposed by rank --evolve
    tilted     the wide training, its posterior tilted to a mean of 0.5x
    uniform    the uniform training, drawn at its own rate

0.5x of the supernet's parameters is the target; what was drawn is reported. Evolution's children have no target, but
none is larger than the largest that was sampled. Each winner is scored once on the 10 000 test images; nothing is
chosen by that. The best on the selection split is the largest of 100 values: its interval, that of one candidate, lies
too high. The last column has Student's interval over paired seeds.

Each arm adds a line to OUT/strategies.jsonl; OUT/TRAINING-SEED.ARM is the copy of a training that it was ranked in.
What is there is not made again; interrupted trainings and rankings go on. After --minutes, or at SIGINT or SIGTERM,
nothing new starts and what runs gets SIGTERM. --jobs trainings, each with its arms, run at once. About half an hour of
one core a seed, estimated from shorter runs. --data-dir holds FashionMNIST/raw as torchvision expects it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import statistics
import sys
import threading
import traceback
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from commands import Commands, Stopped
from scipy.stats import t

from pgnas_cli import RunDirectory
from pgnas_cli.posterior.diversity import diversity
from pgnas_cli.ranking.candidates import ranked_candidates

TRAININGS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "guided": (["--target-params", "0.5x"], {"guided": [], "evolution": []}),
    "wide": (["--target-params", "0.7x"], {"tilted": ["--strategy", "tilted", "--params", "0.5x"]}),
    "uniform": (["--fixed-drop", "0.5x"], {"uniform": ["--strategy", "uniform"]}),
}
"""training -> (its size, {arm: how its candidates are drawn, if not from the posterior as it is})."""
SETTINGS = ("epochs", "candidates", "recalibrate", "limit_train", "device")
"""What all lines of a folder have in common."""
COPIED = ("distribution", "selection_accuracy", "test_accuracy", "recalibration_effect", "images", "seconds")
"""What a line has of its ranking."""
Row = dict[str, Any]


class Bench:
    """The arms of one folder."""

    def __init__(self, options: argparse.Namespace, pgnas: Commands) -> None:
        self.options, self.pgnas, self.lock = options, pgnas, threading.Lock()
        self.out, self.lines = options.out, options.out / "strategies.jsonl"
        self.out.mkdir(parents=True, exist_ok=True)
        settings, kept = json.dumps({name: getattr(options, name) for name in SETTINGS}), self.out / "settings.json"
        if not kept.is_file():
            kept.write_text(settings)
        if kept.read_text() != settings:
            raise SystemExit(f"{self.out} was begun with {kept.read_text()}: name another --out")

    def rows(self) -> dict[tuple[str, int], Row]:  # (arm, seed) -> its line
        return {(row["arm"], row["seed"]): row for row in (jsonl(self.lines) if self.lines.is_file() else [])}

    def job(self, name: str, seed: int, there: Collection[tuple[str, int]]) -> list[str]:
        """One training and its arms, but for those that are there; the errors of what failed."""
        errors = []
        for arm in (arm for arm in TRAININGS[name][1] if (arm, seed) not in there):
            try:
                row = self.arm(arm, self.trained(name, seed), seed, TRAININGS[name][1][arm])
                with self.lock, self.lines.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(line(row), flush=True)
            except Stopped:
                break
            except Exception:  # the other arms go on
                errors.append(f"arm {arm}, seed {seed}: {traceback.format_exc()}")
        return errors

    def trained(self, name: str, seed: int) -> Path:
        """The folder of a training, trained to its end."""
        run, options = self.out / f"{name}-{seed}", self.options
        if not (run / "run.json").is_file():
            self.pgnas("inflate", "shakeshake26_2x8d", "--in-chans", 1, "--img-size", 14, "--seed", seed, "--run", run)
        if "train" not in stages(run):
            how: list[object] = ["--resume"]
            if not (run / "train" / "recipe.toml").is_file():  # nothing to go on with
                how = ["--recipe", "posterior", "--data", "torch/fashion_mnist", "--limit-train", options.limit_train]
                how += [*TRAININGS[name][0], "--epochs", options.epochs, "--seed", seed]
            self.pgnas("train", *how, "--data-dir", options.data_dir, "--device", options.device, "--run", run)
        return run

    def arm(self, arm: str, trained: Path, seed: int, draw: list[str]) -> Row:
        """Sample and rank in a copy of a training; the arm's line."""
        run, options = trained.with_name(f"{trained.name}.{arm}"), self.options
        if not run.is_dir():
            shutil.rmtree(copy := run.with_name(f".{run.name}.tmp"), ignore_errors=True)
            shutil.copytree(trained, copy).rename(run)
        evolved = options.candidates // 2 if arm == "evolution" else 0
        if "sample" not in stages(run):
            self.pgnas("sample", "-n", options.candidates - evolved, *draw, "--seed", seed, "--run", run)
        if "rank" not in stages(run):
            how = ["--method", "exhaustive", "--recalibrate", options.recalibrate, "--seed", seed]
            how += ["--evolve", evolved] if evolved else []
            self.pgnas("rank", *how, "--data-dir", options.data_dir, "--device", options.device, "--run", run)
        ranking, board = json.loads((run / "rank" / "ranking.json").read_text()), jsonl(run / "rank/leaderboard.jsonl")
        children = [row for row in board if row["strategy"] == "evolution"]
        wanted = options.candidates, evolved, options.candidates * ranking["selection_accuracy"]["n"]
        if (spent := (len(board), len(children), ranking["images"])) != wanted:
            raise RuntimeError(f"{run}: (candidates, evolved, images) are {spent}, not {wanted}: the budget differs")
        masks = [candidate.masks for candidate in ranked_candidates(RunDirectory.open(str(run)))]
        train, sampled = stages(run)["train"], [row for row in board if row["strategy"] != "evolution"]
        found = {"arm": arm, "seed": seed, "supernet_params": train["params"], **part(board), "winner": board[0]}
        found |= {"sampled": part(sampled), "evolved": part(children) if children else None}
        found |= {"hamming_share": diversity(masks).hamming_share, "train_seconds": train["seconds"]}
        return found | {name: ranking[name] for name in COPIED}


def jsonl(path: Path) -> list[Row]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def stages(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())["stages"]


def part(rows: list[Row]) -> Row:
    params, accuracy = (statistics.fmean(row[name] for row in rows) for name in ("params", "accuracy"))
    return {"candidates": len(rows), "mean_params": params, "mean_accuracy": accuracy}


def size(row: Row) -> str:
    """Mean size in supernets; of evolution also that of either half."""
    shares = [half["mean_params"] / row["supernet_params"] for half in (row, row["sampled"], row["evolved"]) if half]
    return f"{shares[0]:.3f}x" + (f" ({shares[1]:.3f}x sampled, {shares[2]:.3f}x evolved)" if row["evolved"] else "")


def spread(row: Row) -> str:
    return f"{100 * row['distribution']['mean']:.2f} +- {100 * row['distribution']['std']:.2f}"


def share(row: Row, split: str) -> str:
    value, low, high = (100 * row[f"{split}_accuracy"][name] for name in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def line(row: Row) -> str:
    low, high = (100 * row["distribution"][name] for name in ("min", "max"))
    return (
        f"seed {row['seed']}  {row['arm']:9}  {size(row)}  differ in {100 * row['hamming_share']:.1f} %  selection "
        f"{spread(row)} ({low:.2f} to {high:.2f}), best {share(row, 'selection')}  its test {share(row, 'test')}  "
        f"{row['images']} images, {row['train_seconds']:.0f} + {row['seconds']:.0f} s"
    )


def difference(rows: dict[int, Row], guided: dict[int, Row]) -> str:
    """Of the winners' test accuracy to that of guided, in points: the mean, and the 95 % interval of paired seeds."""
    values = [[side[seed]["test_accuracy"]["value"] for side in (rows, guided)] for seed in rows if seed in guided]
    points = [100 * (value - base) for value, base in values]
    if len(points) < 2:
        return f"{points[0]:+.2f} (n = 1)" if points else "-"
    half = float(t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / math.sqrt(len(points))
    return f"{statistics.fmean(points):+.2f} +- {half:.2f} (n = {len(points)})"


def table(found: dict[tuple[str, int], Row], seeds: list[int]) -> str:
    """Markdown, a row for each arm; its cells are in the order of the seeds, "-" where one is missing."""
    heads = ["arm", "mean size", "candidates: selection, %", "best, selection, %", "winner, test, %"]
    texts = [[*heads, f"winner's test - guided's, points; seeds {' / '.join(map(str, seeds))}"], ["---"] * 6]
    columns = size, spread, lambda row: share(row, "selection"), lambda row: share(row, "test")
    guided = {seed: found["guided", seed] for seed in seeds if ("guided", seed) in found}
    for arm in (arm for _, arms in TRAININGS.values() for arm in arms):
        rows = {seed: found[arm, seed] for seed in seeds if (arm, seed) in found}
        cells = [" / ".join(show(rows[seed]) if seed in rows else "-" for seed in seeds) for show in columns]
        texts.append([arm, *cells, "" if arm == "guided" else difference(rows, guided)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float)
    for name, default in {"jobs": 1, "epochs": 24, "candidates": 100, "recalibrate": 512, "limit-train": 10000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}, {vars(options)}")
    pgnas = Commands()
    pgnas.stop_at_signals(options.minutes)
    bench = Bench(options, pgnas)
    with ThreadPoolExecutor(options.jobs) as pool:
        there = bench.rows()
        jobs = [pool.submit(bench.job, name, seed, there) for seed in options.seeds for name in TRAININGS]
        errors = [error for job in jobs for error in job.result()]
    print(table(bench.rows(), options.seeds))
    print("stopped: the same command goes on" if pgnas.stopped else f"{len(errors)} arms failed")
    print(*errors, sep="\n", end="", file=sys.stderr)
    return 128 + pgnas.signum if pgnas.signum else int(bool(errors))


if __name__ == "__main__":
    raise SystemExit(main())
