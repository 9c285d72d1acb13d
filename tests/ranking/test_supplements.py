"""Front, certify and finetune: what they add to a ranking, what is not done again, what an interruption leaves."""

from __future__ import annotations

import re
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.export import export
from pgnas_cli.export.verify import verify
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking import fidelity, frontier, supplements
from pgnas_cli.ranking import finetune as finetuning
from pgnas_cli.ranking.candidates import ranked_candidates, read_candidates, sample, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.fidelity import FILE, certify, spread
from pgnas_cli.ranking.finetune import Trained, finetune
from pgnas_cli.ranking.frontier import fronts
from pgnas_cli.ranking.latency import Latency
from pgnas_cli.ranking.rank import rank
from pgnas_cli.ranking.supplements import Supplements
from pgnas_cli.run import RunDirectory, read_json, read_jsonl
from pgnas_cli.training.data import open_data
from pgnas_cli.training.progress import TrainProgress


@pytest.fixture(autouse=True)
def _fixed_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is a matter of the machine: here it grows with the id."""

    monkeypatch.setattr(supplements, "time", SimpleNamespace(perf_counter=count().__next__))  # a second each time

    def measure(networks, images, **options):
        return {name: Latency(int(name, 16) * 1e-20, 0.0, 1.0, len(images), 3) for name in networks}

    monkeypatch.setattr(frontier, "measure", measure)


class Guess(nn.Module):
    """Stands for a candidate's fresh network, which takes longer to build: linear, with weights of its own."""

    def __init__(self, net: nn.Module, candidate: Candidate, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(int(candidate.id[:8], 16) + seed % 1000)
        self.weight = torch.randn(64, 10, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Epochs of every training, fine-tuning or from scratch. It leaves the network as it is, but for the report."""
    found: list[int] = []

    def fake(network, recipe, data, device, report):
        found.append(recipe.schedule.epochs)
        report(TrainProgress(1, 1, 1, 2, {"loss": 1.0}))
        report(TrainProgress(1, 1, 2, 2, {"loss": 0.5}))
        return Trained(network.eval(), 100, 0.5)

    monkeypatch.setattr(fidelity, "fresh_network", Guess)
    monkeypatch.setattr(fidelity, "train_compact", fake)
    monkeypatch.setattr(finetuning, "train_compact", fake)
    return found


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often candidates have been compared, a group of them at a time, and scored on a whole split."""
    count: Counter[str] = Counter()
    outcomes, score = Evaluator.outcomes, Evaluator.score

    def counted_outcomes(self, *args):
        count["outcomes"] += 1
        return outcomes(self, *args)

    def counted_score(self, candidate, split, **kwargs):
        count[split] += 1
        return score(self, candidate, split, **kwargs)

    monkeypatch.setattr(Evaluator, "outcomes", counted_outcomes)
    monkeypatch.setattr(Evaluator, "score", counted_score)
    return count


def stored(run: RunDirectory) -> dict:
    return read_json(run.rank_path / "ranking.json")


def rows_of(run: RunDirectory) -> list[dict]:
    return read_jsonl(run.rank_path / "leaderboard.jsonl")


def files_of(run: RunDirectory) -> dict[Path, bytes]:
    paths = [path for path in run.path.rglob("*") if path.is_file()]
    return {path.relative_to(run.path): path.read_bytes() for path in paths}


def without(found: dict, *names: str) -> dict:
    return {name: value for name, value in found.items() if name not in names}


def scratch_ids(run: RunDirectory) -> list[str]:
    return [row["id"] for row in read_jsonl(run.path / FILE)]


# ---- what is there ----


def test_each_is_what_its_own_module_gives(run: RunDirectory, trained: list[int]) -> None:
    ranking = rank(run, device="cpu", front=True, certify=3, certify_epochs=4, finetune=2, confidence=0.9)
    assert trained == [4, 4, 4, 2]
    assert stored(run) == ranking
    evaluator = Evaluator(sampled_supernet(run), open_data("digits"), torch.device("cpu"))
    candidates, rows = read_candidates(run), rows_of(run)
    winner = next(candidate for candidate in candidates if candidate.id == ranking["winner"])
    front = fronts(rows, evaluator, candidates, winner.id, confidence=0.9)
    assert ranking["front"] == {**front, "images": 0, "seconds": 1}
    certified = certify(run, evaluator, candidates, rows, 3, epochs=4, confidence=0.9)
    assert ranking["certify"] == {**certified, "device": "cpu"}
    assert ranking["finetune"] == {**finetune(run, evaluator, winner, 2, confidence=0.9), "device": "cpu"}
    assert ranking["certify"]["confidence"] == ranking["front"]["confidence"] == 0.9


def test_without_any_there_is_none(run: RunDirectory) -> None:
    assert not {"front", "certify", "finetune"} & rank(run, device="cpu").keys()
    assert not Supplements()


def test_fine_tuning_leaves_the_winner_as_it_was(run: RunDirectory, trained: list[int]) -> None:
    plain = rank(run, device="cpu")
    ranking = rank(run, device="cpu", finetune=1)
    assert without(ranking, "finetune") == plain
    assert ranking["finetune"]["test_accuracy"] == plain["test_accuracy"]  # the training that left it as it was


def test_candidates_of_evolution_are_certified_and_on_the_front_too(run: RunDirectory, trained: list[int]) -> None:
    ranking = rank(run, device="cpu", evolve=8, front=True, certify=12)
    strategies = {candidate.id: candidate.strategy for candidate in ranked_candidates(run)}
    rows = rows_of(run)
    assert [row["id"] for row in ranking["certify"]["candidates"]] == [rows[place]["id"] for place in spread(16, 12)]
    assert "evolution" in {strategies[row["id"]] for row in ranking["certify"]["candidates"]}
    points = {point["id"]: point for point in ranking["front"]["points"]}
    assert {row["id"] for objective in ("params", "macs") for row in frontier.front(rows, objective)} | {
        ranking["winner"]
    } == points.keys()


def test_estimates_of_a_race_are_replaced_and_counted(run: RunDirectory, compared: Counter[str]) -> None:
    sample(run, n=40, seed=3, force=True)
    ranking = rank(run, device="cpu", budget=0.4, front=True)
    partial = {row["id"] for row in rows_of(run) if row["n"] < 200}
    assert {point["selection_accuracy"]["n"] for point in ranking["front"]["points"]} == {200}
    assert ranking["front"]["images"] == 200 * compared["selection"]
    assert compared["selection"] >= len(partial & {point["id"] for point in ranking["front"]["points"]}) > 0
    assert ranking["images"] <= 0.4 * 40 * 200


# ---- what is not done again ----


def test_another_supplement_is_added_without_comparing_again(
    run: RunDirectory, trained: list[int], compared: Counter[str]
) -> None:
    first = rank(run, device="cpu", front=True)
    board = (run.rank_path / "leaderboard.jsonl").read_bytes()
    assert compared == {"outcomes": 1, "test": 1}
    compared.clear()
    second = rank(run, device="cpu", certify=3)
    assert compared == {}
    assert without(second, "certify") == first
    third = rank(run, device="cpu", finetune=1)
    assert without(third, "finetune") == second
    assert rank(run, device="cpu", front=True, certify=3) == third
    assert (compared, trained) == ({}, [1, 1, 1, 1])
    assert stored(run) == third
    assert (run.rank_path / "leaderboard.jsonl").read_bytes() == board
    assert run.require("rank")["winner"] == first["winner"]


def test_asked_for_otherwise_it_replaces_the_last_of_its_kind(run: RunDirectory, trained: list[int]) -> None:
    first = rank(run, device="cpu", certify=3, finetune=1)
    second = rank(run, device="cpu", certify=4, certify_epochs=2, finetune=3)
    assert (first["certify"]["k"], second["certify"]["k"]) == (3, 4)
    assert (second["certify"]["epochs"], second["finetune"]["epochs"]) == (2, 3)
    assert stored(run) == second
    assert trained == [1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"confidence": 0.9}, "confidence"), ({"budget": 0.9, "seed": 3}, "budget and seed"), ({"evolve": 2}, "evolve")],
    ids=str,
)
def test_another_method_does_not_replace_a_ranking_that_is_to_be_added_to(
    run: RunDirectory, trained: list[int], compared: Counter[str], options: dict, named: str
) -> None:
    rank(run, device="cpu", finetune=1)
    before = files_of(run)
    compared.clear()
    with pytest.raises(UsageError, match=f"the last ranking was made with another {named}$") as error:
        rank(run, device="cpu", certify=3, **options)
    assert "--force" in error.value.hint
    assert not compared
    assert files_of(run) == before


