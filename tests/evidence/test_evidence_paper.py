"""What the paper's tables in miniature compute and say, on made-up rows; no training."""

from __future__ import annotations

import csv
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path[:0] = [str(BENCH / "evidence"), str(BENCH)]

from paper import tables_of  # noqa: E402
from paper_arms import ARMS, BASE, FILES, FREE, ORDER, TABLES  # noqa: E402
from paper_maths import correlation, counts, expected_best  # noqa: E402
from paper_sample import answers, parts, promised  # noqa: E402
from paper_sample_table import ALL_TABLES, PAPER  # noqa: E402


@pytest.mark.parametrize("values", [[0.3, 0.1, 0.2, 0.7, 0.7], [1.0], [0.5, 0.5, 0.5]])
def test_the_expected_best_is_the_mean_over_all_draws(values: list[float]) -> None:
    for n in range(1, len(values) + 1):
        wanted = statistics.fmean(max(drawn) for drawn in itertools.combinations(values, n))
        assert expected_best(values, n) == pytest.approx(wanted, abs=1e-12)


def test_the_expected_best_of_many_is_finite_and_between_the_mean_and_the_best() -> None:
    values = [index / 10_000 for index in range(10_000)]
    found = [expected_best(values, n) for n in (1, 50, 500, 9_999, 10_000)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(statistics.fmean(values))
    assert found[1] == pytest.approx((50 * 10_001 / 51 - 1) / 10_000)  # ranks: n (N + 1) / (n + 1)
    assert found[-1] == values[-1]
    for n in (0, 10_001):
        with pytest.raises(ValueError, match="10000 values"):
            expected_best(values, n)


def test_bins_hold_values_on_their_lower_edge() -> None:
    assert counts([0.85, 0.8549, 0.855, 0.999999999999], 0.005) == [(170, 2), (171, 1), (200, 1)]
    assert counts([0.0, 1.0], 0.05, [3, 4]) == [(0, 3), (20, 4)]


def test_a_correlation_of_what_does_not_vary_is_none() -> None:
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0], [3.0, 3.0]) is None
    assert correlation([1.0], [3.0]) is None


def test_what_a_choice_promises_is_what_others_do_not_keep() -> None:
    """Of candidates that are alike, the largest of their deviations on both parts; of one that is better, nothing."""
    rng = np.random.default_rng(0)
    alike = rng.random((30, 1000)) < 0.8
    few, many = promised(alike, 100), promised(alike, 500)
    largest = 2.04  # standard deviations that the largest of 30 normal values is above 0, on average
    each = 100 * (0.8 * 0.2 * 0.9 / 100) ** 0.5  # of a mean of 100 of 1000 images about that of all, in points
    assert few == pytest.approx(largest * each * (1 + 1 / 9), rel=0.15)
    assert 0 < many < 0.6 * few
    better = alike.copy()
    better[7] = True
    assert abs(promised(better, 100)) < 0.1 * few


def test_bits_of_answers_come_back() -> None:
    right = np.random.default_rng(0).random(13) < 0.5
    row = {"n": 13, "right": np.packbits(right).tobytes().hex()}
    assert np.array_equal(answers(row), right)


