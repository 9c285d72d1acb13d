"""An arm of study.py against the plain network, on the test split: Fashion-MNIST, the same epochs and images.

    python tests/bench/evidence/found_plain.py --data-dir DIR --out DIR [--arms plain harden] [--seeds 3 4 5] [--jobs 1]
        [--device cpu] [--epochs 24] [--minutes M] [--results DIR]

The protocol and the arms are those of study.py, the seeds others: arms are chosen there, on the selection split, and
the chosen one is scored here, on the 10 000 test images, once. A run adds a row to found_plain.csv in --results: its
arm and seed, parameters, MACs, selection accuracy, test accuracy with its 95 % Wilson interval, the seconds of the
training. What has a row is not run again; SIGINT, SIGTERM
and --minutes end it as they end study.py. The data folder holds FashionMNIST/raw as torchvision expects it.
"""

from __future__ import annotations

import platform

import torch
from ledger import Ledger
from study_arms import ARMS, BATCH
from study_runs import COMMON, ON, Row, Runs, options_of
from study_table import FOUND_PLAIN

TYPES = {**COMMON, "test_accuracy": float, "test_low": float, "test_high": float, "test_images": int}


def on_the_test_split(trained: Row, ranking: Row) -> Row:
    """The test accuracy of a ranking, and its interval."""
    test = ranking["test_accuracy"]
    return {**{f"test_{name}": test[name] for name in ("low", "high")}, "test_accuracy": test["value"],
            "test_images": test["n"]}  # fmt: skip


def main() -> int:
    parser = options_of(__doc__ or "", seeds=[3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["plain", "harden"], metavar="NAME")
    options = parser.parse_args()
    about = f"Found against plain, test split: {ON}, {options.epochs} epochs, batches of {BATCH}"
    ledger = Ledger("found_plain", about, list(TYPES), ("arm", "seed"), options.results)
    runs = Runs(options, ledger, TYPES, on_the_test_split)
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}")
    runs.all_of(options.arms)
    print(FOUND_PLAIN.render(options.results))
    return runs.exit_status()


if __name__ == "__main__":
    raise SystemExit(main())