def test_what_evolution_has_found_is_added_to_without_its_options(
    run: RunDirectory, trained: list[int], compared: Counter[str]
) -> None:
    first = rank(run, device="cpu", evolve=6)
    compared.clear()
    ranking = rank(run, device="cpu", front=True)
    assert compared["outcomes"] == compared["test"] == 0
    assert without(ranking, "front") == without(first, "front")
    assert (run.rank_path / "candidates.jsonl").is_file()


@pytest.mark.parametrize("options", [{"force": True}, {"force": True, "evolve": 2}], ids=str)
def test_by_force_everything_is_compared_again(
    run: RunDirectory, trained: list[int], compared: Counter[str], options: dict
) -> None:
    rank(run, device="cpu", finetune=1)
    compared.clear()
    ranking = rank(run, device="cpu", certify=3, **options)
    assert compared["outcomes"] >= 1
    assert compared["test"] == 1
    assert "finetune" not in ranking
    assert stored(run) == ranking
    compared.clear()
    assert rank(run, device="cpu", certify=3, **without(options, "force")) == ranking
    assert compared["outcomes"] == 0


def test_a_new_sample_is_compared_again(run: RunDirectory, trained: list[int], compared: Counter[str]) -> None:
    rank(run, device="cpu", front=True)
    sample(run, n=6, seed=9, force=True)
    compared.clear()
    ranking = rank(run, device="cpu", certify=3)
    assert compared == {"outcomes": 1, "test": 1}
    assert "front" not in ranking
    assert {row["id"] for row in ranking["certify"]["candidates"]} <= {c.id for c in read_candidates(run)}


