"""Training curves, and the budget against its target."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pgnas_cli.report import curves, numbers
from pgnas_cli.report.document import Figure, Number
from pgnas_cli.report.drawing import Circle, Path, Text


def rows(n: int, *, held: int = 0, unit: str = "params") -> list[dict[str, Any]]:
    """So many epochs; the first `held` of them with a target."""
    return [
        {
            "epoch": epoch,
            "cross_entropy": 2 / epoch,
            "kl": 0.1,
            "train_accuracy": 0.5,
            "selection_accuracy": 0.6 + 0.01 * (epoch == 2),
            f"expected_{unit}": 110 - epoch,
            **({f"target_{unit}": 100} if epoch <= held else {}),
        }
        for epoch in range(1, n + 1)
    ]


def texts(figure: Figure) -> list[str]:
    return [shape.text for shape in figure.drawing.shapes if isinstance(shape, Text)]


def lines(figure: Figure, ink: str) -> list[Path]:
    """The curves in this ink: the piece beside a name has two points."""
    return [s for s in figure.drawing.shapes if isinstance(s, Path) and s.stroke == ink and len(s.points) > 2]


def test_training_has_two_panels_with_named_lines() -> None:
    figure = curves.training(rows(5))
    assert figure.name == "training"
    assert {"cross-entropy", "KL", "training", "selection", "epoch"} <= set(texts(figure))
    losses, accuracies = lines(figure, "series1")
    assert max(y for _, y in losses.points) < min(y for _, y in accuracies.points)
    assert [x for x, _ in losses.points] == [x for x, _ in accuracies.points]
    assert not losses.dashed
    assert all(line.dashed for line in lines(figure, "series2"))


def test_what_is_named_in_the_drawing_is_not_named_again() -> None:
    assert curves.training(rows(3)).legend == ()


def test_the_loss_falls_as_it_does_in_the_rows() -> None:
    points = lines(curves.training(rows(4)), "series1")[0].points
    drops = [below - points[0][1] for _, below in points[1:]]
    assert drops == pytest.approx([drops[0] * (2 - 2 / epoch) for epoch in (2, 3, 4)])


def test_the_alternative_names_the_best_epoch() -> None:
    alt = curves.training(rows(5)).alt
    assert "ends at 60.0 %; it is highest, 61.0 %, after epoch 2" in alt
    assert "from 2 to 0.4" in alt


@pytest.mark.parametrize(
    ("found", "after"),
    [(rows(6, held=3), 3), (rows(6, held=6), None), (rows(6), None), (rows(6, held=2, unit="latency"), 2)],
)
def test_the_commit_is_where_targets_end(found: list[dict[str, Any]], after: int | None) -> None:
    figure = curves.training(found)
    assert curves.committed_after(found) == after
    assert ("commit" in texts(figure)) == (after is not None)
    assert (f"after epoch {after}." in figure.alt) == (after is not None)


@pytest.mark.parametrize(
    "missing", [{"selection_accuracy": None}, {"kl": math.nan}, {"cross_entropy": None, "kl": None}]
)
@pytest.mark.parametrize("n", [1, 3])
def test_values_may_be_missing(missing: dict[str, Any], n: int) -> None:
    found = rows(n)
    found[0] |= missing
    table = curves.training(found).table
    assert table is not None
    assert [cell for cell in table.rows[0] if isinstance(cell, Number) and cell.value is None] == [numbers.NONE] * len(
        missing
    )


def test_one_epoch_is_a_dot_for_each_line() -> None:
    circles = [s for s in curves.training(rows(1)).drawing.shapes if isinstance(s, Circle)]
    assert len(circles) == 8, "and one beside each name"


def test_losses_far_apart_are_drawn_by_their_logarithms() -> None:
    found = rows(3)
    for row in found:
        row["cross_entropy"], row["kl"] = 10.0 ** -row["epoch"], 1000.0
    ys = [y for _, y in lines(curves.training(found), "series1")[0].points]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1])


def test_a_long_table_shows_epochs_at_equal_steps() -> None:
    table = curves.training(rows(1800)).table
    assert table is not None
    assert len(table.rows) == curves.TABLE_ROWS
    assert (table.rows[0][0], table.rows[-1][0]) == (Number("1", 1), Number("1800", 1800))
    assert "200 of 1800 epochs" in table.caption


def test_no_epoch_has_no_course() -> None:
    with pytest.raises(ValueError, match="without an epoch"):
        curves.training([])
    assert curves.budgets([]) == []


@pytest.mark.parametrize(
    ("unit", "what", "text"),
    [
        ("params", "parameters", "107"),
        ("macs", "MACs of one image", "107"),
        ("latency", "latency of one image", "107. s"),
    ],
)
def test_the_budget_is_drawn_in_its_unit(unit: str, what: str, text: str) -> None:
    (figure,) = curves.budgets(rows(3, held=3, unit=unit))
    assert figure.table is not None
    assert figure.name == f"budget-{unit}"
    assert what in texts(figure)
    assert figure.table.rows[-1][1] == Number(text.replace(".", ""), 107)
    apart = figure.table.rows[-1][3]
    assert isinstance(apart, Number)
    assert (apart.text, apart.value) == ("+7.00 %", pytest.approx(0.07))
    assert "After epoch 3" in figure.alt
    assert "+7.0 % off" in figure.alt


def test_no_target_has_no_budget() -> None:
    assert curves.budgets(rows(3)) == []


def test_each_of_several_targets_is_drawn() -> None:
    both = [{**a, **b} for a, b in zip(rows(3, held=3, unit="macs"), rows(3, held=3, unit="params"), strict=True)]
    assert [figure.name for figure in curves.budgets(both)] == ["budget-params", "budget-macs"]


def test_after_the_commit_nothing_is_held() -> None:
    (figure,) = curves.budgets(rows(6, held=3))
    assert figure.table is not None
    assert len(lines(figure, "series1")[0].points) == 6
    assert len(lines(figure, "series2")[0].points) == 3
    assert figure.table.rows[-1][2] == numbers.NONE
    assert "After epoch 3" in figure.alt
    assert "commit" in texts(figure)
