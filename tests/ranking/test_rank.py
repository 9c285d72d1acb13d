"""Ranking: the order, what it writes, which images it looks at, and what it refuses."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pgnas_cli.errors import DataError, RunError, UsageError
from pgnas_cli.ranking.candidates import read_candidates, sample
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.ranking.race import Field, exhaustive
from pgnas_cli.ranking.rank import rank
from pgnas_cli.ranking.recalibrate import recalibrated
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.restore import run_recipe
from pgnas_cli.run import RunDirectory, read_json, read_jsonl
from pgnas_cli.training.data import Data, open_data
from pgnas_cli.training.loop import trained_supernet
from pgnas_cli.training.objective import evaluate
from pgnas_cli.training.setup import open_run_data

KEYS = {"method", "winner", "candidates", "images", "images_exhaustive", "seconds", "selection_accuracy",
        "test_accuracy", "confidence", "margin"}  # fmt: skip


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each split has been read."""
    seen: Counter[str] = Counter()
    plain = Data.eval_batches

    def spy(self: Data, split: str, *args: object, **kwargs: object):
        seen[split] += 1
        return plain(self, split, *args, **kwargs)

    monkeypatch.setattr(Data, "eval_batches", spy)
    return seen


def leaderboard(run: RunDirectory) -> list[dict]:
    return read_jsonl(run.rank_path / "leaderboard.jsonl")


def test_accuracy_then_likelihood_then_size_then_id() -> None:
    rows = [  # correct of 10, log-likelihood, (parameters, id)
        (9, -3.0, (9, "b")),
        (8, -1.0, (9, "b")),
        (8, -2.0, (5, "b")),
        (8, -2.0, (6, "a")),
        (8, -2.0, (6, "b")),
        (8, -math.inf, (1, "a")),
        (8, math.nan, (2, "a")),
        (7, -0.1, (1, "a")),
    ]
    shuffled = rows[3:] + rows[:3]

    def answers(candidates, images):
        right = [[image < shuffled[index][0] for image in images] for index in candidates]
        log_prob = [[shuffled[index][1]] * len(images) for index in candidates]
        return np.array(right), np.array(log_prob, np.float32)

    field = Field(answers, len(rows), 10, seed=0, pilots=0, tie=[row[2] for row in shuffled])
    assert exhaustive(field, report=lambda look: None) == shuffled.index(rows[0])
    assert [shuffled[index] for index in field.ranked(np.arange(len(rows)))] == rows


def test_the_winner_is_chosen_on_selection_and_read_once_on_test(run: RunDirectory, looked_at) -> None:
    progress = []
    ranking = rank(run, device="cpu", report=progress.append)
    assert looked_at == {"selection": 1, "test": 1}
    assert read_json(run.rank_path / "ranking.json") == ranking
    assert ranking.keys() >= KEYS
    assert (ranking["images"], ranking["images_exhaustive"], ranking["candidates"]) == (1600, 1600, 8)
    assert (ranking["method"], ranking["confidence"], ranking["recalibration_effect"]) == ("exhaustive", 0.95, None)
    rows = leaderboard(run)
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert {row["id"] for row in rows} == {c.id for c in read_candidates(run)}
    keys = [(-row["accuracy"], -row["log_likelihood"], row["params"], row["id"]) for row in rows]
    assert keys == sorted(keys)
    assert len({row["accuracy"] for row in rows}) > 1
    assert ranking["winner"] == rows[0]["id"] == progress[-1].leader
    assert [report.done for report in progress[:8]] == list(range(200, 1601, 200))
    assert {report.total for report in progress} == {1600}
    accuracies = [row["accuracy"] for row in rows]
    assert ranking["distribution"]["mean"] == pytest.approx(np.mean(accuracies))
    assert ranking["distribution"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert run.require("rank")["winner"] == ranking["winner"]


def test_only_the_winner_meets_the_test_split(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgnas_cli.ranking.evaluate import Evaluator

    scored = []
    plain = Evaluator.score, Evaluator.outcomes

    def score(self, chosen, split, **kwargs):
        scored.append((split, chosen.id))
        return plain[0](self, chosen, split, **kwargs)

    def outcomes(self, chosen, split, *args):
        scored.extend((split, candidate.id) for candidate in chosen)
        return plain[1](self, chosen, split, *args)

    monkeypatch.setattr(Evaluator, "score", score)
    monkeypatch.setattr(Evaluator, "outcomes", outcomes)
    ranking = rank(run, device="cpu", recalibrate=64)
    assert [entry for entry in scored if entry[0] == "test"] == [("test", ranking["winner"])]
    assert scored[-1][0] == "test"
    assert "train" not in dict(scored)


@pytest.mark.parametrize("recalibrate", [0, 256])
def test_accuracies_are_those_of_the_compact_network(run: RunDirectory, recalibrate: int) -> None:
    ranking = rank(run, device="cpu", recalibrate=recalibrate)
    net, data = trained_supernet(run), open_data("digits")
    winner = next(c for c in read_candidates(run) if c.id == ranking["winner"])
    calibration = [x for x, _ in data.eval_batches("train", 256, limit=recalibrate)] if recalibrate else []
    with net.masked(winner), recalibrated(net, calibration):
        compact = net.compact(winner)
    for split in ("selection", "test"):
        score = evaluate(compact, data.eval_batches(split, 50))
        assert ranking[f"{split}_accuracy"] == wilson(score.correct, score.n).to_json()
    row = leaderboard(run)[0]
    score = evaluate(compact, data.eval_batches("selection", 50))
    assert (row["correct"], row["n"]) == (score.correct, score.n)
    assert row["log_likelihood"] == pytest.approx(score.log_likelihood, abs=1e-5)


def test_the_effect_of_recalibration_is_recorded(run: RunDirectory, looked_at) -> None:
    without = {row["id"]: row["accuracy"] for row in rank(run, device="cpu") and leaderboard(run)}
    looked_at.clear()
    ranking = rank(run, device="cpu", recalibrate=256)
    differences = [row["accuracy"] - without[row["id"]] for row in leaderboard(run)]
    effect = ranking["recalibration_effect"]
    assert effect["candidates"] == 8
    assert effect["mean"] == pytest.approx(np.mean(differences))
    assert effect["std"] == pytest.approx(np.std(differences, ddof=1))
    assert any(differences)
    assert (ranking["recalibrate"], ranking["images"]) == (256, 1600)
    assert looked_at == {"selection": 2, "train": 1, "test": 1}  # without recalibration, once more


def test_recalibration_takes_no_more_than_the_training_images(run: RunDirectory) -> None:
    assert rank(run, device="cpu", recalibrate=10**6)["recalibrate"] == 1197


def test_the_same_run_ranks_the_same(run: RunDirectory) -> None:
    first, second = [{**rank(run, device="cpu"), "seconds": 0} for _ in range(2)]
    assert not (run.path / ".ranking").exists()
    assert first == second


# ---- what is refused ----


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seed = 0", "seed = 1", "the train images, their labels or their order differ"),
        ('name = "digits"', 'name = "folder:{folder}"', "num_classes"),
    ],
)
def test_other_data_are_refused_before_an_image_is_scored(run: RunDirectory, tmp_path: Path, old, new, named) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for index in range(6):
                Image.new("L", (8, 8), 40 * index).save(tmp_path / "photos" / split / label / f"{index}.png")
    recipe = run.train_path / "recipe.toml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new.format(folder=tmp_path / "photos"), 1))
    with pytest.raises(DataError, match=f"has changed since training: {named}") as error:
        rank(run, device="cpu")
    assert "train again" in error.value.hint
    assert not run.rank_path.exists()


