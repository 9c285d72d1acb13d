"""What ranking costs, and what a race gives away: 500 candidates of a trained Fashion-MNIST supernet.

    python tests/bench/rank_cost.py [--data-dir DIR] --out DIR [--candidates 500] [--pairs 2] [--races 100]
        [--margins 6] [--naive 10] [--synthetic 1000] [--budgets 0.15 0.1 0.05] [--device cpu|cuda] [--epochs 12]
        [--limit-train 10000] [--parts train time naive regret synthetic]

    train      10 000 training images at 14x14, shakeshake26_2x8d, recipe posterior, --target-params 0.5x, and 500
               candidates; 6000 selection images
    time       `pgnas rank --method exhaustive` against `pgnas rank` with the first of the budgets, in pairs of which
               every other one begins with the race, then once `--margin 0.1`; the goal is a ratio of at most 1/6
    naive      the loop that first comes to mind: for every candidate the supernet is built, its weights are loaded, it
               is masked, and the split is read again; against one `Evaluator` that stays. That one reads the split for
               every candidate too, where a ranking reads it for 16 at once; both have the data set open already
    regret     all answers, computed once and kept in OUT/outcomes.npz; races on them, each with images in another order
    synthetic  races on made-up answers, drawn anew for each. Whether the margin fails more often than a confidence of
               0.9 allows is tested at p < 0.001, one-sided: if so the exit code is 1

Regret is the accuracy of the best candidate less that of the winner, on the whole selection split. What was measured
is a line of OUT/rows.jsonl and is not measured again; a pair that was interrupted is. OMP_NUM_THREADS is 1 unless it
is set. About an hour on an idle core, estimated from a few candidates. DIR holds FashionMNIST/raw for torchvision.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, binomtest

from pgnas_cli import restore
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking import race
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import BATCH, Evaluator, Way, measured_way
from pgnas_cli.ranking.journal import FOLDER, Answers
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.run import RunDirectory, append_jsonl, read_json, read_jsonl, write_jsonl
from pgnas_cli.training.objective import evaluate

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))
PARTS = ("train", "time", "naive", "regret", "synthetic")
GOAL, CONFIDENCE, MARGINS = 1 / 6, 0.95, (0.001, 0.005)
HEAD = """\
| | images | regret: mean, 95th percentile, largest | at most 0.1 points | margin certified, median | violated |
|---|---|---|---|---|---|"""
GROUP = 20  # candidates that are evaluated between two writes of outcomes.npz
SYNTHETIC, SURE = {"images": 1000, "confidence": 0.9, "skill": 0.1, "noise": 0.3}, 0.001
VARIANTS = ((20, "margin", 0.002), (2, "margin", 0.002), (20, "budget", 0.3))
"""With two candidates nothing is lost to the correction for several pairs: failures are likelier to be seen."""
Row = dict[str, Any]


class Kept:
    """What has been measured: a line for each, found again by its key."""

    def __init__(self, path: Path) -> None:
        self.path, rows = path, read_jsonl(path, whole_lines=True) if path.is_file() else []
        write_jsonl(path, rows)  # without a line that a kill broke off
        self.rows: dict[str, Row] = {json.dumps(row["key"]): row["value"] for row in rows}

    def __call__(self, key: Row, measure: Callable[[], Row]) -> Row:
        name = json.dumps(key)
        if name not in self.rows:
            self.rows[name] = measure()
            append_jsonl(self.path, {"key": key, "value": self.rows[name]})
        return self.rows[name]


def pgnas(*arguments: object) -> Row:
    """What a command prints with --json, and its wall time."""
    started = time.perf_counter()
    done = subprocess.run([PGNAS, *map(str, arguments), "--json", "--quiet"], check=True, stdout=subprocess.PIPE)
    return {**json.loads(done.stdout), "wall": time.perf_counter() - started}


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f})"


def proportion(successes: int, n: int) -> str:
    """With its Clopper-Pearson interval of 95 %."""
    low = float(beta.ppf(0.025, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, n - successes)) if successes < n else 1.0
    return f"{successes} of {n} ({100 * low:.1f} to {100 * high:.1f} %)"


class Bench:
    """The parts, in one folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, options.out / "run"
        options.out.mkdir(parents=True, exist_ok=True)
        common = ("candidates", "epochs", "limit_train", "device")
        self.kept, settings = Kept(options.out / "rows.jsonl"), {name: getattr(options, name) for name in common}
        begun = self.kept({"part": "settings"}, lambda: settings)
        if begun != settings:
            raise SystemExit(f"{options.out} was begun with {begun}, not {settings}: name another --out")
        self.device = torch.device(options.device)
        chosen = ["--data-dir", options.data_dir] if options.data_dir is not None else []
        self.where = [*chosen, "--device", options.device, "--run", self.path]

    def train(self) -> None:
        if not (self.path / "run.json").is_file():
            pgnas("inflate", "shakeshake26_2x8d", "--in-chans", 1, "--img-size", 14, "--run", self.path)
        stages = read_json(self.path / "run.json")["stages"]
        if "train" not in stages:
            how = ["--recipe", "posterior", "--target-params", "0.5x", "--epochs", self.options.epochs]
            data = ["--data", "torch/fashion_mnist", "--limit-train", self.options.limit_train]
            pgnas("train", *how, *data, "--force", *self.where)
        if "sample" not in stages:
            pgnas("sample", "-n", self.options.candidates, "--run", self.path)
        stages = read_json(self.path / "run.json")["stages"]
        print(f"training {stages['train']['seconds']:.0f} s, {stages['sample']['candidates']} candidates")

    def key(self, part: str, **more: object) -> Row:
        """Of what depends on the candidates and on the number of threads."""
        drawn = RunDirectory.open(self.path).require("sample")["sha256"]
        return {"part": part, "sha256": drawn, "threads": torch.get_num_threads(), **more}

    def rank(self, *arguments: object) -> Row:
        shutil.rmtree(self.path / FOLDER, ignore_errors=True)  # what an interrupted ranking had evaluated
        found = pgnas("rank", *arguments, "--force", *self.where)
        if found["images_resumed"]:
            raise SystemExit(f"{found['images_resumed']} images were not evaluated anew: the time says nothing")
        board = read_jsonl(self.path / "rank" / "leaderboard.jsonl")
        whole = {"n": board[0]["n"], "correct": {line["id"]: line["correct"] for line in board}}
        kept = ("seconds", "wall", "images", "winner", "margin", "way")
        return {name: found[name] for name in kept} | (whole if found["method"] == "exhaustive" else {})

    def time(self) -> None:
        budget, rows = self.options.budgets[0], []
        sides = {"exhaustive": ["--method", "exhaustive"], "race": ["--budget", budget]}
        for number in range(self.options.pairs):
            order, key = sorted(sides, reverse=bool(number % 2)), self.key("time", budget=budget, pair=number)
            rows.append(self.kept(key, lambda order=order: {side: self.rank(*sides[side]) for side in order}))
            for side, given in rows[-1].items():  # in the order in which they ran
                timed(f"pair {number}, {side}", given, rows[-1]["exhaustive"])
            if rows[-1]["exhaustive"]["correct"] != rows[0]["exhaustive"]["correct"]:
                print("exhaustive rankings differ in counts: rounding, if only one of them built compact networks")
        for name, what in (("seconds", "the comparison alone"), ("wall", "the whole command")):
            ratios = [row["race"][name] / row["exhaustive"][name] for row in rows]
            middle, listed = np.median(ratios), ", ".join(f"{ratio:.4f}" for ratio in ratios)
            print(f"ratio, {what}: median {middle:.4f} of {listed}; goal {'reached' if middle <= GOAL else 'MISSED'}")
        margin = self.kept(self.key("time", margin=MARGINS[0]), lambda: self.rank("--margin", 100 * MARGINS[0]))
        timed(f"margin {100 * MARGINS[0]:g}", margin, rows[0]["exhaustive"])

    def evaluator(self, candidates: Sequence[Candidate]) -> Evaluator:
        """As in a ranking; whether compact networks repay is measured once, on the candidate of median MACs."""
        run = RunDirectory.open(self.path)
        compute = restore.run_recipe(run).compute
        amp = compute.amp if compute.amp != "none" and self.device.type == "cuda" else ""
        net, data = sampled_supernet(run, self.device), same_data(run, data_dir=self.options.data_dir)
        plain = Evaluator(net, data, self.device, way=Way(compute.channels_last, amp))
        middle = sorted(candidates, key=lambda candidate: candidate.macs)[len(candidates) // 2]
        repays = self.kept(self.key("way"), lambda: {"repays": measured_way(plain, middle)})["repays"]
        return Evaluator(net, data, self.device, way=Way(compute.channels_last, amp, repays))

    def naive(self) -> None:
        run = RunDirectory.open(self.path)
        candidates = read_candidates(run)
        evaluator = self.evaluator(candidates)
        positions = evaluator.data.readable("selection").numpy()

        def loop(candidate: Candidate) -> int:
            with torch.inference_mode(), (net := sampled_supernet(run, self.device)).masked(candidate):
                return evaluate(net, evaluator.data.eval_batches("selection", BATCH, self.device)).correct

        def persistent(candidate: Candidate) -> int:
            return int(evaluator.outcomes([candidate], "selection", positions, lambda: None)[0].sum())

        def both(candidate: Candidate, number: int) -> Row:
            row: Row = {}
            for name, side in [("naive", loop), ("evaluator", persistent)][:: -1 if number % 2 else 1]:
                started = time.perf_counter()
                row[name] = {"correct": side(candidate), "seconds": time.perf_counter() - started}
            return row

        both(candidates[0], 0)  # warms up
        rows = []
        for number, index in enumerate(np.linspace(0, len(candidates) - 1, self.options.naive).round().astype(int)):
            key, chosen = self.key("naive", candidate=candidates[index].id), candidates[index]
            rows.append(self.kept(key, lambda c=chosen, i=number: both(c, i)))
        off = max(abs(row["naive"]["correct"] - row["evaluator"]["correct"]) for row in rows)
        if off > len(positions) / 1000:
            raise SystemExit(f"the two differ in {off} of {len(positions)} answers of a candidate")
        loops, persistents = ([row[name]["seconds"] for row in rows] for name in ("naive", "evaluator"))
        ratios = quartiles([a / b for a, b in zip(loops, persistents, strict=True)])
        print(f"seconds a candidate: naive {quartiles(loops)}, evaluator {quartiles(persistents)}; {evaluator.way}")
        print(f"naive / evaluator, {len(rows)} candidates: {ratios}; counts differ by {off} at most", flush=True)

    def outcomes(self, candidates: Sequence[Candidate]) -> Answers:
        """[K, N] whether the answers are right, and the log-probabilities of the labels."""
        path, key = self.options.out / "outcomes.npz", json.dumps(self.key("outcomes"))
        evaluator = self.evaluator(candidates)
        positions = evaluator.data.readable("selection").numpy()
        shape, done, seconds = (len(candidates), len(positions)), 0, 0.0
        right, log_prob = np.zeros(shape, bool), np.zeros(shape, np.float32)
        if path.is_file():
            with np.load(path) as found:
                if str(found["key"]) != key or found["log_prob"].shape != shape:
                    raise SystemExit(f"{path} belongs to {found['key']}, not to {key}: remove it")
                right = np.unpackbits(found["right"], axis=1, count=shape[1]).astype(bool)
                log_prob, done, seconds = found["log_prob"], int(found["done"]), float(found["seconds"])
        while done < shape[0]:
            started, part = time.perf_counter(), slice(done, done + GROUP)
            right[part], log_prob[part] = evaluator.outcomes(candidates[part], "selection", positions, lambda: None)
            done, seconds = min(done + GROUP, shape[0]), seconds + time.perf_counter() - started
            kept = {"right": np.packbits(right, axis=1), "log_prob": log_prob, "done": done, "seconds": seconds}
            np.savez(self.options.out / "part.npz", key=key, **kept)
            os.replace(self.options.out / "part.npz", path)
        accuracy = right.mean(1)
        print(
            f"all answers in {seconds:.1f} s, {evaluator.way}: {len(candidates)} candidates, {shape[1]} images, "
            f"{100 * accuracy.mean():.2f} % +- {100 * accuracy.std(ddof=1):.2f}, best {100 * accuracy.max():.2f} %"
        )
        return right, log_prob

    def regret(self) -> None:
        candidates = read_candidates(RunDirectory.open(self.path))
        answers, tie = self.outcomes(candidates), [(candidate.params, candidate.id) for candidate in candidates]
        print(HEAD)
        wanted: list[tuple[Row, int]] = [({"budget": budget}, self.options.races) for budget in self.options.budgets]
        wanted += [({"margin": margin}, self.options.margins) for margin in MARGINS]
        for how, races in wanted:
            rows = []
            for seed in range(races):
                settings = {"seed": seed, "confidence": CONFIDENCE, **how}
                rows.append(self.kept(self.key("regret", **settings), lambda s=settings: raced(answers, tie, **s)))
            print(summary(how, rows, answers[0].shape), flush=True)

    def synthetic(self) -> bool:
        """Whether a guarantee fails more often than it may."""
        failed, seeds = False, range(self.options.synthetic)
        for K, name, value in VARIANTS:
            setting = SYNTHETIC | {"candidates": K, name: value}
            N, allowed, key = setting["images"], 1 - setting["confidence"], {"part": "synthetic", **setting}
            rows = [self.kept({**key, "seed": seed}, lambda s=setting, i=seed: made_up(s, i)) for seed in seeds]
            mean = {which: 100 * np.mean([row[which] for row in rows]) / N for which in rows[0]}
            missed, behind = sum(row["failed"] for row in rows), sum(row["regret"] > 0 for row in rows)
            p = binomtest(missed, len(rows), allowed, alternative="greater").pvalue
            failed |= p < SURE
            print(
                f"{K} candidates, {name} {value:g}: accuracy {mean['accuracy']:.1f} % +- {mean['spread']:.2f}, images "
                f"{mean['images'] / K:.1f} %, regret {mean['regret']:.3f} on average, above 0 in {behind}, certified "
                f"{mean['margin']:.3f} on average; failed: {proportion(missed, len(rows))}, {100 * allowed:.0f} % are "
                f"allowed, p = {p:.3g}{' FAILED' if p < SURE else ''}",
                flush=True,
            )
        return failed


def timed(name: str, found: Row, exhaustive: Row) -> None:
    counts, n = exhaustive["correct"], exhaustive["n"]
    regret = 100 * (max(counts.values()) - counts[found["winner"]]) / n
    print(
        f"  {name:18} {found['seconds']:8.1f} s, the command {found['wall']:8.1f} s, {found['images']:,} images "
        f"({100 * found['images'] / len(counts) / n:.1f} %), regret {regret:.3f}, certified "
        f"{100 * found['margin']:.3f}, compact from {found['way']['repays']} images on",
        flush=True,
    )


def raced(
    answers: Answers, tie: Sequence[Any], *, seed: int, confidence: float, budget: float = 0.0, margin: float = 0.0
) -> Row:
    """A race on answers that are known; regret and certified margin in images, so that they compare exactly."""
    (K, N), counts = answers[0].shape, answers[0].sum(1)

    def look_up(chosen: Sequence[int], images: NDArray[np.int64]) -> Answers:
        place = np.ix_(list(chosen), images)
        return answers[0][place], answers[1][place]

    field = race.Field(look_up, K, N, seed=seed, pilots=race.pilots_of(K, budget or None), tie=tie)
    if budget:
        winner, found = race.budgeted(field, confidence=confidence, budget=budget, report=lambda look: None)
    else:
        winner, found = race.guaranteed(field, confidence=confidence, margin=margin, report=lambda look: None)
    regret, certified = int(counts.max() - counts[winner]), round(found * N)
    return {"regret": regret, "margin": certified, "failed": regret > certified, "images": field.spent}


def summary(how: Row, rows: Sequence[Row], shape: tuple[int, int]) -> str:
    """A line of the table."""
    (name, value), n = next(iter(how.items())), len(rows)
    share = 100 * np.array([row["images"] for row in rows]) / (shape[0] * shape[1])
    regret, certified = (100 * np.array([row[what] for row in rows]) / shape[1] for what in ("regret", "margin"))
    regrets = ", ".join(f"{value:.3f}" for value in (regret.mean(), np.percentile(regret, 95), regret.max()))
    return (
        f"| `--{name} {value if name == 'budget' else 100 * value:g}` ({n} races) | {share.mean():.1f} % +- "
        f"{share.std():.1f} | {regrets} | {proportion(int((regret <= 0.1 + 1e-9).sum()), n)} | "
        f"{np.median(certified):.3f} points | {sum(row['failed'] for row in rows)} of {n} |"
    )


def made_up(setting: Row, seed: int) -> Row:
    """A race on made-up answers.

    z = skill of the candidate + ease of the image + noise of both, normal each: an answer is right where z > 0, and its
    label has the probability 1 / (1 + exp(-z)). The true accuracies are those on all images.
    """
    rng, K, N = np.random.default_rng(seed), setting["candidates"], setting["images"]
    z = rng.normal(0, setting["skill"], (K, 1)) + rng.normal(3, 3, N) + rng.normal(0, setting["noise"], (K, N))
    answers = z > 0, -np.logaddexp(0, -z).astype(np.float32)
    right = answers[0].sum(1)
    how = {name: setting[name] for name in ("confidence", "budget", "margin") if name in setting}
    row = raced(answers, range(K), seed=seed, **how)
    if "margin" in setting and row["margin"] > setting["margin"] * N + 1e-9:
        raise SystemExit(f"seed {seed}: a margin of {row['margin']} images was certified, {setting} was asked for")
    return {**row, "accuracy": float(right.mean()), "spread": float(right.std(ddof=1))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    numbers = {"candidates": 500, "pairs": 2, "races": 100, "margins": 6, "naive": 10, "synthetic": 1000}
    for name, default in (numbers | {"epochs": 12, "limit-train": 10000}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.15, 0.1, 0.05])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    versions = f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {options.device}", flush=True)
    bench, failed = Bench(options), False
    for part in (part for part in PARTS if part in options.parts):
        print(f"\n{part}", flush=True)
        failed |= bool(getattr(bench, part)())
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
