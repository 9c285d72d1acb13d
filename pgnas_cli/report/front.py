"""Accuracy against size or latency: all candidates, and those that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgnas_cli import units
from pgnas_cli.report import chart, numbers
from pgnas_cli.report.chart import Panel
from pgnas_cli.report.document import Code, Figure, Inline, Key, Number, Table
from pgnas_cli.report.drawing import Circle, Drawing, Mark, Path, Rect, Shape

Row = Mapping[str, Any]
"""A line of rank/leaderboard.jsonl."""

DRAWN = 1500
"""So many of the other candidates are drawn at most."""
OBJECTIVES: dict[str, tuple[str, chart.Writer]] = {
    "params": ("parameters", chart.counts),
    "macs": ("MACs of one image", chart.counts),
    "latency": ("median latency", chart.durations),
}
"""What accuracy is weighed against: its name, and the labels of its axis."""
WIDE = 20.0
"""Costs further apart than that are drawn by their logarithms."""


@dataclass(frozen=True)
class Network:
    """A network with its accuracy on the selection split, and what it costs.

    Args:
        id: of the candidate.
        accuracy, low, high: with its interval.
        params, macs: of the compact network.
        latency: median, low and high seconds of a batch; None where it was not measured.
    """

    id: str
    accuracy: float
    low: float
    high: float
    params: int
    macs: int
    latency: Mapping[str, Any] | None = None

    def cost(self, objective: str) -> float:
        """What it costs; NaN for a latency that was not measured."""
        if objective == "latency":
            return math.nan if self.latency is None else float(self.latency["median"])
        return float(getattr(self, objective))

    @property
    def shown_accuracy(self) -> Number:
        """The accuracy with its interval."""
        return numbers.accuracy(self.accuracy, self.low, self.high)


def front(objective: str, rows: Sequence[Row], front: Mapping[str, Any] | None, winner: str) -> Figure | None:
    """Accuracy on the selection split, upwards, against cost, to the right.

    Args:
        objective: "params", "macs" or "latency".
        rows: the leaderboard, best first: id, accuracy, n, params, macs.
        front: ranking.json's "front". Without it the front is that of the candidates that saw the whole split.
        winner: id of the chosen network.

    Returns:
        None for a latency that was not measured.

    Raises:
        ValueError: another objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"the objective {objective!r}, it should be {', '.join(OBJECTIVES)}")
    networks, on_front = _ranked(objective, rows, winner) if front is None else _given(objective, front)
    networks = [network for network in networks if math.isfinite(network.cost(objective))]
    if not networks:
        return None
    chosen = next((network for network in networks if network.id == winner), None)
    known = {network.id for network in networks}
    others = [] if objective == "latency" else [row for row in rows if str(row["id"]) not in known]
    short = shortest([str(row["id"]) for row in rows] + [network.id for network in networks])
    sketch = _Sketch(objective, networks, set(on_front), others, winner, short)
    what, confidence = OBJECTIVES[objective][0], 0.95 if front is None else float(front["confidence"])
    notes = [f"Upright lines: {100 * confidence:g} % intervals.", *_setting(objective, front), *sketch.notes]
    images = max((int(row["n"]) for row in rows), default=0)
    if any(int(row["n"]) < images for row in sketch.cloud):
        notes.append("Accuracies of pale points may be estimates from a part of the split.")
    return Figure(
        name=f"front-{objective}",
        title=f"Accuracy against {what}",
        alt=_alt(objective, networks, on_front, chosen, len(others)),
        drawing=sketch.drawing(),
        table=_table(networks, on_front, f"{100 * confidence:g} %"),
        legend=(
            Key("series1", "on the front", "point"),
            *([Key("muted", "other candidates", "point")] if others or len(on_front) < len(networks) else []),
        ),
        note=" ".join(notes),
    )


