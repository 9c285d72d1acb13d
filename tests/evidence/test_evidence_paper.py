"""What the paper's tables in miniature compute and say, on made-up rows; no training."""

from __future__ import annotations

import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "evidence"))

import paper_text
import paper_text_sample
from paper_arms import ARMS, BASE, ORDER, TABLES
from paper_maths import correlation, counts, expected_best, paired, verdict


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


def test_an_interval_is_student_s_over_the_seeds_that_both_have() -> None:
    found = paired({0: 2.0, 1: 4.0, 2: 6.0, 7: 99.0}, {0: 1.0, 1: 2.0, 2: 3.0, 3: 5.0})
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found.text() == "+2.00 +- 2.48 (n = 3)"
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("differences", "sign", "wanted"),
    [
        ([2.0, 2.1, 1.9], 1, "agrees"),
        ([2.0, 2.1, 1.9], -1, "does not agree"),
        ([-2.0, -2.1, -1.9], -1, "agrees"),
        ([1.0, 2.0, 3.0], 1, "not decided: the interval holds zero"),
        ([0.0, 0.0, 0.0], 1, "not decided: the interval holds zero"),
        ([5.0], 1, "not decided: one seed has no interval"),
        ([], 1, "not decided: there is no pair of runs"),
    ],
)
def test_a_direction_agrees_only_where_the_interval_lies_on_its_side(
    differences: list[float], sign: int, wanted: str
) -> None:
    assert verdict(paired(dict(enumerate(differences)), dict.fromkeys(range(9), 0.0)), sign) == wanted


def test_bins_hold_values_on_their_lower_edge() -> None:
    assert counts([0.85, 0.8549, 0.855, 0.999999999999], 0.005) == [(170, 2), (171, 1), (200, 1)]
    assert counts([0.0, 1.0], 0.05, [3, 4]) == [(0, 3), (20, 4)]


def test_a_correlation_of_what_does_not_vary_is_none() -> None:
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0], [3.0, 3.0]) is None
    assert correlation([1.0], [3.0]) is None


def arm_row(arm: str, seed: int, **given: Any) -> dict[str, str]:
    row = {
        "arm": arm, "seed": seed, "epochs": 24, "train_images": 10000, "selection_images": 3000, "test_images": 10000,
        "candidates": 50, "test_error": 12.0 + seed / 10, "selection_error": 12.0, "mean_selection_error": 13.0,
        "std_selection_error": 0.5, "params": 100, "supernet_params": 200, "macs": 1000, "mean_params": 110,
        "dropped_channels": 0.3, "dropped_operations": 4, "operations": 40, "mean_p": 0.3, "operations_above_0.95": 2,
        "finetune_epochs": "", "finetuned_selection_error": "", "finetuned_test_error": "", "train_seconds": 1.0,
        "rank_seconds": 1.0,
    }  # fmt: skip
    return {name: str(value) for name, value in {**row, **given}.items()}


def test_table_3_compares_guided_with_what_the_paper_compares_it_with() -> None:
    rows = []
    for seed in range(3):
        tuned = {"finetune_epochs": 12, "finetuned_test_error": 11.0 + seed / 10}
        rows.append(arm_row(BASE, seed, **tuned))
        rows.append(arm_row("uniform", seed, test_error=30 + seed, finetune_epochs=12, finetuned_test_error=14 + seed))
    lines = paper_text.table_3(rows)
    assert any(
        line.startswith("| guided | 12.00 / 12.10 / 12.20 | 12.10 | 13.00 +- 0.50 | 0.50 / 0.50") for line in lines
    )
    assert any(line.startswith("| full supernet | - / - / - |") and "2.58" in line for line in lines)
    by_start = {line.partition(" (")[0]: line for line in lines if line.startswith("- ")}
    assert by_start["- Guided - uniform, neither fine-tuned"].endswith(": **agrees**.")
    assert by_start["- Uniform fine-tuned - uniform"].endswith("-16.00 +- 0.00 (n = 3) points: **agrees**.")
    assert "no pair of runs" in by_start["- Guided - full supernet"]
    assert by_start["- Guided fine-tuned - guided"].endswith("**below zero**.")


def test_table_4_says_whether_the_size_falls() -> None:
    shares = dict(zip(TABLES["4"].arms, (190, 180, 120, 60), strict=True))
    rows = [arm_row(arm, seed, mean_params=size + seed) for arm, size in shares.items() for seed in (0, 1)]
    lines = paper_text.table_4(rows)
    assert "ours -0.65 +- 0.00 (n = 2) supernets: **agrees**." in "\n".join(lines)
    rows = [row for row in rows if row["seed"] == "0"]
    assert "one seed" in "\n".join(paper_text.table_4(rows))