def test_what_was_trained_from_scratch_survives_a_new_ranking(run: RunDirectory, trained: list[int]) -> None:
    first = rank(run, device="cpu", certify=3)
    ids = scratch_ids(run)
    assert len(ids) == len(trained) == 3
    rank(run, device="cpu", force=True)
    assert scratch_ids(run) == ids
    assert rank(run, device="cpu", certify=3)["certify"] == first["certify"]
    assert len(trained) == 3
    ranking = rank(run, device="cpu", certify=3, evolve=6, force=True)
    chosen = {row["id"] for row in ranking["certify"]["candidates"]}
    assert len(trained) == 3 + len(chosen - set(ids))
    sample(run, n=8, seed=1, force=True)
    assert not run.rank_path.exists()  # a new sample begins anew, but for what was trained
    assert rank(run, device="cpu", certify=3)["certify"] == first["certify"]


# ---- interruptions ----


def test_interrupted_while_it_trains_it_leaves_a_valid_ranking_and_goes_on(
    run: RunDirectory, trained: list[int], compared: Counter[str]
) -> None:
    told: list[tuple[str, int]] = []

    def report(what: str, progress: TrainProgress) -> None:
        told.append((what, progress.step))
        if told[-1] == ("certify", 3):  # in the second of three trainings
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank(run, device="cpu", front=True, certify=3, finetune=1, report_training=report)
    left = stored(run)
    assert "front" in left
    assert not {"certify", "finetune"} & left.keys()
    assert run.require("rank")["winner"] == left["winner"]
    assert len(scratch_ids(run)) == 1
    assert len(trained) == 2
    compared.clear()
    told.clear()
    ranking = rank(run, device="cpu", front=True, certify=3, finetune=1, report_training=lambda what, progress: (
        told.append((what, progress.step))
    ))  # fmt: skip
    assert compared == {}
    assert told == [("certify", step) for step in (3, 4, 5, 6)] + [("finetune", 1), ("finetune", 2)]
    assert without(ranking, "certify", "finetune") == left
    assert len(scratch_ids(run)) == 3


