"""The course of a training: losses and accuracies, and expected costs against their targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgnas_cli.report import chart, numbers
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Figure, Number, Table
from pgnas_cli.report.drawing import Drawing, Shape

Row = Mapping[str, Any]
"""A line of train/log.jsonl."""

NAMES_WIDTH = 138.0
"""Room for the names at the ends of the lines."""
TABLE_ROWS = 200
"""A table of more epochs shows so many, at equal steps."""
LOG_RATIO = 100.0
"""Losses further apart than that are drawn by their logarithms."""
COSTS: dict[str, tuple[str, chart.Writer, Callable[[float], str]]] = {
    "params": ("parameters", chart.counts, lambda v: f"{v:,.0f}"),
    "macs": ("MACs of one image", chart.counts, lambda v: f"{v:,.0f}"),
    "latency": ("latency of one image", chart.durations, chart.duration),
}
"""What a target may be in: its name, the labels of an axis, and a value in a table."""


def training(rows: Sequence[Row]) -> Figure:
    """Cross-entropy and KL (nats of an image) above, accuracy on the train and on the selection split below.

    The KL is divided by the number of training images, as it stands in the loss.

    Args:
        rows: of train/log.jsonl, at least one, in the order of their epochs.

    Raises:
        ValueError: there is no row.
    """
    epochs = _epochs(rows)
    names = ("cross_entropy", "kl", "train_accuracy", "selection_accuracy")
    values = {name: [chart.value(row, name) for row in rows] for name in names}
    losses = [v for v in chart.known(values["cross_entropy"] + values["kl"]) if v > 0]
    log = bool(losses) and max(losses) > LOG_RATIO * min(losses)
    shown = {name: [v if v > 0 or not log else math.nan for v in values[name]] for name in names}

    right = chart.WIDTH - NAMES_WIDTH
    x = chart.around(epochs, chart.LEFT, right, pad=0)
    of_losses = losses if log else values["cross_entropy"] + values["kl"]
    upper = Panel(x, chart.around(of_losses, 188, chart.ABOVE, log=log, zero=not log))
    lower = Panel(x, chart.of_shares(values["train_accuracy"] + values["selection_accuracy"], 410, 246))
    commit = committed_after(rows)
    shapes = [
        *upper.axes("nats of an image", chart.plain, whole_x=True),
        *lower.axes("accuracy", chart.percents, "epoch", whole_x=True),
        *(s for panel, text in ((upper, "commit"), (lower, "")) if commit for s in chart.upright(panel, commit, text)),
        *_lines(upper, epochs, [("cross-entropy", shown["cross_entropy"]), ("KL", shown["kl"])]),
        *_lines(lower, epochs, [("training", shown["train_accuracy"]), ("selection", shown["selection_accuracy"])]),
    ]
    cells = (lambda v: f"{v:.4g}", lambda v: f"{v:.3g}", chart.percent, chart.percent)
    table = _table(
        epochs,
        "Losses in nats of an image, and accuracies of every epoch",
        ("cross-entropy", "KL", "training accuracy", "selection accuracy"),
        [(write, values[name]) for write, name in zip(cells, names, strict=True)],
    )
    return Figure(
        name="training",
        title="Losses and accuracies over the training",
        alt=_training_alt(epochs, values, commit),
        drawing=Drawing(chart.WIDTH, 410 + chart.BELOW, tuple(shapes)),
        table=table,
        note="Training accuracy is that of the images as they were shown, with noise of the gates and augmented; "
        "selection accuracy that of the most probable network.",
    )


def budgets(rows: Sequence[Row]) -> list[Figure]:
    """For each cost with a target, its expectation and the target of the moment, while the posterior is learned.

    Args:
        rows: of train/log.jsonl, in the order of their epochs.
    """
    return [_budget(rows, unit) for unit in COSTS if any(row.get(f"target_{unit}") is not None for row in rows)]


def _budget(rows: Sequence[Row], unit: str) -> Figure:
    """The expected cost of the compact network against its target."""
    what, axis, cell = COSTS[unit]
    epochs = _epochs(rows)
    expected = [chart.value(row, f"expected_{unit}") for row in rows]
    target = [chart.value(row, f"target_{unit}") for row in rows]
    x = chart.around(epochs, chart.LEFT + 6, chart.WIDTH - NAMES_WIDTH, pad=0)
    panel = Panel(x, chart.around(expected + target, 274, chart.ABOVE))
    commit = committed_after(rows)
    shapes = [
        *panel.axes(what, axis, "epoch", whole_x=True),
        *(chart.upright(panel, commit, "commit") if commit else []),
        *_lines(panel, epochs, [("expected", expected), ("target", target)]),
    ]
    apart = [e / t - 1 if t else math.nan for e, t in zip(expected, target, strict=True)]
    last = next((i for i in reversed(range(len(rows))) if math.isfinite(apart[i])), None)
    alt = f"Line chart over {chart.counted(len(rows), 'epoch')}: the expected {what} against the target."
    if last is not None:
        alt += (
            f" After epoch {epochs[last]} it is {cell(expected[last])}, {100 * apart[last]:+.1f} % off the target of "
        )
        alt += f"{cell(target[last])}."
    table = _table(
        epochs,
        f"Expected {what} and target after every epoch",
        ("expected", "target", "off the target"),
        [(cell, expected), (cell, target), (lambda v: f"{100 * v:+.2f} %", apart)],
    )
    return Figure(
        name=f"budget-{unit}",
        title=f"Expected {what} against the target",
        alt=alt,
        drawing=Drawing(chart.WIDTH, 274 + chart.BELOW, tuple(shapes)),
        table=table,
        note="After the commit the cost is that of one network, and nothing has to be held." if commit else "",
    )


def committed_after(rows: Sequence[Row]) -> int | None:
    """The last epoch of the search: the last one with a target, where later ones have none."""
    held = [any(row.get(f"target_{unit}") is not None for unit in COSTS) for row in rows]
    if True not in held or held[-1]:
        return None
    return int(rows[len(held) - 1 - held[::-1].index(True)]["epoch"])


def _epochs(rows: Sequence[Row]) -> list[int]:
    if not rows:
        raise ValueError("a training without an epoch has no course")
    return [int(row["epoch"]) for row in rows]


def _lines(panel: Panel, epochs: Sequence[int], lines: Sequence[tuple[str, Sequence[float]]]) -> Iterator[Shape]:
    """One line after the other in series1, series2 ..., every second dashed, each named at its end."""
    ends = []
    for number, (name, values) in enumerate(lines):
        ink, dashed = f"series{number + 1}", number % 2 == 1
        yield from chart.curve(panel, epochs, values, ink, dashed=dashed)
        if finite := chart.known(values):
            ends.append(chart.EndLabel(panel.y(finite[-1]), name, ink, dashed, dot=len(finite) == 1))
    yield from chart.end_labels(ends, panel.x.end + 10, panel.y.end, panel.y.start)


def _table(
    epochs: Sequence[int],
    caption: str,
    columns: tuple[str, ...],
    values: Sequence[tuple[Callable[[float], str], Sequence[float]]],
) -> Table:
    """A row for each epoch, or for TABLE_ROWS of them."""
    chosen = chart.evenly(len(epochs), TABLE_ROWS)
    if len(chosen) < len(epochs):
        caption += f" ({len(chosen)} of {len(epochs)} epochs, at equal steps)"
    cells = [
        (Number(str(epochs[i]), epochs[i]), *(_cell(write, column[i]) for write, column in values)) for i in chosen
    ]
    return Table(caption, ("epoch", *columns), tuple(cells))


def _cell(write: Callable[[float], str], value: float) -> Number:
    return Number(write(value), value) if math.isfinite(value) else numbers.NONE


def _training_alt(epochs: Sequence[int], values: Mapping[str, Sequence[float]], commit: int | None) -> str:
    alt = f"Line charts over {chart.counted(len(epochs), 'epoch')}."
    for name, words in (("cross_entropy", "Cross-entropy"), ("kl", "KL")):
        if finite := chart.known(values[name]):
            course = f"goes from {finite[0]:.3g} to" if len(finite) > 1 else "is"
            alt += f" {words} {course} {finite[-1]:.3g} nats of an image."
    best = [(v, epoch) for v, epoch in zip(values["selection_accuracy"], epochs, strict=True) if math.isfinite(v)]
    if best:
        top, when = max(best, key=lambda pair: (pair[0], -pair[1]))
        alt += f" Accuracy on the selection split ends at {chart.percent(best[-1][0])}; it is highest,"
        alt += f" {chart.percent(top)}, after epoch {when}."
    if commit:
        alt += f" The training commits to one network after epoch {commit}."
    return alt
