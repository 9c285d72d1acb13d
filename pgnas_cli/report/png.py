"""A drawing as a PNG file, with the shapes and the colours of the SVG file."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pgnas_cli.report.drawing import Circle, Drawing, Path, Picture, Rect, Shape, Text
from pgnas_cli.report.svg import allowed
from pgnas_cli.report.themes import PICTURE_SCALE, Theme, channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 100
_POINT = 72 / _DPI
"""Points of a pixel at scale 1."""
_FACE = 0.93
"""DejaVu Sans, which comes with matplotlib, is wider than the faces of most systems."""
_DASHES = (4, 3)
_ALIGNED = {"start": "left", "middle": "center", "end": "right"}


def png(drawing: Drawing, *, theme: Theme, scale: float = 2) -> bytes:
    """The drawing as a PNG file of `scale` pixels for each of its own; the same drawing gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        # letters that the face lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure((drawing.width / _DPI, drawing.height / _DPI), dpi=_DPI * scale)
        figure.patch.set_facecolor(theme.inks["surface"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, drawing.width)
        axes.set_ylim(drawing.height, 0)
        for order, shape in enumerate(drawing.shapes):
            _draw(axes, shape, theme, order)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def _draw(axes: Axes, shape: Shape, theme: Theme, order: int) -> None:
    if isinstance(shape, Text):
        axes.text(
            shape.x,
            shape.y,
            allowed(shape.text),
            color=theme.inks[shape.ink],
            fontsize=shape.size * _POINT * _FACE,
            fontweight="bold" if shape.bold else "normal",
            ha=_ALIGNED[shape.anchor],
            va="baseline",
            rotation=-shape.angle,
            rotation_mode="anchor",
            parse_math=False,
            zorder=order,
        )
    elif isinstance(shape, Picture):
        palette = np.array([channels(colour) for colour in PICTURE_SCALE], np.uint8)
        extent = (shape.x, shape.x + shape.width, shape.y + shape.height, shape.y)
        axes.imshow(
            palette[shape.levels], extent=extent, interpolation="nearest", aspect="auto", origin="upper", zorder=order
        )
    else:
        _patch(axes, shape, theme, order)


def _patch(axes: Axes, shape: Rect | Circle | Path, theme: Theme, order: int) -> None:
    from matplotlib import patches
    from matplotlib.path import Path as Outline

    width = shape.width if isinstance(shape, Path) else 1
    dashed = not isinstance(shape, Circle) and shape.dashed
    style: dict[str, Any] = {
        "facecolor": theme.inks[shape.fill] if shape.fill else "none",
        "edgecolor": theme.inks[shape.stroke] if shape.stroke else "none",
        "linewidth": width * _POINT if shape.stroke else 0,
        "linestyle": (0, tuple(length / width for length in _DASHES)) if dashed else "solid",
        "alpha": shape.opacity,
        "joinstyle": "round",
        "capstyle": "butt",
        "zorder": order,
    }
    patch: patches.Patch
    if isinstance(shape, Circle):
        patch = patches.Circle((shape.x, shape.y), shape.radius, **style)
    elif isinstance(shape, Path):
        points = np.array([*shape.points, *shape.points[:1]] if shape.fill else shape.points, float)
        patch = patches.PathPatch(Outline(points, closed=bool(shape.fill)), **style)
    elif shape.radius:
        rounded = patches.BoxStyle("Round", pad=0, rounding_size=min(shape.radius, shape.width / 2, shape.height / 2))
        patch = patches.FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, boxstyle=rounded, **style)
    else:
        patch = patches.Rectangle((shape.x, shape.y), shape.width, shape.height, **style)
    axes.add_artist(patch)