def _given(objective: str, front: Mapping[str, Any]) -> tuple[list[Network], list[str]]:
    """The networks of ranking.json's front, and the ids of those on the front by this objective, cheapest first."""
    networks = []
    for point in front["points"]:
        score = point["selection_accuracy"]
        networks.append(
            Network(
                str(point["id"]), score["value"], score["low"], score["high"],
                point["params"], point["macs"], point.get("latency"),
            )
        )  # fmt: skip
    return networks, [str(name) for name in front[objective]]


def _ranked(objective: str, rows: Sequence[Row], winner: str) -> tuple[list[Network], list[str]]:
    """The front of the candidates that saw the whole split; and the winner, wherever it lies."""
    if objective == "latency":
        return [], []
    from pgnas_cli.ranking.frontier import front as of_rows
    from pgnas_cli.ranking.intervals import wilson

    images = max(int(row["n"]) for row in rows)
    whole = [row for row in rows if row["n"] == images]
    on_front = [str(row["id"]) for row in of_rows(whole, objective)]
    networks = []
    for row in rows:
        if str(row["id"]) in on_front or row["id"] == winner:
            score = wilson(round(row["accuracy"] * row["n"]), row["n"])
            networks.append(Network(str(row["id"]), score.value, score.low, score.high, row["params"], row["macs"]))
    return sorted(networks, key=lambda network: network.cost(objective)), on_front


def shortest(ids: Sequence[str], least: int = 8) -> Callable[[str], str]:
    """Cuts ids to the fewest digits, at least 8, at which no two of them look alike."""
    different = set(ids)
    longest = max(map(len, different), default=least)
    digits = next(
        (n for n in range(least, longest) if len({name[:n] for name in different}) == len(different)), longest
    )
    return lambda name: name[:digits]


# ---- the drawing --------------------------------------------------------------------------------------------


class _Sketch:
    """Where everything lies.

    Args:
        objective: of the x axis.
        networks: drawn with marks and intervals.
        on_front: ids of those on the front.
        others: rows of the leaderboard that are drawn as small points.
        winner: id.
        short: cuts an id to what a command needs.
    """

    def __init__(
        self,
        objective: str,
        networks: Sequence[Network],
        on_front: set[str],
        others: Sequence[Row],
        winner: str,
        short: Callable[[str], str],
    ) -> None:
        self.objective, self.networks, self.on_front, self.winner, self.short = (
            objective, networks, on_front, winner, short,
        )  # fmt: skip
        self.notes: list[str] = []
        ends = [end for network in networks for end in (network.low, network.high)]
        floor = self._floor([float(row["accuracy"]) for row in others], min(ends))
        inside = [row for row in others if float(row["accuracy"]) >= floor]
        if len(inside) < len(others):
            below = chart.counted(len(others) - len(inside), "candidate")
            self.notes.append(f"Not drawn: {below} below {chart.percent(floor)}.")
        self.cloud = [inside[index] for index in chart.evenly(len(inside), DRAWN)] if inside else []
        if len(self.cloud) < len(inside):
            self.notes.append(f"{len(self.cloud)} of the {len(inside)} other candidates are drawn.")
        costs = [network.cost(objective) for network in networks] + [float(row[objective]) for row in self.cloud]
        log = min(costs) > 0 and max(costs) > WIDE * min(costs)
        accuracies = ends + [float(row["accuracy"]) for row in self.cloud]
        self.panel = Panel(
            chart.around(costs, chart.LEFT, chart.WIDTH - chart.RIGHT, log=log),
            chart.of_shares(accuracies, 284, chart.ABOVE),
        )

    @staticmethod
    def _floor(accuracies: Sequence[float], least: float) -> float:
        """The accuracy below which stragglers would take more than half of the height from all the others."""
        if not accuracies:
            return least
        low, high = min(least, *accuracies), max(least, *accuracies)
        common = min(least, float(np.quantile(accuracies, 0.02)))
        return common if common - low > high - common else low

    def drawing(self) -> Drawing:
        panel, (what, write) = self.panel, OBJECTIVES[self.objective]
        shapes = panel.axes("accuracy on the selection split", chart.percents, what, write)
        for row in self.cloud:
            shapes.append(
                Circle(*panel.at(float(row[self.objective]), float(row["accuracy"])), 2.2, "muted", opacity=0.4)
            )
        ordered = sorted(self.networks, key=lambda network: network.cost(self.objective))
        corners = [self._place(network) for network in ordered if network.id in self.on_front]
        if len(corners) > 1:
            shapes.append(Path(chart.staircase(corners), "series1", 1.5))
        for network in ordered:
            x = self._place(network)[0]
            ink = "series1" if network.id in self.on_front else "muted"
            shapes.append(Path(((x, panel.y(network.low)), (x, panel.y(network.high))), ink, 1, opacity=0.7))
        for network in ordered:
            shapes += self._point(network)
        return Drawing(chart.WIDTH, 284 + chart.BELOW, tuple(shapes))

    def _place(self, network: Network) -> tuple[float, float]:
        return self.panel.at(network.cost(self.objective), network.accuracy)

    def _point(self, network: Network) -> Iterator[Shape]:
        """A circle, filled on the front; the chosen network is a square with its name."""
        x, y = self._place(network)
        mark = Mark(self._tip(network), f"pgnas export --candidate {self.short(network.id)}")
        if network.id == self.winner:
            yield Rect(x - 7, y - 7, 14, 14, "series2", "surface", mark=mark)
            yield from chart.named(x, y, "chosen", self.panel.x.end)
        elif network.id in self.on_front:
            yield Circle(x, y, 5.5, "series1", "surface", mark=mark)
        else:
            yield Circle(x, y, 4.5, "surface", "muted", mark=mark)

    def _tip(self, network: Network) -> str:
        parts = [
            f"{self.short(network.id)}: {network.shown_accuracy.text}",
            f"{network.params:,.0f} parameters",
            f"{units.human(network.macs)} MACs",
        ]
        if network.latency is not None:
            parts.append(numbers.latency(network.latency).text)
        if network.id == self.winner:
            parts.append("the chosen network")
        return ", ".join(parts)


