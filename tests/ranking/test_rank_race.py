"""Races of a real run: processes, interruptions, and what is written."""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from pgnas_cli.errors import Stopped
from pgnas_cli.ranking.answers import Answers
from pgnas_cli.ranking.candidates import read_candidates, sample
from pgnas_cli.ranking.evaluate import Evaluator, Way, measured_way
from pgnas_cli.ranking.journal import FOLDER, Journal
from pgnas_cli.ranking.method import Method
from pgnas_cli.ranking.rank import rank
from pgnas_cli.run import RunDirectory, read_json, read_jsonl
from pgnas_cli.training.data import open_data
from pgnas_cli.training.loop import trained_supernet

TIMES = {"seconds": 0, "images_resumed": 0, "processes": 0}


@pytest.fixture
def many(run: RunDirectory) -> RunDirectory:
    """Forty candidates."""
    sample(run, n=40, seed=3, force=True)
    return run


def written(run: RunDirectory) -> tuple[list, dict]:
    return read_jsonl(run.rank_path / "leaderboard.jsonl"), {**read_json(run.rank_path / "ranking.json"), **TIMES}


def test_a_race_costs_less_and_says_what_it_certifies(many: RunDirectory) -> None:
    exhaustive = rank(many, device="cpu", method="exhaustive")
    accuracy = {row["id"]: row["accuracy"] for row in read_jsonl(many.rank_path / "leaderboard.jsonl")}
    ranking = rank(many, device="cpu", budget=0.6)
    assert (ranking["method"], ranking["budget"], ranking["images_exhaustive"]) == ("race", 0.6, 40 * 200)
    assert ranking["images"] <= 0.6 * 40 * 200
    assert accuracy[exhaustive["winner"]] - accuracy[ranking["winner"]] <= ranking["margin"]
    rows = read_jsonl(many.rank_path / "leaderboard.jsonl")
    assert rows[0]["id"] == ranking["winner"]
    assert rows[0]["n"] == 200
    assert [row["n"] for row in rows] == sorted((row["n"] for row in rows), reverse=True)
    assert sum(row["n"] for row in rows) == ranking["images"]
    whole = [row for row in rows if row["n"] == 200]
    assert all(row["accuracy"] == accuracy[row["id"]] for row in whole)
    assert ranking["looks"][-1]["images"] == ranking["images"]
    assert ranking["selection_accuracy"]["value"] == accuracy[ranking["winner"]]


def test_a_margin_is_kept(many: RunDirectory) -> None:
    ranking = rank(many, device="cpu", margin=0.05, confidence=0.9)
    assert ranking["method"] == "race"
    assert ranking["margin"] <= 0.05
    assert ranking["selection_accuracy"]["n"] == 200
    assert ranking["confidence"] == 0.9


