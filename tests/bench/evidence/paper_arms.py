"""The trainings behind the paper's tables in miniature, and which table shows which of them."""

from __future__ import annotations

from typing import NamedTuple

NETWORK = "shakeshake26_2x8d"
"""The paper's supnet-m (shake-shake 26 2x96d) at a twelfth of its width: 186 k parameters on gray 14x14 images."""
BASE = "guided"
"""The training that most tables share: the recipe `posterior` as it is, without a target."""
AUGMENTATION, L2_SHARE = 10, 1e-4
"""N is this times the training images, and l2 this times N, in the recipe as in the paper's CIFAR runs."""
L2_SHARES = (1e-5, L2_SHARE, 1e-3, 1e-2)
TEMPERATURES = (0.1, 0.2, 0.667, 1.0)
PRIORS = (0.3, 0.5, 0.7)


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
    """

    label: str
    train: tuple[str, ...] = ()
    l2_share: float | None = None
    sample: tuple[str, ...] = ()
    single: bool = False
    size_of: str | None = None
    finetuned: bool = False
    inside: bool = False


ARMS = {
    BASE: Arm("guided", finetuned=True),
    "uniform": Arm("uniform", sample=("--strategy", "uniform"), size_of=BASE, finetuned=True, inside=True),
    "full": Arm(
        "full supernet", ("--fixed-drop", "0"), sample=("--strategy", "uniform"), single=True, inside=True
    ),
    **{f"l2-{share:g}": Arm(f"l2 / N = {share:g}", l2_share=share) for share in L2_SHARES if share != L2_SHARE},
    **{f"tau-{tau:g}": Arm(f"tau = {tau:g}", ("--temperature", f"{tau:g}")) for tau in TEMPERATURES if tau != 0.2},
    **{f"u0-{u0:g}": Arm(f"u0 = {u0:g}", ("--prior-drop", f"{u0:g}")) for u0 in PRIORS if u0 != 0.5},
    "constant-l2": Arm("constant L2", ("--set", "objective.constant_l2=true")),
    "group-0.5x": Arm("one p per group", ("--target-params", "0.5x", "--granularity", "group")),
    "channel-0.5x": Arm("one p per channel", ("--target-params", "0.5x", "--granularity", "channel")),
}  # fmt: skip


class Table(NamedTuple):
    """A table of arms.

    Args:
        name: of its CSV file.
        about: the file's first line.
        arms: in the order of its rows; the label of the base in this table.
        base_label: what the base is called here.
    """

    name: str
    about: str
    arms: tuple[str, ...]
    base_label: str


TABLES = {
    "3": Table(
        "paper_table3", "Table 3: candidates of the posterior against uniform ones, with and without fine-tuning",
        (BASE, "uniform", "full"), "guided",
    ),
    "4": Table(
        "paper_table4", "Table 4: the weight prior's l2 against error and size; no target",
        tuple(BASE if share == L2_SHARE else f"l2-{share:g}" for share in L2_SHARES), f"l2 / N = {L2_SHARE:g}",
    ),
    "5": Table(
        "paper_table5", "Table 5: the temperature tau of the relaxation against error",
        tuple(BASE if tau == 0.2 else f"tau-{tau:g}" for tau in TEMPERATURES), "tau = 0.2",
    ),
    "7": Table(
        "paper_table7", "Table 7: the share of channels and of operations that the found networks drop",
        (BASE, "group-0.5x", "channel-0.5x"), "no target",
    ),
    "l2": Table(
        "paper_constant_l2", "Table 2's ablation: the weight prior with and without its factor (1 - p)",
        (BASE, "constant-l2"), "l2 * (1 - p) * ||W||^2",
    ),
    "u0": Table(
        "paper_u0", "The architecture prior Bern(u0) against error and size; no target",
        tuple(BASE if u0 == 0.5 else f"u0-{u0:g}" for u0 in PRIORS), "u0 = 0.5",
    ),
    "granularity": Table(
        "paper_granularity", "One drop probability per group (here: per layer) against one per channel, at 0.5x",
        ("group-0.5x", "channel-0.5x"), "",
    ),
}  # fmt: skip
"""Name on the command line -> the table."""
OTHERS = {
    "6": ("paper_table6", "Table 6: the number of candidates against error"),
    "optimism": ("paper_optimism", "Selecting on the test split against selecting on held-out data"),
    "histograms": ("paper_histograms", "Bins of the candidates' accuracies and of the learned p"),
}
"""Tables that are made from the base's candidates (paper_sample.py): name of the CSV file, what it is about."""
ORDER = ("3", "7", "6", "optimism", "histograms", "4", "l2", "5", "granularity", "u0")
"""In which they are made: what needs the fewest further trainings first."""
FILES = {name: (TABLES[name].name, TABLES[name].about) if name in TABLES else OTHERS[name] for name in ORDER}
"""Table -> name of its CSV file, what it is about."""
BINS = {"selection accuracy": 0.005, "p": 0.05}
"""Histogram -> the width of its bins."""
FIGURES = ("architecture", "candidates", "posterior")
"""What of the report of the base's run goes beside the tables."""
