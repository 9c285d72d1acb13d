"""The sections of a report about the training, and what every stage of the run has cost."""

from __future__ import annotations

from collections.abc import Iterator

from pgnas_cli import units
from pgnas_cli.report import curves, heatmap, numbers
from pgnas_cli.report.document import Block, Code, Inline, Number, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts, Row
from pgnas_cli.report.numbers import NONE
from pgnas_cli.report.words import going_on, machine, missing, to_do
from pgnas_cli.run import STAGES


def unfinished(facts: Facts) -> list[Block]:
    """What to type where the training is not done; nothing if it is."""
    if facts.stage("train") is not None:
        return []
    if facts.training:
        return [going_on(facts, "The training is not finished.")]
    return [missing(facts, "The supernet has not been trained.", to_do(facts, "train"))]


def posterior_section(facts: Facts) -> Section:
    """The drop probabilities over the epochs."""
    blocks = unfinished(facts)
    train = facts.stage("train")
    if facts.posterior and any(facts.posterior[0]["p"].values()):
        blocks.append(heatmap.posterior(facts.posterior))
    if train is not None and train["fixed_drop"] is not None:
        rate = Number(f"{train['fixed_drop']:.3g}", train["fixed_drop"])
        blocks.append(Paragraph(("Nothing was learned about the masks: the drop rate is ", rate, " everywhere.")))
    if train is not None and train["soft"] is not None:
        after = f"The training committed to one candidate after epoch {train['soft']['epoch']}: "
        then = "from then on p is at its bounds, and what is kept is trained as the network that it is."
        blocks.append(Paragraph((after + then,)))
    return Section("posterior", "Posterior", tuple(blocks))


def training_section(facts: Facts) -> Section:
    """How the training went."""
    blocks = unfinished(facts)
    if facts.log:
        blocks.append(curves.training(facts.log))
        blocks += curves.budgets(facts.log)
    train = facts.stage("train")
    if train is not None:
        blocks += _targets(facts, train)
        mean, above = (train["p"][key] for key in ("mean", "above_0.95"))
        told = ("The drop probabilities of the channels are ", Number(f"{mean:.3f}", mean), " on average; ",
                numbers.share(above), " of them lie above 0.95.")  # fmt: skip
        blocks.append(Paragraph(told))
    blocks += _warnings(facts)
    return Section("training", "Training", tuple(blocks))


def _targets(facts: Facts, train: Row) -> list[Block]:
    """How far the posterior ended from its targets, and what candidates drawn from it cost."""
    rows: list[tuple[Inline, ...]] = []
    for unit, name in (("params", "parameters"), ("macs", "MACs"), ("latency", "latency of an image")):
        target = train[f"target_{unit}"]
        if target is None:
            continue
        shown = _milliseconds if unit == "latency" else numbers.count
        ends = [("after the training", train)] if train["soft"] is None else [
            ("before the commit", train["soft"]), ("after the training", train)]  # fmt: skip
        for when, found in ends:
            expected = found.get(f"expected_{unit}")
            sampled = (found.get("sampled") or {}).get(unit) or {}
            mean, sd = sampled.get("mean"), sampled.get("sd")
            off = NONE if expected is None else numbers.change(expected / target, 2)
            drawn = NONE if mean is None or sd is None else Number(f"{shown(mean).text} ± {shown(sd).text}", mean)
            rows.append(
                (f"{name}, {when}", shown(target), shown(expected), off, drawn, numbers.whole(sampled.get("n")))
            )
    if not rows:
        return []
    columns = ("budget", "target", "expected", "off by", "sampled (mean ± standard deviation)", "samples")
    return [Table("The budget: what was asked for and what the posterior holds", columns, tuple(rows))]


def _milliseconds(value: float | None) -> Number:
    return NONE if value is None else Number(f"{1e3 * value:.3g} ms", value)


def _warnings(facts: Facts) -> list[Block]:
    found = [(row["epoch"], warning) for row in facts.log for warning in row.get("warnings", ())]
    if not found:
        return [Paragraph(("The gates gave no cause for a warning.",))] if facts.log else []
    rows: list[tuple[Inline, ...]] = [
        (numbers.whole(epoch), Code(warning["gate"]) if warning["gate"] else "all", warning["message"], warning["hint"])
        for epoch, warning in found
    ]
    return [Table("Warnings about the gates", ("epoch", "gate", "warning", "what helps"), tuple(rows))]


# ---- costs --------------------------------------------------------------------------------------------------


def ledger(facts: Facts, prefix: str = "") -> Iterator[tuple[Inline, ...]]:
    """A row for each stage that is done, and for those of the baselines: what it has cost."""
    stages: dict[str, Row] = facts.manifest["stages"]
    ranking = facts.ranking

    def row(name: str, record: Row, images: str = "", where: str = "") -> tuple[Inline, ...]:
        shown = numbers.whole(record.get("images"))
        kind = images if shown.value is not None else ""
        finished = stages[name]["finished"] if name in stages else ""
        return (f"{prefix}{name}", shown, kind, numbers.seconds(record.get("seconds")), where, finished)

    for name in STAGES:
        if name == "train" and name in stages:
            train = stages[name]
            yield row(name, train, "trained on", machine(train["device"], train["processes"]))
        elif name == "rank" and ranking is not None:
            yield row(name, ranking, "answered", machine(ranking["device"], ranking["processes"]))
            for part, images in (("front", "answered"), ("certify", "trained on"), ("finetune", "trained on")):
                if part in ranking:
                    yield row(f"rank --{part}", ranking[part], images, ranking[part].get("device", ""))
        elif name in stages:
            yield row(name, stages[name])
    for name, baseline in facts.baselines.items():
        yield from ledger(baseline, f"{prefix}baseline {name}: ")


def ledger_table(facts: Facts, caption: str = "What every stage has cost") -> Table:
    """The ledger as a table."""
    columns = ("stage", "images", "which were", "time", "devices", "finished (UTC)")
    return Table(caption, columns, tuple(ledger(facts)))


def cost_section(facts: Facts) -> Section:
    """The ledger, and its sum."""
    table = ledger_table(facts)
    times = [cell.value for row in table.rows if isinstance(cell := row[3], Number) and cell.value is not None]
    total = f"Together {units.seconds(sum(times))}, where the time was kept."
    return Section("cost", "Cost", (table, Paragraph((total,))))
