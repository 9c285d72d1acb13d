"""The paper's tables in miniature, and what it leaves open: Fashion-MNIST, one small shake-shake supernet.

    python tests/bench/evidence/paper.py --data-dir DIR --out DIR [--tables 3 6 optimism histograms 4 7 l2 5
        granularity u0] [--seeds 0 1 2] [--jobs 1] [--minutes M] [--results DIR] [--device cpu] [--epochs 15]
        [--limit-train 10000] [--selection 0.0333] [--candidates 50] [--finetune 7] [--many 1000] [--both 100]

10 000 training images at 14x14, shakeshake26_2x8d, the recipe `posterior`, batches of 128, 15 epochs; 2000 selection
images cut from the rest of the training images, 10 000 test images. The tables, and what is compared with what:

    3            guided against uniform candidates, both also fine-tuned, and the full supernet. Uniform is trained and
                 drawn at the constant rate whose expected size is the guided candidates' mean size; it is also drawn at
                 that rate from the guided supernet. Fine-tuning adds --finetune epochs of the winner alone, which the
                 others do not have
    4            the four published values of l2 / N without a target: the priors decide the size
    5            three temperatures tau, two of them published
    6            the best of 50, 150, 500 and 1000 candidates: of one sample a seed, all on the whole selection split;
                 the winners of all disjoint parts of the sample of such a number, averaged
    7            the shares of channels and operations that the found networks drop
    l2           the weight prior l2 (1 - p) ||W||^2 against the constant l2 ||W||^2 (Table 2), at one size and without
                 a target
    u0           three architecture priors, without a target
    granularity  one p per layer against one per channel
    optimism     --both candidates scored on both splits: what choosing on the test split would have promised, also by
                 choosing on one part of the test images and looking at the other, 200 times. The one place where
                 candidates other than winners are scored there; nothing is chosen by it
    histograms   accuracies of guided and uniform candidates, and the learned p, in bins; and as pictures, with that of
                 the found architecture: the figures of `pgnas report --figures` of the first seed

Where nothing else is said, the supernet is held at half of its parameters (--target-params 0.5x), so that arms are of
one size; without a target their sizes differ too, and the tables show them. Arms differ in what their table names and
in nothing else: images, epochs, steps, seeds, number of candidates. Winners are chosen on the selection images by
`pgnas rank --method exhaustive`, and scored once on the test images. Seeds are the units of all intervals. Published
figures stand beside ours, and their direction is a claim: it holds or fails where our interval lies on one side of 0.

A run is made of `pgnas` commands in OUT/ARM-SEED, each with one thread; --jobs of them at once. Tables share the run
"guided", so its rows stand in several files: results/paper_*.csv. What has a row is not made again, what was
interrupted goes on. After --minutes, or at SIGINT or SIGTERM, nothing new starts and what runs gets SIGTERM. All tables
that have rows are printed as markdown at the end; `--tables none` only prints. Exit status 1 if a run failed.

One core, by trials of two epochs on a nearly quiet machine: an epoch 12 s, fine-tuning 9 s an epoch, a candidate 0.4 s
on the selection images and 2.2 s on the test images, starting the commands of a run 30 s. From that, not measured, a
seed takes 1.1 hours: Table 3 18 minutes, 4 12, 5, l2 and u0 8 each, 6 9, granularity and optimism 4 each.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import paper_arms as arms  # noqa: E402
import paper_sample as sample  # noqa: E402
from commands import Commands, Failed, Stopped  # noqa: E402
from ledger import RESULTS, Ledger  # noqa: E402
from paper_runs import COLUMNS, KEY, Runs  # noqa: E402
from paper_sample_table import ALL_TABLES  # noqa: E402

WHERE = "Fashion-MNIST at 14x14, shakeshake26_2x8d, recipe posterior"
OTHERS = {
    "6": (sample.NUMBER_COLUMNS, sample.NUMBER_KEY),
    "optimism": (sample.OPTIMISM_COLUMNS, sample.OPTIMISM_KEY),
    "histograms": (sample.HISTOGRAM_COLUMNS, sample.HISTOGRAM_KEY),
}
"""Table that is not one of arms -> its columns, its key."""


def ledgers(folder: Path) -> dict[str, Ledger]:
    """Table -> its file."""
    found = {}
    for name, (file, about) in arms.FILES.items():
        columns, key = OTHERS.get(name, (COLUMNS, KEY))
        found[name] = Ledger(file, f"{about}; {WHERE}", columns, key, folder)
    return found


class Unit(NamedTuple):
    """What is made at once: the missing rows of a table for one arm and seed.

    Args:
        name: for the log.
        done: whether its rows are there.
        rows: makes them.
    """

    name: str
    table: str
    done: Callable[[], bool]
    rows: Callable[[], Iterator[dict[str, Any]]]


def tables_of(table: str, row: dict[str, Any]) -> list[str]:
    """The tables that show a row of one of them: a training stands in all that compare something with it."""
    if table not in arms.TABLES:
        return [table]
    return [name for name, other in arms.TABLES.items() if row["arm"] in other.arms]


class Paper:
    """The tables of one folder of runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.pgnas, self.failures = options, Commands(), 0
        self.lock, self.ledgers = threading.Lock(), ledgers(options.results)
        self.runs = Runs(options, self.pgnas)
        for ledger in self.ledgers.values():
            for row in ledger.rows():
                if (found := (int(row["epochs"]), int(row["train_images"]))) != (options.epochs, options.limit_train):
                    raise SystemExit(f"{ledger.path} has rows of (epochs, images) {found}: name another --results")

    def units(self) -> Iterator[Unit]:
        """In the order of the tables; of each, an arm's seeds one after the other."""
        for name in (name for name in arms.ORDER if name in self.options.tables):
            for arm in arms.TABLES[name].arms if name in arms.TABLES else (arms.BASE,):
                for seed in self.options.seeds:
                    yield self.unit(name, arm, seed)
        if "histograms" in self.options.tables and self.options.seeds:
            seed = self.options.seeds[0]
            paths = sample.picture_paths(self.options.results).values()
            yield Unit(
                f"pictures, seed {seed}", "histograms", lambda: all(path.is_file() for path in paths),
                functools.partial(sample.pictures, self.runs, seed, self.options.results),
            )  # fmt: skip

    def unit(self, table: str, arm: str, seed: int) -> Unit:
        ledger = self.ledgers[table]
        if table in arms.TABLES:
            return Unit(
                f"table {table}, {arm}, seed {seed}", table, lambda: ledger.has(arm=arm, seed=seed),
                lambda: iter([self.runs.row(arm, seed)]),
            )  # fmt: skip
        rows = {"6": sample.number_rows, "optimism": sample.optimism_rows, "histograms": sample.histogram_rows}[table]

        def done() -> bool:
            there = [row for row in ledger.rows() if row["seed"] == str(seed)]
            if table == "histograms":
                return sample.whole(there)
            return len(there) == (len(sample.numbers(self.options.many)) if table == "6" else 1)

        return Unit(f"table {table}, seed {seed}", table, done, functools.partial(rows, self.runs, seed))

    def make(self, unit: Unit) -> None:
        """Make a unit from where it is, and add its rows to every table that has them; says how it ended."""
        if self.pgnas.stopped:
            return
        started = time.perf_counter()
        try:
            with self.lock:
                if unit.done():
                    return
            rows = list(unit.rows())
            with self.lock:
                for row in rows:
                    for name in tables_of(unit.table, row):
                        if not self.ledgers[name].has(**{key: row[key] for key in self.ledgers[name].key}):
                            self.ledgers[name].add(row)
            shown = f", test error {rows[0]['test_error']:.2f} %" if rows and "test_error" in rows[0] else ""
            said = f"done after {time.perf_counter() - started:.0f} s{shown}"
        except Stopped:
            said = "stopped; the next call goes on with it"
        except Exception as error:  # the others go on
            self.failures += 1
            said = f"FAILED: {error}" if isinstance(error, Failed) else f"FAILED:\n{traceback.format_exc()}"
        print(f"{time.strftime('%H:%M:%S')}  {unit.name}: {said}", flush=True)

    def text(self) -> str:
        """Markdown of all tables that have rows."""
        shown = [name for name, ledger in self.ledgers.items() if ledger.rows()]
        return "\n".join(ALL_TABLES[name].render(self.options.results) for name in shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tables", nargs="+", choices=[*arms.ORDER, "none"], default=list(arms.ORDER), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--selection", type=float, default=arms.SELECTION)
    numbers = {
        "jobs": 1, "epochs": arms.EPOCHS, "limit-train": arms.TRAIN_IMAGES, "candidates": arms.CANDIDATES,
        "many": arms.MANY, "both": arms.BOTH, "finetune": arms.EPOCHS // 2,
    }  # fmt: skip
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    paper = Paper(options)
    paper.pgnas.stop_at_signals(options.minutes)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(paper.make, paper.units()))
    print(paper.text())
    if paper.failures:
        print(f"{paper.failures} failed", file=sys.stderr)
        return 1
    return 128 + paper.pgnas.signum if paper.pgnas.signum else 0


if __name__ == "__main__":
    raise SystemExit(main())
