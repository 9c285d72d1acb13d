"""What the sections of a report share: what is missing, what to type for it, and how accuracies were measured."""

from __future__ import annotations

from pgnas_cli.report import numbers
from pgnas_cli.report.document import Code, Inline, Notice, Number
from pgnas_cli.report.facts import Facts, typed
from pgnas_cli.run import STAGES

CONFIDENCE = 0.95
"""Of intervals, where no ranking was asked for another."""
ONCE = (
    "Candidates are compared on the selection split, which neither the weights nor the posterior saw; the test split "
    "answers only for the network that was chosen. The selection accuracy of the best of many is too high on average."
)


def to_do(facts: Facts, stage: str, *options: str) -> tuple[str, ...]:
    """The commands that bring a run to the end of a stage, in order; `options` are of the last one.

    A training that is under way is not among those of later stages.
    """
    before = [name for name in STAGES[: STAGES.index(stage)] if facts.stage(name) is None]
    lines = [typed(facts.run, name) for name in before if not (name == "train" and facts.training)]
    return (*lines, typed(facts.run, stage, *options))


def going_on(facts: Facts, what: str) -> Notice:
    """What is known when the training that is under way has ended, and how it goes on if it was interrupted."""
    line = Code(typed(facts.run, "train", "--resume"))
    return Notice("missing", (f"{what} If the training does not run any more, this goes on with it: ", line))


def missing(facts: Facts, what: str, lines: tuple[str, ...]) -> Notice:
    """What has not been done, and the commands that do it."""
    when = "When the training is done, this" if facts.training else "This"
    parts: list[Inline] = [f"{what} {when} fills the section: "]
    for number, line in enumerate(lines):
        parts += [", then " if number else "", Code(line)]
    return Notice("missing", tuple(part for part in parts if part != ""))


def kinds_of_weights(facts: Facts) -> str:
    """Where the weights of a run's candidates come from."""
    sample, ranking = facts.stage("sample"), facts.ranking
    source = "the supernet's" if sample is not None and sample["source"] == "soft" else last_weights(facts)
    if ranking is not None and ranking["recalibrate"]:
        source += f"; BatchNorm recalibrated on {ranking['recalibrate']:,} training images"
    return source


def last_weights(facts: Facts) -> str:
    """The weights at the end of the training."""
    committed = (facts.stage("train") or {}).get("soft") is not None
    return "the supernet's, trained on after the commit" if committed else "the supernet's"


def confidence(facts: Facts) -> float:
    """Of the intervals of a run: as its ranking was asked for."""
    level: float = CONFIDENCE if facts.ranking is None else facts.ranking["confidence"]
    return level


def interval_note(*runs: Facts) -> str:
    """What the intervals in the tables of results of these runs are."""
    every = [found for facts in runs for found in (facts, *facts.baselines.values())]
    levels = sorted({confidence(found) for found in every if found.ranking is not None or found in runs})
    shown = " and ".join(f"{100 * level:g} %" for level in levels)
    asked = ", as each ranking was asked for" if len(levels) > 1 else ""
    latencies = ", quartiles of latencies" if any(facts.part("front") is not None for facts in runs) else ""
    return f"In parentheses: {shown} Wilson intervals of accuracies{asked}{latencies}."


def machine(device: str, processes: int) -> str:
    """Such as "2 x cuda"."""
    return f"{processes} x {device}" if processes > 1 else device


def listed(parts: tuple[str, ...], most: int) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(parts) - most:,} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def of_whole(params: float, facts: Facts) -> Number:
    """A size as a share of the supernet's."""
    record = facts.stage("train") or facts.stage("inflate")
    return numbers.NONE if record is None else numbers.share(params / record["params"])
