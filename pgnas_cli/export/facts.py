"""What a model card tells of a run beyond the result: how the network was searched, what that cost, how far it holds.

All of it is copied from the run's files, or is a sentence that the report of the run has too. Nothing names a place on
the machine of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from pgnas_cli import registry, restore
from pgnas_cli.errors import PgnasError
from pgnas_cli.export.choice import Choice
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.report import front, sections, sections_record, sections_training
from pgnas_cli.report.document import Figure, Inline, Number, Paragraph, Section
from pgnas_cli.report.facts import Facts, again, check
from pgnas_cli.report.repeat import nearest_recipe
from pgnas_cli.report.words import CONFIDENCE, kinds_of_weights
from pgnas_cli.run import RunDirectory, read_jsonl

PLACES = ("data.dir", "data.name")
"""Settings that may hold a path; the data are described elsewhere."""
STAGES = ("inflate", "train", "sample", "rank", "rank --front", "rank --certify")
"""Of the ledger: what the network of an export has cost."""
_RANKING: Mapping[str, Any] = {
    "method": str, "winner": str, "candidates": int, "images": int, "images_exhaustive": int, "confidence": float,
    "margin": float, "seed": int, "recalibrate": int, "evolved": int, "asked": {"evolve": int}, "seconds": float,
    "device": str, "processes": int, "looks": list,
    "front?": {"confidence": float, "device": str, "batch": int, "threads": int, "points": list, "params": list},
    "certify?": {"k": int, "confidence": float, "epochs": int, "tau": dict, "regret_at_1": dict, "candidates": list},
}  # fmt: skip


def card_facts(run: RunDirectory, choice: Choice, ranking: Mapping[str, Any]) -> dict[str, Any]:
    """What the "pgnas" section of config.json gains for the card.

    Args:
        run: a ranked run.
        choice: the network that is exported; the rounded one where it was rounded.
        ranking: rank/ranking.json.

    Returns:
        confidence: of the accuracies' intervals.
        weights: where the weights come from, in words.
        start: `pretrained`, "timm", "file", or None for a supernet that started from random weights; and `base_model`,
            the Hub's name of timm's weights where that is certain, or None.
        search: recipe, the settings that differ from it, seeds, budget, commit (the epoch, or None), and the ranking
            in words.
        cost: a row for each stage: stage, images, which (what was done with these), seconds, devices.
        front: where there is one, what its picture shows in words, the picture's note, whether the network is marked
            in it, and its latency with the setting in which it was measured, or None.
        fidelity: where candidates were trained from scratch, that in words.

    Raises:
        RunError: a key of the ranking or of the leaderboard is missing or of another type.
    """
    facts = _facts(run, ranking)
    is_winner = choice.candidate.id == ranking["winner"]
    found: dict[str, Any] = {
        "confidence": ranking["confidence"] if is_winner else CONFIDENCE,
        "weights": kinds_of_weights(facts),
        "start": _start(facts),
        "search": _search(facts),
        "cost": _cost(facts),
    }
    figure = front_figure(run, choice, ranking)
    if figure is not None:
        found["front"] = _front(ranking["front"], figure, choice.candidate.id)
    if facts.part("certify") is not None:
        found["fidelity"] = said(sections.fidelity_section(facts))
    return found


def _facts(run: RunDirectory, ranking: Mapping[str, Any]) -> Facts:
    """What the report's sentences need, without the logs."""
    check(ranking, _RANKING, run.rank_path / "ranking.json", again(run, "rank"))
    recipe = restore.run_recipe(run)
    return Facts(run, run.manifest(), restore.run_spec(run), recipe, ranking=dict(ranking))


def said(section: Section) -> str:
    """The sentences of a section of a report."""
    paragraphs = [block.parts for block in section.blocks if isinstance(block, Paragraph)]
    return " ".join("".join(map(_text, parts)) for parts in paragraphs)


def _text(part: Inline) -> str:
    return part if isinstance(part, str) else part.text


def _start(facts: Facts) -> dict[str, str | None]:
    """What the weights of the supernet started from."""
    record = facts.stage("inflate") or {}
    if record.get("weights") is not None:
        return {"pretrained": "file", "base_model": None}
    if not record.get("pretrained"):
        return {"pretrained": None, "base_model": None}
    return {"pretrained": "timm", "base_model": _base_model(facts.spec, str(facts.manifest["versions"].get("timm")))}


def _base_model(spec: BuildSpec, version: str) -> str | None:
    """The Hub's name of the weights that timm has for a network without inflation, such as timm/resnet18.a1_in1k.

    None where a plugin from elsewhere may have taken other weights, or where another version of timm, whose choice for
    a name without a tag may be another, has taken them.
    """
    from timm.models import get_pretrained_cfg

    if spec.distribution.partition(" ")[0] != registry.OWN:
        return None
    try:
        arch = registry.baseline_spec(spec).arch
        known = get_pretrained_cfg(arch)
    except (PgnasError, RuntimeError):
        return None
    certain = "." in arch or version == metadata.version("timm")
    return str(known.hf_hub_id) if certain and known is not None and known.hf_hub_id else None


def _search(facts: Facts) -> dict[str, Any]:
    """How it was searched."""
    assert facts.recipe is not None
    recipe, changes = nearest_recipe(facts.recipe)
    train = facts.stage("train") or {}
    committed = train.get("soft")
    ends = committed or train
    budget = {
        unit: {"target": train[f"target_{unit}"], "expected": ends.get(f"expected_{unit}")}
        for unit in UNITS
        if train.get(f"target_{unit}") is not None
    }
    return {
        "recipe": recipe,
        "settings": {key: value for key, value in changes.items() if key not in PLACES},
        "seeds": sections_record.seeds(facts),
        "budget": budget,
        "commit": committed["epoch"] if committed else None,
        "ranking": said(sections.race_section(facts)),
    }


def _cost(facts: Facts) -> list[dict[str, Any]]:
    """The ledger of the report, without the hours of the day."""
    rows = []
    for stage, images, which, seconds, devices, _ in sections_training.ledger(facts):
        assert isinstance(images, Number)
        assert isinstance(seconds, Number)
        if stage in STAGES:
            rows.append(
                {"stage": stage, "images": images.value, "which": which, "seconds": seconds.value, "devices": devices}
            )
    return rows


# ---- the front ----------------------------------------------------------------------------------------------


def front_figure(run: RunDirectory, choice: Choice, ranking: Mapping[str, Any]) -> Figure | None:
    """Accuracy against parameters with the exported network marked; None without `rank --front`."""
    if "front" not in ranking:
        return None
    rows = read_jsonl(run.rank_path / "leaderboard.jsonl", hint=again(run, "rank"))
    return front.front("params", rows, ranking["front"], choice.candidate.id)


def _front(part: Mapping[str, Any], figure: Figure, candidate_id: str) -> dict[str, Any]:
    points: Sequence[Mapping[str, Any]] = part["points"]
    point = next((point for point in points if point["id"] == candidate_id), None)
    latency = None
    if point is not None and point.get("latency") is not None:
        measured = {name: point["latency"][name] for name in ("median", "low", "high")}
        latency = {**measured, **{name: part[name] for name in ("device", "batch", "threads")}}
    return {"alt": figure.alt, "note": figure.note, "marked": point is not None, "latency": latency}
