"""Histograms of the candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgnas_cli.report import chart, histogram
from pgnas_cli.report.document import Figure, Number
from pgnas_cli.report.drawing import Circle, Path, Text

SHARES = st.lists(st.integers(0, 6000).map(lambda n: n / 6000), min_size=1, max_size=200)


def texts(figure: Figure) -> dict[str, Text]:
    return {shape.text: shape for shape in figure.drawing.shapes if isinstance(shape, Text)}


@given(samples=st.lists(SHARES, min_size=1, max_size=3))
def test_bins_hold_every_value(samples: list[list[float]]) -> None:
    edges = histogram.bins([np.array(found) for found in samples])
    assert np.all(np.diff(edges) > 0)
    assert sum(np.histogram(found, edges)[0].sum() for found in samples) == sum(map(len, samples))
    assert 1 <= len(edges) - 1 <= 2 * histogram.MOST_BINS


def test_bins_have_round_edges() -> None:
    values = np.random.default_rng(0).normal(0.82, 0.013, 500)
    edges = histogram.bins([values])
    assert np.diff(edges) == pytest.approx(0.005)
    assert (edges / 0.005) == pytest.approx(np.rint(edges / 0.005))


def test_bars_are_shares_of_their_sample() -> None:
    samples = {"posterior": [0.70] * 3 + [0.80], "uniform": [0.70]}
    figure = histogram.candidates(samples)
    areas = [s for s in figure.drawing.shapes if isinstance(s, Path) and s.fill]
    floor = max(y for _, y in areas[0].points)
    heights = [[floor - y for _, y in area.points if y < floor - 1e-9] for area in areas]
    assert len(areas) == 2
    assert max(heights[0]) / max(heights[1]) == pytest.approx(0.75)
    assert min(heights[0]) / max(heights[1]) == pytest.approx(0.25)


def test_samples_differ_in_more_than_colour() -> None:
    figure = histogram.candidates({"posterior": [0.7, 0.8], "uniform": [0.6, 0.7]})
    outlines = {
        s.stroke: s.dashed for s in figure.drawing.shapes if isinstance(s, Path) and s.stroke.startswith("series")
    }
    assert outlines == {"series1": False, "series2": True}
    assert {"posterior: mean 75.0 %, n = 2", "uniform: mean 65.0 %, n = 2"} <= set(texts(figure))
    assert figure.legend == (), "the names stand beside the lines"


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_names_keep_clear_of_each_other_and_of_the_axis(shift: float) -> None:
    samples = {f"sample {n} with a rather long name": [0.4 + n * shift / 3, 0.7 + n * shift / 3] for n in range(4)}
    figure = histogram.candidates(samples, winner=0.9)
    title = texts(figure)["share of the candidates"]
    baselines = [text.y for name, text in texts(figure).items() if name.startswith("sample")] + [title.y]
    assert np.all(np.diff(baselines) >= chart.LINE)


def test_the_mean_and_the_winner_lie_at_their_accuracy() -> None:
    figure = histogram.candidates({"a": [0.6, 0.8], "b": [0.7]}, winner=0.75, note="why")
    first, second = (s for s in figure.drawing.shapes if isinstance(s, Circle))
    winner = next(s for s in figure.drawing.shapes if isinstance(s, Path) and s.stroke == "text")
    ends = next(
        s for s in figure.drawing.shapes if isinstance(s, Path) and len(s.points) == 2 and s.stroke == "series1"
    )
    low, high = ends.points[0][0], ends.points[1][0]
    assert first.x == pytest.approx(second.x)  # both means are 0.7
    assert first.x == pytest.approx((low + high) / 2)
    assert winner.points[0][0] == pytest.approx(low + 0.75 * (high - low))
    assert "chosen: 75.0 %" in texts(figure)
    assert figure.note.endswith("dot at the mean. why")
    assert "The chosen network has 75.0 %." in figure.alt


@pytest.mark.parametrize("value", [0.0, 0.83, 1.0])
def test_candidates_that_are_all_alike(value: float) -> None:
    figure = histogram.candidates({"posterior": [value] * 4}, winner=value)
    assert figure.table is not None
    assert [cell.value for cell in figure.table.rows[0] if isinstance(cell, Number)] == [
        4,
        value,
        0,
        value,
        value,
        value,
    ]


def test_the_table_has_the_statistics_of_the_sample() -> None:
    table = histogram.candidates({"posterior": [0.5, 0.6, 0.8]}).table
    assert table is not None
    numbers = [cell for cell in table.rows[0] if isinstance(cell, Number)]
    assert [n.value for n in numbers] == pytest.approx([3, 1.9 / 3, np.std([0.5, 0.6, 0.8], ddof=1), 0.5, 0.6, 0.8])
    assert [n.text for n in numbers] == ["3", "63.33 %", "15.28 %", "50.00 %", "60.00 %", "80.00 %"]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_labels_stay_on_the_drawing(shift: float) -> None:
    figure = histogram.candidates({"a rather long label": [0.5, 0.9], "b": [0.5 + shift, 0.6 + shift]}, winner=0.9)
    for text in texts(figure).values():
        width = chart.width_of(text.text)
        left = text.x - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
        assert left >= 0
        assert left + width <= chart.WIDTH


@pytest.mark.parametrize("samples", [{}, {"a": []}, {str(n): [0.5] for n in range(7)}])
def test_what_cannot_be_drawn(samples: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="one to 6 samples"):
        histogram.candidates(samples)
