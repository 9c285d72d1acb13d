"""The first table: PGNAS beside what its user would do instead, on the same images.

    python tests/bench/evidence/peers.py --data-dir DIR --out DIR [--families shakeshake resnet] [--arms NAME ...]
        [--seeds 0 1 2] [--epochs 5] [--candidates 100] [--minutes M] [--results DIR] [--selection N]

Fashion-MNIST at 14x14: 50 000 training, 10 000 selection and 10 000 test images. The network that an arm ends with is
scored on the test images once, and nothing is chosen by that. DIR of --data-dir holds FashionMNIST/raw as torchvision
expects it.

The same for all arms: SGD with Nesterov momentum, peak rate 0.1, one cosine after 78 steps of warm-up, L2 of 1e-4 on
convolutions, clipping at 5, crop and flip, batches of 128, channels last, no shake-shake noise. Two families:
shake-shake 2x16d (735 k parameters) beside the plain 2x6d (106 k), and ResNet-20 of widths 24-48-96 (611 k) beside
10-20-40 (107 k; zoo/small_resnet.py). Whatever searches or prunes has the plain network's parameters as its target, and
default-both and default-small its MACs too.

    default            search for a fifth of the epochs, commit, train on for the others: the default recipe
    plain              the plain network, the same epochs
    full               the supernet without drops, the same epochs
    uniform            the supernet at the constant drop rate whose expected size is the target; best of n candidates
    posterior          recipe posterior at the target; best of n candidates
    paper-target       the published recipe's objective (group gates, stem and classifier too, tau 0.2, u0 0.5, l2 50 at
                       N 5e5) under SGD, held at the target; best of n candidates
    paper              the same at the size that it finds: the published recipe knows no target
    plain-equal        the plain network for as many epochs as have the multiply-adds of the default's training
    default-both       the default recipe with the plain network's MACs as a second target, after a search as long
    default-small      the same from a supernet of 1.7 to 1.8 times the plain network's parameters (2x8d, 13-26-52)
    magnitude          a fifth of the epochs dense, the smallest ||W_k|| masked, trained on
    tp-group-norm, tp-taylor    a fifth of the epochs dense, Torch-Pruning in ten stages, trained on
    tp-taylor-small    the latter from that smaller network
    tp-group-norm-macs the former to the plain network's MACs, with any number of parameters
    uniform-finetuned  a fifth of the epochs at the constant rate, best of n candidates, trained on

The arms from plain-equal on have at most the multiply-adds of the default's training, from its row: a cheaper network
sees more images; those made by commands in whole epochs. What the fine print of pruning is stands in
peer_pruned.py, peer_training.py, peer_magnitude.py and peer_torch_pruning.py.
The supernets of full, uniform, posterior and paper cost about twice the default's multiply-adds. Candidates are ranked
by `pgnas rank` on the selection images (100 of them race, within 15 % of the images of an exhaustive ranking), with
BatchNorm recalibrated on 512 training images, not counted, each time a candidate is shown a slice; uniform, posterior
and paper are not trained on.

A row is added to results/peers.csv when an arm is done: errors in percent, training_macs = 3 x MACs x images that were
shown. What has a row is not made again, and what was interrupted goes on. After --minutes, or at SIGINT or SIGTERM,
nothing new starts. A killed process leaves its command running: look for it before the next call. Several of these
processes may run at once with other --families or --seeds; magnitude and those of Torch-Pruning share a dense phase,
and belong to one process. `pip install torch-pruning` for the latter.

Cost of a seed in minutes of one quiet core at five epochs, from the seconds per image of short runs: shake-shake 130
(default 8, plain 4, plain-equal 12, default-both 10, full 7, each of the four that are sampled 10, uniform-finetuned
14, each that is pruned 9), ResNet 85 (7, 3, 8, 8, 5, 7, 9, 4 to 6), without default-small and tp-taylor-small. Beside
another process on two cores, as measured, ResNet: 6, 3, 6 to 8, 8 to 9, pruned 3 to 7.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "zoo")]

from commands import Commands, Failed, Stopped  # noqa: E402
from ledger import RESULTS, Ledger  # noqa: E402
from peer_arms import ARMS, BOTH, COLUMNS, COMMIT, FAMILIES, ORDER, PASSES, PRUNED, TARGET_MACS, Row  # noqa: E402
from peer_runs import Runs, affordable_epochs  # noqa: E402

SPENT_AS_DEFAULT = ("plain-equal", *BOTH)
"""Arms that are made by commands, for as many epochs as have the multiply-adds of the default's training."""
ABOUT = "Peers on the same work: Fashion-MNIST at 14x14, 50 000 training, 10 000 selection, 10 000 test images"


