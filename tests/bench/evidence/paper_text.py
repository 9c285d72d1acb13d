"""Rows of the paper's tables in miniature -> lines of markdown, with the published figures and a computed verdict.

Published figures are the paper's, of other data and larger networks; none of them is ours. Where no figure of a
table is known here, only the direction that it shows is compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from paper_arms import ARMS, BASE, L2_SHARES, NETWORK, TABLES, TEMPERATURES
from paper_maths import Difference, paired, verdict

Row = Mapping[str, str]
"""Column -> what the CSV file says."""
Values = dict[int, float]
"""Seed -> a number."""
PUBLISHED_3 = {
    BASE: "2.20 (2.06 / 2.56 / 2.73)", "uniform": "2.63 (9.75 / 13.45 / 15.87)",
    "uniform, fine-tuned": "2.56 (2.69 / 3.16 / 3.47)", "full": "2.58 (- / 2.78 / 2.98)",
}  # fmt: skip
"""Error on CIFAR-10, %: M, and in brackets MI / EI / E."""
PUBLISHED_7 = {"MI": (0.44, 0.26), "M": (0.18, 0.10), "E": (0.33, 0.19), "EI": (0.29, 0.21)}
"""Supernet -> dropped share of channels and of operations."""
PUBLISHED_CONSTANT_L2 = {BASE: "14.28", "constant-l2": "17.41"}
"""Error on CIFAR-100, %."""
NONE = "-"


# ---- parts of all tables ----


def by_seed(rows: Sequence[Row], column: str, **key: object) -> Values:
    """Seed -> a column of the rows with these other columns; without those that are empty."""
    found = [row for row in rows if all(row[name] == str(value) for name, value in key.items()) and row[column]]
    return {int(row["seed"]): float(row[column]) for row in found}


def share_of_supernet(rows: Sequence[Row], column: str, arm: str) -> Values:
    whole = by_seed(rows, "supernet_params", arm=arm)
    return {seed: value / whole[seed] for seed, value in by_seed(rows, column, arm=arm).items()}


def seeds_of(rows: Sequence[Row]) -> list[int]:
    return sorted({int(row["seed"]) for row in rows})


def each(values: Values, seeds: Sequence[int], digits: int = 2) -> str:
    return " / ".join(f"{values[seed]:.{digits}f}" if seed in values else NONE for seed in seeds)


def mean(values: Values, digits: int = 2) -> str:
    return f"{statistics.fmean(values.values()):.{digits}f}" if values else NONE


def markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body)]


def several(rows: Sequence[Row], column: str) -> str:
    """The values of a column, as numbers: one, or the range."""
    values = sorted({int(row[column]) for row in rows})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def setting(rows: Sequence[Row]) -> str:
    """What all rows of a table have in common, in a sentence."""
    text = f"{NETWORK}, {several(rows, 'train_images')} training images of Fashion-MNIST at 14x14"
    text += f", {several(rows, 'epochs')} epochs, recipe `posterior`"
    if "selection_images" in rows[0]:
        text += f"; selection on {several(rows, 'selection_images')} held-out images, errors on "
        text += f"{several(rows, 'test_images')} test images"
    return f"{text}. Seeds {', '.join(map(str, seeds_of(rows)))}."


def claim(what: str, published: str, found: Difference | None, sign: int, unit: str = "points") -> str:
    """A line: what the paper shows, ours, and whether the directions agree."""
    ours = "-" if found is None else f"{found.text()} {unit}"
    return f"- {what} (published: {published}): ours {ours}: **{verdict(found, sign)}**."


def question(what: str, found: Difference | None, unit: str = "points") -> str:
    """A line about what the paper does not say: on which side of zero ours lies."""
    if found is None:
        return f"- {what}: -."
    side = verdict(found, 1)
    said = {"agrees": "above zero", "does not agree": "below zero"}.get(side, side)
    return f"- {what}: {found.text()} {unit}: **{said}**."


def versus(rows: Sequence[Row], arm: str, base: str, column: str = "test_error") -> Difference | None:
    return paired(by_seed(rows, column, arm=arm), by_seed(rows, column, arm=base))


def sizes(rows: Sequence[Row], arm: str, base: str) -> Difference | None:
    """Of the mean size of the candidates, in supernets."""
    return paired(share_of_supernet(rows, "mean_params", arm), share_of_supernet(rows, "mean_params", base))


def label_of(table: str, arm: str) -> str:
    return TABLES[table].base_label if arm == BASE and TABLES[table].base_label else ARMS[arm].label


def arm_cells(rows: Sequence[Row], arm: str) -> list[str]:
    """Errors and sizes of an arm."""
    seeds = seeds_of(rows)
    spread = f"{mean(by_seed(rows, 'mean_selection_error', arm=arm))} +- "
    spread += mean(by_seed(rows, "std_selection_error", arm=arm))
    size = each(share_of_supernet(rows, "params", arm), seeds)
    test = by_seed(rows, "test_error", arm=arm)
    return [each(test, seeds), mean(test), spread, size]


def arm_heads(rows: Sequence[Row]) -> list[str]:
    seeds = " / ".join(map(str, seeds_of(rows)))
    return [
        f"winner, test error, %, seeds {seeds}", "mean", "candidates, selection error, %: mean +- deviation",
        "winner, parameters, of the supernet",
    ]  # fmt: skip


def arm_table(table: str, rows: Sequence[Row], base: str, published: Mapping[str, str] | None = None) -> list[str]:
    """A table with a line for each arm, and its difference to the base; published figures in a last column."""
    heads, body = ["", *arm_heads(rows), f"- {label_of(table, base)}, test, points"], []
    for arm in TABLES[table].arms:
        found = None if arm == base else versus(rows, arm, base)
        cells = [label_of(table, arm), *arm_cells(rows, arm), "" if found is None else found.text()]
        body.append([*cells, *([published.get(arm, NONE)] if published else [])])
    return markdown([*heads, *(["published"] if published else [])], body)


# ---- the tables ----


def table_3(rows: Sequence[Row]) -> list[str]:
    seeds, body = seeds_of(rows), []
    tuned = {arm: by_seed(rows, "finetuned_test_error", arm=arm) for arm in (BASE, "uniform")}
    plain = {arm: by_seed(rows, "test_error", arm=arm) for arm in TABLES["3"].arms}
    for arm in TABLES["3"].arms:
        cells = [ARMS[arm].label, *arm_cells(rows, arm), PUBLISHED_3[arm]]
        body.append(cells)
        if arm in tuned:
            name = f"{ARMS[arm].label}, fine-tuned"
            body.append([name, each(tuned[arm], seeds), mean(tuned[arm]), "", "", PUBLISHED_3.get(name, NONE)])
    epochs = several([row for row in rows if row["finetune_epochs"]], "finetune_epochs") if any(tuned.values()) else "0"
    return [
        "### Table 3: guided against uniform candidates, with and without fine-tuning", "",
        f"{setting(rows)} No target; the uniform supernet is trained and drawn at the constant rate whose expected "
        f"size is the guided candidates' mean size. The best of {several_candidates(rows)} candidates. Fine-tuning: "
        f"{epochs} further epochs of the winner alone, at a tenth of the rate. Published: CIFAR-10, %, supernet M "
        "(in brackets MI / EI / E).", "",
        *markdown(["", *arm_heads(rows), "published"], body), "",
        claim("Guided - uniform, neither fine-tuned", "2.20 - 2.63", paired(plain[BASE], plain["uniform"]), -1),
        claim("Guided - uniform fine-tuned", "2.20 - 2.56", paired(plain[BASE], tuned["uniform"]), -1),
        claim("Guided - full supernet", "2.20 - 2.58", paired(plain[BASE], plain["full"]), -1),
        claim("Uniform fine-tuned - uniform", "2.56 - 2.63", paired(tuned["uniform"], plain["uniform"]), -1),
        question("Guided fine-tuned - guided (not published)", paired(tuned[BASE], plain[BASE])),
    ]  # fmt: skip


def several_candidates(rows: Sequence[Row]) -> str:
    return several([row for row in rows if row["arm"] != "full"], "candidates") if rows else NONE


def table_4(rows: Sequence[Row]) -> list[str]:
    low, high = TABLES["4"].arms[0], TABLES["4"].arms[-1]
    return [
        "### Table 4: the weight prior decides error and size", "",
        f"{setting(rows)} No target: the priors decide the size. The best of {several_candidates(rows)} candidates.",
        "", *arm_table("4", rows, BASE), "",
        claim(
            f"The candidates' size at l2 / N = {L2_SHARES[-1]:g} - that at {L2_SHARES[0]:g}",
            "smaller, direction only", sizes(rows, high, low), -1, "supernets",
        ),
        *(question(f"Test error at {label_of('4', arm)} - at {label_of('4', BASE)}", versus(rows, arm, BASE))
          for arm in TABLES["4"].arms if arm != BASE),
    ]  # fmt: skip


def table_5(rows: Sequence[Row]) -> list[str]:
    arms = dict(zip(TEMPERATURES, TABLES["5"].arms, strict=True))
    lines = []
    for tau, arm in arms.items():
        if arm == BASE:
            continue
        what = f"Test error at tau = {tau:g} - at 0.2"
        lines.append(
            claim(what, "the smaller is better, direction only", versus(rows, arm, BASE), 1 if tau > 0.2 else -1)
        )
    return [
        "### Table 5: the temperature of the relaxation", "",
        f"{setting(rows)} No target. The best of {several_candidates(rows)} candidates.", "",
        *arm_table("5", rows, BASE), "", *lines,
    ]  # fmt: skip


def table_7(rows: Sequence[Row]) -> list[str]:
    seeds, body = seeds_of(rows), []
    channels: dict[str, Values] = {}
    operations: dict[str, Values] = {}
    for arm in TABLES["7"].arms:
        channels[arm] = by_seed(rows, "dropped_channels", arm=arm)
        dropped, whole = (by_seed(rows, name, arm=arm) for name in ("dropped_operations", "operations"))
        operations[arm] = {seed: dropped[seed] / whole[seed] for seed in dropped}
        certain = {seed: value / whole[seed] for seed, value in by_seed(rows, "operations_above_0.95", arm=arm).items()}
        cells = [each(channels[arm], seeds), each(operations[arm], seeds), each(certain, seeds)]
        size = each(share_of_supernet(rows, "params", arm), seeds)
        named = label_of("7", arm) if arm == BASE else f"{ARMS[arm].label}, held at 0.5x"
        body.append([f"ours, {named}", *cells, size])
    body += [[f"published, {name}", f"{c:.2f}", f"{o:.2f}", "", ""] for name, (c, o) in PUBLISHED_7.items()]
    heads = ["", f"channels, seeds {' / '.join(map(str, seeds))}", "operations", "operations with p > 0.95",
             "winner, parameters, of the supernet"]  # fmt: skip
    zero = dict.fromkeys(seeds, 0.0)
    return [
        "### Table 7: dropped channels and operations", "",
        f"{setting(rows)} Shares of the winner: of gated channels, and of gated convolutions that lose all inputs. The "
        "published shares are expectations, an operation being dropped where p > 0.95.", "",
        *markdown(heads, body), "",
        claim("Dropped share of channels", "0.18 to 0.44", paired(channels[BASE], zero), 1, ""),
        claim("Dropped share of operations", "0.10 to 0.26", paired(operations[BASE], zero), 1, ""),
        claim("Channels - operations", "0.08 to 0.18", paired(channels[BASE], operations[BASE]), 1, ""),
    ]  # fmt: skip


def constant_l2(rows: Sequence[Row]) -> list[str]:
    return [
        "### Table 2, ablation: the weight prior without its factor (1 - p)", "",
        f"{setting(rows)} No target; `--set objective.constant_l2=true` against the default. The best of "
        f"{several_candidates(rows)} candidates. Published: CIFAR-100, error in %.", "",
        *arm_table("l2", rows, BASE, PUBLISHED_CONSTANT_L2), "",
        claim("Guided - constant L2", "14.28 - 17.41", versus(rows, BASE, "constant-l2"), -1),
        question("The candidates' size, guided - constant L2", sizes(rows, BASE, "constant-l2"), "supernets"),
    ]  # fmt: skip


def u0(rows: Sequence[Row]) -> list[str]:
    low, high = TABLES["u0"].arms[0], TABLES["u0"].arms[-1]
    return [
        "### Open in the paper: the architecture prior u0", "",
        f"{setting(rows)} No target. The best of {several_candidates(rows)} candidates.", "",
        *arm_table("u0", rows, BASE), "",
        question(f"The candidates' size, {ARMS[high].label} - {ARMS[low].label}", sizes(rows, high, low), "supernets"),
        question(f"Test error, {ARMS[high].label} - {ARMS[low].label}", versus(rows, high, low)),
    ]  # fmt: skip


def granularity(rows: Sequence[Row]) -> list[str]:
    group, channel = TABLES["granularity"].arms
    return [
        "### Open in the paper: one probability per group or per channel", "",
        f"{setting(rows)} Both held at half of the supernet's parameters. The best of {several_candidates(rows)} "
        "candidates.", "", *arm_table("granularity", rows, group), "",
        question("Test error, channel - group", versus(rows, channel, group)),
        question("Mean selection error of the candidates, channel - group",
                 versus(rows, channel, group, "mean_selection_error")),
    ]  # fmt: skip


RENDER: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "3": table_3, "4": table_4, "5": table_5, "7": table_7, "l2": constant_l2, "u0": u0,
    "granularity": granularity,
}  # fmt: skip
"""Table -> what turns its rows into lines of markdown."""
