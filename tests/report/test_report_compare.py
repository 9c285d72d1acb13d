"""Two runs on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_runs import RECORDS, write_run

from pgnas_cli.report.compare import compare, document
from pgnas_cli.report.document import Code, Document, Inline, Notice, Number, Paragraph, Table
from pgnas_cli.report.facts import Facts


def facts(
    path: Path, last: str = "rank", correct: int = 395, splits: dict[str, str] | None = None, **about: Any
) -> Facts:
    """A run whose winner answers so many of 500 test images; `about` is known of its data."""
    test = {"value": correct / 500, "low": correct / 500 - 0.04, "high": correct / 500 + 0.04, "n": 500}
    data = RECORDS["train"]["data"]
    data = data | {"sha256": data["sha256"] | (splits or {})} | about
    changes: dict[str, Any] = {"train": {"data": data}, "ranking": {"test_accuracy": test}}
    return Facts.read(write_run(path, last, **changes))


def plain(parts: tuple[Inline, ...]) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in parts)


def notices(page: Document, kind: str) -> list[str]:
    blocks = [block for section in page.sections for block in section.blocks]
    return [plain(block.parts) for block in blocks if isinstance(block, Notice) and block.kind == kind]


def table(page: Document, caption: str) -> Table:
    blocks = [block for section in page.sections for block in section.blocks]
    return next(block for block in blocks if isinstance(block, Table) and block.caption.startswith(caption))


@pytest.mark.parametrize(("first", "second", "better"), [(450, 350, "a"), (350, 450, "b")])
def test_the_better_network_is_named_with_the_interval(tmp_path: Path, first: int, second: int, better: str) -> None:
    page = document(facts(tmp_path / "a", correct=first), facts(tmp_path / "b", correct=second))
    worse = "b" if better == "a" else "a"
    said = f"The network of {better} is better than that of {worse} on the test images by 20 points (15 to 25)."
    assert plain(page.lead).startswith(said)
    row = table(page, "The found networks").rows[0]
    assert isinstance(row[3], Number)
    assert row[3].value == pytest.approx((first - second) / 500)
    assert notices(page, "warning") == []


@pytest.mark.parametrize("correct", [395, 400])
def test_what_is_not_proved_is_said_to_be_open(tmp_path: Path, correct: int) -> None:
    page = document(facts(tmp_path / "a", correct=correct), facts(tmp_path / "b"))
    assert plain(page.lead).startswith("It is not proved which found network is better on the test images")


@pytest.mark.parametrize(
    ("splits", "warning", "comparable"),
    [
        ({"test": "x"}, "their test images differ; the accuracies below cannot be compared", False),
        ({"train": "x"}, "their train images differ; the test images are the same.", True),
        ({"selection": "x"}, "the test images are the same; selection accuracies cannot be compared.", True),
    ],
)
def test_other_data_are_warned_of(tmp_path: Path, splits: dict[str, str], warning: str, comparable: bool) -> None:
    page = document(facts(tmp_path / "a", correct=450), facts(tmp_path / "b", correct=350, splits=splits))
    (said,) = notices(page, "warning")
    assert warning in said
    assert ("cannot be compared by accuracy" in plain(page.lead)) == (not comparable)
    told = [block.caption for block in page.sections[0].blocks if isinstance(block, Table)]
    assert ("The found networks" in told) == comparable
    if comparable:
        rows = {row[0] for row in table(page, "The found networks").rows}
        assert ("selection accuracy" in rows) == ("selection" not in splits)
    settings = {row[0] for row in table(page, "Settings that differ").rows}
    assert settings == {Code(f"data.sha256.{next(iter(splits))}")}


@pytest.mark.parametrize(
    ("about", "differ", "comparable"),
    [
        ({"selection": 0.1}, "their train and selection images differ", True),
        ({"selection": None}, None, True),
        ({"selection": None, "spec": "folder:/others"}, "their train and selection and test images differ", False),
        ({"selection": None, "num_test": 400}, "their test images differ", False),
    ],
)
def test_another_seed_has_the_same_test_images(
    tmp_path: Path, about: dict[str, Any], differ: str | None, comparable: bool
) -> None:
    """A checksum holds the order, which the seed draws."""
    splits = {"train": "x", "selection": "y", "test": "z"}
    page = document(
        facts(tmp_path / "a", correct=450), facts(tmp_path / "b", correct=350, splits=splits, seed=1, **about)
    )
    assert plain(page.lead).startswith("The network of a is better") == comparable
    warnings = notices(page, "warning")
    assert (differ in warnings[0]) if differ is not None else not warnings
    told = " ".join(plain(block.parts) for block in page.sections[0].blocks if isinstance(block, Paragraph))
    assert ("Two seeds have put the" in told) == ("spec" not in about)


def test_a_run_that_is_not_ranked_has_no_winner(tmp_path: Path) -> None:
    page = document(facts(tmp_path / "a"), facts(tmp_path / "b", "inflate"))
    assert plain(page.lead) == "Nothing is decided yet: b has not been ranked."
    assert all(str(tmp_path / "b") in line for line in notices(page, "missing"))
    assert len(notices(page, "missing")) == 4
    page = document(facts(tmp_path / "c", "train"), facts(tmp_path / "d", "inflate"))
    assert plain(page.lead) == "Nothing is decided yet: c and d have not been ranked."


def test_a_run_against_itself_is_the_same_run(tmp_path: Path) -> None:
    found = facts(tmp_path / "a")
    page = document(found, found)
    assert (page.title, plain(page.lead)) == ("a (1) against a (2)", "Both are the same run.")
    (difference,) = (row[3] for row in table(page, "The found networks").rows if row[0] == "parameters")
    assert difference == Number("0.0 %", 0)


def test_only_settings_of_what_both_have_done_are_compared(tmp_path: Path) -> None:
    page = document(facts(tmp_path / "a"), facts(tmp_path / "b", "inflate"))
    assert plain(next(block.parts for block in page.sections[4].blocks)) == (
        "What both runs have done has the same settings."
    )


def test_both_runs_have_their_tables_figures_and_costs(tmp_path: Path) -> None:
    page = document(facts(tmp_path / "one" / "run"), facts(tmp_path / "two" / "run"))
    names = [str(tmp_path / folder / "run") for folder in ("one", "two")]
    assert page.title == " against ".join(names)
    figures = [figure.name for figure in page.figures]
    assert figures == ["candidates", "front-params-1", "front-params-2", "training-1", "training-2"]
    for name in names:
        assert table(page, f"Networks of {name}").rows
        assert table(page, f"What every stage of {name} has cost").rows
    assert [row[0] for row in table(page, "Selection accuracy of all candidates").rows] == names


def test_the_page_is_named_after_the_runs(tmp_path: Path, monkeypatch) -> None:
    runs = [write_run(tmp_path / name, "inflate") for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    assert compare(*runs)["path"] == "report-a-vs-b.html"
    assert compare(*runs, tmp_path / "x.html")["path"] == str(tmp_path / "x.html")
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["report-a-vs-b.html", "x.html"]
