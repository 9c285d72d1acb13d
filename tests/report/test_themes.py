"""Colours can be read, and told apart by readers who confuse some of them."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from pgnas_cli.report.drawing import INKS, SERIES, SHARE_STEPS
from pgnas_cli.report.themes import PICTURE_SCALE, THEMES, Theme, channels, contrast, scale

# Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1, for linear RGB
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
themes = pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)


def linear(colour: str) -> NDArray[np.float64]:
    share = np.array(channels(colour)) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ottosson's space of even steps: lightness 0 to 1, and two axes of hue."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return axes @ np.cbrt(cones @ rgb)


def seen(colour: str, sight: str = "usual") -> NDArray[np.float64]:
    return oklab(np.clip(SIGHT[sight] @ linear(colour), 0, 1))


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [("#000000", "#ffffff", 21), ("#777777", "#ffffff", 4.48), ("#ff0000", "#0000ff", 2.15), ("#123456", "#123456", 1)],
)
def test_contrast_is_that_of_wcag(a: str, b: str, ratio: float) -> None:
    assert contrast(a, b) == contrast(b, a) == pytest.approx(ratio, abs=0.005)


@themes
def test_every_ink_has_a_colour(theme: Theme) -> None:
    assert set(theme.inks) == INKS


@themes
def test_writing_and_lines_can_be_read(theme: Theme) -> None:
    surface, panel = theme.inks["surface"], theme.page["panel"]
    for ground in (surface, panel):
        assert min(contrast(theme.inks[ink], ground) for ink in ("text", "muted", "warning")) >= 4.5
        assert contrast(theme.page["accent"], ground) >= 4.5
        assert contrast(theme.page["edge"], ground) >= 3
    lines = ["line", "gap", *(f"series{number}" for number in range(1, SERIES + 1))]
    assert min(contrast(theme.inks[ink], surface) for ink in lines) >= 3
    assert min(contrast(theme.inks[f"on{n}"], theme.inks[f"share{n}"]) for n in range(SHARE_STEPS + 1)) >= 4.5


@themes
def test_shares_go_from_near_the_page_steadily_away_from_it(theme: Theme) -> None:
    away = [contrast(theme.inks[f"share{n}"], theme.inks["surface"]) for n in range(SHARE_STEPS + 1)]
    assert away[0] < 1.3
    assert away[-1] > 8
    assert min(b / a for a, b in pairwise(away)) > 1.08


@themes
@pytest.mark.parametrize("sight", SIGHT)
def test_series_differ_for_every_reader(theme: Theme, sight: str) -> None:
    colours = [seen(theme.inks[f"series{number}"], sight) for number in range(1, SERIES + 1)]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(colours, 2)) >= 0.1


@pytest.mark.parametrize("sight", SIGHT)
def test_the_picture_scale_grows_lighter_step_by_step(sight: str) -> None:
    assert len(PICTURE_SCALE) == 64
    lightness = np.array([seen(colour, sight)[0] for colour in PICTURE_SCALE])
    assert np.diff(lightness).min() > 0
    assert np.ptp(lightness) > 0.6


def test_a_scale_goes_through_its_anchors() -> None:
    assert scale(("#000000", "#ff0000", "#ffff00"), 5) == ("#000000", "#800000", "#ff0000", "#ff8000", "#ffff00")
