"""What ImageNet would take: the model of a step, and a page whose numbers follow from the rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "evidence"))

import imagenet
from imagenet_model import Assumptions, Network, Range, Speed, Step, Task, ranking, training
from imagenet_page import Case, page

SMALL = Network("small", 10, 100, 2, 30)
LARGE = Network("large", 40, 1000, 6, 90)
TASK = Task(epochs=2, batch=8, train=80, selection=40, candidates=10, budget=0.5)
ASSUMED = Assumptions({1: Range(1, 1), 4: Range(0.5, 1)}, Range(1, 2), 0.5, 20)


def test_a_step_waits_for_launches_or_for_arithmetic_whichever_is_longer() -> None:
    speed = Speed(floor=Range(0.125, 0.25), rate=Range(1000, 4000))
    assert speed.seconds(LARGE, 1) == Range(0.75, 1.5)  # 6 convolutions; 1000 MACs take 0.25 to 1 s
    assert speed.seconds(LARGE, 8) == Range(2.0, 8.0)


def test_speed_takes_the_best_rate_of_all_steps_and_the_worst_of_the_images_size() -> None:
    large = Step(SMALL, 224, 10, Range(1.0, 2.0))  # 500 to 1000 MACs a second
    small = Step(SMALL, 64, 100, Range(1.5, 2.5))  # 4000 to 6667
    speed = Speed.of([large, small], 224)
    assert speed.floor == Range(0.5, 1.0)
    assert speed.rate == Range(500.0, pytest.approx(10_000 / 1.5))
    with pytest.raises(ValueError, match="96 pixels"):
        Speed.of([large], 96)


def test_training_with_the_batch_split_and_with_it_on_every_gpu() -> None:
    speed = Speed(floor=Range(0.1, 0.1), rate=Range(1000, 1000))
    assert training(speed, LARGE, TASK, 1, True, ASSUMED) == Range(160, 320)  # 20 steps of 8 s
    assert training(speed, LARGE, TASK, 4, True, ASSUMED) == Range(40, 160)  # of 2 s, at half the efficiency at worst
    assert training(speed, LARGE, TASK, 4, False, ASSUMED) == Range(48, 192)  # 6 steps of 8 s: 2 x ceil(80 / 32)


def test_ranking_counts_the_images_of_the_race() -> None:
    speed = Speed(floor=Range(0.1, 0.1), rate=Range(1000, 1000))
    assert TASK.ranked == 200
    assert ranking(speed, LARGE, TASK, 1, ASSUMED) == Range(100, 100)  # 10 batches of 20 images, half of 20 s each
    assert ranking(speed, LARGE, TASK, 4, ASSUMED) == Range(30, 60)  # 3 batches on the slowest


def test_ranges_divide_crosswise() -> None:
    assert Range(2, 6) / Range(1, 2) == Range(1, 6)
    assert Range(2, 6) * Range(1, 2) + Range.exactly(1) == Range(3, 13)


def rows(*more: dict[str, str]) -> list[dict[str, str]]:
    place = {"network": "small", "img_size": "224", "batch": "10", "device": "cuda", "compiled": "yes"}
    return [
        {**place, "what": imagenet.PLAIN, "value": "1.0", "low": "", "high": ""},
        {**place, "what": imagenet.GATED, "value": "1.5", "low": "1.25", "high": "2"},
        {**place, "what": imagenet.TRAINER, "value": "0.5", "low": "0.4", "high": "0.6"},
        *more,
    ]


def test_steps_with_gates_are_those_without_times_their_ratio() -> None:
    known = {("small", 224): SMALL, ("large", 224): LARGE}
    assert imagenet.steps(rows(), known, gated=True) == [Step(SMALL, 224, 10, Range(1.25, 2.0))]
    assert imagenet.steps(rows(), known, gated=False) == [Step(SMALL, 224, 10, Range(1.0, 1.0))]
    lone = {**rows()[0], "network": "large"}  # without a ratio it says nothing about gates
    assert len(imagenet.steps(rows(lone), known, gated=True)) == 1
    assert imagenet.overhead(rows()) == Range(1.0, pytest.approx(1 / 0.5 / 1.5))


def test_a_network_that_was_measured_itself_is_not_extrapolated() -> None:
    both = [Step(SMALL, 224, 1, Range(1, 1)), Step(LARGE, 224, 1, Range(3, 3))]
    assert imagenet.own(both, "large") == both[1:]
    assert imagenet.own(both[:1], "large") == both[:1]


def test_the_tasks_are_those_of_the_recipes() -> None:
    assert imagenet.task("supnet-r50") == Task(90, 256, 1_231_167, 50_000, 1500, 0.15)
    assert imagenet.task("supnet-d121").epochs == 180


def test_the_page_has_a_row_for_each_network_and_number_of_gpus() -> None:
    speed = Speed(floor=Range(0.1, 0.1), rate=Range(1000, 1000))
    cases = [Case(LARGE, TASK, speed, speed, False, Range(0.1, 0.2), None)]
    text = page("Title", rows(), ["sitting 1: somewhere"], cases, ASSUMED)
    assert sum(line.startswith("| large | 1 |") for line in text) == 4  # two ways to train, ranking, all of it
    assert "| large | 4 | 2 | 2,000 | 0.0000000060 | 1.0 to 4.0 | 0.011 to 0.044 |" in text
    assert any("not measured" in line for line in text if line.startswith("| large | 4 |"))
    assert "- sitting 1: somewhere" in text


def test_the_section_follows_from_the_files_alone() -> None:
    text = imagenet.IMAGENET.render(imagenet.RESULTS)
    assert text == imagenet.IMAGENET.render(imagenet.RESULTS)
    assert text.startswith("## What ImageNet would take\n\nWorked out, not run")
    assert "README" in imagenet.ledger().sittings()[0]


def test_without_rows_the_section_says_so(tmp_path: Path) -> None:
    assert imagenet.IMAGENET.render(tmp_path).endswith("No rows yet.")
    assert imagenet.lines(rows(), [], [])[-1] == "No rows yet."
