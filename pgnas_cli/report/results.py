"""What came out of a run: the result in one sentence and one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.report import numbers
from pgnas_cli.report.document import Block, Code, Inline, Number, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts, Row
from pgnas_cli.report.numbers import NONE
from pgnas_cli.report.words import (
    ONCE,
    confidence,
    interval_note,
    kinds_of_weights,
    last_weights,
    missing,
    of_whole,
    to_do,
)


@dataclass(frozen=True)
class Network:
    """A row of the table of results.

    Args:
        name: of the network.
        params, macs: counts.
        weights: where they come from.
        latency, selection, test: as they are shown.
    """

    name: str
    params: Number
    share: Number
    macs: Number
    weights: str
    latency: Number = NONE
    selection: Number = NONE
    test: Number = NONE


def lead(facts: Facts) -> tuple[Inline, ...]:
    """The result in one sentence."""
    ranking, train, inflate = facts.ranking, facts.stage("train"), facts.stage("inflate")
    if ranking is not None and train is not None:
        return (
            "The network that was found has ", numbers.count(ranking["params"]), " parameters, ",
            of_whole(ranking["params"], facts), f" of the supernet {facts.spec.arch}, and is right on ",
            numbers.proportion(ranking["test_accuracy"]), f" of {ranking['test_accuracy']['n']:,} test images",
            *_beside(facts), ".",
        )  # fmt: skip
    whole: tuple[Inline, ...] = (
        f"The supernet {facts.spec.arch}, ", numbers.count((train or inflate or {}).get("params")), " parameters, ",
    )  # fmt: skip
    right, _ = most_probable(facts)
    answers: tuple[Inline, ...] = (
        () if right.value is None else ("; its most probable network is right on ", right, " of the selection images")
    )
    if train is not None:
        return (*whole, "has been trained", *answers, ", and its candidates have not been ranked.")
    if facts.training:
        assert facts.recipe is not None
        done, epochs = facts.log[-1]["epoch"] if facts.log else 0, facts.recipe.schedule.epochs
        return (*whole, f"is in training: {done} of {epochs} epochs", *answers, ".")
    return (*whole, "has been inflated and not been trained yet.")


def _beside(facts: Facts) -> Iterator[Inline]:
    """The best of every baseline, in the same sentence."""
    for number, (name, baseline) in enumerate(_ranked(facts)):
        assert baseline.ranking is not None
        yield "; " if number == 0 else ", "
        yield f"the baseline {name} on " if number else f"the best network of the baseline {name} on "
        yield numbers.proportion(baseline.ranking["test_accuracy"])


def _ranked(facts: Facts) -> list[tuple[str, Facts]]:
    return [(name, found) for name, found in facts.baselines.items() if found.ranking is not None]


def most_probable(facts: Facts) -> tuple[Number, int | None]:
    """Accuracy of the most probable network on the selection split, and its size; of the last epoch.

    Without an interval while the training is under way: its files do not say how many images there are.
    """
    train, last = facts.stage("train"), facts.log[-1] if facts.log else {}
    value, params = (train or last).get("selection_accuracy"), last.get("mode_params")
    if train is None or value is None:
        return numbers.accuracy(value), params
    n = train["data"]["num_selection"] - len(train["data"].get("corrupt", {}).get("selection", ()))
    found = wilson(round(value * n), n, confidence(facts))
    return numbers.accuracy(value, found.low, found.high), params


def networks(facts: Facts) -> list[Network]:
    """The rows of the table: supernet, most probable, found, fine-tuned, another exported one, baselines."""
    record = facts.stage("train") or facts.stage("inflate")
    rows = []
    if record is not None:
        yet = "in training" if facts.training else "not trained yet"
        weights = f"trained {_how(facts)}" if facts.stage("train") else yet
        rows.append(_network(facts, "supernet", record["params"], record["macs"], weights))
    selection, params = most_probable(facts)
    if params is not None:
        found = _network(facts, "most probable network", params, None, last_weights(facts), selection=selection)
        rows.append(found)
    if facts.ranking is not None:
        rows += _found(facts, facts.ranking)
    exported = _exported(facts)
    return [*rows, *([exported] if exported else []), *_baselines(facts)]


def _network(facts: Facts, name: str, params: int, macs: int | None, weights: str, **measured: Number) -> Network:
    return Network(name, numbers.count(params), of_whole(params, facts), numbers.count(macs), weights, **measured)


def _found(facts: Facts, ranking: Row) -> Iterator[Network]:
    """The winner, and the same after more training."""
    latency, size = numbers.latency(latencies(facts).get(ranking["winner"])), (ranking["params"], ranking["macs"])
    parts = [("found network", ranking, kinds_of_weights(facts))]
    if "finetune" in ranking:
        tuned = ranking["finetune"]
        epochs = f"{tuned['epochs']} epoch{'s' if tuned['epochs'] > 1 else ''}"
        parts.append(("found network, fine-tuned", tuned, f"trained on by itself for {epochs}"))
    for name, scores, weights in parts:
        selection, test = (numbers.proportion(scores[f"{split}_accuracy"]) for split in ("selection", "test"))
        yield _network(facts, name, *size, weights, latency=latency, selection=selection, test=test)


def _exported(facts: Facts) -> Network | None:
    """The exported network, if it is not the winner; it has not been tested."""
    record, ranking = facts.stage("export"), facts.ranking
    if record is None or ranking is None or record["candidate"] == ranking["winner"]:
        return None
    row = next((row for row in facts.leaderboard if row["id"] == record["candidate"]), None)
    selection = NONE
    if row is not None and row["n"] == ranking["selection_accuracy"]["n"]:  # else it is a race's estimate
        found = wilson(row["correct"], row["n"], ranking["confidence"])
        selection = numbers.accuracy(row["accuracy"], found.low, found.high)
    elif row is not None:
        selection = Number(f"{numbers.accuracy(row['accuracy']).text}, estimated", row["accuracy"])
    latency = numbers.latency(latencies(facts).get(record["candidate"]))
    name, size = f"exported network {record['candidate']}", (record["params"], record["macs"])
    return _network(facts, name, *size, kinds_of_weights(facts), latency=latency, selection=selection)


def _baselines(facts: Facts) -> Iterator[Network]:
    for name, found in facts.baselines.items():
        ranking = found.ranking
        if ranking is None:
            continue
        selection, test = (numbers.proportion(ranking[f"{split}_accuracy"]) for split in ("selection", "test"))
        weights = f"of its own supernet, trained {_how(found)}"
        label, size = f"baseline {name}", (ranking["params"], ranking["macs"])
        yield _network(facts, label, *size, weights, selection=selection, test=test)


def _how(facts: Facts) -> str:
    """How a supernet was trained, in a few words."""
    rate = (facts.stage("train") or {}).get("fixed_drop")
    if rate is None:
        return "together with the posterior"
    return "without drops" if rate == 0 else f"at a drop rate of {rate:.3g}"


def latencies(facts: Facts) -> dict[str, Row]:
    """Id -> what was measured of it."""
    front = facts.part("front")
    return {} if front is None else {point["id"]: point["latency"] for point in front["points"]}


def result_table(facts: Facts, whose: str = "this run") -> Table:
    """A row for each network; without a column for latencies where none was measured."""
    front = facts.part("front")
    caption = f"Networks of {whose}: share of the supernet's parameters, accuracy on the selection and the test split"
    columns = ["network", "parameters", "share", "MACs"]
    if front is not None:
        columns.append("latency")
        threads = (
            f", {front['threads']} thread{'s' if front['threads'] > 1 else ''}" if front["device"] == "cpu" else ""
        )
        caption += f"; latency of a batch of {front['batch']} on {front['device']}{threads}"
    rows = []
    for found in networks(facts):
        cells: list[Inline] = [found.name, found.params, found.share, found.macs]
        cells += [found.latency] if front is not None else []
        rows.append((*cells, found.selection, found.test))
    return Table(caption, (*columns, "selection", "test"), tuple(rows))


def weights(facts: Facts) -> Paragraph:
    """Where the weights of every network of the table come from."""
    return Paragraph(("Weights: " + "; ".join(f"{found.name}: {found.weights}" for found in networks(facts)) + ".",))


def section(facts: Facts) -> Section:
    """The result."""
    blocks: list[Block] = [result_table(facts), weights(facts)]
    if facts.ranking is not None:
        blocks.append(Paragraph((f"{ONCE} {interval_note(facts)}",)))
        blocks.append(Paragraph(("The network that was chosen is the candidate ", Code(facts.ranking["winner"]), ".")))
    elif facts.stage("train") is None and not facts.training:
        blocks.append(missing(facts, "The supernet has not been trained.", to_do(facts, "rank")))
    else:
        blocks.append(missing(facts, "The candidates have not been ranked.", to_do(facts, "rank")))
    return Section("result", "Result", tuple(blocks))
