"""What the sections of a report share: what is missing, what to type for it, and how accuracies were measured."""

from __future__ import annotations

from pgnas_cli.report import numbers
from pgnas_cli.report.document import Code, Inline, Notice, Number
from pgnas_cli.report.facts import Facts, typed
from pgnas_cli.run import STAGES

ONCE = (
    "Candidates are compared on the selection split, which neither the weights nor the posterior saw; the test split "
    "is read once, for the network that was chosen. The selection accuracy of the best of many is too high on average."
)


def to_do(facts: Facts, stage: str, *options: str) -> tuple[str, ...]:
    """The commands that bring a run to the end of a stage, in order; `options` are of the last one."""
    lines = []
    for name in STAGES[: STAGES.index(stage)]:
        if facts.stage(name) is None:
            lines.append(typed(facts.run, name, *(("--resume",) if name == "train" and facts.training else ())))
    resumed = ("--resume",) if stage == "train" and facts.training else ()
    return (*lines, typed(facts.run, stage, *resumed, *options))


def missing(what: str, lines: tuple[str, ...]) -> Notice:
    """What has not been done, and the commands that do it."""
    parts: list[Inline] = [f"{what} This fills the section: "]
    for number, line in enumerate(lines):
        parts += [", then " if number else "", Code(line)]
    return Notice("missing", tuple(part for part in parts if part != ""))


def kinds_of_weights(facts: Facts) -> str:
    """Where the weights of a run's candidates come from."""
    train, sample, ranking = facts.stage("train"), facts.stage("sample"), facts.ranking
    assert train is not None
    source = "the supernet's"
    if train["soft"] is not None and (sample is None or sample["source"] == "final"):
        source = "the supernet's, trained on after the commit"
    if ranking is not None and ranking["recalibrate"]:
        source += f"; BatchNorm recalibrated on {ranking['recalibrate']:,} training images"
    return source


def interval_note(facts: Facts) -> str:
    """What the intervals are."""
    level = 95.0 if facts.ranking is None else 100 * facts.ranking["confidence"]
    return f"In parentheses: {level:g} % Wilson intervals of accuracies, quartiles of latencies."


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
