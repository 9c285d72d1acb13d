"""How cost grows: exponents of known laws, which points are missing, what the page and the figures say."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "evidence"))

import growth
import growth_page
from growth_exponents import exponent
from growth_points import BASE, SWEEPS

GRID = [10, 32, 100, 316, 1000, 3162, 10_000]


def test_the_exponent_of_a_power_law_is_found_exactly() -> None:
    found = exponent(GRID, [3 * x**1.5 for x in GRID])
    assert found is not None
    assert found.value == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)
    assert (found.n, found.first, found.last) == (4, 316, 10_000)


def test_the_lower_part_of_the_range_is_left_out() -> None:
    ys = [1000.0 if x < 300 else x**2 for x in GRID]
    found = exponent(GRID, ys)
    assert found is not None
    assert found.value == pytest.approx(2)


def test_the_interval_is_that_of_students_t_on_the_slope() -> None:
    # log y = 0, 1, 1, 2 at log x = 0, 1, 2, 3: slope 0.6, residual sum of squares 0.2, standard error sqrt(0.1 / 5)
    found = exponent([math.exp(x) for x in (-3, 0, 1, 2, 3)], [math.exp(y) for y in (9, 0, 1, 1, 2)])
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.high - found.value == pytest.approx(4.302653 * math.sqrt(0.02), rel=1e-5)
    assert found.value - found.low == pytest.approx(found.high - found.value)


@pytest.mark.parametrize(("xs", "ys"), [([], []), ([1, 10], [1, 10]), (GRID, [1] * 5 + [0, 0]), ([5, 5, 5], [1, 2, 3])])
def test_fewer_than_three_points_have_no_exponent(xs: list[float], ys: list[float]) -> None:
    assert exponent(xs, ys) is None


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=list(SWEEPS))
def test_a_grid_is_geometric_and_goes_through_nothing_but_its_own_field(sweep) -> None:
    settings = sweep.settings()
    assert all(replace(s, **{sweep.field: getattr(BASE, sweep.field)}) == BASE for s in settings)
    steps = [b / a for a, b in zip(sweep.grid, sweep.grid[1:], strict=False)]
    assert max(steps) < 1.2 * min(steps)
    assert 5 <= len(sweep.grid) <= 7


def filled(folder: Path, *, failed: bool = False):
    """A table in which time grows linearly and memory not at all; the largest image failed or was measured."""
    table = growth_page.ledger(folder)
    for sweep, setting, work in growth.missing(table, list(SWEEPS)):
        size = getattr(setting, SWEEPS[sweep].field)
        numbers = {"seconds": 1e-3 * size, "low": 1e-3 * size, "high": 2e-3 * size, "wall": 1.0, "n": 5}
        numbers["megabytes"] = 7.0
        if failed and size == 224:
            numbers = {"reason": "needs more than the 7 GiB that it may have"}
        answer = {"params": size, "rows": dict.fromkeys(work, numbers)}
        for row in growth.rows(sweep, setting, answer):
            table.add(row)
    return table


def test_what_has_rows_is_not_missing(tmp_path: Path) -> None:
    table = growth_page.ledger(tmp_path)
    first = list(growth.missing(table, ["classes", "image"], 2))
    assert [(sweep, setting.classes, setting.img_size) for sweep, setting, _ in first] == [
        ("classes", 10, 32), ("image", 10, 16), ("classes", 35, 32), ("image", 10, 24),
    ]  # fmt: skip
    sweep, setting, work = first[0]
    answer = {"params": 1, "rows": {work[0]: {"reason": "too large"}}}
    for row in growth.rows(sweep, setting, answer):
        table.add(row)
    assert next(growth.missing(table, ["classes"])) == (sweep, setting, work[1:])
    assert not list(growth.missing(filled(tmp_path / "all"), list(SWEEPS)))


def test_a_process_that_dies_is_a_reason_and_one_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "measure.py"
    monkeypatch.setattr(growth, "MEASURE", script)
    script.write_text("import os, sys; print('too large', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)")
    found = growth.measured(BASE, ["step"], 5)
    assert found["rows"] == {"step": {"reason": "its process ended with exit code -9: too large"}}
    assert [(row["x"], row["n"]) for row in growth.rows("parameters", BASE, found)] == [(None, None)]
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(TimeoutError):
        growth.measured(BASE, ["step"], 5, 0.1)


def test_the_page_names_exponents_and_reasons(tmp_path: Path) -> None:
    table = filled(tmp_path, failed=True)
    assert table.path.parent == tmp_path
    text = growth_page.GROWTH.render(tmp_path)
    linear, constant = "1.00 (1.00 to 1.00)", "0.00 (0.00 to 0.00)"
    cells = ["sample candidates", "10 to 10,000", "10.0 ms to 10.0 s", "7", linear, constant]
    assert f"| {' | '.join(cells)} | 316 to 10,000, 4 points | 5 |" in text
    assert "Not measured: inflate, shakeshake26_2x16d at 224x224" in text
    assert "sitting 1: " in text


def test_a_figure_follows_from_the_rows_and_names_the_exponents(tmp_path: Path) -> None:
    rows = [row for row in filled(tmp_path).rows() if row["sweep"] == "candidates"]
    assert growth_page.figure(rows, "candidates") == growth_page.figure(rows[::-1], "candidates")
    assert growth_page.figure(rows, "image") is None
    svg, png = growth_page.write_figures(rows, tmp_path)
    assert (svg.name, png.name) == ("growth-candidates.svg", "growth-candidates.png")
    assert "sample candidates: x^1.00" in svg.read_text()


def test_rows_of_another_base_are_not_mixed_in(tmp_path: Path) -> None:
    rows = filled(tmp_path).rows()
    other = [{**row, "setting": row["setting"].replace("batch 8", "batch 64")} for row in rows]
    assert growth_page.of_sweep(rows + other, "image") == growth_page.of_sweep(rows, "image")
    assert growth_page.lines([], []) == growth_page.lines(other, [])
    assert growth_page.lines([], [])[-1] == "No rows yet."