def test_parts_of_a_sample_are_disjoint() -> None:
    drawn = [{"rank": n} for n in range(10)]
    assert [[row["rank"] for row in part] for part in parts(drawn, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [len(part) for part in parts(drawn, 10)] == [10]
    assert [len(part) for part in parts(drawn, 50)] == [10]


def test_a_training_stands_in_every_table_that_compares_with_it() -> None:
    assert tables_of("3", {"arm": BASE}) == ["3", "5", "7", "l2", "granularity"]
    assert tables_of("4", {"arm": FREE}) == tables_of("u0", {"arm": FREE}) == ["3", "4", "7", "l2", "u0"]
    assert tables_of("6", {"candidates": 50}) == ["6"]


# ---- tables ----

IMAGES = {"epochs": 20, "train_images": 10_000, "selection_images": 2000, "test_images": 10_000}


def arm_row(arm: str, seed: int, **given: Any) -> dict[str, Any]:
    return {
        "arm": arm, "seed": seed, **IMAGES, "candidates": 1 if arm == "full" else 50, "test_error": 12.0 + seed / 10,
        "mean_selection_error": 13.0, "std_selection_error": 0.5, "params": 100, "supernet_params": 200,
        "mean_params": 110, "dropped_channels": 0.3 + seed / 100, "dropped_operations": 4, "operations": 40,
        "operations_above_0.95": 2, "finetune_epochs": None, "finetuned_test_error": None, **given,
    }  # fmt: skip


def rendered(folder: Path, table: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of the table of these rows, as if a ledger had written them."""
    with open(folder / f"{FILES[table][0]}.csv", "w", newline="") as file:
        file.write("# about\n")
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return ALL_TABLES[table].render(folder).splitlines()


def claims(lines: Sequence[str]) -> list[str]:
    return [line.partition(":")[0].strip("- *") for line in lines if line.startswith("- **")]


def test_table_3_compares_guided_with_what_the_paper_compares_it_with(tmp_path: Path) -> None:
    rows = []
    for seed in range(3):
        tuned = {"finetune_epochs": 10, "finetuned_test_error": 11.0 + seed / 10}
        rows.append(arm_row(BASE, seed, **tuned))
        tuned["finetuned_test_error"] = 14.0 + seed / 10
        rows.append(arm_row("uniform", seed, test_error=30 + seed, **tuned, std_selection_error=0.5 + seed))
    lines = rendered(tmp_path, "3", rows)
    wanted = ["holds", "holds", "open", "open", "not shown", "not shown", "open", "holds", "holds", "holds"]
    assert claims(lines) == wanted
    assert any("differ less" in line and line.endswith("n = 3; the mean agrees)") for line in lines)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in cells[2:]] == ["guided", "guided, fine-tuned", "uniform", "uniform, fine-tuned"]
    assert cells[5][1:4] == ["14.10 ± 0.10", "14.00 / 14.10 / 14.20", "+2.00 ± 0.00"]
    assert [row[-1][:4] for row in cells[2:]] == ["2.20", "", "2.63", "2.56"]
    assert any("10,000 training images, 20 epochs, 50 candidates" in line for line in lines)
    assert any(line.endswith("10 epochs of fine-tuning") for line in lines)


def test_table_4_says_whether_the_size_falls(tmp_path: Path) -> None:
    sizes = dict(zip(TABLES["4"].arms, (180, 120, 110, 130), strict=True))
    rows = [arm_row(arm, seed, mean_params=size + seed) for arm, size in sizes.items() for seed in (0, 1)]
    lines = rendered(tmp_path, "4", rows)
    assert claims(lines) == ["holds", "holds", "fails", "holds", "not shown", "not shown", "not shown"]
    assert any(line.startswith("- **fails**: l2 / N = 0.001 finds") and "+0.10 ± 0.00" in line for line in lines)
    cells = [line.strip("| ").split(" | ")[-1] for line in lines if line.startswith("| l2")]
    assert cells == ["2.13, 49.9 M", "2.06, 33.4 M", "2.27, 23.8 M", "2.39, 18.2 M"]
    assert set(claims(rendered(tmp_path, "4", [row for row in rows if row["seed"] == 0]))) == {"open"}


def test_table_7_counts_in_shares(tmp_path: Path) -> None:
    rows = [arm_row(arm, seed) for arm in (BASE, FREE) for seed in (0, 1)]
    for row in rows[2:]:
        row["operations_above_0.95"] = 16 * row["seed"]
    lines = rendered(tmp_path, "7", rows)
    assert "| held at 0.5x | 0.30 ± 0.01 | 0.05 | 0.10 | 0.50 | 12.05 ± 0.07 |" in lines
    assert claims(lines) == ["holds", "holds", "holds", "not shown", "not shown"]
    assert not any(line.endswith("n = 2; the mean is against it)") for line in lines)


def test_table_6_shows_winners_and_the_expected_best(tmp_path: Path) -> None:
    rows = [
        {"candidates": n, "seed": seed, **IMAGES, "expected_selection_error": 11 + shift,
         "test_error": 12 + shift + seed, "winners": 1000 // n}
        for n, shift in ((1000, 0.0), (50, 0.5))
        for seed in (0, 1, 2)
    ]  # fmt: skip
    lines = rendered(tmp_path, "6", rows)
    few, many = (line for line in lines if line.startswith(("| 50 |", "| 1,000 |")))
    assert "| 11.50 | 11.50 / 11.50 / 11.50 | 13.50 ± 1.00 | 12.50 / 13.50 / 14.50 | 20 | 2.17 |" in few
    assert many.endswith("| 1 |  |")
    assert claims(lines) == ["holds"]


def test_optimism_is_what_choosing_promises_and_does_not_keep(tmp_path: Path) -> None:
    row = {
        **IMAGES, "candidates": 100, "mean_selection_error": 13.0, "std_selection_error": 0.4, "mean_test_error": 14.0,
        "std_test_error": 0.3, "by_selection_selection_error": 12.0, "by_selection_test_error": 14.2,
        "by_test_selection_error": 12.7, "by_test_test_error": 13.2, "correlation": 0.5, "promised_fifth": 0.4,
        "promised_half": 0.2,
    }  # fmt: skip
    lines = rendered(tmp_path, "optimism", [{"seed": seed, **row} for seed in (0, 1, 2)])
    assert "| 0.40 | 0.30 | 0.50 | 0.40 | 0.20 |" in next(line for line in lines if line.startswith("| none"))
    picked = "| test | 12.70 | 13.20 | 13.20 / 13.20 / 13.20 | -1.00 ± 0.00 | 0.30 | 0.80 | 0.50 |"
    assert any(line.startswith(picked) for line in lines)
    assert any(line.startswith("| selection | 12.00 | 14.20 |") for line in lines)
    assert claims(lines) == ["holds", "holds", "holds", "holds", "holds", "fails"]


def test_histograms_pool_the_seeds(tmp_path: Path) -> None:
    rows = [
        {"what": what, "arm": arm, "seed": seed, "low": low, "count": count, "epochs": 20, "train_images": 10_000}
        for seed in (0, 1)
        for what, arm, low, count in (
            ("selection accuracy", BASE, 0.86, 30), ("selection accuracy", BASE, 0.865, 10),
            ("selection accuracy", "uniform", 0.6, 40), ("p", BASE, 0.95, 15), ("p", BASE, 0.0, 5),
        )
    ]  # fmt: skip
    lines = [line for line in rendered(tmp_path, "histograms", rows) if line.startswith(("| ", "### "))]
    assert lines[0] == "### selection accuracy"
    assert lines[3:6] == ["| 60 to 60.5 | 0.0 | 100.0 |", "| 86 to 86.5 | 75.0 | 0.0 |", "| 86.5 to 87 | 25.0 | 0.0 |"]
    assert lines[-2:] == ["| 0 to 0.05 | 25.0 |  |", "| 0.95 to 1 | 75.0 |  |"]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_arms_renders_with_some_of_its_rows(name: str, tmp_path: Path) -> None:
    arms = TABLES[name].arms
    for rows in ([arm_row(arms[0], 0)], [arm_row(arm, seed) for arm in arms for seed in (0, 1, 2)]):
        lines = rendered(tmp_path, name, rows)
        assert len({line.count(" | ") for line in lines if line.startswith("| ")}) == 1
        assert not any("nan" in line or "None" in line for line in lines)
        assert len(claims(lines)) == len(ALL_TABLES[name].claims)


def test_every_claim_is_about_lines_that_there_are() -> None:
    assert set(ORDER) == set(ALL_TABLES) == set(FILES)
    assert sorted(table.title for table in PAPER) == sorted(table.title for table in ALL_TABLES.values())
    assert {arm for table in TABLES.values() for arm in table.arms} == set(ARMS)
    for name, table in TABLES.items():
        known = {(arm,) for arm in table.arms} | {(arm + ", fine-tuned",) for arm in table.arms} | {()}
        assert {key for claim in ALL_TABLES[name].claims for key in (claim.line, claim.base)} <= known
