"""Training schedules compared on the selection split, by the commands of this package.

    python tests/bench/evidence/study.py --data-dir DIR --out DIR [--arms NAME ...] [--seeds 0 1 2] [--jobs 1]
        [--device cpu] [--epochs 24] [--minutes M] [--results DIR]

Fashion-MNIST, 10 000 training images at 14x14, batches of 128, the winner's accuracy on 6000 selection images.
study_arms.py holds the arms: all are run in its order, or those named, as they are named; all seeds of one before the
next. `--arms none` prints the table of what is there. Arms of other than 24 epochs keep their ratio to them at another
--epochs.

A run is inflate, train, sample and rank in OUT/ARM-SEED, with one thread; --jobs of them at once. It adds a row to
study.csv in --results, by default that of the repository: its arm and seed, the winner's parameters, MACs and selection
accuracy, the seconds of the training, and what the posterior was before a commit. The test split is scored by `pgnas
rank`, and neither kept in that row nor printed. What has a row is not run again, and what was interrupted goes on.
Rows of several sittings stand in one table; the same seed gives other rounding on another processor, so that pairs of
different sittings are paired by their data only. After --minutes, or at SIGINT or SIGTERM, nothing new starts and what
runs gets SIGTERM; the table shows what is done. Exit status 1 if a run failed.

One run alone on a core: 24 epochs take 151 s (plain) and 255 to 271 s (commit); two at a time on two cores 400 s
(commit). The other commands take up to a minute.
The data folder holds FashionMNIST/raw as torchvision expects it.
"""

from __future__ import annotations

import platform

import torch
from ledger import Ledger
from study_arms import ARMS, BATCH
from study_runs import COMMON, ON, Row, Runs, options_of
from study_table import STUDY

TYPES = {**COMMON, "soft_expected_params": float, "soft_sampled_params": float}
"""Column -> type; the last two are of the posterior before a commit, empty without one."""


def soft(trained: Row, ranking: Row) -> Row:
    """What the posterior was before a commit."""
    before = trained["soft"] or {}
    return {
        "soft_expected_params": before.get("expected_params"),
        "soft_sampled_params": before["sampled"]["params"]["mean"] if before else None,
    }


def main() -> int:
    parser = options_of(__doc__ or "", seeds=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, "none"], default=list(ARMS), metavar="NAME")
    options = parser.parse_args()
    about = f"Training schedules: {ON}, {options.epochs} epochs, batches of {BATCH}"
    runs = Runs(options, Ledger("study", about, list(TYPES), ("arm", "seed"), options.results), TYPES, soft)
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}, {options}")
    runs.all_of([arm for arm in options.arms if arm != "none"])
    print(STUDY.render(options.results))
    return runs.exit_status()


if __name__ == "__main__":
    raise SystemExit(main())
