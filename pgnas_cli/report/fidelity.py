"""Fidelity: accuracies with the supernet's weights against those of the same networks trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgnas_cli.report import chart, numbers
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Code, Figure, Number, Table
from pgnas_cli.report.drawing import Circle, Drawing, Mark, Rect, Shape


def scatter(certify: Mapping[str, Any]) -> Figure:
    """A point for each candidate that was trained from scratch; the first of the ranking is a square.

    Args:
        certify: ranking.json's "certify".
    """
    rows = [
        (str(row["id"]), float(row["supernet_accuracy"]), float(row["scratch_accuracy"]))
        for row in certify["candidates"]
    ]
    panel = Panel(
        chart.of_shares((before for _, before, _ in rows), chart.LEFT, chart.WIDTH - chart.RIGHT),
        chart.of_shares((after for _, _, after in rows), 284, chart.ABOVE, pad=0.1),
    )
    shapes: list[Shape] = panel.axes(
        "accuracy when trained from scratch", chart.percents, "accuracy with the supernet's weights", chart.percents
    )
    for place, (name, before, after) in reversed(list(enumerate(rows))):
        (x, y), mark = panel.at(before, after), Mark(_tip(name, before, after, place))
        if place:
            shapes.append(Circle(x, y, 6, "series1", "surface", mark=mark))
        else:
            shapes.append(Rect(x - 7, y - 7, 14, 14, "series2", "surface", mark=mark))
            shapes += chart.named(x, y, "chosen", panel.x.end)
    tau = _tau(certify)
    return Figure(
        name="fidelity",
        title="Accuracy with the supernet's weights and from scratch",
        alt=_alt(rows, certify, tau),
        drawing=Drawing(chart.WIDTH, 284 + chart.BELOW, tuple(shapes)),
        table=_table(rows, tau),
    )


def _tau(certify: Mapping[str, Any]) -> str:
    """Kendall's tau with its interval, in words."""
    return (
        f"Kendall's tau, with its {100 * certify['confidence']:g} % interval: {numbers.estimate(certify['tau']).text}"
    )


def _tip(name: str, before: float, after: float, place: int) -> str:
    text = f"{name[:8]}: {chart.percent(before)} with the supernet's weights, {chart.percent(after)} from scratch"
    return text if place else f"{text}, the chosen network"


def _alt(rows: list[tuple[str, float, float]], certify: Mapping[str, Any], tau: str) -> str:
    _, before, after = zip(*rows, strict=True)
    ranges = (
        f"{chart.percent(min(found))} to {chart.percent(max(found))} {words}"
        for found, words in (
            (before, "with the supernet's weights"),
            (after, f"from scratch in {certify['epochs']} epochs"),
        )
    )
    return f"Scatter plot of {len(rows)} candidates: {' and '.join(ranges)}. {tau}."


def _table(rows: list[tuple[str, float, float]], tau: str) -> Table:
    cells = tuple(
        (
            Code(name),
            numbers.accuracy(before),
            numbers.accuracy(after),
            Number(f"{100 * (after - before):+.1f}", after - before),
        )
        for name, before, after in rows
    )
    columns = ("network", "supernet's weights", "from scratch", "difference (points)")
    return Table(f"Accuracy on the selection split, best of the ranking first. {tau}", columns, cells)
