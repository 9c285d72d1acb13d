"""Drawings and a document for the tests of the files that are made of them."""

from __future__ import annotations

import numpy as np

from pgnas_cli.report.document import (
    Code,
    Commands,
    Document,
    Figure,
    Group,
    Key,
    Notice,
    Number,
    Paragraph,
    Section,
    Table,
)
from pgnas_cli.report.drawing import Circle, Drawing, Mark, Path, Picture, Rect, Text, on_ink, share_ink

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(2)">',
    "{{7*7}}",
    "]]>",
    "&amp;",
    "'; alert(3); '",
    "</title></style></svg>",
    "$x_1$",
)
SCRIPT, IMAGE = HOSTILE[:2]
MIXED = " ".join(HOSTILE)


def scatter() -> Drawing:
    """Five points with marks, each with a command, within axes."""
    shapes = [
        Path(((60, 20), (60, 240), (600, 240)), "line"),
        Path(((60, 130), (600, 130)), "grid", 1),
        Text(52, 134, "50 %", "muted", 13, "end"),
        Text(20, 130, f"accuracy {SCRIPT}", "text", 12, "middle", angle=-90),
        Path(((60, 200), (300, 120), (560, 60)), "series2", 2, dashed=True),
        Path(((60, 240), (300, 180), (560, 240)), fill="series3", opacity=0.3),
    ]
    for number in range(5):
        mark = Mark(f"point {number}: {MIXED}", f"pgnas export --candidate {number} {IMAGE}")
        shapes.append(Circle(100 + 110 * number, 220 - 40 * number, 6, "series1", "surface", mark=mark))
    return Drawing(640, 280, tuple(shapes))


def heat() -> Drawing:
    """A picture of 6 rows in two bands and 4 columns: level 63 in the first cell, and 0 to 22 elsewhere."""
    levels = np.arange(24, dtype=np.uint8).reshape(6, 4)
    levels[0, 0] = 63
    bands = ((0, 4, "stage1.conv"), (4, 2, f"stage2.conv {MIXED}"))
    columns = tuple(f"epoch {number}" for number in range(1, 5))
    scale = Picture(440, 10, 120, 12, np.arange(64, dtype=np.uint8)[None])
    return Drawing(
        640, 300, (scale, Picture(80, 40, 480, 240, levels, bands, columns), Text(70, 90, SCRIPT, anchor="end"))
    )


def card(name: str, shares: tuple[float, ...]) -> Drawing:
    """A block of operations, each with a mark and its share."""
    shapes = [Rect(0.5, 0.5, 179, 29.0 + 28 * len(shares), stroke="grid", radius=6), Text(12, 18, name, bold=True)]
    for number, share in enumerate(shares):
        y, mark = 28.0 + 28 * number, Mark(f"{name}.{number}: {SCRIPT}")
        if share == 0:
            shapes.append(Rect(12, y, 156, 22, stroke="gap", radius=3, dashed=True, mark=mark))
            continue
        shapes.append(Rect(12, y, 156, 22, share_ink(share), radius=3, mark=mark))
        shapes.append(Text(18, y + 15, "conv 3x3", on_ink(share), 11))
        shapes.append(Text(162, y + 15, f"{100 * share:.0f} %", on_ink(share), 11, "end", bold=True))
    return Drawing(180, 30.0 + 28 * len(shares), tuple(shapes))


def results(rows: int = 4) -> Table:
    """Names in an order that is neither theirs nor that of the numbers, of which one is missing."""
    names = [f"network {7 * number % rows}" for number in range(rows)]
    cells = [
        (name, Number(f"{50 + 13 * k % 47} %", (50 + 13 * k % 47) / 100), Number(f"{10 * k:,}", 10 * k), Code(IMAGE))
        for k, name in enumerate(names)
    ]
    cells[1] = (*cells[1][:2], Number("not measured", None), Code(SCRIPT))
    return Table(f"Networks {MIXED}", ("network", "accuracy", "parameters", f"path {SCRIPT}"), tuple(cells))


def blocks() -> Figure:
    shares = ((1.0, 0.62, 0.0), (0.04, 0.35), (0.97, 0.5, 0.21, 0.8))
    cards = tuple(card(f"block{number}", s) for number, s in enumerate(shares))
    return Figure(
        "architecture",
        f"Found network {SCRIPT}",
        f"Diagram of three blocks {IMAGE}",
        cards[0],
        results(),
        (Key("share10", f"all kept {SCRIPT}"), Key("share4", "40 %"), Key("gap", "dropped", "gap")),
        (Group(f"Stage 1 {SCRIPT}", cards[:2]), Group("Stage 2", cards[2:] * 9)),
        f"A note {SCRIPT}",
    )


def everything() -> Document:
    """A document with every kind of block, and texts that look like markup wherever there is a text."""
    front = Figure(
        "front",
        "Accuracy against parameters",
        f"Scatter plot of five networks {MIXED}",
        scatter(),
        results(40),
        (Key("series1", "candidates", "point"), Key("series2", f"trend {IMAGE}", "line")),
    )
    posterior = Figure("posterior", "Drop probability", f"Heat map {SCRIPT}", heat(), note="Sorted by the last epoch.")
    plain = Figure("loss", "Loss", "Curve that falls", Drawing(640, 60, (Path(((0, 5), (640, 50)), "series4", 2),)))
    wide = Table("Wide", tuple(f"column number {n}" for n in range(24)), (tuple(["x" * 12] * 24), tuple(["y"] * 24)))
    return Document(
        title=f"run/{MIXED}",
        lead=("The found network reaches ", Number("83.7 %", 0.837), " with ", Code(SCRIPT), f" of {IMAGE}."),
        sections=(
            Section("result", "Result", (Paragraph((f"Classes: {MIXED}", Code(MIXED))), results(), wide)),
            Section("found", f"Found {SCRIPT}", (blocks(), front)),
            Section("posterior", "Training", (Notice("warning", (f"Gates {SCRIPT} ", Code(IMAGE))), posterior, plain)),
            Section("race", "Race", (Notice("missing", ("Type ", Code("pgnas rank runs/x"), " to fill this.")),)),
            Section(
                "again",
                "Again",
                (Commands(("pgnas inflate resnet18", f"pgnas train --limit-train 10000 --data-dir {MIXED}")),),
            ),
        ),
        footer=("Made by pgnas 0.1.0, ", Code(SCRIPT)),
        facts=(("run", Code(MIXED)), (SCRIPT, "shake-shake"), ("candidates", Number("500", 500))),
    )
