"""The points of the cost sweeps: one base, and four grids that vary one thing each, in geometric steps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Setting:
    """What a point measures.

    Args:
        width: W of shake-shake 26 2xWd.
        img_size: pixels per side.
        classes: of the classifier.
        candidates: drawn in one sampling.
        batch: images of a training step.
        images: of a ranking evaluation.
    """

    width: int = 16
    img_size: int = 32
    classes: int = 10
    candidates: int = 100
    batch: int = 8
    images: int = 32

    def __str__(self) -> str:
        return (
            f"shakeshake26_2x{self.width}d at {self.img_size}x{self.img_size}, {self.classes} classes, "
            f"{self.candidates} candidates, batch {self.batch}, {self.images} images"
        )


BASE = Setting()
WORK = {
    "inflate": "inflate",
    "step": "training step",
    "sample": "sample candidates",
    "costs": "exact costs alone",
    "compact": "compact one candidate",
    "evaluate": "evaluate one candidate",
}
"""What is measured -> how tables call it."""


@dataclass(frozen=True)
class Sweep:
    """One thing that varies.

    Args:
        title: how tables and figures call it.
        field: of Setting.
        grid: its values.
        work: keys of WORK that may depend on it.
    """

    title: str
    field: str
    grid: tuple[int, ...]
    work: tuple[str, ...] = ("inflate", "step", "sample", "compact", "evaluate")

    def settings(self) -> list[Setting]:
        """The points, smallest first."""
        return [replace(BASE, **{self.field: value}) for value in self.grid]


SWEEPS = {
    "parameters": Sweep("parameters of the supernet", "width", (6, 10, 18, 31, 54, 93, 160)),
    "candidates": Sweep("candidates", "candidates", (10, 32, 100, 316, 1000, 3162, 10_000), ("sample", "costs")),
    "classes": Sweep("classes", "classes", (10, 35, 126, 447, 1587, 5635, 20_000)),
    "image": Sweep("pixels per side of an image", "img_size", (16, 24, 40, 60, 96, 144, 224)),
}
