"""The paper's tables of arms in RESULTS.md: ours, the published figures beside them, and claims with their direction.

Published figures are the paper's and its supplement's, of other data and larger networks; none of them is ours. A claim
that holds agrees with the paper, or answers what it leaves open.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paper_arms import ARMS, BASE, FILES, FREE, FREE_SHARE, L2_SHARE, L2_SHARES, NETWORK, TABLES, l2_arm
from table import (
    Claim,
    Column,
    Difference,
    Key,
    Lines,
    Row,
    Source,
    Table,
    difference,
    each,
    mean,
    numbers,
    read_csv,
    text,
)

PUBLISHED_3 = {
    BASE: "2.20 (2.06 / 2.56 / 2.73)", "uniform": "2.63 (9.75 / 13.45 / 15.87)",
    "uniform, fine-tuned": "2.56 (2.69 / 3.16 / 3.47)", "full": "2.58 (- / 2.78 / 2.98)",
}  # fmt: skip
"""Error on CIFAR-10, %: M, and in brackets MI / EI / E."""
PUBLISHED_4 = {
    l2_arm(share): said for share, said in zip(
        L2_SHARES, ("2.13, 49.9 M", "2.06, 33.4 M", "2.27, 23.8 M", "2.39, 18.2 M"), strict=True
    )
}  # fmt: skip
"""Error on CIFAR-10, %, and parameters. The caption says EI, of which there are 15.3 M; the second is MI of Table 1."""
PUBLISHED_5 = {BASE: "2.20 (2.56)", "tau-0.667": "2.49 (2.74)"}
"""Error on CIFAR-10, %: M, and in brackets EI."""
PUBLISHED_7 = {"M": (0.18, 0.10), "MI, best of 10 000": (0.44, 0.26), "E": (0.33, 0.19), "EI": (0.29, 0.21)}
"""Supernet -> dropped share of channels and of operations."""
PUBLISHED_CONSTANT_L2 = {FREE: "14.28, 46.4 M", "constant-l2-free": "17.41, 39.6 M"}
"""Error on CIFAR-100, %, and parameters; no target."""
TUNED = ", fine-tuned"
COMMON = f"""Fashion-MNIST at 14x14, {NETWORK}, recipe `posterior`: arms differ in what the table names and in nothing
else. The best candidate on the selection images is scored once on the test images. Sizes are shares of the supernet's
parameters."""


# ---- rows ----


def rows_of(name: str, change: Callable[[Row], Sequence[Row]] = lambda row: [row]) -> Callable[[Path], Source]:
    """Reads a table's file, with the columns that follow from others, and a note of what its runs have in common.

    Args:
        name: of the table.
        change: a row of the file -> rows of the table.
    """

    def read(folder: Path) -> Source:
        found = read_csv(folder / f"{FILES[name][0]}.csv")
        rows = [made for row in found.rows for made in change({**row, **derived(row)})]
        return Source(rows, [*common(rows), *found.notes])

    return read


def derived(row: Row) -> dict[str, str]:
    """Sizes as shares of the supernet, operations as shares of all; empty where they are not known."""

    def share(part: str, whole: str) -> str:
        return str(float(row[part]) / float(row[whole])) if row.get(part) and row.get(whole) else ""

    certain = share("operations_above_0.95", "operations")
    return {
        "share": share("params", "supernet_params"), "mean_share": share("mean_params", "supernet_params"),
        "operations_share": share("dropped_operations", "operations"), "certain_share": certain,
        "channels_lead": str(float(row["dropped_channels"]) - float(certain)) if certain else "",
    }  # fmt: skip


def common(rows: Sequence[Row]) -> list[str]:
    """A line that says how long the trainings were and how many images there were."""
    names = {
        "train_images": "training images", "epochs": "epochs", "candidates": "candidates",
        "selection_images": "selection images", "test_images": "test images",
    }  # fmt: skip
    counted = [row for row in rows if row.get("arm") != "full"]  # of which there is one candidate
    said = [f"{several(counted, name)} {what}" for name, what in names.items() if numbers(counted, name)]
    if tuned := [row for row in rows if row.get("arm", "").endswith(TUNED)]:
        said.append(f"{several(tuned, 'finetune_epochs')} epochs of fine-tuning")
    return [", ".join(said)] if said else []


def several(rows: Sequence[Row], column: str) -> str:
    """The values of a column, as integers: one, or the smallest and the largest."""
    values = sorted({int(value) for value in numbers(rows, column)})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


# ---- columns and claims ----


@dataclass(frozen=True)
class AboveZero(Claim):
    """A line's values are above zero; `base` is not looked at."""

    larger: bool = True

    def judged(self, lines: Lines) -> tuple[str, Difference | None]:
        rows = lines.get(self.line, [])
        zeros: list[Row] = [{**row, self.column: "0"} for row in rows if row.get(self.column)]
        return Claim(self.text, self.column, self.line, ("zero",), larger=True).judged({**lines, ("zero",): zeros})


