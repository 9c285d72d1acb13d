"""The posterior over the training, as a heat map: a row for each group, a column for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from operator import ne
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.report import chart
from pgnas_cli.report.document import Figure, Inline, Number, Table
from pgnas_cli.report.drawing import Drawing, Path, Picture, Rect, Shape, Text

Row = Mapping[str, Any]
"""A line of train/posterior.jsonl: {"epoch": n, "p": {layer: [drop probability of each group]}}."""
Band = tuple[int, int, str]
"""First row, rows, name."""

TOP, HEIGHT = 44.0, 380.0
"""Where the picture begins, and its height, in pixels."""
NAMES_WIDTH = 180.0
"""Names of layers may be so wide, in pixels."""
SCALE_WIDTH = 150.0
"""Of the colour scale."""
LEVELS = 64


def posterior(rows: Sequence[Row], *, max_rows: int = 1200, max_columns: int = 240) -> Figure:
    """The drop probability p of every group after every epoch.

    Layers lie one below the other in the network's order; within a layer the groups are sorted by p after the last
    epoch, the smallest on top.

    Args:
        rows: of train/posterior.jsonl, at least one, in the order of their epochs.
        max_rows: where there are more groups, as few neighbours as possible are averaged; a layer keeps at least a row.
        max_columns: where there are more epochs, so many at equal steps are shown.

    Raises:
        ValueError: there is no row or no group, or the rows differ in their layers or in a layer's number of groups.
    """
    sizes = _sizes(rows)
    first, last = _flat(rows[0], sizes), _flat(rows[-1], sizes)
    order = np.lexsort((last, np.repeat(np.arange(len(sizes)), list(sizes.values()))))
    averaged = _neighbours(list(sizes.values()), max_rows)
    starts, bands = _rows(sizes, averaged)
    counted = np.diff([*starts, len(order)])
    columns = chart.evenly(len(rows), max_columns)
    means = [np.add.reduceat(_flat(rows[column], sizes)[order], starts) / counted for column in columns]
    epochs = [int(row["epoch"]) for row in rows]
    return Figure(
        name="posterior",
        title="Drop probability of every group over the training",
        alt=_alt(first, last, epochs, len(sizes)),
        drawing=_drawing(np.stack(means, 1), bands, [epochs[column] for column in columns]),
        table=_table(rows, sizes),
        note=_note(len(order), averaged, len(starts), len(columns), len(rows)),
    )


def _sizes(rows: Sequence[Row]) -> dict[str, int]:
    """Layer -> number of groups, the same after every epoch; layers without a group are left out."""
    if not rows:
        raise ValueError("there is no epoch whose posterior could be shown")
    sizes = {name: len(p) for name, p in rows[0]["p"].items()}
    for row in rows[1:]:
        if row["p"].keys() != sizes.keys() or any(map(ne, sizes.values(), map(len, _in_order(row, sizes)))):
            found = {name: len(p) for name, p in row["p"].items()}
            name = next(n for n in (sizes | found) if sizes.get(n) != found.get(n))
            raise ValueError(
                f"{name} has {sizes.get(name, 0)} groups after epoch {rows[0]['epoch']}, and {found.get(name, 0)} "
                f"after epoch {row['epoch']}"
            )
    if not any(sizes.values()):
        raise ValueError("the posterior has no group")
    return {name: n for name, n in sizes.items() if n}


def _in_order(row: Row, sizes: Mapping[str, int]) -> Iterator[Sequence[float]]:
    """p of each layer's groups, in the order of `sizes`."""
    return map(row["p"].__getitem__, sizes)


def _flat(row: Row, sizes: Mapping[str, int]) -> NDArray[np.float64]:
    """p of all groups after one epoch, layer after layer."""
    return np.fromiter(chain.from_iterable(_in_order(row, sizes)), np.float64, sum(sizes.values()))