def test_table_7_counts_in_shares() -> None:
    text = "\n".join(paper_text.table_7([arm_row(BASE, seed) for seed in (0, 1)]))
    assert "| ours, no target | 0.30 / 0.30 | 0.10 / 0.10 | 0.05 / 0.05 | 0.50 / 0.50 |" in text
    assert "| published, MI | 0.44 | 0.26 |" in text


@pytest.mark.parametrize("table", paper_text.RENDER)
def test_every_table_of_arms_renders_with_some_of_its_rows(table: str) -> None:
    arms = TABLES[table].arms
    for rows in ([arm_row(arms[0], 0)], [arm_row(arm, seed) for arm in arms for seed in (0, 1, 2)]):
        lines = paper_text.RENDER[table](rows)
        assert lines[0].startswith("### ")
        cells = {line.count(" | ") for line in lines if line.startswith("| ")}
        assert len(cells) == 1  # no row is longer than its head
        assert not any("nan" in line or "None" in line for line in lines)


def test_table_6_shows_winners_and_the_expected_best() -> None:
    rows = []
    for seed in (0, 1, 2):
        for n, shift in ((50, 0.5), (1500, 0.0)):
            rows.append({
                "candidates": n, "seed": seed, "epochs": 24, "train_images": 10000, "selection_images": 3000,
                "test_images": 10000, "sample": 1500, "drawn": n, "expected_selection_error": 11 + shift,
                "winner": "ab", "selection_error": 11.2 + shift, "test_error": 12 + shift + seed, "params": 100,
            })  # fmt: skip
    lines = paper_text_sample.table_6([{name: str(value) for name, value in row.items()} for row in rows])
    assert (
        "| 50 | 11.50 / 11.50 / 11.50 | 11.50 | 11.70 / 11.70 / 11.70 | 12.50 / 13.50 / 14.50 | 13.50 | 2.17 |" in lines
    )
    assert lines[-1].endswith("(published: 2.06 - 2.17): ours -0.50 +- 0.00 (n = 3) points: **agrees**.")


def test_optimism_is_what_choosing_on_the_test_split_promises_and_does_not_keep() -> None:
    row = {
        "epochs": 24, "train_images": 10000, "selection_images": 3000, "test_images": 10000, "candidates": 100,
        "mean_selection_error": 13.0, "std_selection_error": 0.4, "mean_test_error": 14.0, "std_test_error": 0.3,
        "by_selection_selection_error": 12.0, "by_selection_test_error": 13.8, "by_test_selection_error": 12.7,
        "by_test_test_error": 13.2, "correlation": 0.5, "seconds": 1.0,
    }  # fmt: skip
    rows = [{"seed": str(seed), **{name: str(value) for name, value in row.items()}} for seed in (0, 1, 2)]
    lines = paper_text_sample.optimism(rows)
    assert "| picked on the test split | 12.70 / 12.70 / 12.70 | 13.20 / 13.20 / 13.20 | 0.30 | 0.80 |" in lines
    assert any("does: -0.60 points" in line for line in lines)
    assert any(line.endswith("did not choose: +0.50 +- 0.00 (n = 3) points: **above zero**.") for line in lines)


def test_histograms_pool_the_seeds() -> None:
    common = {"epochs": "24", "train_images": "10000"}
    rows = [
        {"what": what, "arm": arm, "seed": str(seed), "low": low, "high": "", "count": count, "of": "40", **common}
        for seed in (0, 1)
        for what, arm, low, count in (
            ("selection accuracy", BASE, "0.86", "30"), ("selection accuracy", BASE, "0.865", "10"),
            ("selection accuracy", "uniform", "0.6", "40"), ("p", BASE, "0", "5"), ("p", BASE, "0.95", "15"),
        )
    ]  # fmt: skip
    text = "\n".join(paper_text_sample.histograms(rows))
    assert f"| 86 to 86.5 | 75.0 % {'#' * 30} | 0.0 % |" in text
    assert f"| 0.95 to 1 | 75.0 % {'#' * 40} |" in text


def test_every_table_has_arms_and_a_text() -> None:
    assert set(ORDER) == set(paper_text.RENDER) | set(paper_text_sample.RENDER)
    assert {arm for table in TABLES.values() for arm in table.arms} == set(ARMS)
    assert len({table.name for table in TABLES.values()}) == len(TABLES)
