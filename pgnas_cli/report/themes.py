"""The colours: of every ink and of the page around the drawings, light and dark, and of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgnas_cli.report.drawing import SHARE_STEPS

Colour = str
"""#rrggbb."""


@dataclass(frozen=True)
class Theme:
    """Colours that are seen together.

    Args:
        name: "light" or "dark".
        inks: of drawings.
        page: of what stands around them. panel: the ground of code, notices and buttons. edge: the outline of
            controls. accent: links, and what has the focus.
    """

    name: str
    inks: Mapping[str, Colour]
    page: Mapping[str, Colour]


def channels(colour: Colour) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def scale(anchors: Sequence[Colour], steps: int) -> tuple[Colour, ...]:
    """So many colours, at least two, from the first anchor to the last, along straight lines between neighbours."""
    found = []
    for step in range(steps):
        place = step / (steps - 1) * (len(anchors) - 1)
        left = min(int(place), len(anchors) - 2)
        pair = zip(channels(anchors[left]), channels(anchors[left + 1]), strict=True)
        found.append("#" + "".join(f"{round(a + (place - left) * (b - a)):02x}" for a, b in pair))
    return tuple(found)


def contrast(a: Colour, b: Colour) -> float:
    """Contrast ratio of WCAG 2.2, 1 to 21."""
    darker, lighter = sorted((_luminance(a), _luminance(b)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    shares = (channel / 255 for channel in channels(colour))
    linear = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _inks(plain: Mapping[str, Colour], series: Sequence[Colour], shares: Sequence[Colour]) -> dict[str, Colour]:
    """All inks; writing on a share is white or black, whichever is easier to read."""
    inks = dict(plain)
    inks |= {f"series{number}": colour for number, colour in enumerate(series, 1)}
    for step, colour in enumerate(scale(shares, SHARE_STEPS + 1)):
        inks[f"share{step}"] = colour
        inks[f"on{step}"] = max("#ffffff", "#0a0d10", key=lambda ink: contrast(ink, colour))
    return inks


LIGHT = Theme(
    "light",
    _inks(
        {
            "text": "#1b2026",
            "muted": "#59636e",
            "line": "#6b7682",
            "grid": "#dfe4e9",
            "surface": "#ffffff",
            "gap": "#818b96",
            "warning": "#a8460c",
        },
        ("#0a4c9a", "#e35d0c", "#29a096", "#985ce0", "#993a1f", "#4e161c"),
        ("#eef3f8", "#8fbbe0", "#134a85"),
    ),
    {"panel": "#f5f7f9", "edge": "#7d8791", "accent": "#0a56ad"},
)
DARK = Theme(
    "dark",
    _inks(
        {
            "text": "#e4e8ec",
            "muted": "#a3adb8",
            "line": "#8994a0",
            "grid": "#2e353d",
            "surface": "#14181c",
            "gap": "#75808c",
            "warning": "#f2a65e",
        },
        ("#619cff", "#f28631", "#84d6bd", "#b679b2", "#f4d14d", "#e8f4f9"),
        ("#222a33", "#3f78b0", "#d3ebff"),
    ),
    {"panel": "#1d2329", "edge": "#75808c", "accent": "#7fb5ff"},
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

PICTURE_SCALE = scale(
    (
        "#00224e",
        "#123570",
        "#3b496c",
        "#575d6d",
        "#707173",
        "#8a8779",
        "#a69d75",
        "#c4b56c",
        "#e4cf5b",
        "#fee838",
    ),
    64,
)
"""Of a picture's levels; even in lightness, and the same for readers who confuse red and green: nearly cividis
(Nunez, Anderton and Renslow, PLOS ONE 13(7), 2018)."""
