"""The race of a ranking: how many candidates were left after how many images, and who led."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgnas_cli.report import chart, numbers
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Code, Figure, Table
from pgnas_cli.report.drawing import Circle, Drawing, Mark, Path, Point, Text

BOTTOM = 400.0
"""Lower edge of the lower panel, in pixels."""

Look = Mapping[str, Any]
"""An entry of ranking.json's "looks": seen, racing, staying, leader, accuracy, images."""


def race(ranking: Mapping[str, Any]) -> Figure | None:
    """Candidates in the race against images that each of them has seen; the leader's accuracy below.

    Args:
        ranking: rank/ranking.json.

    Returns:
        None where every candidate saw every image.
    """
    looks: Sequence[Look] = ranking.get("looks") or []
    if ranking["method"] == "exhaustive" or not looks:
        return None
    seen = [float(look["seen"]) for look in looks]
    x = chart.around([seen[0] / 1.6, *seen], chart.LEFT, chart.WIDTH - chart.RIGHT, log=True, pad=0.03)
    alive = [float(look[key]) for look in looks for key in ("racing", "staying")]
    upper = Panel(x, chart.around(alive, 220, chart.ABOVE, log=True, pad=0.16))
    accuracies = [float(look["accuracy"]) for look in looks]
    lower = Panel(x, chart.of_shares(accuracies, BOTTOM, 274, pad=0.15))

    shapes = upper.axes("candidates in the race", chart.counts, write_x=chart.counts)
    shapes += lower.axes(
        "accuracy of the leader", chart.percents, "images seen by each candidate in the race", chart.counts
    )
    shapes.append(Path(_stairs(upper, looks), "series1", 2.5))
    shapes += chart.curve(lower, seen, accuracies, "series2")
    for look in looks:
        shapes.append(Circle(*upper.at(look["seen"], look["staying"]), 5, "series1", "surface", mark=Mark(_tip(look))))
        shapes.append(Circle(*lower.at(look["seen"], look["accuracy"]), 4, "series2", "surface"))
    left = f"{looks[-1]['staying']:,} left"
    shapes.append(Text(x(seen[-1]), upper.y(looks[-1]["staying"]) + 20, left, "text", chart.SIZE, "end"))
    return Figure(
        name="race",
        title="The race of the candidates",
        alt=_alt(ranking, looks),
        drawing=Drawing(chart.WIDTH, BOTTOM + chart.BELOW, tuple(shapes)),
        table=_table(looks),
        note="The leader's accuracy is an estimate until it has seen every image of the split.",
    )


def _stairs(panel: Panel, looks: Sequence[Look]) -> tuple[Point, ...]:
    """Those that saw the images up to a look, and at the look down to those that stay."""
    points = [(panel.x.start, panel.y(looks[0]["racing"]))]
    for look in looks:
        points += [panel.at(look["seen"], look["racing"]), panel.at(look["seen"], look["staying"])]
    return tuple(points)


def _tip(look: Look) -> str:
    return (
        f"after {look['seen']:,} images: {look['racing']:,} racing, {look['staying']:,} staying, leader "
        f"{look['leader'][:8]} at {chart.percent(look['accuracy'])}; {look['images']:,} images so far"
    )


def _alt(ranking: Mapping[str, Any], looks: Sequence[Look]) -> str:
    first, last = looks[0], looks[-1]
    alt = (
        f"Step chart of {first['racing']:,} candidates over {chart.counted(len(looks), 'look')}: "
        f"{first['staying']:,} stay after {first['seen']:,} images each, {last['staying']:,} after {last['seen']:,}. "
    )
    images, all_images = ranking["images"], ranking["images_exhaustive"]
    return (
        alt + f"{images:,} images were looked at instead of {all_images:,} ({chart.percent(images / all_images, 0)})."
    )


def _table(looks: Sequence[Look]) -> Table:
    rows = tuple(
        (
            numbers.whole(look["seen"]),
            numbers.whole(look["racing"]),
            numbers.whole(look["staying"]),
            Code(look["leader"]),
            numbers.accuracy(look["accuracy"]),
            numbers.whole(look["images"]),
        )
        for look in looks
    )
    columns = ("images seen by each", "racing", "staying", "leader", "its accuracy", "images so far")
    return Table("Looks of the race", columns, rows)