def _neighbours(sizes: Sequence[int], max_rows: int) -> int:
    """Smallest number of neighbours whose averages are at most `max_rows` rows, or one row for each layer."""
    n = np.array(sizes)
    low, high = 1, int(n.max())
    while low < high:
        middle = (low + high) // 2
        if -(-n // middle).sum() <= max_rows:
            high = middle
        else:
            low = middle + 1
    return low


def _rows(sizes: Mapping[str, int], averaged: int) -> tuple[list[int], list[Band]]:
    """The first group of every row, each of which holds up to `averaged` of one layer, and the rows of each layer."""
    starts: list[int] = []
    bands: list[Band] = []
    first = 0
    for name, size in sizes.items():
        parts = range(first, first + size, averaged)
        bands.append((len(starts), len(parts), name))
        starts += parts
        first += size
    return starts, bands


# ---- the drawing --------------------------------------------------------------------------------------------


def _drawing(p: NDArray[np.float64], bands: Sequence[Band], epochs: Sequence[int]) -> Drawing:
    row_height = HEIGHT / len(p)
    runs = _runs(bands, row_height)
    left = max((chart.width_of(name) for _, _, name in runs), default=0) + 18
    width = chart.WIDTH - chart.RIGHT - left
    picture = Picture(
        left, TOP, width, HEIGHT, _levels(p), tuple(bands), tuple(f"epoch {epoch}" for epoch in epochs)
    )  # fmt: skip
    shapes: list[Shape] = [*_colour_scale(left + width), picture, *_names(runs, left, row_height)]
    for first, _, _ in runs[1:]:
        y = TOP + first * row_height
        shapes.append(Path(((left, y), (left + width, y)), "surface", 1))
    shapes.append(Rect(left, TOP, width, HEIGHT, stroke="line"))
    shapes += _epochs_below(epochs, left, width)
    return Drawing(chart.WIDTH, TOP + HEIGHT + chart.BELOW, tuple(shapes))


def _levels(p: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(p * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)


def _runs(bands: Sequence[Band], row_height: float) -> list[Band]:
    """Layers, or parts of the network, whose names can stand at the left: the smallest parts that all have room.

    Parts are neighbours whose names begin with the same components. Where not even the largest parts all have room,
    the highest of these have names, and the others none.
    """
    depth = max(name.count(".") for _, _, name in bands) + 1
    coarsest: list[Band] = []
    for components in range(depth, 0, -1):
        runs = _parts(bands, components)
        if len(runs) < 2 and coarsest:
            break
        coarsest = runs
        if all(rows * row_height >= chart.LINE for _, rows, _ in runs) and all(map(_fits, runs)):
            return runs
    return _highest([(first, rows, _shortened(name)) for first, rows, name in coarsest], row_height)


def _parts(bands: Sequence[Band], components: int) -> list[Band]:
    """Neighbouring layers joined where the first so many components of their names are the same."""
    found = []
    for name, parts in groupby(bands, key=lambda band: ".".join(band[2].split(".")[:components])):
        joined = list(parts)
        found.append((joined[0][0], sum(rows for _, rows, _ in joined), name))
    return found


def _highest(runs: Sequence[Band], row_height: float) -> list[Band]:
    """As many runs as have names that do not overlap, the highest first."""
    chosen: list[Band] = []
    for run in sorted(runs, key=lambda run: -run[1]):
        middle = (run[0] + run[1] / 2) * row_height
        if all(abs(middle - (first + rows / 2) * row_height) >= chart.LINE for first, rows, _ in chosen):
            chosen.append(run)
    return sorted(chosen)


def _fits(run: Band) -> bool:
    return chart.width_of(run[2]) <= NAMES_WIDTH


def _shortened(name: str) -> str:
    """The end of a name, if all of it is too wide."""
    most = int(NAMES_WIDTH / chart.width_of("n"))
    return name if len(name) <= most else "\u2026" + name[len(name) - most + 1 :]


def _names(runs: Sequence[Band], left: float, row_height: float) -> Iterator[Shape]:
    for first, rows, name in runs:
        middle = TOP + (first + rows / 2) * row_height
        yield Text(left - 8, middle + 0.35 * chart.SIZE, name, "text", chart.SIZE, "end")


def _colour_scale(right: float) -> Iterator[Shape]:
    """0 to 1, above the picture, flush with its right edge."""
    x, y = right - SCALE_WIDTH, TOP - 24
    yield Text(x - 28, y + 10, "drop probability p", "text", chart.SIZE, "end")
    yield Text(x - 6, y + 10, "0", "muted", chart.SIZE, "end")
    yield Picture(x, y, SCALE_WIDTH - 14, 12, np.arange(LEVELS, dtype=np.uint8)[None, :])
    yield Rect(x, y, SCALE_WIDTH - 14, 12, stroke="line")
    yield Text(right - 8, y + 10, "1", "muted", chart.SIZE)


def _epochs_below(epochs: Sequence[int], left: float, width: float) -> Iterator[Shape]:
    """Labels under the columns that come nearest to round numbers."""
    column, bottom = width / len(epochs), TOP + HEIGHT
    scale = chart.around(epochs, left + 0.5 * column, left + width - 0.5 * column, pad=0)
    for tick, _ in chart.fitting(scale, chart.plain, whole=True):
        index = int(np.abs(np.array(epochs) - tick).argmin())
        x = left + (index + 0.5) * column
        yield Path(((x, bottom), (x, bottom + 5)), "line", 1)
        yield Text(x, bottom + 19, str(epochs[index]), "muted", chart.SIZE, "middle")
    yield Text(left + width / 2, bottom + 38, "epoch", "text", chart.SIZE, "middle")


# ---- words and numbers --------------------------------------------------------------------------------------


def _alt(first: NDArray[np.float64], last: NDArray[np.float64], epochs: Sequence[int], layers: int) -> str:
    dropped, kept = chart.percent((last > 0.9).mean(), 0), chart.percent((last < 0.1).mean(), 0)
    return (
        f"Heat map of the drop probability of {len(last):,} groups in {layers} layers "
        f"over {chart.counted(len(epochs), 'epoch')}. The mean goes from {first.mean():.2f} to {last.mean():.2f}; "
        f"after epoch {epochs[-1]}, {dropped} of the groups are above 0.9, and {kept} below 0.1."
    )


def _note(groups: int, averaged: int, shown: int, columns: int, epochs: int) -> str:
    notes = ["Within a layer the groups are sorted by p after the last epoch."]
    if averaged > 1:
        notes.append(
            f"{groups:,} groups in {shown:,} rows: each is the mean of up to {averaged} neighbours of one layer."
        )
    if columns < epochs:
        notes.append(f"{columns} of {epochs:,} epochs, at equal steps.")
    return " ".join(notes)


def _table(rows: Sequence[Row], sizes: Mapping[str, int]) -> Table:
    """Groups and mean p of every layer at the first, a middle and the last epoch, and its extremes at the last."""
    chosen = [rows[index] for index in sorted({0, len(rows) // 2, len(rows) - 1})]
    columns = ["layer", "groups", *(f"mean, epoch {row['epoch']}" for row in chosen), "smallest", "largest"]
    cells: list[tuple[Inline, ...]] = []
    for name, size in sizes.items():
        last = chosen[-1]["p"][name]
        values = [float(np.mean(row["p"][name])) for row in chosen] + [float(min(last)), float(max(last))]
        cells.append((name, Number(f"{size:,}", size), *(Number(f"{v:.3f}", v) for v in values)))
    caption = f"Drop probability p of every layer's groups; smallest and largest after epoch {rows[-1]['epoch']}"
    return Table(caption, tuple(columns), tuple(cells))
