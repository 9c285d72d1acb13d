"""Scales, ticks and the writing of numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pgnas_cli.report import chart
from pgnas_cli.report.chart import Panel, Scale
from pgnas_cli.report.drawing import Circle, Path, Shape, Text

NUMBERS = st.floats(-1e9, 1e9)
ABOVE_ZERO = st.floats(1e-6, 1e9)


@pytest.mark.parametrize(
    ("scale", "value", "pixel"),
    [
        (Scale(0, 10, 100, 200), 5, 150),
        (Scale(0, 10, 200, 100), 2.5, 175),
        (Scale(1, 100, 0, 60, log=True), 10, 30),
        (Scale(1, 100, 0, 60, log=True), 1, 0),
    ],
)
def test_a_value_lies_where_the_scale_says(scale: Scale, value: float, pixel: float) -> None:
    assert scale(value) == pytest.approx(pixel)


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(1, 1, False), (2, 1, False), (0, math.nan, False), (0, math.inf, False), (0, 1, True), (-1, 1, True)],
)
def test_no_scale_without_a_range(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="scale from"):
        Scale(low, high, 0, 1, log)


@example(low=100000001.0, high=240000000.0, most=6, whole=False)
@given(low=NUMBERS, high=NUMBERS, most=st.integers(0, 12), whole=st.booleans())
def test_linear_ticks(low: float, high: float, most: int, whole: bool) -> None:
    """A step that has too many ticks is at most 1 / `most` of the range, the next one at most 2.5 times that step."""
    assume(high - low > 1e-6 * max(1.0, abs(low), abs(high)))
    ticks = Scale(low, high, 0, 1).ticks(most, whole=whole)
    assert len(ticks) <= most
    assert all(low <= tick <= high for tick in ticks)
    assert all(a < b for a, b in pairwise(ticks))
    if whole:
        assert all(math.isclose(tick, round(tick), rel_tol=1e-9, abs_tol=1e-9) for tick in ticks)
    else:
        assert len(ticks) >= math.floor(most / 2.5)


@given(low=ABOVE_ZERO, factor=st.floats(1.001, 1e6), most=st.integers(0, 12))
def test_logarithmic_ticks(low: float, factor: float, most: int) -> None:
    high = low * factor
    ticks = Scale(low, high, 0, 1, log=True).ticks(most)
    assert len(ticks) <= most
    assert all(low <= tick <= high for tick in ticks)
    assert all(a < b for a, b in pairwise(ticks))
    if most >= 6:
        assert len(ticks) >= 2


@pytest.mark.parametrize(
    ("scale", "most", "ticks"),
    [
        (Scale(0, 1, 0, 1), 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Scale(0.81, 0.838, 0, 1), 3, [0.81, 0.82, 0.83]),
        (Scale(1, 12, 0, 1), 8, [2, 4, 6, 8, 10, 12]),
        (Scale(0.1, 0.35, 0, 1), 3, [0.1, 0.2, 0.3]),
        (Scale(150, 7000, 0, 1, log=True), 8, [200, 500, 1000, 2000, 5000]),
        (Scale(150, 7000, 0, 1, log=True), 3, [300, 1000, 3000]),
        (Scale(1, 1e9, 0, 1, log=True), 5, [1, 100, 1e4, 1e6, 1e8]),
        (Scale(300, 400, 0, 1, log=True), 3, [300, 350, 400]),
    ],
)
def test_round_ticks(scale: Scale, most: int, ticks: list[float]) -> None:
    assert scale.ticks(most) == ticks


@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32)), log=st.booleans())
def test_every_finite_value_is_on_the_scale_around_them(values: list[float], log: bool) -> None:
    if log:
        values = [v for v in values if not v <= 0]
    scale = chart.around(values, 0, 100, log=log)
    for value in chart.known(values):
        assert -1e-6 <= scale(value) <= 100 + 1e-6


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.5, 0.5], [0.0, 1.0], [], [math.nan]])
def test_a_scale_of_shares_stays_between_nothing_and_everything(values: list[float]) -> None:
    scale = chart.of_shares(values, 0, 1)
    assert 0 <= scale.low < scale.high <= 1


def test_a_scale_without_padding_ends_at_the_values() -> None:
    scale = chart.around([1, 12], 0, 1, pad=0)
    assert (scale.low, scale.high) == (1, 12)
    assert chart.around([3, 9], 0, 1, zero=True).low == 0


@pytest.mark.parametrize(
    ("write", "ticks", "texts"),
    [
        (chart.plain, [0, 0.5, 1], ["0.0", "0.5", "1.0"]),
        (chart.percents, [0.82, 0.825], ["82.0 %", "82.5 %"]),
        (chart.percents, [0.3, 0.6], ["30 %", "60 %"]),
        (chart.counts, [90_000, 92_500], ["90.0 k", "92.5 k"]),
        (chart.counts, [0, 500, 1000], ["0.0 k", "0.5 k", "1.0 k"]),
        (chart.counts, [20, 40], ["20", "40"]),
        (chart.counts, [4e6], ["4 M"]),
        (chart.durations, [0.0024, 0.0025], ["2.4 ms", "2.5 ms"]),
        (chart.durations, [0.00002], ["20 us"]),
        (chart.durations, [], []),
    ],
)
def test_labels_of_ticks(write: chart.Writer, ticks: list[float], texts: list[str]) -> None:
    assert write(ticks) == texts


@pytest.mark.parametrize(
    ("share", "decimals", "text"), [(0.8365, 1, "83.7 %"), (0.8364999999999999, 1, "83.7 %"), (1, 0, "100 %")]
)
def test_percent(share: float, decimals: int, text: str) -> None:
    assert chart.percent(share, decimals) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0026627, "2.66 ms"), (0.25, "250 ms"), (2.5e-4, "250 us"), (1.5, "1.50 s")]
)
def test_durations_in_three_digits(seconds: float, text: str) -> None:
    assert chart.duration(seconds) == text


@given(n=st.integers(1, 3000), most=st.integers(2, 300))
def test_evenly_chosen_indices_hold_the_first_and_the_last(n: int, most: int) -> None:
    chosen = chart.evenly(n, most).tolist()
    assert (chosen[0], chosen[-1], len(chosen)) == (0, n - 1, min(n, most))
    steps = {b - a for a, b in pairwise(chosen)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


def extent(text: Text) -> tuple[float, float]:
    width = chart.width_of(text.text, text.size)
    left = text.x - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
    return left, left + width


@given(low=ABOVE_ZERO, factor=st.floats(1.001, 1e5), log=st.booleans(), whole=st.booleans())
def test_labels_of_an_axis_do_not_overlap(low: float, factor: float, log: bool, whole: bool) -> None:
    scale = Scale(low, low * factor, 60, 610, log)
    fitted = chart.fitting(scale, chart.counts, whole=whole and not log)
    for (a, first), (b, second) in pairwise(fitted):
        assert scale(a) + chart.width_of(first) / 2 < scale(b) - chart.width_of(second) / 2


def test_axes_stay_between_the_edges() -> None:
    panel = Panel(Scale(0, 1, chart.LEFT, 610), Scale(0.8, 0.9, 284, chart.ABOVE))
    shapes = panel.axes("accuracy", chart.percents, "parameters", chart.counts)
    texts = [shape for shape in shapes if isinstance(shape, Text)]
    assert {"accuracy", "parameters", "80 %", "90 %", "0.0", "1.0"} <= {text.text for text in texts}
    assert all(extent(text)[0] >= 0 and extent(text)[1] <= chart.WIDTH for text in texts)
    assert all(text.size >= 12 for text in texts)


def drawn(values: list[float]) -> list[Shape]:
    panel = Panel(Scale(1, 5, 0, 40), Scale(0, 1, 10, 0))
    return chart.curve(panel, [1, 2, 3, 4, 5], values, "series1")


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([0, 0, 0, 0, 0], [Path]),
        ([0, 0, math.nan, 0, 0], [Path, Path]),
        ([0, math.nan, 0, 0, 0], [Circle, Path]),
        ([math.nan, math.nan, 0, math.nan, math.inf], [Circle]),
        ([math.nan] * 5, []),
    ],
)
def test_a_line_breaks_where_a_value_is_missing(values: list[float], kinds: list[type]) -> None:
    assert [type(shape) for shape in drawn(values)] == kinds


def test_a_line_goes_through_its_values() -> None:
    (line,) = drawn([0, 0.5, 1, 1, 0.25])
    assert isinstance(line, Path)
    assert line.points == ((0, 10), (10, 5), (20, 0), (30, 0), (40, 7.5))


def test_a_staircase_has_level_and_upright_steps() -> None:
    assert chart.staircase([(0, 9), (5, 4), (7, 1)]) == ((0, 9), (5, 9), (5, 4), (7, 4), (7, 1))
    assert chart.staircase([(3, 3)]) == ((3, 3),)


@given(heights=st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_names_of_lines_keep_apart(heights: list[float]) -> None:
    labels = [chart.EndLabel(y, f"line {index}", "series1", False) for index, y in enumerate(heights)]
    texts = [shape for shape in chart.end_labels(labels, 0, 0, 100) if isinstance(shape, Text)]
    places = sorted(text.y for text in texts)
    assert len(texts) == len(heights)
    assert all(b - a >= chart.LINE - 1e-6 for a, b in pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= 100 + 0.35 * chart.SIZE + 1e-6


@pytest.mark.parametrize(("x", "anchor"), [(100, "start"), (590, "end")])
def test_a_name_stands_on_the_side_that_has_room(x: float, anchor: str) -> None:
    text = chart.beside(x, 0, "chosen", 600)
    assert text.anchor == anchor
    assert extent(text)[1] <= 600
