"""Rows of the tables that are made from candidates (paper_sample.py) -> lines of markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paper_arms import ARMS, BASE, BINS, FIGURES
from paper_maths import paired
from paper_text import NONE, Row, Values, by_seed, claim, each, markdown, mean, question, seeds_of, setting, several

PUBLISHED_6 = {50: 2.17, 500: 2.06, 1500: 2.06, 5000: 2.04, 10_000: 1.98}
"""Candidates -> error of the best on CIFAR-10, %, supernet MI."""


def table_6(rows: Sequence[Row]) -> list[str]:
    seeds, body = seeds_of(rows), []
    asked = sorted({int(row["candidates"]) for row in rows})
    test = {n: by_seed(rows, "test_error", candidates=n) for n in asked}
    for n in asked:
        expected, chosen = (by_seed(rows, f"{name}selection_error", candidates=n) for name in ("expected_", ""))
        published = f"{PUBLISHED_6[n]:.2f}" if n in PUBLISHED_6 else NONE
        body.append([
            f"{n:,}", each(expected, seeds), mean(expected), each(chosen, seeds), each(test[n], seeds), mean(test[n]),
            published,
        ])  # fmt: skip
    shown, first, last = " / ".join(map(str, seeds)), asked[0], asked[-1]
    known = {n: PUBLISHED_6[n] for n in PUBLISHED_6 if n <= last} or {50: PUBLISHED_6[50]}
    return [
        "### Table 6: the number of candidates", "",
        f"{setting(rows)} One sample of {several(rows, 'sample')} candidates a seed, of the training of Table 3, all "
        "of them shown the whole selection split. Best of n, selection: the mean over all ways to draw n of the "
        "sample, exactly; the largest of n values lies too high. Winner: of the first n in the order in which they "
        "were drawn. Only these winners were scored on the test split.", "",
        *markdown(
            ["candidates", f"best of n, selection error, %, seeds {shown}", "mean", "winner, selection", "winner, test",
             "mean", "published (MI, CIFAR-10)"], body), "",
        claim(
            f"Test error of the best of {last:,} - of the best of {first:,}",
            f"{known[max(known)]:.2f} - {PUBLISHED_6[50]:.2f}", paired(test[last], test[first]), -1,
        ),
    ]  # fmt: skip


PUBLISHED_SPREAD = "1085 candidates of D-121 lie between 72.92 and 73.43 %, with a standard deviation of 0.06"


def optimism(rows: Sequence[Row]) -> list[str]:
    seeds = seeds_of(rows)

    def values(column: str) -> Values:
        return by_seed(rows, column)

    def ahead(picked: str, split: str) -> Values:
        """How much better than the average candidate the one picked on a split is on this or the other one."""
        average, own = values(f"mean_{split}_error"), values(f"by_{picked}_{split}_error")
        return {seed: average[seed] - own[seed] for seed in seeds}

    body = [
        ["all candidates", each(values("mean_selection_error"), seeds), each(values("mean_test_error"), seeds), "", ""],
        *(
            [f"picked on the {picked} split",
             *(each(values(f"by_{picked}_{split}_error"), seeds) for split in ("selection", "test")),
             *(mean(ahead(picked, split)) for split in ("selection", "test"))]
            for picked in ("selection", "test")
        ),
    ]  # fmt: skip
    shown = " / ".join(map(str, seeds))
    flattered = paired(values("by_selection_test_error"), values("by_test_test_error"))
    deviations = " and ".join(each(values(f"std_{split}_error"), seeds) for split in ("selection", "test"))
    return [
        "### Open in the paper: what selecting on the test split promises", "",
        f"{setting(rows)} The first {several(rows, 'candidates')} candidates of the sample of Table 6. This is the one "
        "place where all candidates are scored on the test split, to measure what choosing there would be worth; "
        "nothing is chosen by it. Ahead: of the average candidate, in points.", "",
        *markdown(["", f"selection error, %, seeds {shown}", "test error, %", "ahead on the selection split",
                   "ahead on the test split"], body), "",
        f"- Standard deviations of the candidates' errors on the two splits: {deviations} points; correlation of the "
        f"two: {each(values('correlation'), seeds)} (published: {PUBLISHED_SPREAD}; picked on the test split).",
        f"- Reported error if the test split chooses - if the selection split does: "
        f"{'-' if flattered is None else f'{-flattered.mean:+.2f}'} points on average; above zero it cannot be.",
        question("Picked on the test split: ahead there - ahead on the selection split, which did not choose",
                 paired(ahead("test", "test"), ahead("test", "selection"))),
        question("Picked on the selection split: ahead there - ahead on the test split",
                 paired(ahead("selection", "selection"), ahead("selection", "test"))),
    ]  # fmt: skip


BAR = 40
"""Characters of a bar of the largest share."""


def histograms(rows: Sequence[Row]) -> list[str]:
    """Shares of the bins, over all seeds."""
    pictures = [f"![{name}](results/paper_{name}.svg)" for name in FIGURES]
    lines = [
        "### The two histograms", "",
        f"{setting(rows)} Pooled over the seeds. Guided and uniform candidates as in Table 3; p counts each channel.",
    ]  # fmt: skip
    for what, scale, title in (("selection accuracy", 100, "selection accuracy, %"), ("p", 1, "learned p")):
        found = [row for row in rows if row["what"] == what]
        arms = [arm for arm in (BASE, "uniform") if any(row["arm"] == arm for row in found)]
        shares = {arm: _shares([row for row in found if row["arm"] == arm], BINS[what]) for arm in arms}
        bins = range(min(map(min, shares.values())), max(map(max, shares.values())) + 1) if shares else range(0)
        most = max((value for share in shares.values() for value in share.values()), default=1.0)
        body = []
        for index in bins:
            ends = f"{scale * BINS[what] * index:g} to {scale * BINS[what] * (index + 1):g}"
            cells = [shares[arm].get(index, 0.0) for arm in arms]
            if any(cells):
                body.append([ends, *(f"{100 * v:.1f} % {'#' * round(BAR * v / most)}".strip() for v in cells)])
        lines += ["", *markdown([title, *(ARMS[arm].label for arm in arms)], body)]
    return [*lines, "", *pictures]


def _shares(rows: Sequence[Row], width: float) -> dict[int, float]:
    """Index of a bin -> its share."""
    total = sum(int(row["count"]) for row in rows)
    found: dict[int, float] = {}
    for row in rows:
        index = round(float(row["low"]) / width)
        found[index] = found.get(index, 0.0) + int(row["count"]) / total
    return found


RENDER: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "6": table_6, "optimism": optimism, "histograms": histograms,
}  # fmt: skip
"""Table -> what turns its rows into lines of markdown."""