def test_one_changed_image_is_enough_and_the_same_images_are_not_refused(run: RunDirectory, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(6):
                Image.new("L", (20, 20), 40 * index).save(tmp_path / split / label / f"{index}.png")
    recipe = run.train_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "digits"', f'name = "folder:{tmp_path}"', 1))
    described = open_run_data(run, run_recipe(run)).describe()
    manifest = json.loads(run.manifest_path.read_text())
    manifest["stages"]["train"]["data"] = described
    run.manifest_path.write_text(json.dumps(manifest))
    assert same_data(run).describe() == described
    Image.new("L", (20, 20), 7).save(tmp_path / "val" / "b" / "3.png", compress_level=0)
    with pytest.raises(DataError, match=r"has changed since training: the test images, their labels") as error:
        same_data(run)
    assert f"pgnas train --run {run.path} --data folder:{tmp_path} --force" in error.value.hint


def test_ranking_before_sampling_names_the_command(run: RunDirectory) -> None:
    run.forget("sample")
    with pytest.raises(RunError, match="no finished sample stage") as error:
        rank(run, device="cpu")
    assert error.value.hint == f"pgnas sample --run {run.path}"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"method": "luck"}, "--method"),
        ({"recalibrate": -1}, "--recalibrate"),
        ({"seed": -1}, "--seed"),
        ({"confidence": 1.0}, "--confidence"),
        ({"margin": 1.5}, "--margin"),
        ({"margin": -0.1}, "--margin"),
        ({"budget": 0.0}, "--budget"),
        ({"budget": 1.1}, "--budget"),
        ({"budget": 0.1, "margin": 0.1}, "leave one"),
        ({"method": "exhaustive", "budget": 0.5}, "--method race"),
        ({"method": "exhaustive", "margin": 0.5}, "--method race"),
        ({"method": "race", "budget": 0.01}, "--method exhaustive"),
    ],
)
def test_options_out_of_range(run: RunDirectory, options: dict, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        rank(run, device="cpu", **options)
    assert hint in error.value.hint


def test_sampling_again_after_ranking_asks_for_force_and_drops_the_ranking(run: RunDirectory) -> None:
    rank(run, device="cpu")
    with pytest.raises(RunError, match="rank already used"):
        sample(run, n=2)
    assert len(leaderboard(run)) == 8
    sample(run, n=2, force=True)
    assert not run.rank_path.exists()
    assert run.stage("rank") is None


def test_logits_that_are_not_finite_lose(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that breaks down is last, and the files stay valid JSON."""
    from pgnas_cli.ranking.evaluate import Evaluator

    broken = read_candidates(run)[0].id
    plain = Evaluator.ready

    @contextmanager
    def ready(self, chosen, **kwargs):
        with plain(self, chosen, **kwargs) as model:
            yield (lambda images: model(images) * math.nan) if chosen.id == broken else model

    monkeypatch.setattr(Evaluator, "ready", ready)
    rank(run, device="cpu")
    last = leaderboard(run)[-1]
    assert (last["id"], last["log_likelihood"], last["accuracy"]) == (broken, None, 0.0)


def test_scoring_leaves_the_supernet_as_it_was(run: RunDirectory) -> None:
    from pgnas_cli.ranking.evaluate import Evaluator

    net = trained_supernet(run)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluator = Evaluator(net, open_data("digits"), torch.device("cpu"), recalibrate=64)
    first, second = read_candidates(run)[:2]
    a = evaluator.score(first, "selection")
    evaluator.score(second, "selection")
    assert evaluator.score(first, "selection") == a
    assert evaluator.images == 600
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
