"""Which candidate is exported: by the beginning of its id, by its size, or the winner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.export import choice
from pgnas_cli.export.choice import choose, find_candidate, selection_accuracy
from pgnas_cli.export.export import export
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.report.numbers import proportion
from pgnas_cli.run import RunDirectory, read_json, read_jsonl, write_json, write_jsonl


def leaderboard(run: RunDirectory) -> list[dict]:
    return read_jsonl(run.rank_path / "leaderboard.jsonl")


def named(identity: str) -> Candidate:
    found = Candidate({"layer": np.array([True])}, "posterior", 1, 1)
    found.__dict__["id"] = identity  # in the place of the hash of the masks
    return found


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["abcd10000", "abcd12000", "abcd2ffff", *[f"0000{n}0000" for n in range(7)]]
    monkeypatch.setattr(choice, "ranked_candidates", lambda run: [named(name) for name in names])


@pytest.mark.parametrize(
    ("wanted", "found"), [("abcd2", "abcd2ffff"), ("ABCD2F", "abcd2ffff"), ("abcd10000", "abcd10000")]
)
def test_any_beginning_that_only_one_has(ids: None, wanted: str, found: str) -> None:
    assert find_candidate(RunDirectory(Path("run")), wanted).id == found


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ("abcd", "3 candidates of run begin with 'abcd': abcd10000, abcd12000, abcd2ffff", "--candidate abcd10"),
        ("0000", "00000000, .*00004+0000 and 2 more", "--candidate 00000"),
        ("abce2", "no candidate of run begins with 'abce2'; did you mean abcd2", "leaderboard.jsonl"),
        ("zzzz", "no candidate of run begins with 'zzzz'$", "leaderboard.jsonl"),
        ("abc", "names no candidate: at least 4 characters", "leaderboard.jsonl"),
        ("", "names no candidate: at least 4 characters", "leaderboard.jsonl"),
    ],
)
def test_any_other_is_refused_with_what_to_type(ids: None, wanted: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        find_candidate(RunDirectory(Path("run")), wanted)
    assert hint in error.value.hint
    assert "\n" not in str(error.value)


def test_at_takes_the_best_ranked_that_is_small_enough(run: RunDirectory) -> None:
    rows = leaderboard(run)
    for limit in sorted({row["params"] for row in rows}):
        best = next(row for row in rows if row["params"] <= limit)
        found = choose(run, rows[0]["id"], at=str(limit))
        assert (found.candidate.id, found.by, found.max_params) == (best["id"], "at", limit)
    assert len({choose(run, rows[0]["id"], at=str(row["params"])).candidate.id for row in rows}) > 1
    whole = run.require("train")["params"]
    most = choose(run, rows[0]["id"], at="0.9x")
    assert most.max_params == round(0.9 * whole)


def test_a_size_below_all_names_the_smallest(run: RunDirectory) -> None:
    rows = leaderboard(run)
    smallest = min(row["params"] for row in rows)
    with pytest.raises(UsageError, match=f"at most {smallest - 1:,} parameters") as error:
        choose(run, rows[0]["id"], at=str(smallest - 1))
    assert error.value.hint.endswith(f"--at {smallest}")
    with pytest.raises(UsageError, match="--at 'small' is not a size"):
        choose(run, rows[0]["id"], at="small")


def test_both_options_exclude_each_other(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        export(run, candidate="abcd", at="0.5x")


def test_the_winner_keeps_its_test_accuracy_however_it_is_named(run: RunDirectory, tmp_path: Path) -> None:
    ranking = read_json(run.rank_path / "ranking.json")
    largest = max(row["params"] for row in leaderboard(run))
    for by, options in {
        "winner": {}, "candidate": {"candidate": ranking["winner"]}, "at": {"at": str(largest)},
    }.items():  # fmt: skip
        record = export(run, output=tmp_path / by, **options)
        section = read_json(tmp_path / by / "config.json")["pgnas"]
        assert (record["candidate"], record["chosen_by"], section["chosen_by"]) == (ranking["winner"], by, by)
        assert section["max_params"] == (largest if by == "at" else None)
        assert section["test_accuracy"] == record["test_accuracy"] == ranking["test_accuracy"]


def test_another_has_the_accuracy_that_it_was_chosen_by_and_no_other(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgnas_cli.training.data import Data

    rows, splits, plain = leaderboard(run), [], Data.eval_batches
    other = next(row for row in rows if row["params"] < rows[0]["params"])

    def spy(self: Data, split: str, *args: object, **kwargs: object):
        splits.append(split)
        return plain(self, split, *args, **kwargs)

    monkeypatch.setattr(Data, "eval_batches", spy)
    record = export(run, at=str(rows[0]["params"] - 1), output=tmp_path / "small")
    section = read_json(tmp_path / "small" / "config.json")["pgnas"]
    assert record["candidate"] == other["id"]
    assert section["selection_accuracy"] == wilson(other["correct"], other["n"]).to_json()
    assert section["test_accuracy"] is None
    assert splits
    assert "test" not in splits
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"the best-ranked candidate of at most {rows[0]['params'] - 1:,} parameters" in card
    shown = proportion(section["selection_accuracy"]).text
    assert f"| selection | {other['n']} | {shown}" in card
    assert "was not evaluated on the test split" in card
    assert "| test" not in card


def test_an_estimate_of_a_race_is_not_given_as_an_accuracy(run: RunDirectory) -> None:
    rows = leaderboard(run)
    rows[1] = {**rows[1], "n": 64, "correct": 60}
    write_jsonl(run.rank_path / "leaderboard.jsonl", rows)
    assert selection_accuracy(run, rows[1]["id"]) is None
    assert selection_accuracy(run, rows[2]["id"]) == wilson(rows[2]["correct"], rows[2]["n"]).to_json()


def test_at_goes_by_the_front_where_there_is_one(run: RunDirectory) -> None:
    """Its accuracies are exact, those of a race's leaderboard may be estimates."""
    path = run.rank_path / "ranking.json"
    rows = leaderboard(run)
    by_size = sorted(rows, key=lambda row: row["params"])
    small, large = by_size[0], by_size[-1]
    points = [
        {"id": row["id"], "selection_accuracy": {"value": value, "n": 200}}
        for row, value in ((small, 0.5), (large, 0.4))
    ]
    write_json(path, {**read_json(path), "front": {"points": points}})
    assert choose(run, rows[0]["id"], at=str(large["params"])).candidate.id == small["id"]
    partial = [{**row, "n": 3, "correct": 2} if row["id"] == small["id"] else row for row in rows]
    write_jsonl(run.rank_path / "leaderboard.jsonl", partial)
    assert selection_accuracy(run, small["id"]) == wilson(100, 200).to_json()
