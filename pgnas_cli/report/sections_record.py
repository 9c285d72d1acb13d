"""The sections of a report about where its numbers come from, and how to get them again."""

from __future__ import annotations

import json
from typing import Any

from pgnas_cli.recipe_file import load_recipe
from pgnas_cli.report import numbers
from pgnas_cli.report.document import Block, Code, Commands, Inline, Number, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts, Row
from pgnas_cli.report.repeat import commands, flat, nearest_recipe
from pgnas_cli.report.words import going_on, listed, missing, to_do

_NAMED = 20
"""Classes that are named before the others are counted."""


def provenance_section(facts: Facts) -> Section:
    """Versions, seeds, data and settings."""
    blocks: list[Block] = [_versions(facts)]
    train = facts.stage("train")
    if train is not None:
        blocks += [_data(train["data"]), _checksums(train["data"])]
    elif facts.training:
        blocks.append(going_on(facts, "What is known of the data is kept at the end of the training."))
    else:
        blocks.append(missing(facts, "No data have been seen yet.", to_do(facts, "train")))
    if facts.recipe is not None:
        blocks += _settings(facts)
    return Section("provenance", "Provenance", tuple(blocks))


def _versions(facts: Facts) -> Table:
    rows: list[tuple[Inline, ...]] = [("architecture", facts.spec.arch)]
    rows.append(("plugin", f"{facts.spec.plugin} of {facts.spec.distribution or 'an unknown distribution'}"))
    rows += [(f"version of {name}", str(version)) for name, version in facts.manifest["versions"].items()]
    rows += [(f"seed of {name}", Number(str(seed), seed)) for name, seed in seeds(facts).items()]
    rows.append(("created (UTC)", facts.manifest["created"]))
    return Table("Versions and seeds", ("what", "value"), tuple(rows), sortable=False)


def seeds(facts: Facts) -> dict[str, int]:
    """What has a seed -> the seed."""
    found = {"the initial weights": facts.spec.seed}
    records = {
        "the training": facts.stage("train"),
        "the sampling": facts.stage("sample"),
        "the ranking": facts.ranking,
    }
    return found | {name: record["seed"] for name, record in records.items() if record is not None}


def _data(data: Row) -> Table:
    rows: list[tuple[Inline, ...]] = [("data set", Code(data["spec"]))]
    if data.get("location"):
        rows.append(("where it lay", Code(data["location"])))
    if data.get("split_rule"):
        rows.append(("splits", data["split_rule"]))
    size = f"{data['in_chans']} x {data['img_size']} x {data['img_size']}"
    rows += [("image", size), ("classes", numbers.whole(data["num_classes"]))]
    rows.append(("names of the classes", listed(tuple(map(str, data["class_names"])), _NAMED)))
    for split, names in data.get("corrupt", {}).items():
        rows.append((f"unreadable images, {split}", numbers.whole(len(names))))
    return Table("Data", ("what", "value"), tuple(rows), sortable=False)


def _checksums(data: Row) -> Table:
    rows = [(split, numbers.whole(data[f"num_{split}"]), Code(data["sha256"][split])) for split in data["sha256"]]
    return Table("Splits: images, and the checksum of images, labels and order", ("split", "images", "sha256"),
                 tuple(rows), sortable=False)  # fmt: skip


def _settings(facts: Facts) -> list[Block]:
    """The recipe, and in which keys it differs from one that comes with pgnas."""
    assert facts.recipe is not None
    name, changes = nearest_recipe(facts.recipe)
    said: tuple[Inline, ...] = ("The training follows the recipe ", Code(name))
    if not changes:
        return [Paragraph((*said, " as it is."))]
    before = flat(load_recipe(name))
    rows = tuple((Code(key), shown(value), shown(before.get(key))) for key, value in changes.items())
    table = Table("Settings that differ from the recipe", ("setting", "this run", f"recipe {name}"), rows)
    return [Paragraph((*said, " but for these settings.")), table]


def shown(value: Any) -> Inline:
    """A value of a recipe; what is not set is left open."""
    if value is None:
        return "left open"
    return Code(value if isinstance(value, str) else json.dumps(value))


def repeat_section(facts: Facts) -> Section:
    """What to type to get the run again."""
    blocks: list[Block] = [Commands(commands(facts, f"{facts.name}-again"))]
    train = facts.stage("train")
    if train is not None:
        told = (
            "Splits, order and augmentation repeat exactly from the seeds; sums may be rounded "
            f"otherwise on another device, or with another number of processes or threads (here {_threads(train)})."
        )
        blocks.append(Paragraph((told,)))
    for name, baseline in facts.baselines.items():
        blocks.append(Paragraph((f"The baseline {name}:",)))
        blocks.append(Commands(commands(baseline, f"{facts.name}-again/baselines/{name}")))
    return Section("repeat", "Repeat", tuple(blocks))


def _threads(train: Row) -> str:
    threads = train.get("threads")
    known = "" if threads is None else f", {threads} thread{'s' if threads != 1 else ''}"
    return f"{train['processes']} process{'es' if train['processes'] > 1 else ''} on {train['device']}{known}"
