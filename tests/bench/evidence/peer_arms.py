"""The families, arms and columns of peers.py; what each arm is allowed stands there."""

from __future__ import annotations

from typing import Any, NamedTuple

Row = dict[str, Any]
COLUMNS = (
    "family", "arm", "seed", "params", "macs", "test_error", "test_low", "test_high", "test_images", "selection_error",
    "selection_images", "training_images", "training_macs", "candidates", "ranking_images", "train_seconds",
    "rank_seconds", "supernet_params", "epochs",
)  # fmt: skip
"""Errors in percent, with the 95 % Wilson interval; epochs: what the table was asked for, not what an arm had."""
PASSES = 3
"""A training step costs three forward passes: forward, and the gradients of maps and of weights."""
BATCH, RECALIBRATE = 128, 512
WARMUP = ("--set", "schedule.warmup_epochs=0.2")
"""Of all arms: 78 steps, as many as in the study. A whole epoch of warm-up would be all of the search."""
NETWORK = "network.pt"
"""In an arm's folder: the network that was scored, as torch pickles it, for latency.py."""
SEARCH_SHARE = 0.2
"""Share of the epochs before the default recipe commits; the arms that prune have a dense phase as long."""


class Family(NamedTuple):
    supernet: str
    small: str
    """A supernet of 1.7 to 1.8 times the plain network's parameters."""
    plain: str
    target: int
    """Parameters of the plain network."""


FAMILIES = {
    "shakeshake": Family("shakeshake26_2x16d", "shakeshake26_2x8d", "shakeshake26_2x6d", 105_774),
    "resnet": Family("resnet20_24w", "resnet20_13w", "resnet20_10w", 106_880),
}


class Arm(NamedTuple):
    """An arm made by commands (peer_runs.py).

    Args:
        what: half a line for the table.
        network: "supernet", "small" or "plain", of the family.
        train: options of `pgnas train`; TARGET stands for the plain network's parameters, TARGET_MACS for its MACs,
            COMMIT for a commit after as many epochs as the default recipe's.
        sample: options of `pgnas sample`; CANDIDATES stands for their number.
        rank: options of `pgnas rank`.
    """

    what: str
    network: str
    train: tuple[str, ...]
    sample: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()


TARGET, TARGET_MACS, COMMIT, CANDIDATES = "TARGET", "TARGET_MACS", "COMMIT", "CANDIDATES"
ONE = ("-n", "1", "--strategy", "uniform")
MANY = ("-n", CANDIDATES)
BEST = ("--recalibrate", str(RECALIBRATE))
PAPER = (
    "--recipe", "paper/cifar10-m", "--lr", "0.1", "--set", "data.auto_augment=", "--set", "data.cutout=0", "--set",
    "objective.branch_noise=false",
)  # fmt: skip
"""The published objective and gates' optimiser, at the rate, schedule and augmentation of all arms."""
NO_WARMUP = ("--set", "annealing.warmup=0")
"""Drops from the first step, as in the recipe `posterior`."""
ARMS = {
    "plain": Arm("plain network, the same epochs", "plain", ("--fixed-drop", "0"), ONE),
    "default": Arm("PGNAS, default recipe", "supernet", ("--target-params", TARGET)),
    "full": Arm("full supernet, trained without drops", "supernet", ("--fixed-drop", "0"), ONE),
    "plain-equal": Arm("plain network, as many epochs as the default's MACs", "plain", ("--fixed-drop", "0"), ONE),
    "default-both": Arm(
        "PGNAS, default recipe, at most the plain network's parameters and MACs, inside the default's MACs", "supernet",
        ("--target-params", TARGET, "--target-macs", TARGET_MACS, "--set", COMMIT),
    ),
    "default-small": Arm(
        "PGNAS, default recipe from a small supernet, at most the plain network's parameters and MACs, inside the "
        "default's MACs", "small",
        ("--target-params", TARGET, "--target-macs", TARGET_MACS, "--set", COMMIT),
    ),
    "uniform": Arm(
        "uniform sampling", "supernet", (*NO_WARMUP, "--fixed-drop", TARGET), (*MANY, "--strategy", "uniform"), BEST
    ),
    "posterior": Arm(
        "PGNAS, sampled", "supernet", ("--recipe", "posterior", "--target-params", TARGET), MANY, BEST
    ),
    "paper": Arm("PGNAS, published recipe, at the size it finds", "supernet", PAPER, MANY, BEST),
    "paper-target": Arm(
        "PGNAS, published recipe with a target", "supernet", (*PAPER, "--target-params", TARGET), MANY, BEST
    ),
}  # fmt: skip
BOTH = ("default-both", "default-small")
"""Arms that have the plain network's MACs as a second target, and all the multiply-adds of the default's training."""
PRUNED = {
    "magnitude": "magnitude pruning, inside the default's MACs",
    "tp-group-norm": "Torch-Pruning, group norm, inside the default's MACs",
    "tp-taylor": "Torch-Pruning, Taylor, inside the default's MACs",
    "tp-taylor-small": "Torch-Pruning, Taylor, from the small supernet's network, inside the default's MACs",
    "tp-group-norm-macs": "Torch-Pruning, group norm, to the plain network's MACs, inside the default's MACs",
    "uniform-finetuned": "uniform sampling, trained on inside the default's MACs",
}
"""Arms that are trained on after pruning (peer_pruned.py) -> half a line for the table."""
ORDER = (
    "default", "plain", "plain-equal", "default-both", "default-small", "magnitude", "tp-group-norm", "tp-taylor",
    "tp-taylor-small", "tp-group-norm-macs", "uniform-finetuned", "uniform", "posterior", "paper", "paper-target",
    "full",
)  # fmt: skip
WHAT = {arm: PRUNED[arm] if arm in PRUNED else ARMS[arm].what for arm in ORDER}
"""Arm -> half a line for the table, in the order in which arms are run and shown."""