# ---- words and numbers --------------------------------------------------------------------------------------


def _setting(objective: str, front: Mapping[str, Any] | None) -> list[str]:
    """How a latency was measured."""
    if front is None or objective != "latency":
        return []
    images, threads = int(front["batch"]), int(front["threads"])
    return [
        f"Latency of a batch of {chart.counted(images, 'image')} on {front['device']}, "
        f"{chart.counted(threads, 'thread')}; measured of these networks only."
    ]


def _alt(
    objective: str, networks: Sequence[Network], on_front: Sequence[str], chosen: Network | None, others: int
) -> str:
    members = [network for network in networks if network.id in on_front]
    write = chart.duration if objective == "latency" else units.human
    alt = f"Scatter plot of accuracy on the selection split against {OBJECTIVES[objective][0]}."
    if members:
        first, last = (pick(members, key=lambda n: n.cost(objective)) for pick in (min, max))
        alt += f" {len(members)} network{'s form' if len(members) > 1 else ' forms'} the front:"
        ends = dict.fromkeys(
            f"{write(network.cost(objective))} with {chart.percent(network.accuracy)}" for network in (first, last)
        )
        alt += f" {' to '.join(ends)}."
    if chosen is not None:
        alt += f" The chosen network has {write(chosen.cost(objective))} and {chart.percent(chosen.accuracy)}"
        alt += ", on the front." if chosen.id in on_front else ", not on the front."
    return alt + (f" {others:,} other candidates lie around." if others else "")


def _table(networks: Sequence[Network], on_front: Sequence[str], confidence: str) -> Table:
    columns = ("network", "parameters", "MACs", "median latency", "accuracy (interval)", "on this front")
    rows: list[tuple[Inline, ...]] = [
        (
            Code(network.id),
            numbers.whole(network.params),
            numbers.whole(network.macs),
            numbers.latency(network.latency),
            network.shown_accuracy,
            "yes" if network.id in on_front else "no",
        )
        for network in networks
    ]
    return Table(
        f"Networks of the fronts and the chosen one: accuracy on the selection split, {confidence} intervals",
        columns,
        tuple(rows),
    )