def made(runs: Runs, ledger: Ledger, family: str, arm: str, seed: int) -> Row:
    """Make an arm; its row."""
    if arm in ARMS and arm not in SPENT_AS_DEFAULT:
        return runs.row(family, arm, seed, runs.epochs)
    found = {(row["family"], row["arm"], row["seed"]): row for row in ledger.rows()}
    default, plain = (found.get((family, name, str(seed))) for name in ("default", "plain"))
    if default is None or plain is None:
        raise Failed(f"{arm} needs the rows of plain and default of {family}, seed {seed}: name these arms too")
    budget = int(default["training_macs"])
    if arm in PRUNED:
        from peer_pruned import pruned_row  # imports torch

        return pruned_row(runs, family, arm, seed, budget, int(plain["macs"]))
    per_epoch = int(plain["training_images"]) // runs.epochs
    if arm in BOTH:
        searched, supernet = runs.search_epochs, runs.supernet_macs(family, arm, seed)
        epochs = affordable_epochs(budget, per_epoch, searched, supernet, int(plain["macs"]))
        meant = {TARGET_MACS: plain["macs"], COMMIT: f"commit.at={searched / epochs:.4f}"}
        return runs.row(family, arm, seed, epochs, meant)
    return runs.row(family, arm, seed, max(1, budget // (PASSES * int(plain["macs"]) * per_epoch)))


def fill(runs: Runs, ledger: Ledger, options: argparse.Namespace) -> int:
    """Make what has no row; how many arms failed."""
    failures = 0
    for seed in options.seeds:
        for family in options.families:
            for arm in (arm for arm in ORDER if arm in options.arms):
                if runs.pgnas.stopped:
                    continue
                try:
                    if ledger.has(family=family, arm=arm, seed=seed):
                        continue
                    row = made(runs, ledger, family, arm, seed)
                    ledger.add(row)
                    said = f"test error {row['test_error']:.2f} %, {row['params']:,} parameters"
                except Stopped:
                    said = "stopped; the next call goes on with it"
                except Exception as error:  # the other arms go on
                    failures += 1
                    said = f"FAILED: {error}" if isinstance(error, Failed) else f"FAILED:\n{traceback.format_exc()}"
                print(f"{time.strftime('%H:%M:%S')}  {family}, {arm}, seed {seed}: {said}", flush=True)
    return failures


def check_settings(ledger: Ledger, epochs: int, selection: int) -> None:
    """Refuse to mix rows of trainings of different lengths or on different images.

    Args:
        ledger: has the rows.
        epochs, selection: of this call.
    """
    rows = ledger.rows()
    if other := {row["epochs"] for row in rows} - {str(epochs)}:
        raise SystemExit(f"{ledger.path} has rows of {'/'.join(sorted(other))} epochs, not {epochs}: name --results")
    if other := {row["selection_images"] for row in rows} - {str(selection)}:
        raise SystemExit(
            f"{ledger.path} has rows with {'/'.join(sorted(other))} selection images, not {selection}: name --results"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--arms", nargs="+", choices=ORDER, default=list(ORDER), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--selection", type=int, default=10_000, help="images, for trials with smaller files")
    options = parser.parse_args()
    if any(arm.startswith("tp-") for arm in options.arms) and importlib.util.find_spec("torch_pruning") is None:
        raise SystemExit("the arms tp-* need Torch-Pruning: pip install torch-pruning")
    ledger = Ledger("peers", ABOUT, COLUMNS, ("family", "arm", "seed"), options.results)
    check_settings(ledger, options.epochs, options.selection)
    pgnas = Commands(plugins=HERE / "zoo")
    pgnas.stop_at_signals(options.minutes)
    lengths = {"epochs": options.epochs, "candidates": options.candidates, "selection": options.selection}
    runs = Runs(pgnas, options.out, options.data_dir, **lengths)
    failures = fill(runs, ledger, options)
    if failures:
        print(f"arms that failed: {failures}", file=sys.stderr)
        return 1
    return 128 + pgnas.signum if pgnas.signum else 0


if __name__ == "__main__":
    raise SystemExit(main())