def test_interrupted_in_fine_tuning_it_keeps_what_was_certified(run: RunDirectory, trained: list[int]) -> None:
    def report(what: str, progress: TrainProgress) -> None:
        if what == "finetune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank(run, device="cpu", certify=3, finetune=1, report_training=report)
    assert stored(run)["certify"]["k"] == 3
    assert "finetune" not in stored(run)
    whole = rank(run, device="cpu", finetune=1)
    assert whole.keys() >= {"certify", "finetune"}
    assert trained == [1, 1, 1, 1, 1]


# ---- what is refused ----

REFUSED = [
    ({"certify": 2}, "--certify 2 was given, it should be at least 3", "--certify 3"),
    ({"certify": 0}, "--certify 0 was given", "--certify 3"),
    ({"certify_epochs": 3}, "--certify-epochs says how long --certify trains", "--certify 8"),
    ({"certify": 3, "certify_epochs": 0}, "--certify-epochs 0 was given", "--certify-epochs 10"),
    ({"finetune": 0}, "--finetune 0 was given, it should be at least 1", "--finetune 5"),
    ({"finetune": -1, "front": True}, "--finetune -1 was given", "--finetune 5"),
]


@pytest.mark.parametrize(("options", "message", "hint"), REFUSED)
def test_bad_numbers_are_refused_before_anything_is_done(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, options: dict, message: str, hint: str
) -> None:
    rank(run, device="cpu")
    before = files_of(run)
    monkeypatch.setattr(Evaluator, "outcomes", None)
    monkeypatch.setattr(supplements, "supplement", None)
    for more in ({}, {"force": True}, {"confidence": 0.9}):
        with pytest.raises(UsageError, match=re.escape(message)) as error:
            rank(run, device="cpu", **options, **more)
        assert error.value.hint == hint
    assert files_of(run) == before


@pytest.mark.parametrize(
    ("options", "most"), [({}, 8), ({"evolve": 4, "force": True}, 12), ({"force": True}, 8)], ids=str
)
def test_more_than_there_will_be_cannot_be_certified(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, options: dict, most: int
) -> None:
    rank(run, device="cpu", seed=7)
    before = files_of(run)
    monkeypatch.setattr(Evaluator, "outcomes", None)
    with pytest.raises(UsageError, match=f"{most} candidates are ranked") as error:
        rank(run, device="cpu", certify=most + 1, **options)
    assert error.value.hint == f"--certify {most}"
    assert files_of(run) == before


def test_what_a_ranking_cannot_give_leaves_it_as_it_was(run: RunDirectory, trained: list[int]) -> None:
    rank(run, device="cpu")
    before = files_of(run)
    with pytest.raises(UsageError, match="8 candidates are ranked"):
        rank(run, device="cpu", certify=9, finetune=1)
    assert files_of(run) == before
    assert trained == []


def test_it_is_refused_before_another_supplement_is_added(run: RunDirectory, trained: list[int]) -> None:
    rank(run, device="cpu")
    before = files_of(run)
    with pytest.raises(UsageError, match="8 candidates are ranked"):
        rank(run, device="cpu", front=True, certify=9)
    assert files_of(run) == before


def test_after_an_export_supplements_are_added_without_force(run: RunDirectory, trained: list[int]) -> None:
    rank(run, device="cpu")
    export(run)
    exported = {path: data for path, data in files_of(run).items() if path.parts[0] == "export"}
    with pytest.raises(RunError, match="export already used what rank wrote"):
        rank(run, device="cpu")
    with pytest.raises(UsageError, match="another confidence"):
        rank(run, device="cpu", front=True, confidence=0.9)
    ranking = rank(run, device="cpu", front=True, certify=3, finetune=1)
    assert ranking.keys() >= {"front", "certify", "finetune"}
    assert {path: data for path, data in files_of(run).items() if path.parts[0] == "export"} == exported
    assert run.stage("export") is not None
    assert verify(run.export_path, run).passed
