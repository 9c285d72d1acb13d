"""The paper's tables in RESULTS.md that are made from candidates: number, selection on the test split, histograms.

What stands at the top of paper_table.py holds for these too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paper_arms import ARMS, BASE, BINS, CANDIDATES, FIGURES, FILES, MANY
from paper_table import ARM_TABLES, COMMON, AboveZero, common, rows_of
from table import Claim, Column, Key, Lines, Row, Source, Table, difference, each, mean, numbers, read_csv, span, text

PUBLISHED_6 = {50: 2.17, 500: 2.06, 1500: 2.06, 5000: 2.04, 10_000: 1.98}
"""Candidates -> error of the best on CIFAR-10, %, supernet MI."""


def by_number(key: Key) -> int:
    return int(key[0])


TABLE_6 = Table(
    "The paper's Table 6: the number of candidates",
    f"""{COMMON}

One sample a seed, of the guided training of Table 3, all shown the whole selection split.
*Best of n*: selection error of the best, the mean over all ways to draw n of the sample, exactly; the best of n values
looks better than it is. *Winners*: of disjoint parts of n candidates, as many as the sample has; these winners are the
only ones that were scored on the test split, and what stands here is their mean. Published: error on CIFAR-10, %,
supernet MI.""",
    rows_of("6"), ("candidates",),
    (
        text("candidates", lambda row: f"{int(row['candidates']):,}"),
        mean("best of n: selection error, %", "expected_selection_error"),
        each("each seed", "expected_selection_error"),
        mean("winners: test error, %", "test_error"),
        each("each seed", "test_error"),
        span("winners of a seed", "winners"),
        text("published", lambda row: f"{PUBLISHED_6[n]:.2f}" if (n := int(row["candidates"])) in PUBLISHED_6 else ""),
    ),
    (
        Claim(f"the best of {MANY:,} errs less than that of {CANDIDATES} (published: 2.06 of 1,500 and 2.17)",
              "test_error", (str(MANY),), (str(CANDIDATES),)),
    ),
    by_number,
)  # fmt: skip


# ---- selecting on the test split ----

ALL = "none, mean of all"


def both_splits(row: Row) -> list[Row]:
    """A seed's row -> one for all candidates, and one for the candidate picked on either split.

    `ahead_*` is how much less than the average candidate it errs there; `lost` is what of that is not there on the
    split that did not pick.
    """

    def ahead(picked: str, split: str) -> float:
        return float(row[f"mean_{split}_error"]) - float(row[f"by_{picked}_{split}_error"])

    found: list[Row] = [
        {**row, "picked": ALL, "selection_error": row["mean_selection_error"], "test_error": row["mean_test_error"]}
    ]
    for picked, other in (("selection", "test"), ("test", "selection")):
        found.append({
            **row, "picked": picked, "correlation": "", "std_selection_error": "", "std_test_error": "",
            "promised_fifth": "", "promised_half": "",
            **{f"{split}_error": row[f"by_{picked}_{split}_error"] for split in ("selection", "test")},
            **{f"ahead_{split}": str(ahead(picked, split)) for split in ("selection", "test")},
            "lost": str(ahead(picked, picked) - ahead(picked, other)),
        })  # fmt: skip
    return found


OPTIMISM = Table(
    "Open in the paper: what selecting on the test split promises",
    f"""{COMMON}

The first candidates of the sample of Table 6, all scored on both splits: the one place where
others than winners are scored on the test split, to measure what choosing there would be worth. Nothing is chosen by
it. *Ahead*: of the average candidate, in points. *Lost*: what is ahead on the split that picked and not on the other
one. *Promised*: the same of choosing on a random fifth or half of the test images and looking at the others, mean of
200 divisions: by so much the best of these candidates on as many images looks better than it is. Published: picked on
the test split, where the 1085 candidates of D-121 lie between 72.92 and 73.43 %, with a standard deviation of 0.06.""",
    rows_of("optimism", both_splits), ("picked",),
    (
        text("picked on", lambda row: row["picked"]),
        mean("selection error, %", "selection_error"),
        mean("test error, %", "test_error"),
        each("each seed", "test_error"),
        difference("- picked on selection, test, points", "test_error", lambda row: ("selection",)),
        mean("ahead, selection", "ahead_selection"),
        mean("ahead, test", "ahead_test"),
        mean("lost", "lost"),
        mean("deviation, selection", "std_selection_error"),
        mean("deviation, test", "std_test_error"),
        mean("correlation of the splits", "correlation"),
        mean("promised, a fifth", "promised_fifth"),
        mean("promised, half", "promised_half"),
    ),
    (
        AboveZero("picked on the test split, a candidate looks better there than on images that did not pick it",
                  "lost", ("test",), ()),
        AboveZero("picked on the selection split, it looks better there than on the test split", "lost",
                  ("selection",), ()),
        AboveZero("picked on a fifth of the test images, it looks better there than on the others", "promised_fifth",
                  (ALL,), ()),
        AboveZero("picked on half of the test images, it looks better there than on the others", "promised_half",
                  (ALL,), ()),
        AboveZero("picked on the test split, a candidate is ahead of the average on the selection split too",
                  "ahead_selection", ("test",), ()),
        AboveZero("picked on the selection split, it is ahead of the average on the test split too", "ahead_test",
                  ("selection",), ()),
    ),
)  # fmt: skip


# ---- histograms ----


def share(arm: str) -> Column:
    """Of an arm's values, over all seeds, in the bin of a line."""

    def show(rows: list[Row], lines: Lines) -> str:
        what = rows[0]["what"]
        whole = sum(_count(others, arm) for key, others in lines.items() if key[0] == what)
        return f"{100 * _count(rows, arm) / whole:.1f}" if whole else ""

    return Column(f"{ARMS[arm].label}, %", show)


def _count(rows: Sequence[Row], arm: str) -> float:
    return sum(numbers([row for row in rows if row["arm"] == arm], "count"))


def bin_of(row: Row) -> str:
    scale = 100 if row["what"] == "selection accuracy" else 1
    low, width = scale * float(row["low"]), scale * BINS[row["what"]]
    return f"{low:g} to {low + width:g}"


def by_bin(key: Key) -> tuple[bool, float]:
    return key[0] == "p", float(key[1])


def read_histograms(folder: Path) -> Source:
    """The bins; the pictures that are there are notes."""
    found = read_csv(folder / f"{FILES['histograms'][0]}.csv")
    there = [path for name in FIGURES if (path := folder / f"paper_{name}.svg").is_file()]
    pictures = [f"![{path.stem}]({folder.name}/{path.name})" for path in there]
    return Source(found.rows, [*common(found.rows), *found.notes, *pictures])


HISTOGRAMS = Table(
    "The two histograms, and the architecture that was found",
    """Guided and uniform candidates of Table 3 by their accuracy on the selection split in %, and p of all channels of
the guided training; all seeds together. The pictures show the first seed: figures of `pgnas report --figures`.""",
    read_histograms, ("what", "low"), (text("from, to", bin_of), share(BASE), share("uniform")), order=by_bin, parts=1,
)  # fmt: skip

ALL_TABLES = {**ARM_TABLES, "6": TABLE_6, "optimism": OPTIMISM, "histograms": HISTOGRAMS}
"""Name on the command line of paper.py -> the table."""
PAPER = tuple(
    ALL_TABLES[name] for name in ("3", "4", "5", "6", "7", "l2", "histograms", "u0", "granularity", "optimism")
)
"""As they stand in RESULTS.md."""
