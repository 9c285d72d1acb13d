"""The training schedules that study.py compares, and the protocol of all of them.

Fashion-MNIST, 10 000 training images at 14x14, 24 epochs unless an arm says otherwise, batches of 128, one thread.
"""

from __future__ import annotations

from typing import NamedTuple

from peer_arms import FAMILIES, ONE

EPOCHS, BATCH, IMAGES = 24, 128, 10_000
PLAIN_MACS = "3479880"
"""Multiply-adds of shakeshake26_2x6d, one channel, 14x14, ten classes."""
BASE = "commit"
"""The arm of which those of the shake-shake family are changes."""


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
    base: str = BASE
    """The arm it is compared with in the study."""
    plain: str = "plain"
    """The plain network's arm that it is compared with on the test split."""
    script: str = ""
    """Of this folder: what trains it in the place of `pgnas`."""
    search_passes: float = 1
    """Times that an image is shown to the supernet in an epoch of the search."""

    def scaled(self, epochs: int) -> int:
        """Its epochs where the others have `epochs`."""
        return max(1, round(self.epochs * epochs / EPOCHS))


def changed(*keys: str) -> list[str]:
    return [text for key in keys for text in ("--set", key)]


def annealed(first: float, last: float) -> list[str]:
    """Options of a temperature that falls from `first` to `last` in the search."""
    return ["--temperature", f"{first:g}", *changed(f"annealing.temperature_end={last:g}")]


SHAKE, RESNET = FAMILIES["shakeshake"], FAMILIES["resnet"]
PLAIN, WIDE = ["--fixed-drop", "0"], SHAKE.supernet
DEFAULT, DEFAULT_RESNET = (["--target-params", str(family.target)] for family in (SHAKE, RESNET))
CONSTANT = changed("annealing.temperature_end=0.2")
"""The default recipe lets the temperature fall from there."""
FOUND, FOUND_RESNET, SAME_MACS = DEFAULT + CONSTANT, DEFAULT_RESNET + CONSTANT, ["--target-macs", PLAIN_MACS, *CONSTANT]
FIFTY = ("-n", "50")
DEFAULT_WITHOUT_COMMIT = changed(
    "objective.granularity=channel", "annealing.warmup=0.1", "budget.start=0.19", "budget.reached=0.82"
)
ARMS = {
    "commit": Arm("commit at 0.2 of the epochs, temperature 0.2", WIDE, FOUND),
    "harden": Arm("default recipe: commit, temperature 0.2 to 0.05", WIDE, DEFAULT),
    "plain": Arm("plain", SHAKE.plain, PLAIN, sample=ONE),
    "batch": Arm("commit, noise per batch", WIDE, FOUND + changed("objective.noise=batch")),
    "anneal": Arm("commit, temperature 1 to 0.2", WIDE, FOUND + annealed(1, 0.2)),
    "anneal-harden": Arm("commit, temperature 1 to 0.05", WIDE, FOUND + annealed(1, 0.05)),
    "nowarm": Arm("commit, noise from the first step", WIDE, FOUND + changed("annealing.warmup=0")),
    "glr03": Arm("commit, gates at a rate of 0.03", WIDE, [*FOUND, "--gate-lr", "0.03"]),
    "glr-sgd": Arm("commit, gates under SGD", WIDE, [*FOUND, "--gate-optimizer", "sgd"]),
    "budget-early": Arm("commit, target reached at 0.3 of the search", WIDE, FOUND + changed("budget.reached=0.3")),
    "distill": Arm(
        "commit, the search distilled from the network without drops", WIDE, FOUND, script="distilled.py",
        search_passes=1.9,
    ),
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
    "macs": Arm("commit, target the plain network's MACs", WIDE, SAME_MACS),
    "both": Arm(
        "default recipe, targets the plain network's parameters and MACs", WIDE, [*DEFAULT, "--target-macs", PLAIN_MACS]
    ),
    "macs-anneal": Arm(
        "commit, target the plain network's MACs, temperature 1 to 0.2", WIDE, SAME_MACS + annealed(1, 0.2)
    ),
    "macs-44": Arm(
        "commit after 5 of 44 epochs, target the plain network's MACs, temperature 1 to 0.2", WIDE,
        SAME_MACS + annealed(1, 0.2) + changed("commit.at=0.114"), 44,
    ),
    # both-*: as long as the multiply-adds of plain-73 allow
    "both-44": Arm(
        "commit after 5 of 44 epochs, targets the plain network's parameters and MACs, temperature 1 to 0.2", WIDE,
        FOUND + SAME_MACS + annealed(1, 0.2) + changed("commit.at=0.114"), 44, plain="plain-73",
    ),
    "both-59-2x12d": Arm(
        "commit after 5 of 59 epochs, targets the plain network's parameters and MACs, temperature 1 to 0.2",
        "shakeshake26_2x12d", FOUND + SAME_MACS + annealed(1, 0.2) + changed("commit.at=0.0847"), 59,
        plain="plain-73",
    ),
    "both-69-2x8d": Arm(
        "commit after 5 of 69 epochs, targets the plain network's parameters and MACs, temperature 1 to 0.2",
        "shakeshake26_2x8d", FOUND + SAME_MACS + annealed(1, 0.2) + changed("commit.at=0.0725"), 69,
        plain="plain-73",
    ),
    "both-56": Arm(
        "commit after 3 of 56 epochs, targets the plain network's parameters and MACs, temperature 1 to 0.2", WIDE,
        FOUND + SAME_MACS + annealed(1, 0.2) + changed("commit.at=0.0536"), 56, plain="plain-73",
    ),
    "resnet": Arm("commit at 0.2 of the epochs, temperature 0.2", RESNET.supernet, FOUND_RESNET, base="resnet"),
    "resnet-harden": Arm(
        "default recipe: commit, temperature 0.2 to 0.05", RESNET.supernet, DEFAULT_RESNET, base="resnet"
    ),
    "resnet-plain": Arm("plain", RESNET.plain, PLAIN, sample=ONE, base="resnet"),
    "plain-73": Arm("plain, 73 epochs instead of 24", SHAKE.plain, PLAIN, 73, ONE, plain="plain-73"),
    "commit-60": Arm("commit at 0.2 of 60 epochs instead of 24", WIDE, FOUND, 60),
    "plain-183": Arm("plain, 183 epochs instead of 24", SHAKE.plain, PLAIN, 183, ONE),
}  # fmt: skip
"""name -> the arm, in the order in which they are run: long ones last."""
