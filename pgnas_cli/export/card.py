"""The model card: README.md of an artifact, from templates/model_card.md.j2."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from pgnas_cli.export.artifact import PICTURE
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.supernet.supernet import Supernet


def draw(net: Supernet, candidate: Candidate) -> tuple[bytes, str]:
    """The picture of a card, a PNG file, and what it says in words: the candidate inside its supernet."""
    from pgnas_cli.report import architecture, legend, png, structure, themes

    figure = architecture.figure(structure.of_masks(net, candidate.masks, "candidate", candidate.id))
    return png.png(legend.with_legend(figure), theme=themes.LIGHT, scale=1), figure.alt


def render_card(spec: BuildSpec, section: dict[str, Any]) -> str:
    """The card of a network; every number in it stands in `section`.

    Args:
        spec: how the backbone is built.
        section: the "pgnas" section of config.json, without its structural keys.
    """
    text = resources.files("pgnas_cli.templates").joinpath("model_card.md.j2").read_text()
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )  # Markdown, not HTML
    environment.filters["percent"] = lambda value: f"{100 * value:.2f} %"
    environment.filters["thousands"] = lambda value: f"{value:,}"
    return environment.from_string(text).render(spec=spec, picture=PICTURE, **section)
