"""The model card: README.md of an artifact, from templates/model_card.md.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pgnas_cli import registry
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export import markdown
from pgnas_cli.export.artifact import CARD, CONFIG, DAMAGED, PICTURE, PROOF, WEIGHTS
from pgnas_cli.export.card_data import card_data
from pgnas_cli.export.choice import Choice
from pgnas_cli.export.facts import front_figure
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.report import numbers
from pgnas_cli.report.facts import Schema, check
from pgnas_cli.report.words import CONFIDENCE, ONCE
from pgnas_cli.run import RunDirectory, read_json
from pgnas_cli.supernet.supernet import Supernet

FRONT = "front.png"
FILES = {
    CONFIG: "how the network is built again, what images it takes, where it comes from, checksums of the other files.",
    WEIGHTS: "its weights, nothing else.",
    PROOF: "its masks, and some images of the selection split with the logits that the network has for them.",
    CARD: "this card.",
    PICTURE: "the network inside its supernet.",
    FRONT: "accuracy against parameters of the candidates of the run.",
    "model.onnx": "the network for ONNX Runtime: `image` [batch, channels, height, width] to `logits`, for any batch.",
    "model.pt2": "the network for `torch.export.load`, for any batch; it needs neither pgnas nor timm.",
}
"""What each file of an artifact is."""
NAMED = 100
"""Classes that are named before the others are counted."""
_NONE = type(None)
_PROPORTION: Schema = {"value": float, "low": float, "high": float, "n": int}
_WIDTHS: Schema = {"multiples": int, "widths": int}
_SECTION: Schema = {
    "versions": dict, "candidate": {"id": str, "strategy": str, "params": int, "macs": int}, "chosen_by": str,
    "max_params": (int, _NONE), "supernet": {"params": int, "macs": int}, "stored_params": int, "architecture": str,
    "training": {"epochs": int, "images": int, "fixed_drop": (float, _NONE)},
    "ranking": {"method": str, "candidates": int, "images": int},
    "data": {"spec": str, "num_train": int, "num_selection": int, "num_test": int, "split_rule?": (str, _NONE)},
    "selection_accuracy": (dict, _NONE), "test_accuracy": (dict, _NONE), "license?": str, "files?": dict,
    "layout?": str, "fold_bn?": bool, "confidence?": float, "weights?": str, "fidelity?": str,
    "start?": {"pretrained": (str, _NONE), "base_model": (str, _NONE)},
    "search?": {"recipe": str, "settings": dict, "seeds": dict, "budget": dict, "commit": (int, _NONE), "ranking": str},
    "cost?": [{"stage": str, "images": (int, _NONE), "which": str, "seconds": (float, _NONE), "devices": str}],
    "front?": {"alt": str, "note": str, "marked": bool, "latency": (dict, _NONE)},
    "rounded?": {"to": int, "from": {"id": str, "selection_accuracy": _PROPORTION}, "added": int, "dropped": int,
                 "widths": {"before": _WIDTHS, "after": _WIDTHS}, "selection_accuracy": _PROPORTION},
}  # fmt: skip
"""What the card reads of the "pgnas" section."""
_ABSENT = {
    "confidence": CONFIDENCE, "layout": "gather", "fold_bn": False, "cost": (),
    "start": {"pretrained": None, "base_model": None},
    **dict.fromkeys(("weights", "fidelity", "search", "front", "rounded")),
}  # fmt: skip


def draw(net: Supernet, candidate: Candidate) -> tuple[bytes, str]:
    """The picture of a card, a PNG file, and what it says in words: the candidate inside its supernet."""
    from pgnas_cli.report import architecture, legend, png, structure, themes

    figure = architecture.figure(structure.of_masks(net, candidate.masks, "candidate", candidate.id))
    return png.png(legend.with_legend(figure), theme=themes.LIGHT, scale=1), figure.alt


def draw_front(run: RunDirectory, choice: Choice, ranking: Mapping[str, Any]) -> bytes | None:
    """front.png, accuracy against parameters with the exported network marked; None without `rank --front`.

    What it says in words is in `facts.card_facts`.
    """
    from pgnas_cli.report import legend, png, themes

    figure = front_figure(run, choice, ranking)
    return None if figure is None else png.png(legend.with_legend(figure), theme=themes.LIGHT)


def render_card(
    spec: BuildSpec,
    section: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    license: str | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """The card of a network: front matter and Markdown. Every number in it stands in `section` or in `spec`.

    Args:
        spec: how the backbone is built.
        section: the "pgnas" section of config.json.
        repo_id: the repository that the card is for, "user/repo" or "user/repo@revision"; a folder if None.
        license: of the weights, the Hub's identifier; that of the section if None.
        class_names: in the order of the logits.
    """
    license = license or section.get("license")
    body = _environment().from_string(_template()).render(
        {**_ABSENT, **section},
        spec=spec,
        repo_id=repo_id,
        license=license,
        class_names=class_names,
        own=spec.distribution.partition(" ")[0] == registry.OWN,
        once=ONCE,
        files=[(name, markdown.Markdown(FILES.get(name, "another file."))) for name in _files(section)],
    )  # fmt: skip
    confident = {"confidence": CONFIDENCE, **section}
    return f"---\n{card_data(spec, confident, repo_id=repo_id, license=license).to_yaml()}\n---\n\n{body.lstrip()}"


def card_for(folder: Path, repo_id: str | None = None) -> str:
    """The card of an artifact, from its config.json alone.

    Args:
        folder: of the artifact.
        repo_id: see `render_card`.

    Raises:
        RunError: config.json is missing or damaged.
    """
    path = folder / CONFIG
    config = read_json(path, hint=DAMAGED)
    check(config, {"pgnas": {"backbone": dict, **_SECTION}, "pretrained_cfg": dict}, path, DAMAGED)
    section = config["pgnas"]
    for split in ("selection", "test"):
        if section[f"{split}_accuracy"] is not None:
            check(section[f"{split}_accuracy"], _PROPORTION, path, DAMAGED, f"pgnas.{split}_accuracy.")
    try:
        spec = BuildSpec.from_json(section["backbone"])
    except UsageError as error:
        raise RunError(f"{path}: {error}", DAMAGED) from None
    names = config["pretrained_cfg"].get("label_names")
    return render_card(spec, section, repo_id=repo_id, class_names=names if isinstance(names, list) else ())


def _files(section: Mapping[str, Any]) -> list[str]:
    """The names of an artifact's files, in a fixed order."""
    listed = {CONFIG, CARD, *section.get("files", (WEIGHTS, PROOF, PICTURE))}
    known = [name for name in FILES if name in listed]
    return [*known, *sorted(listed - set(known))]


def _template() -> str:
    return resources.files("pgnas_cli.templates").joinpath("model_card.md.j2").read_text(encoding="utf-8")


def _environment() -> Environment:
    """Jinja that writes Markdown: numbers as the report has them, every other string escaped."""
    found = Environment(
        undefined=StrictUndefined,
        finalize=markdown.finalize,
        autoescape=False,  # Markdown, not HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "code": markdown.code,
        "line": markdown.line,
        "literal": markdown.literal,
        "names": lambda values: markdown.names(values, NAMED),
        "whole": lambda value: numbers.whole(value).text,
        "proportion": lambda value: numbers.proportion(value).text,
        "latency": lambda value: numbers.latency(value).text,
        "duration": lambda value: numbers.seconds(value).text,
        "level": lambda value: f"{100 * value:g} %",
        "number": lambda value: f"{value:.4g}",
        "counted": lambda value, noun: f"{value:,} {noun}{'' if value == 1 else 's'}",
        "budget": _budget,
    }
    return found


def _budget(value: float, unit: str) -> str:
    """A budget in its unit."""
    if unit == "latency":
        return f"{1e3 * value:.3g} ms for an image"
    return f"{numbers.count(value).text} {'parameters' if unit == 'params' else 'multiply-adds'}"