def arm_columns(
    table: str, base: str, published: Mapping[str, str] | None = None, bases: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """Errors and sizes of each arm, and its difference to another; the published figures last.

    Args:
        table: its name.
        base: the arm that the others are compared with.
        published: arm -> published figures.
        bases: arm -> another one that it is compared with.
    """
    known, others = published or {}, bases or {}
    head = "to the one above" if others else label_of(table, base)
    columns = (
        text("", lambda row: label_of(table, row["arm"])),
        mean("winner: test error, %", "test_error"),
        each("each seed", "test_error"),
        difference(f"- {head}, points", "test_error", lambda row: (others.get(row["arm"], base),)),
        mean("candidates: selection error, %", "mean_selection_error"),
        mean("their deviation", "std_selection_error"),
        mean("their size", "mean_share"),
        mean("winner's size", "share"),
    )
    return (*columns, text("published", lambda row: known.get(row["arm"], ""))) if published else columns


def label_of(table: str, arm: str) -> str:
    plain = arm.removesuffix(TUNED)
    return TABLES[table].labels.get(plain, ARMS[plain].label) + arm.removeprefix(plain)


def arm_table(
    name: str, title: str, about: str, claims: Sequence[Claim], *, base: str = BASE,
    columns: Sequence[Column] = (), published: Mapping[str, str] | None = None,
    bases: Mapping[str, str] | None = None,
    change: Callable[[Row], Sequence[Row]] = lambda row: [row],
) -> Table:  # fmt: skip
    """A table of arms.

    Args:
        name: of the table.
        title, about: above it.
        claims: below it.
        base: the arm that the others are compared with.
        columns: others than those of `arm_columns`.
        published: arm -> published figures.
        bases: arm -> another one that it is compared with.
        change: a row of the file -> rows of the table.
    """
    arms = [row["arm"] for arm in TABLES[name].arms for row in ({"arm": arm}, {"arm": arm + TUNED})]

    def order(key: Key) -> int:
        return arms.index(key[0])

    return Table(
        title, f"{COMMON}\n\n{about.strip()}", rows_of(name, change), ("arm",),
        tuple(columns) or arm_columns(name, base, published, bases), tuple(claims), order,
    )  # fmt: skip


def less(said: str, ours: str, theirs: str, column: str = "test_error") -> Claim:
    return Claim(said, column, (ours,), (theirs,))


def more(said: str, ours: str, theirs: str, column: str = "test_error") -> Claim:
    return Claim(said, column, (ours,), (theirs,), larger=True)


# ---- the tables ----


def with_tuned(row: Row) -> list[Row]:
    """A row, and one for its fine-tuned winner where it has one."""
    tuned = {
        **row, "arm": row["arm"] + TUNED, "test_error": row.get("finetuned_test_error", ""),
        "mean_selection_error": "", "std_selection_error": "",
    }  # fmt: skip
    return [row, tuned] if tuned["test_error"] else [row]


TABLE_3 = arm_table(
    "3", "The paper's Table 3: guided against uniform candidates, with and without fine-tuning",
    """
Guided is held at half of the supernet's parameters; in the paper the priors decide (0.46 to 0.82 of them), as in the
last row. The uniform supernet is trained and drawn at the constant rate whose expected size is the guided candidates'
mean size. *Drawn from the guided supernet*: at the same rate, so that what the training does and what the drawing does
can be told apart. Fine-tuning goes on with the winner alone, at a tenth of the rate, with the recipe's l2, for epochs
that the others do not have; the paper's starts at the whole rate and has nearly no l2, so that ours is the weaker one.
Published: error on CIFAR-10, %, of supernet M, in brackets MI / EI / E; sizes 21.6 M (33.4 / 10.8 / 3.1) guided, 22.4 M
(35.4 / 10.7 / 3.0) uniform. By the supplement M's uniform candidates are good because their rate is only 0.1.
    """,
    (
        less("guided errs less than uniform, neither fine-tuned (published: 2.20 and 2.63)", BASE, "uniform"),
        less("guided errs less than uniform fine-tuned (published: 2.20 and 2.56)", BASE, "uniform" + TUNED),
        less("guided errs less than the full supernet (published: 2.20 and 2.58)", BASE, "full"),
        less("guided without a target errs less than the full supernet (published: 2.20 and 2.58)", FREE, "full"),
        less("guided candidates err less on average than uniform ones (published: in histograms)", BASE, "uniform",
             "mean_selection_error"),
        less("guided candidates differ less among each other (published: in histograms)", BASE, "uniform",
             "std_selection_error"),
        less("guided candidates err less on average than uniform ones of the same supernet (not published)", BASE,
             "drawn-uniformly", "mean_selection_error"),
        less("guided errs less than uniform, both fine-tuned (not published)", BASE + TUNED, "uniform" + TUNED),
        less("fine-tuning lowers the error of uniform (published: 2.63 to 2.56)", "uniform" + TUNED, "uniform"),
        less("fine-tuning lowers the error of guided (published: 2.74 to 2.68, EI at tau = 2/3)", BASE + TUNED, BASE),
    ),
    published=PUBLISHED_3, change=with_tuned,
)  # fmt: skip


def by_l2() -> list[Claim]:
    shares = [*itertools.pairwise(L2_SHARES), (L2_SHARES[0], L2_SHARES[-1])]
    sizes = [
        less(f"l2 / N = {high:g} finds smaller candidates than {low:g} (published)", l2_arm(high), l2_arm(low),
             "mean_share")
        for low, high in shares
    ]  # fmt: skip
    best, *others = sorted(L2_SHARES, key=lambda share: PUBLISHED_4[l2_arm(share)])
    errors = [more(f"l2 / N = {other:g} errs more than {best:g} (published)", l2_arm(other), l2_arm(best))
              for other in others]  # fmt: skip
    return [*sizes, *errors]


TABLE_4 = arm_table(
    "4", "The paper's Table 4: the weight prior decides error and size",
    """
No target: the priors decide the size. N is ten times the training images, as in the paper's CIFAR runs, whose l2 / N is
1e-4 (M), 3e-4 (MI), 2e-7 (E, EI) and 5e-3 (MI on CIFAR-100). Published: error on CIFAR-10, %, and parameters; the
caption says EI, but the second line is MI of the paper's Table 1.
    """,
    by_l2(), base=FREE, published=PUBLISHED_4,
)  # fmt: skip

TABLE_5 = arm_table(
    "5", "The paper's Table 5: the temperature of the relaxation",
    "Held at half of the supernet's parameters. Published: error on CIFAR-10, %, of supernet M, in brackets EI.",
    (
        more("tau = 2/3 errs more than 0.2 (published: 2.49 and 2.20)", "tau-0.667", BASE),
        less("tau = 0.1 errs less than 0.2 (not published)", "tau-0.1", BASE),
    ),
    published=PUBLISHED_5,
)  # fmt: skip


def dropped(arm: str) -> list[Claim]:
    name = label_of("7", arm)
    found = [
        AboveZero(f"{name}: operations are dropped (published: 0.10 to 0.26 of them)", "certain_share", (arm,), ()),
        AboveZero(f"{name}: a larger share of channels than of operations (published: by 0.08 to 0.18)",
                  "channels_lead", (arm,), ()),
    ]  # fmt: skip
    channels = AboveZero(
        f"{name}: channels are dropped (published: 0.18 to 0.44 of them)", "dropped_channels", (arm,), ()
    )
    return found if arm == BASE else [channels, *found]  # held at half of its parameters it has to drop some


TABLE_7 = arm_table(
    "7", "The paper's Table 7: dropped channels and operations",
    f"""
No target but where one is named. *Channels*: the share of gated channels that the winner drops. *Operations*: of gated
convolutions with p > 0.95, which the paper counts. *Without inputs*: of those that lose all their inputs in the winner,
by chance too where they have few. Published, channels and operations:
{", ".join(f"{name} {channels:.2f} and {operations:.2f}" for name, (channels, operations) in PUBLISHED_7.items())}.
    """,
    [*dropped(BASE), *dropped(FREE)],
    columns=(
        text("", lambda row: label_of("7", row["arm"])),
        mean("channels", "dropped_channels"),
        mean("operations", "certain_share"),
        mean("without inputs", "operations_share"),
        mean("winner's size", "share"),
        mean("winner: test error, %", "test_error"),
    ),
)  # fmt: skip

CONSTANT_L2 = arm_table(
    "l2", "The ablation of the paper's Table 2: a constant l2",
    f"""
`--set objective.constant_l2=true` takes the factor (1 - p) out of the weight prior. Held at half of the supernet's
parameters, l2 / N = {L2_SHARE:g}; and without a target as in the paper, l2 / N = {FREE_SHARE:g}, where the sizes differ
too. Published: error on CIFAR-100, %, and parameters.
    """,
    (
        less("no target: guided errs less than constant l2 (published: 14.28 and 17.41)", FREE, "constant-l2-free"),
        more("no target: guided finds larger candidates than constant l2 (published: 46.4 M and 39.6 M)", FREE,
             "constant-l2-free", "mean_share"),
        less("at one size: guided errs less than constant l2 (published without a target)", BASE, "constant-l2"),
    ),
    published=PUBLISHED_CONSTANT_L2, bases={FREE: FREE, "constant-l2-free": FREE},
)  # fmt: skip

ARCHITECTURE_PRIOR = arm_table(
    "u0", "Open in the paper: the architecture prior u0",
    f"No target: the priors decide the size, with l2 / N = {FREE_SHARE:g}.",
    (
        less("u0 = 0.7 finds smaller candidates than u0 = 0.3", "u0-0.7", "u0-0.3", "mean_share"),
        more("u0 = 0.7 errs more than u0 = 0.3", "u0-0.7", "u0-0.3"),
        more("u0 = 0.7 errs more than u0 = 0.5", "u0-0.7", FREE),
        more("u0 = 0.3 errs more than u0 = 0.5", "u0-0.3", FREE),
    ),
    base=FREE,
)  # fmt: skip

GRANULARITY = arm_table(
    "granularity", "Open in the paper: one probability per group or per channel",
    "A group is the input of a layer here. Both are held at half of the supernet's parameters.",
    (
        less("one p per channel errs less than one per group", "channel", BASE),
        less("the candidates of one p per channel err less on average, on the selection images", "channel", BASE,
             "mean_selection_error"),
    ),
)  # fmt: skip

ARM_TABLES = {
    "3": TABLE_3, "4": TABLE_4, "5": TABLE_5, "7": TABLE_7, "l2": CONSTANT_L2, "u0": ARCHITECTURE_PRIOR,
    "granularity": GRANULARITY,
}  # fmt: skip
"""Name on the command line of paper.py -> the table."""
