"""What the sections of a report say, and what they name where a stage has not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_runs import CERTIFY, LEADERBOARD, LOG, RANKING, RECORDS, SECOND, WINNER, write_run, write_training

from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.report import numbers, results, sections, sections_record, sections_training
from pgnas_cli.report.document import Code, Commands, Inline, Notice, Number, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts
from pgnas_cli.run import RunDirectory, write_jsonl

RATED = {"fixed_drop": 0.25}


def plain(parts: tuple[Inline, ...]) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in parts)


def table(section: Section, caption: str = "") -> Table:
    return next(block for block in section.blocks if isinstance(block, Table) and block.caption.startswith(caption))


def said(section: Section) -> str:
    return " ".join(plain(block.parts) for block in section.blocks if isinstance(block, Paragraph | Notice))


def typed(section: Section) -> list[str]:
    """The commands that a section says are missing."""
    notices = [block for block in section.blocks if isinstance(block, Notice)]
    assert {notice.kind for notice in notices} <= {"missing"}
    return [part.text for notice in notices for part in notice.parts if isinstance(part, Code)]


def column(found: Table, name: str) -> list[Inline]:
    return [row[found.columns.index(name)] for row in found.rows]


def values(cells: list[Inline]) -> list[float | None]:
    assert all(isinstance(cell, Number) for cell in cells)
    return [cell.value for cell in cells if isinstance(cell, Number)]


# ---- what is missing ----


@pytest.mark.parametrize(
    ("last", "options", "make", "lines"),
    [
        ("inflate", [], results.section, ["train", "sample", "rank"]),
        ("inflate", [], sections_training.training_section, ["train"]),
        ("inflate", [], sections_training.posterior_section, ["train"]),
        ("inflate", [], sections_record.provenance_section, ["train"]),
        ("train", [], results.section, ["sample", "rank"]),
        ("train", [], sections.candidates_section, ["sample", "rank"]),
        ("sample", [], sections.race_section, ["rank"]),
        ("sample", ["--front"], sections.front_section, ["rank"]),
        ("sample", ["--certify", "8"], sections.fidelity_section, ["rank"]),
        ("rank", ["--front"], sections.front_section, ["rank"]),
        ("export", [], results.section, []),
        ("rank", [], sections.race_section, []),
    ],
)
def test_a_section_names_what_fills_it(tmp_path: Path, last: str, options: list[str], make, lines: list[str]) -> None:
    run = write_run(tmp_path / "a run", last)
    words = [[stage, *(options if stage == lines[-1] else [])] for stage in lines]
    assert typed(make(Facts.read(run))) == [f"pgnas {' '.join(word)} --run '{run.path}'" for word in words]


def test_a_training_that_goes_on_is_resumed_and_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "inflate")
    write_training(run, epochs=1)
    facts = Facts.read(run)
    section = sections_training.training_section(facts)
    assert typed(section) == [f"pgnas train --resume --run {run.path}"]
    assert [figure.name for figure in section.figures] == ["training", "budget-params"]
    assert [figure.name for figure in sections_training.posterior_section(facts).figures] == ["posterior"]
    assert plain(results.lead(facts)) == (
        "The supernet shakeshake26_2x4d, 1.00 k parameters, is in training: 1 of 2 epochs; its most probable network "
        "is right on 75.0 % of the selection images."
    )
    found = results.result_table(facts)
    assert column(found, "network") == ["supernet", "most probable network"]
    assert values(column(found, "parameters")) == [1000, 520]
    assert "supernet: in training" in plain(results.weights(facts).parts)
    waiting = results.section(facts).blocks[-1]
    assert isinstance(waiting, Notice)
    sample, rank = (f"pgnas {stage} --run {run.path}" for stage in ("sample", "rank"))
    assert plain(waiting.parts) == (
        f"The candidates have not been ranked. When the training is done, this fills the section: {sample}, then {rank}"
    )


def test_masks_that_cannot_be_used_have_no_accuracy(tmp_path: Path) -> None:
    """The most probable network of the last epoch may be none: then there is nothing to say of it."""
    facts = Facts.read(write_run(tmp_path / "run", "train", train={"selection_accuracy": None}))
    assert plain(results.lead(facts)) == (
        "The supernet shakeshake26_2x4d, 1.00 k parameters, has been trained, and its candidates have not been ranked."
    )


@pytest.mark.parametrize(("soft", "options"), [(None, ""), ({"epoch": 1}, "--from soft ")])
def test_too_few_candidates_are_not_certified(tmp_path: Path, soft, options: str) -> None:
    run = write_run(tmp_path / "run", "rank", train={"soft": soft})
    lines = [f"pgnas sample -n 100 {options}--force --run {run.path}", f"pgnas rank --certify 8 --run {run.path}"]
    assert typed(sections.fidelity_section(Facts.read(run))) == lines


# ---- results ----


def test_the_table_holds_the_numbers_of_the_files(tmp_path: Path) -> None:
    tuned = {"epochs": 1, "lr": 0.1, "images": 9, "seconds": 1.0,
             "selection_accuracy": {"value": 0.81, "low": 0.77, "high": 0.85, "n": 400},
             "test_accuracy": {"value": 0.8, "low": 0.76, "high": 0.83, "n": 500}}  # fmt: skip
    run = write_run(tmp_path / "run", ranking={"finetune": tuned}, export={"candidate": SECOND, "params": 470})
    baseline = write_run(run.baseline_path("uniform"), "rank", train=RATED)
    write_run(run.baseline_path("half-done"), "train", train=RATED)
    facts = Facts.read(run)
    found = results.result_table(facts)
    assert column(found, "network") == [
        "supernet", "most probable network", "found network", "found network, fine-tuned",
        f"exported network {SECOND}", f"baseline {baseline.path.name}",
    ]  # fmt: skip
    assert values(column(found, "parameters")) == [1000, 520, 480, 480, 470, 480]
    assert values(column(found, "share")) == [1, 0.52, 0.48, 0.48, 0.47, 0.48]
    assert values(column(found, "test")) == [None, None, 0.79, 0.8, None, 0.79]
    assert values(column(found, "selection")) == [None, 0.75, 0.8, 0.81, 0.775, 0.8]
    assert "latency" not in found.columns
    assert plain(results.weights(facts).parts) == (
        "Weights: supernet: trained together with the posterior; most probable network: the supernet's; found network: "
        f"the supernet's; found network, fine-tuned: trained on by itself for 1 epoch; exported network {SECOND}: the "
        "supernet's; baseline uniform: of its own supernet, trained at a drop rate of 0.25."
    )
    assert plain(results.lead(facts)) == (
        "The network that was found has 480 parameters, 48.0 % of the supernet shakeshake26_2x4d, and is right on "
        "79 % (75\N{EN DASH}82) of 500 test images; the best network of the baseline uniform on 79 % (75\N{EN DASH}82)."
    )


def test_latency_stands_where_it_was_measured(tmp_path: Path) -> None:
    latency = {"median": 0.002, "low": 0.0019, "high": 0.0021, "batch": 1, "runs": 20}
    point = {"id": WINNER, "params": 480, "macs": 4000, "latency": latency,
             "selection_accuracy": RANKING["selection_accuracy"]}  # fmt: skip
    front = {"confidence": 0.95, "device": "cpu", "batch": 1, "threads": 2, "images": 100, "points": [point],
             "params": [WINNER], "macs": [WINNER], "latency": [WINNER]}  # fmt: skip
    facts = Facts.read(write_run(tmp_path / "run", ranking={"front": front}))
    found = results.result_table(facts)
    assert values(column(found, "latency")) == [None, None, 0.002]
    assert found.caption.endswith("; latency of a batch of 1 on cpu, 2 threads")
    section = sections.front_section(facts)
    assert [figure.name for figure in section.figures] == ["front-params", "front-macs", "front-latency"]
    assert typed(section) == []


def test_an_estimate_of_a_race_is_called_one(tmp_path: Path) -> None:
    race = {"method": "race", "margin": 0.01, "images_exhaustive": 8000}
    run = write_run(tmp_path / "run", ranking=race, export={"candidate": SECOND})
    write_jsonl(run.rank_path / "leaderboard.jsonl", [LEADERBOARD[0], {**LEADERBOARD[1], "n": 40, "accuracy": 0.77}])
    facts = Facts.read(run)
    assert column(results.result_table(facts), "selection")[-1] == Number("77.0 %, estimated", 0.77)
    candidates = sections.candidates_section(facts)
    assert column(table(candidates), "seen") == ["estimates of a race"]
    assert "1 of 2 candidates saw the whole selection split" in candidates.figures[0].note
    assert "no candidate is more than 1.00 points above the winner" in said(sections.race_section(facts))
    assert "10.0 % of those of an exhaustive ranking (8,000)" in said(sections.race_section(facts))


def test_uniform_baselines_stand_beside_the_candidates(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "rank")
    write_run(run.baseline_path("uniform"), "rank", train=RATED)
    write_run(run.baseline_path("plain"), "rank", train={"fixed_drop": 0.0})
    section = sections.candidates_section(Facts.read(run))
    assert column(table(section), "candidates of") == ["this run", "baseline plain", "baseline uniform"]
    assert values(column(table(section), "mean")) == [0.7875] * 3
    shown = section.figures[0].table
    assert shown is not None
    assert {"baseline uniform"} == {str(row[0]) for row in shown.rows if "baseline" in str(row[0])}


def test_fidelity_and_evolution_are_told(tmp_path: Path) -> None:
    asked = RANKING["asked"] | {"evolve": 5}
    facts = Facts.read(write_run(tmp_path / "run", ranking={"certify": CERTIFY, "asked": asked, "evolved": 2}))
    assert "Kendall's tau between the two orders is 0.5 (-0.2 to 1.0)" in said(sections.fidelity_section(facts))
    assert "2 candidates of 5 asked for were added by evolution" in said(sections.race_section(facts))


def test_what_is_not_defined_has_no_interval_to_explain(tmp_path: Path) -> None:
    none = {"value": None, "low": None, "high": None}
    certify = CERTIFY | {"tau": none, "regret_at_1": {"value": -0.0, "low": None, "high": None}}
    facts = Facts.read(write_run(tmp_path / "run", ranking={"certify": certify}))
    told = said(sections.fidelity_section(facts))
    assert "is not defined; the best of them is 0.0 points above" in told
    assert "In parentheses" not in told


def test_the_deviation_of_a_single_candidate_is_none(tmp_path: Path) -> None:
    distribution = {"mean": 0.8, "std": 0.0, "min": 0.8, "median": 0.8, "max": 0.8}
    run = write_run(tmp_path / "run", ranking={"candidates": 1, "distribution": distribution})
    found = sections.spread_table([("it", Facts.read(run))])
    assert values(column(found, "standard deviation")) == [None]


# ---- how uniform candidates come to stand beside them ----


def test_a_run_without_uniform_candidates_says_how_to_get_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a run", "rank")
    section = sections.candidates_section(Facts.read(run))
    (lines,) = (block.lines for block in section.blocks if isinstance(block, Commands))
    where = f" --run '{run.path}/baselines/uniform'"
    assert [line.removesuffix(where) for line in lines] == [
        "pgnas inflate shakeshake26_2x4d --in-chans 1 --seed 0",
        "pgnas train --recipe posterior --fixed-drop 480 --epochs 2 --data digits --seed 3 --device cpu",
        "pgnas sample -n 2 --strategy uniform --seed 4",
        "pgnas rank --seed 5 --device cpu",
    ]
    assert all(line.endswith(where) for line in lines)
    assert f"pgnas report --run '{run.path}' then shows both" in said(section)


def test_uniform_candidates_need_no_others(tmp_path: Path) -> None:
    run = write_run(tmp_path / "uniform", "rank", train=RATED)
    section = sections.candidates_section(Facts.read(run))
    assert "come from no posterior" in said(section)
    assert not [block for block in section.blocks if isinstance(block, Commands)]
    run = write_run(tmp_path / "drawn", "rank")
    write_jsonl(run.rank_path / "leaderboard.jsonl", [LEADERBOARD[0], {**LEADERBOARD[1], "strategy": "uniform"}])
    assert "uniform" not in said(sections.candidates_section(Facts.read(run)))


# ---- what the intervals are ----


def test_every_interval_has_the_confidence_that_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "rank", ranking={"confidence": 0.99})
    note = plain(results.section(Facts.read(run)).blocks[2].parts)
    assert note.endswith("In parentheses: 99 % Wilson intervals of accuracies.")
    found = wilson(300, 400, 0.99)
    assert column(results.result_table(Facts.read(run)), "selection")[1] == numbers.accuracy(
        0.75, found.low, found.high
    )
    write_run(run.baseline_path("uniform"), "rank", train=RATED)
    note = plain(results.section(Facts.read(run)).blocks[2].parts)
    assert note.endswith("95 % and 99 % Wilson intervals of accuracies, as each ranking was asked for.")


def test_what_was_trained_on_after_the_commit_is_called_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "rank", train={"soft": {"epoch": 1}})
    told = plain(results.weights(Facts.read(run)).parts)
    for name in ("most probable network", "found network"):
        assert f"{name}: the supernet's, trained on after the commit" in told


# ---- the training and its record ----


def test_warnings_are_a_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "train")
    assert "no cause for a warning" in said(sections_training.training_section(Facts.read(run)))
    warnings = [{"kind": "lost", "gate": gate, "message": "m", "hint": "h"} for gate in ("a", None)]
    write_jsonl(run.train_path / "log.jsonl", [LOG[0], {**LOG[1], "warnings": warnings}])
    found = table(sections_training.training_section(Facts.read(run)), "Warnings")
    assert found.rows == ((Number("2", 2), Code("a"), "m", "h"), (Number("2", 2), "all", "m", "h"))


def test_the_budget_is_told_before_and_after_a_commit(tmp_path: Path) -> None:
    soft = {"epoch": 1, "expected_params": 505.0, "sampled": {"params": {"mean": 498.0, "sd": 3.0, "n": 64}}}
    found = table(sections_training.training_section(Facts.read(write_run(tmp_path / "run", train={"soft": soft}))))
    assert column(found, "budget") == ["parameters, before the commit", "parameters, after the training"]
    assert values(column(found, "expected")) == [505, 510]
    assert values(column(found, "off by")) == pytest.approx([0.01, 0.02])


def ledger(run: RunDirectory) -> Iterator[tuple[str, float | None, str]]:
    for name, images, kind, *_ in table(sections_training.cost_section(Facts.read(run))).rows:
        assert isinstance(images, Number)
        yield str(name), images.value, str(kind)


def test_the_ledger_has_a_row_for_everything_that_cost(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ranking={"certify": CERTIFY})
    write_run(run.baseline_path("plain"), "train")
    assert list(ledger(run)) == [
        ("inflate", None, ""), ("train", 2000, "trained on"), ("sample", None, ""), ("rank", 800, "answered"),
        ("rank --certify", 6000, "trained on"), ("export", None, ""), ("baseline plain: inflate", None, ""),
        ("baseline plain: train", 2000, "trained on"),
    ]  # fmt: skip
    assert "Together 3 min 36 s" in said(sections_training.cost_section(Facts.read(run)))


def test_provenance_names_data_versions_and_settings(tmp_path: Path) -> None:
    data = RECORDS["train"]["data"] | {"class_names": [f"class {n}" for n in range(30)], "corrupt": {"test": ["x"]}}
    section = sections_record.provenance_section(Facts.read(write_run(tmp_path / "run", train={"data": data})))
    what = dict(table(section, "Versions").rows)
    assert (what["version of torch"], what["seed of the ranking"]) == ("2", Number("5", 5))
    found = dict(table(section, "Data").rows)
    assert str(found["names of the classes"]).endswith("class 19 and 10 more")
    assert found["unreadable images, test"] == Number("1", 1)
    assert [row[2] for row in table(section, "Splits").rows] == [Code("a1"), Code("b2"), Code("c3")]
    changed = {plain((row[0],)): row[1:] for row in table(section, "Settings").rows}
    assert changed["schedule.epochs"] == (Code("2"), Code("40"))
    assert changed["budget.target_params"] == (Code("0.5x"), "left open")


def test_repeat_has_the_lines_of_the_run_and_of_its_baselines(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_run(run.baseline_path("plain"), "inflate")
    section = sections_record.repeat_section(Facts.read(run))
    lines = [block.lines for block in section.blocks if isinstance(block, Commands)]
    assert [len(found) for found in lines] == [5, 1]
    assert all(line.endswith("--run run-again") for line in lines[0])
    assert lines[1][0].endswith("--run run-again/baselines/plain")
    assert "1 process on cpu, 1 thread" in said(section)
