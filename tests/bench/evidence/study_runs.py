"""A run of study.py or found_plain.py: inflate, train, sample and rank an arm, from where it is."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import run_steps
from commands import PGNAS, Commands, Failed, Stopped
from ledger import RESULTS, Ledger
from peer_runs import training_macs
from run_steps import IMAGE, ranking_of, stages
from study_arms import ARMS, BATCH, EPOCHS, IMAGES

HERE = Path(__file__).parent
Row = dict[str, Any]
"""Column -> value of a row."""
ON = f"Fashion-MNIST, {IMAGES} images at {IMAGE}x{IMAGE}"


def options_of(description: str, *, seeds: list[int]) -> argparse.ArgumentParser:
    """The options that both scripts have.

    Args:
        description: the script's docstring.
        seeds: the default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


class Runs:
    """Runs in folders OUT/ARM-SEED, and their rows.

    Args:
        options: of `options_of`.
        ledger: keeps a row of each; its key is arm and seed.
        types: column -> type of the ledger.
        extra: (trained, ranking) -> the columns that the script has beside the common ones; of ranking.json and of the
            training's record in run.json.
    """

    def __init__(
        self, options: argparse.Namespace, ledger: Ledger, types: dict[str, Callable[[str], Any]],
        extra: Callable[[Row, Row], Row],
    ) -> None:  # fmt: skip
        self.options, self.ledger, self.types, self.extra = options, ledger, types, extra
        self.pgnas, self.failures = Commands(plugins=HERE / "zoo"), 0
        options.out.mkdir(parents=True, exist_ok=True)

    def rows(self) -> dict[tuple[str, int], Row]:
        """(arm, seed) -> its row."""
        rows = [{name: kind(row[name]) if row[name] else None for name, kind in self.types.items()}
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

    def all_of(self, arms: list[str]) -> None:
        """Make what has no row: all seeds of an arm before the next arm's."""
        self.pgnas.stop_at_signals(self.options.minutes)
        done = self.rows()
        with ThreadPoolExecutor(self.options.jobs) as pool:
            for arm in dict.fromkeys(arms):
                for seed in dict.fromkeys(self.options.seeds):
                    if (arm, seed) not in done:
                        pool.submit(self.run, arm, seed)

    def exit_status(self) -> int:
        """1 if a run failed, 128 + the signal that ended this."""
        if self.failures:
            print(f"runs that failed: {self.failures}", file=sys.stderr)
            return 1
        return 128 + self.pgnas.signum if self.pgnas.signum else 0

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
        run, described, options = self.options.out / f"{arm}-{seed}", ARMS[arm], self.options
        epochs = described.scaled(options.epochs)
        where = ["--data-dir", options.data_dir, "--device", options.device, "--run", run]
        how: list[object] = ["--limit-train", IMAGES, "--batch-size", BATCH, *described.train]
        program = (sys.executable, str(HERE / described.script)) if described.script else (PGNAS,)
        run_steps.trained(self.pgnas, run, described.network, seed, epochs, how, where, program)
        if "sample" not in stages(run):
            self.pgnas("sample", *described.sample, "--seed", seed, "--run", run)
        if "rank" not in stages(run):
            self.pgnas("rank", "--method", "exhaustive", *where)
        trained, ranking = stages(run)["train"], ranking_of(run)
        return {
            "arm": arm, "seed": seed, "params": ranking["params"], "macs": ranking["macs"],
            "selection_accuracy": ranking["selection_accuracy"]["value"],
            "selection_images": ranking["selection_accuracy"]["n"], "candidates": ranking["candidates"],
            "epochs": trained["epochs"],
            "training_macs": training_macs(trained, ranking["macs"], described.search_passes),
            "seconds": round(trained["seconds"], 1), "device": trained["device"],
            **self.extra(trained, ranking),
        }  # fmt: skip


COMMON: dict[str, Callable[[str], Any]] = {
    "arm": str, "seed": int, "params": int, "macs": int, "selection_accuracy": float, "selection_images": int,
    "candidates": int, "epochs": int, "training_macs": int, "seconds": float, "device": str,
}  # fmt: skip
"""Column -> type of what `Runs.made` gives of every run."""
