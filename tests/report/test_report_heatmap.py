"""The posterior as a heat map."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgnas_cli.report import chart, heatmap
from pgnas_cli.report.document import Figure, Number
from pgnas_cli.report.drawing import Picture, Text

ROWS = [
    {"epoch": 1, "p": {"stage1.a": [0.1, 0.1, 0.1], "stage1.b": [0.1], "stage2.a": [0.2, 0.0]}},
    {"epoch": 2, "p": {"stage1.a": [0.9, 0.0, 0.5], "stage1.b": [1.0], "stage2.a": [0.4, 0.2]}},
]


def picture(figure: Figure) -> Picture:
    return max((s for s in figure.drawing.shapes if isinstance(s, Picture)), key=lambda found: found.height)


def test_groups_are_sorted_within_their_layers() -> None:
    found = picture(heatmap.posterior(ROWS))
    expected = np.array([[0.1, 0.0], [0.1, 0.5], [0.1, 0.9], [0.1, 1.0], [0.0, 0.2], [0.2, 0.4]])
    assert found.levels.tolist() == np.rint(expected * 63).astype(int).tolist()
    assert found.levels.dtype == np.uint8
    assert found.bands == ((0, 3, "stage1.a"), (3, 1, "stage1.b"), (4, 2, "stage2.a"))
    assert found.columns == ("epoch 1", "epoch 2")


def test_neighbours_of_one_layer_are_averaged_where_there_are_too_many() -> None:
    figure = heatmap.posterior(ROWS, max_rows=4)
    found = picture(figure)
    expected = np.array([[0.1, 0.25], [0.1, 0.9], [0.1, 1.0], [0.1, 0.3]])
    assert found.levels.tolist() == np.rint(expected * 63).astype(int).tolist()
    assert found.bands == ((0, 2, "stage1.a"), (2, 1, "stage1.b"), (3, 1, "stage2.a"))
    assert "6 groups in 4 rows: each is the mean of up to 2 neighbours" in figure.note


def test_every_layer_keeps_a_row() -> None:
    assert len(picture(heatmap.posterior(ROWS, max_rows=1)).levels) == 3


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30), room=st.integers(0, 300))
def test_as_few_neighbours_as_possible_are_averaged(sizes: list[int], room: int) -> None:
    most = len(sizes) + room
    found = heatmap._neighbours(sizes, most)
    assert sum(-(-n // found) for n in sizes) <= most
    assert found == 1 or sum(-(-n // (found - 1)) for n in sizes) > most


def epochs(n: int) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "p": {"a.conv1": [0.5], "a.conv2": [epoch / n]}} for epoch in range(1, n + 1)]


def test_epochs_are_chosen_at_equal_steps() -> None:
    figure = heatmap.posterior(epochs(1000), max_columns=240)
    columns = [int(name.split()[1]) for name in picture(figure).columns]
    assert (len(columns), columns[0], columns[-1]) == (240, 1, 1000)
    assert {b - a for a, b in pairwise(columns)} == {4, 5}
    assert "240 of 1,000 epochs" in figure.note


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_epochs_below_name_their_columns(n: int) -> None:
    figure = heatmap.posterior(epochs(n), max_columns=30)
    found = picture(figure)
    labels = [s for s in figure.drawing.shapes if isinstance(s, Text) and s.anchor == "middle" and s.text.isdigit()]
    assert labels
    for label in labels:
        column = int((label.x - found.x) / found.width * len(found.columns))
        assert found.columns[column] == f"epoch {label.text}"


def test_a_table_of_layers() -> None:
    table = heatmap.posterior(ROWS).table
    assert table is not None
    assert table.columns == ("layer", "groups", "mean, epoch 1", "mean, epoch 2", "smallest", "largest")
    name, *numbers = table.rows[0]
    assert name == "stage1.a"
    assert [n.value for n in numbers if isinstance(n, Number)] == pytest.approx([3, 0.1, 1.4 / 3, 0.0, 0.9])


def labels_at_the_left(names: list[str], groups: int) -> list[Text]:
    row = {"epoch": 1, "p": {name: [0.5] * groups for name in names}}
    return [s for s in heatmap.posterior([row]).drawing.shapes if isinstance(s, Text) and s.ink == "text"][1:-1]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["stem", "stage1.conv", "stage2.conv"], ["stem", "stage1.conv", "stage2.conv"]),
        ([f"stage{s}.{b}.conv{c}" for s in (1, 2) for b in range(8) for c in range(6)], 16),
        ([f"stage{s}.{b}.conv{c}" for s in (1, 2) for b in range(40) for c in (1, 2)], ["stage1", "stage2"]),
        ([f"features.block{s}.layer{b}.conv" for s in range(4) for b in range(30)], 4),
        (["a" * 60], ["\u2026" + "a" * 22]),
        ([f"layer{n}" for n in range(90)], None),
    ],
)
def test_names_have_room(names: list[str], labels: list[str] | int | None) -> None:
    found = labels_at_the_left(names, 4)
    if isinstance(labels, list):
        assert [text.text for text in found] == labels
    elif labels is not None:
        assert len(found) == labels
    assert 0 < len(found) <= len(names)
    assert all(b.y - a.y >= chart.LINE - 1e-6 for a, b in pairwise(found))
    assert all(text.x - chart.width_of(text.text) >= 0 for text in found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no epoch"),
        ([{"epoch": 1, "p": {}}], "no group"),
        ([{"epoch": 1, "p": {"a": []}}], "no group"),
        (
            [{"epoch": 1, "p": {"a": [0.1]}}, {"epoch": 2, "p": {"a": [0.1, 0.2]}}],
            "a has 1 groups after epoch 1, and 2",
        ),
        ([{"epoch": 1, "p": {"a": [0.1]}}, {"epoch": 4, "p": {"b": [0.1]}}], "a has 1 groups after epoch 1, and 0"),
    ],
)
def test_rows_that_make_no_picture(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap.posterior(rows)


def test_a_posterior_that_does_not_move() -> None:
    figure = heatmap.posterior([{"epoch": epoch, "p": {"a": [0.39] * 5}} for epoch in (1, 2)])
    assert set(picture(figure).levels.ravel().tolist()) == {round(0.39 * 63)}
    assert "0 % of the groups are above 0.9, and 0 % below 0.1" in figure.alt


def test_a_large_network_trained_long() -> None:
    layers = {f"stage{n // 50}.{n}.conv": np.linspace(0, 1, 200).tolist() for n in range(300)}
    rows = [{"epoch": epoch, "p": layers} for epoch in range(1, 1801)]
    began = time.perf_counter()
    figure = heatmap.posterior(rows)
    assert time.perf_counter() - began < 6  # 2 s on an idle machine
    assert picture(figure).levels.shape == (1200, 240)
