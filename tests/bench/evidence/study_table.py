"""Two tables of RESULTS.md: training schedules on the selection split, and the chosen one on the test split."""

from __future__ import annotations

from pathlib import Path

from study_arms import ARMS
from table import Claim, Column, Key, Row, Source, Table, csv_rows, difference, each, mean, span, text

PROTOCOL = """
Fashion-MNIST: 10 000 training images at 14x14, batches of 128, 24 epochs where nothing else is said; one optimiser,
schedule and augmentation for all. The network is found from the supernet that is named, with the plain network's
parameters as the target where no other is named. *Arithmetic*: multiply-adds of the training, three forward passes for
every image shown."""
SELECTION, TEST = "selection_accuracy", "test_accuracy"


def order(key: Key) -> int:
    """As study_arms.py has them."""
    return list(ARMS).index(key[0])


def base(row: Row) -> Key:
    return (ARMS[row["arm"]].base,)


def plain(row: Row) -> Key:
    return (ARMS[row["arm"]].plain,)


def columns(accuracy: str, split: str, against: Column) -> tuple[Column, ...]:
    percent = f"{accuracy}_percent"
    return (
        text("arm", lambda row: ARMS[row["arm"]].description),
        text("supernet", lambda row: ARMS[row["arm"]].network),
        each(f"{split}, %, each seed", percent),
        mean("mean", percent),
        against,
        span("parameters", "params"),
        span("MACs", "macs", 1, 1e-6, " M"),
        span("arithmetic", "training_macs", 1, 1e-12, " T"),
        span("training, s", "seconds"),
    )


def table(
    title: str, about: str, name: str, accuracy: str, split: str, against: Column, claims: tuple[Claim, ...]
) -> Table:
    """A table of the rows of NAME.csv.

    Args:
        title, about, claims: of the table.
        name: of the file.
        accuracy: the column that is compared, a share.
        split: what the accuracy was measured on.
        against: the column of differences.
    """
    read = csv_rows(name)

    def rows(folder: Path) -> Source:
        found = read(folder)
        percent = [{**row, f"{accuracy}_percent": str(100 * float(row[accuracy]))} for row in found.rows]
        return Source(percent, found.notes)

    return Table(title, about + PROTOCOL, rows, ("arm",), columns(accuracy, split, against), claims, order)


def better(accuracy: str, ours: str, theirs: str) -> Claim:
    said = f"*{ARMS[ours].description}* ({ARMS[ours].network}) is more accurate than *{ARMS[theirs].description}*"
    return Claim(said, f"{accuracy}_percent", (ours,), (theirs,), larger=True)


STUDY = table(
    "Training schedules",
    """
What may be changed about a schedule, on the selection split, of which nothing is trained on. All arms are changes of
*commit at 0.2 of the epochs*, which was the default recipe before and was chosen with a prototype (MEASURED.md).
The best of many arms looks better than it is: what was chosen here, today's default, is scored on the test split with
other seeds in the next table.
""",
    "study", SELECTION, "selection", difference("- commit, points", f"{SELECTION}_percent", base),
    tuple(better(SELECTION, *pair) for pair in (
        ("harden", "plain"), ("commit", "plain"), ("macs", "plain"), ("both", "plain"),
        ("resnet-harden", "resnet-plain"), ("resnet", "resnet-plain"), ("harden", "commit"),
        *((arm, "plain-73") for arm in ("both-44", "both-59-2x12d", "both-69-2x8d", "both-56")),
        ("harden", "never"), ("commit-60", "plain-183"),
    )),
)  # fmt: skip
FOUND_PLAIN = table(
    "Found against plain, on the test split",
    """
Seeds that no arm was chosen with. Earlier versions were scored on these test images with the same seeds
(MEASURED.md); nothing was chosen by that.
""",
    "found_plain", TEST, "test", difference("- plain, points", f"{TEST}_percent", plain),
    tuple(better(TEST, arm, ARMS[arm].plain) for arm in ("harden", "commit", "both-69-2x8d")),
)  # fmt: skip