@pytest.mark.slow
def test_two_processes_write_what_one_writes(many: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(shutil.copytree(many.path, tmp_path / "other"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rank(many, device="cpu", budget=0.6)
    finally:
        torch.set_num_threads(threads)
    ranking = rank(other, device="cpu", procs=2, budget=0.6)
    assert ranking["processes"] == 2
    assert written(other) == written(many)


def test_an_interrupted_ranking_goes_on_and_ends_the_same(
    many: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RunDirectory(shutil.copytree(many.path, tmp_path / "other"))
    rank(many, device="cpu", method="exhaustive")
    plain, calls = Answers._group, 0

    def group(self, *args):
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *args)

    monkeypatch.setattr(Answers, "_group", group)
    with pytest.raises(Stopped, match="what has been evaluated is kept") as stopped:
        rank(other, device="cpu", method="exhaustive")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert not other.rank_path.exists()
    calls = -(10**6)
    ranking = rank(other, device="cpu", method="exhaustive")
    assert ranking["images_resumed"] == 2 * 16 * 200
    assert written(other) == written(many)
    assert not (other.path / FOLDER).exists()


def test_one_process_stops_after_the_candidate_at_hand(many: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []
    plain = Evaluator.ready

    def ready(self, candidate, **kwargs):
        evaluated.append(candidate.id)
        if len(evaluated) == 3:
            signal.raise_signal(signal.SIGINT)
        return plain(self, candidate, **kwargs)

    monkeypatch.setattr(Evaluator, "ready", ready)
    with pytest.raises(Stopped) as stopped:
        rank(many, device="cpu", method="exhaustive")
    assert stopped.value.exit_code == 130
    assert len(evaluated) == 3


def test_answers_of_other_weights_or_damaged_ones_are_not_reused(tmp_path: Path) -> None:
    images = np.arange(3)
    answers = np.array([[True, False, True]]), np.array([[-0.5, -math.inf, -0.25]], np.float32)
    journal = Journal(tmp_path / "j", {"checkpoint": "a"})
    key = journal.key(["c"], images)
    journal.write(key, answers)
    again = Journal(tmp_path / "j", {"checkpoint": "a"})
    stored = again.read(key, (1, 3))
    assert stored is not None
    assert all(np.array_equal(a, b) for a, b in zip(stored, answers, strict=True))
    assert again.read(key, (1, 4)) is None
    assert again.read(journal.key(["d"], images), (1, 3)) is None
    assert journal.key(["c"], images + 1) != key
    file = tmp_path / "j" / f"{key}.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert again.read(key, (1, 3)) is None
    journal.write(key, answers)
    assert Journal(tmp_path / "j", {"checkpoint": "b"}).read(key, (1, 3)) is None
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("way", [Way(channels_last=True), Way(repays=1), Way(repays=10**9)], ids=str)
def test_every_way_gives_the_same_answers(run: RunDirectory, way: Way) -> None:
    data, device = open_data("digits"), torch.device("cpu")
    candidates, positions = read_candidates(run)[:3], np.arange(200)[::-1].copy()
    plain = Evaluator(trained_supernet(run), data, device).outcomes(candidates, "selection", positions, lambda: None)
    found = Evaluator(trained_supernet(run), data, device, way=way).outcomes(
        candidates, "selection", positions, lambda: None
    )
    assert np.array_equal(found[0], plain[0])
    assert found[1] == pytest.approx(plain[1], abs=1e-4)
    whole = Evaluator(trained_supernet(run), data, device).score(candidates[0], "selection")
    assert (whole.correct, whole.log_likelihood) == (plain[0][0].sum(), pytest.approx(plain[1][0].mean(), abs=1e-5))


def test_whether_building_repays_is_measured(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(trained_supernet(run), open_data("digits"), torch.device("cpu"))
    candidate = read_candidates(run)[0]
    # time of: build, compact, masked, nine times each
    for compact, wanted in ((1.0, 201), (3.0, None)):
        durations = iter([2.0, compact, 3.0] * 9)
        clock = iter(value for duration in durations for value in (0.0, duration))
        monkeypatch.setattr("pgnas_cli.ranking.evaluate.time.process_time", lambda clock=clock: next(clock))
        assert measured_way(evaluator, candidate) == wanted


@pytest.mark.parametrize(
    ("method", "candidates", "images", "name", "budget"),
    [
        (Method(), 100, 1000, "race", 0.15),
        (Method(), 99, 1000, "exhaustive", None),
        (Method(), 100, 999, "exhaustive", None),
        (Method(margin=0.01), 5, 50, "race", None),
        (Method(budget=0.5), 5, 50, "race", 0.5),
        (Method("race"), 5, 50, "race", 0.15),
        (Method("exhaustive"), 10**4, 10**5, "exhaustive", None),
    ],
)
def test_what_auto_means(method: Method, candidates: int, images: int, name: str, budget: float | None) -> None:
    found = method.resolved(candidates, images)
    assert (found.name, found.budget) == (name, budget)


def test_answers_of_another_training_of_as_many_steps_are_not_reused(
    many: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint has the same name, and the same masks may be drawn."""
    monkeypatch.setattr(Journal, "close", lambda self: None)
    rank(many, device="cpu", method="exhaustive")
    assert rank(many, device="cpu", method="exhaustive")["images_resumed"] == 40 * 200
    many.finish("train", {**many.require("train"), "finished": "2026-01-01T00:00:00Z"})
    assert rank(many, device="cpu", method="exhaustive")["images_resumed"] == 0
