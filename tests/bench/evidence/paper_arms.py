"""The trainings behind the paper's tables in miniature, and which table shows which of them."""

from __future__ import annotations

from typing import NamedTuple

NETWORK = "shakeshake26_2x8d"
"""The paper's supnet-m (shake-shake 26 2x96d) at a twelfth of its width: 186 k parameters on gray 14x14 images."""
EPOCHS, TRAIN_IMAGES, SELECTION = 15, 10_000, 1 / 30
"""SELECTION: the share of the 60 000 training images that candidates are compared on."""
CANDIDATES, MANY, BOTH = 50, 1000, 100
"""Of an arm; of the large sample; of those that are scored on both splits."""
BASE = "guided"
"""The training that most tables share: the recipe `posterior`, held at half of the supernet's parameters."""
HALF = ("--target-params", "0.5x")
AUGMENTATION, L2_SHARE = 10, 1e-4
"""N is this times the training images, and l2 this times N, in the recipe as in the paper's CIFAR runs."""
L2_SHARES = (L2_SHARE, 3e-4, 5e-4, 1e-3)
"""Those of the published Table 4. At 1e-2 p went to 0.92, in a trial of 120 steps on 1280 images, and what was left
answered nearly at random."""
FREE_SHARE = 3e-4
"""l2 / N of trainings without a target, that of the published MI: in trainings of this length that of M, 1e-4, drops
hardly anything."""
TAU, TEMPERATURES = 0.2, (0.1, 0.2, 0.667)
U0, PRIORS = 0.5, (0.3, 0.5, 0.7)


class Arm(NamedTuple):
    """One training of each seed, its candidates and their ranking.

    Args:
        label: what tables call it.
        train: options of `pgnas train`.
        l2_share: objective.l2 / N; None leaves the recipe's.
        sample: options of `pgnas sample` besides their number.
        single: there is one network to be had, so one is drawn.
        size_of: the arm whose candidates' mean size decides the constant drop rate.
        finetuned: the winner is also fine-tuned.
        inside: of the base's run, as a baseline of its report.
        rate_of: it is the base's training again, its candidates drawn at this arm's constant rate.
    """

    label: str
    train: tuple[str, ...] = ()
    l2_share: float | None = None
    sample: tuple[str, ...] = ()
    single: bool = False
    size_of: str | None = None
    finetuned: bool = False
    inside: bool = False
    rate_of: str | None = None


def l2_arm(share: float) -> str:
    return f"l2-{share:g}"


FREE = l2_arm(FREE_SHARE)
"""What other trainings without a target are compared with."""
CONSTANT = ("--set", "objective.constant_l2=true")
UNIFORM = ("--strategy", "uniform")
ARMS = {
    BASE: Arm("guided", HALF, finetuned=True),
    "uniform": Arm("uniform", sample=UNIFORM, size_of=BASE, finetuned=True, inside=True),
    "drawn-uniformly": Arm("uniform, drawn from the guided supernet", sample=UNIFORM, rate_of="uniform"),
    "full": Arm("full supernet", ("--fixed-drop", "0"), sample=UNIFORM, single=True, inside=True),
    "channel": Arm("one p per channel", (*HALF, "--granularity", "channel")),
    **{f"tau-{tau:g}": Arm(f"tau = {tau:g}", (*HALF, "--temperature", f"{tau:g}")) for tau in TEMPERATURES},
    "constant-l2": Arm("constant l2, at 0.5x", (*HALF, *CONSTANT)),
    **{l2_arm(share): Arm(f"l2 / N = {share:g}", l2_share=share) for share in L2_SHARES},
    "constant-l2-free": Arm("constant l2, no target", CONSTANT, l2_share=FREE_SHARE),
    **{f"u0-{u0:g}": Arm(f"u0 = {u0:g}", ("--prior-drop", f"{u0:g}"), l2_share=FREE_SHARE) for u0 in PRIORS},
}
del ARMS[f"tau-{TAU:g}"], ARMS[f"u0-{U0:g}"]  # the base, and FREE


class Table(NamedTuple):
    """A table of arms.

    Args:
        name: of its CSV file.
        about: the file's first line.
        arms: in the order of its rows.
        labels: of arms that are called something else in this table.
    """

    name: str
    about: str
    arms: tuple[str, ...]
    labels: dict[str, str]


TABLES = {
    "3": Table(
        "paper_table3", "Table 3: candidates of the posterior against uniform ones, with and without fine-tuning",
        (BASE, "uniform", "drawn-uniformly", "full", FREE), {FREE: f"guided, no target, l2 / N = {FREE_SHARE:g}"},
    ),
    "4": Table(
        "paper_table4", "Table 4: the weight prior's l2 against error and size; no target",
        tuple(l2_arm(share) for share in L2_SHARES), {},
    ),
    "5": Table(
        "paper_table5", "Table 5: the temperature tau of the relaxation against error",
        tuple(BASE if tau == TAU else f"tau-{tau:g}" for tau in TEMPERATURES), {BASE: f"tau = {TAU:g}"},
    ),
    "7": Table(
        "paper_table7", "Table 7: the share of channels and of operations that the found networks drop",
        (BASE, *(l2_arm(share) for share in L2_SHARES)), {BASE: "held at 0.5x"},
    ),
    "l2": Table(
        "paper_constant_l2", "Table 2's ablation: the weight prior with and without its factor (1 - p)",
        (BASE, "constant-l2", FREE, "constant-l2-free"),
        {BASE: "guided, at 0.5x", FREE: "guided, no target"},
    ),
    "u0": Table(
        "paper_u0", "The architecture prior Bern(u0) against error and size; no target",
        tuple(FREE if u0 == U0 else f"u0-{u0:g}" for u0 in PRIORS), {FREE: f"u0 = {U0:g}"},
    ),
    "granularity": Table(
        "paper_granularity", "One drop probability per group (here: per layer) against one per channel, at 0.5x",
        (BASE, "channel"), {BASE: "one p per group"},
    ),
}  # fmt: skip
"""Name on the command line -> the table."""
OTHERS = {
    "6": ("paper_table6", "Table 6: the number of candidates against error"),
    "optimism": ("paper_optimism", "Selecting on the test split against selecting on held-out data"),
    "histograms": ("paper_histograms", "Bins of the candidates' accuracies and of the learned p"),
}
"""Tables that are made from the base's candidates (paper_sample.py): name of the CSV file, what it is about."""
ORDER = ("3", "6", "optimism", "histograms", "4", "7", "l2", "5", "granularity", "u0")
"""In which they are made."""
FILES = {name: (TABLES[name].name, TABLES[name].about) if name in TABLES else OTHERS[name] for name in ORDER}
"""Table -> name of its CSV file, what it is about."""
BINS = {"selection accuracy": 0.005, "p": 0.05}
"""Histogram -> the width of its bins."""
FIGURES = ("architecture", "candidates", "posterior")
"""What of the report of the base's run goes beside the tables."""
