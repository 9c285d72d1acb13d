"""Two runs on one page: which is better and by how much, what each has cost, and in what they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgnas_cli.report import curves, histogram, numbers, results, sections, sections_training
from pgnas_cli.report.document import Block, Code, Document, Figure, Inline, Notice, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts
from pgnas_cli.report.repeat import flat
from pgnas_cli.report.report import footer, write
from pgnas_cli.report.sections_record import shown
from pgnas_cli.report.words import CONFIDENCE, ONCE, interval_note, missing, to_do
from pgnas_cli.run import RunDirectory

_MOST_SAMPLES = 6
_INTERVALS = (
    f"Differences have {100 * CONFIDENCE:g} % Newcombe intervals, as of independent images: of two networks "
    "that answered the same ones they are wider than they would have to be."
)
_PARTS = ("model", "recipe", "data", "train", "sample", "rank", "versions")
_SAME_DATA = ("train", "selection", "test")
_SET = ("spec", "in_chans", "img_size", "num_classes")
"""What two descriptions of one data set have in common."""


def compare(a: RunDirectory, b: RunDirectory, output: Path | None = None, *, figures: bool = False) -> dict[str, Any]:
    """Write a page about two runs.

    Args:
        a, b: inflated at least.
        output: the page; ./report-A-vs-B.html if None, A and B being the names of the runs' folders.
        figures: write every figure as SVG and PNG too.

    Returns:
        As `report.write`.

    Raises:
        RunError: a file of a run is damaged, or the page cannot be written.
    """
    first, second = Facts.read(a), Facts.read(b)
    path = output or Path(f"report-{first.name}-vs-{second.name}.html")
    return write(document(first, second), path, figures=figures)


def document(a: Facts, b: Facts) -> Document:
    """What the page says."""
    both = _named(a, b)
    return Document(
        title=f"{both[0][0]} against {both[1][0]}",
        lead=lead(both),
        sections=(
            _result(both), _candidates(both), _fronts(both), _training(both), _settings(both), _cost(both),
        ),
        footer=footer(),
        facts=tuple((f"run {name}", Code(str(facts.run.path))) for name, facts in both),
    )  # fmt: skip


Both = tuple[tuple[str, Facts], tuple[str, Facts]]
"""(name, run) of either, the names different."""


def _named(a: Facts, b: Facts) -> Both:
    """The runs with the names of their folders; with their paths where these are alike, and with numbers at last."""
    for first, second in ((a.name, b.name), (str(a.run.path), str(b.run.path)), (f"{a.name} (1)", f"{b.name} (2)")):
        if first != second:
            break
    return (first, a), (second, b)


def lead(both: Both) -> tuple[Inline, ...]:
    """Which found network is better on the test images, and by how much; or that this is not known."""
    (name, a), (other, b) = both
    if a.run.path.resolve() == b.run.path.resolve():
        return ("Both are the same run.",)
    if a.ranking is None or b.ranking is None:
        waiting = [name for name, facts in both if facts.ranking is None]
        have = "have" if len(waiting) > 1 else "has"
        return (f"Nothing is decided yet: {' and '.join(waiting)} {have} not been ranked.",)
    if "test" in different_splits(a, b):
        return ("The two runs cannot be compared by accuracy: their test images differ.",)
    found = numbers.difference(a.ranking["test_accuracy"], b.ranking["test_accuracy"], CONFIDENCE)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    better, worse = (name, other) if found.value >= 0 else (other, name)
    distance = numbers.points(
        found if found.value >= 0 else dataclasses.replace(found, value=-found.value, low=-found.high, high=-found.low),
        "-",
    )
    sizes: tuple[Inline, ...] = (
        f" {name} has ", numbers.count(a.ranking["params"]), " parameters, ", f"{other} ",
        numbers.count(b.ranking["params"]), ".",
    )  # fmt: skip
    if found.low <= 0 <= found.high:
        return (f"It is not proved which found network is better on the test images: {better} is ahead of {worse} by ",
                distance, ", an interval that holds 0.", *sizes)  # fmt: skip
    return (f"The network of {better} is better than that of {worse} on the test images by ", distance, ".", *sizes)


def different_splits(a: Facts, b: Facts) -> list[str]:
    """The splits whose images differ in two trained runs."""
    kept = reordered(a, b)
    return [split for split in _other_checksums(a, b) if split not in kept]


def reordered(a: Facts, b: Facts) -> list[str]:
    """The splits that hold the same images of one set, by its name and their number, in the orders of two seeds.

    The checksum of a split changes with its order. The seed draws that, and what is cut from the training images.
    """
    first, second = ((facts.stage("train") or {}).get("data", {}) for facts in (a, b))
    if first.get("seed") == second.get("seed") or any(first.get(key) != second.get(key) for key in _SET):
        return []
    cut = first.get("selection") is not None or second.get("selection") is not None
    limited = first.get("limit_train") is not None or second.get("limit_train") is not None
    own = {"train": not (cut or limited), "selection": not cut, "test": True}
    return [split for split in _other_checksums(a, b) if own[split] and first[f"num_{split}"] == second[f"num_{split}"]]


def _other_checksums(a: Facts, b: Facts) -> list[str]:
    records = [facts.stage("train") for facts in (a, b)]
    if None in records:
        return []
    first, second = (record["data"]["sha256"] for record in records if record is not None)
    return [split for split in _SAME_DATA if first[split] != second[split]]


def _result(both: Both) -> Section:
    (_, a), (_, b) = both
    blocks: list[Block] = []
    changed = different_splits(a, b)
    if changed:
        says = "the accuracies below cannot be compared."
        if "test" not in changed:
            says = "the test images are the same"
            says += "; selection accuracies cannot be compared." if "selection" in changed else "."
        what = f"The two runs have different data: their {' and '.join(changed)} images differ; {says}"
        blocks.append(Notice("warning", (what,)))
    if kept := reordered(a, b):
        what = (
            f"Two seeds have put the {' and '.join(kept)} images in different orders, which changes their checksums: "
        )
        blocks.append(Paragraph((f"{what}by the name of the set and their number they are taken for the same.",)))
    if a.ranking is not None and b.ranking is not None and "test" not in changed:
        splits = ("test",) if "selection" in changed else ("test", "selection")
        blocks += [_difference(both, splits), Paragraph((_INTERVALS,))]
    for name, facts in both:
        blocks += [results.result_table(facts, name), results.weights(facts)]
        if facts.ranking is None:
            blocks.append(missing(facts, f"The candidates of {name} have not been ranked.", to_do(facts, "rank")))
    blocks.append(Paragraph((f"{ONCE} {interval_note(a, b)}",)))
    return Section("result", "Result", tuple(blocks))


def _difference(both: Both, splits: Sequence[str]) -> Table:
    """The differences of the found networks, with intervals, on the splits that both have."""
    (name, a), (other, b) = both
    assert a.ranking is not None
    assert b.ranking is not None
    rows: list[tuple[Inline, ...]] = []
    for split in splits:
        key = f"{split}_accuracy"
        found = numbers.difference(a.ranking[key], b.ranking[key], CONFIDENCE)
        cells = (numbers.proportion(facts.ranking[key]) for facts in (a, b) if facts.ranking is not None)
        rows.append((f"{split} accuracy", *cells, numbers.points(found)))
    for key, what in (("params", "parameters"), ("macs", "MACs")):
        first, second = a.ranking[key], b.ranking[key]
        rows.append((what, numbers.count(first), numbers.count(second), numbers.change(first / second)))
    return Table("The found networks", ("of the found network", name, other, "difference"), tuple(rows), sortable=False)


def _candidates(both: Both) -> Section:
    found: dict[str, list[float]] = {}
    for name, facts in both:
        found |= sections.samples(facts, f"{name}, ")
    found = dict(list(found.items())[:_MOST_SAMPLES])
    blocks: list[Block] = []
    if found:
        note = "Accuracies on the selection split; those of a race are estimates."
        blocks.append(histogram.candidates(found, note=note))
        blocks.append(sections.spread_table(both))
    blocks += [
        missing(facts, f"The candidates of {name} have not been ranked.", to_do(facts, "rank"))
        for name, facts in both
        if facts.ranking is None
    ]
    return Section("candidates", "Candidates", tuple(blocks))


def _apart(figure: Figure, number: int, name: str) -> Figure:
    """A figure that both runs have, with a name and a title of its own."""
    return dataclasses.replace(figure, name=f"{figure.name}-{number}", title=f"{figure.title}: {name}")


def _fronts(both: Both) -> Section:
    blocks: list[Block] = []
    for number, (name, facts) in enumerate(both, 1):
        if facts.ranking is None:
            blocks.append(missing(facts, f"{name} has no ranking.", to_do(facts, "rank", "--front")))
            continue
        blocks += [_apart(figure, number, name) for figure in sections.front_figures(facts, ("params",))]
    return Section("front", "Fronts", tuple(blocks))


def _training(both: Both) -> Section:
    blocks: list[Block] = []
    for number, (name, facts) in enumerate(both, 1):
        if facts.log:
            blocks.append(_apart(curves.training(facts.log), number, name))
        else:
            blocks += sections_training.unfinished(facts)
    return Section("training", "Training", tuple(blocks))


def _settings(both: Both) -> Section:
    """What was set differently in the stages that both have done."""
    (name, a), (other, b) = both
    first, second = settings(a), settings(b)
    common = set.intersection(*({key.partition(".")[0] for key in found} for found in (first, second)))
    rows = tuple(
        (Code(key), shown(first.get(key)), shown(second.get(key)))
        for key in sorted({**first, **second}, key=lambda key: _PARTS.index(key.partition(".")[0]))
        if key.partition(".")[0] in common and first.get(key) != second.get(key)
    )
    if not rows:
        return Section("settings", "Settings", (Paragraph(("What both runs have done has the same settings.",)),))
    return Section("settings", "Settings", (Table("Settings that differ", ("setting", name, other), rows),))


def settings(facts: Facts) -> dict[str, Any]:
    """Dotted name -> what decides the result of a run: model, recipe, data, versions, how it was sampled and ranked."""
    spec = facts.spec.to_json()
    inflation = spec.pop("inflation")
    found = {f"model.{key}": value for key, value in {**spec, **inflation}.items()}
    found |= {f"recipe.{key}": value for key, value in flat(facts.recipe).items()} if facts.recipe is not None else {}
    train, sample, ranking = facts.stage("train"), facts.stage("sample"), facts.ranking
    if train is not None:
        found |= {f"data.sha256.{split}": digest for split, digest in train["data"]["sha256"].items()}
        found |= {f"train.{key}": train[key] for key in ("device", "processes")}
    if sample is not None:
        kept = ("asked", "strategy", "source", "drop_prob", "seed", "max_params", "max_macs")
        found |= {f"sample.{key}": sample[key] for key in kept}
    if ranking is not None:
        kept = ("name", "confidence", "margin", "budget", "recalibrate", "seed", "evolve")
        found |= {f"rank.{key}": ranking["asked"][key] for key in kept}
    return found | {f"versions.{name}": version for name, version in facts.manifest["versions"].items()}


def _cost(both: Both) -> Section:
    blocks = [sections_training.ledger_table(facts, f"What every stage of {name} has cost") for name, facts in both]
    return Section("cost", "Cost", tuple(blocks))
