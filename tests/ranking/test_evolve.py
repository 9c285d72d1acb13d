"""Evolution inside a ranking: who is told, who is let in, what it costs, and what the run keeps of it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pgnas_cli.errors import Stopped, UsageError
from pgnas_cli.export.export import export
from pgnas_cli.export.verify import verify
from pgnas_cli.posterior.assessment import Assessment
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.strategies.evolution import POPULATION, Evolution
from pgnas_cli.posterior.strategies.strategy import Strategy
from pgnas_cli.ranking.answers import Answers
from pgnas_cli.ranking.candidates import MASKS, ROWS, ranked_candidates, read_candidates, sample
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.evolve import GENERATION, evolve, proposer
from pgnas_cli.ranking.journal import FOLDER
from pgnas_cli.ranking.method import Method
from pgnas_cli.ranking.race import Field, Look
from pgnas_cli.ranking.rank import compare, rank
from pgnas_cli.run import RunDirectory, load_tensors, read_json, read_jsonl, save_tensors
from pgnas_cli.training.distributed import World

IMAGES = 300
SIZES = {"a": (1,) * 20, "b": (2,) * 10, "c": (1,) * 20}
TIMES = {"seconds": 0, "images_resumed": 0, "processes": 0}


def posterior(drop: float = 0.5) -> Posterior:
    return Posterior({name: LayerPosterior(np.full(len(s), drop), s) for name, s in SIZES.items()})


def flat(masks: Masks) -> np.ndarray:
    return np.concatenate([masks[name] for name in SIZES])


def cost(masks: Masks) -> Assessment:
    """Parameters: the channels that are kept."""
    kept = int(flat(masks).sum())
    return Assessment(kept, 10 * kept, usable=bool(kept))


def drawn(number: int, seed: int) -> list[Candidate]:
    """Draws from the posterior."""
    generator = np.random.default_rng(seed)
    draws = [posterior().draw(generator) for _ in range(number)]
    return [Candidate(masks, "posterior", cost(masks).params, cost(masks).macs) for masks in draws]


class Needs:
    """Outcomes of candidates that answer an image rightly if they keep the one channel that it needs.

    The accuracy is the share of the images whose channel is kept. Channels of half of the indices are needed.
    """

    def __init__(self, candidates: Sequence[Candidate], seed: int = 0) -> None:
        self.candidates = candidates
        self.channel = np.random.default_rng(seed).integers(30, size=IMAGES)
        self.asked: list[tuple[int, int]] = []

    def __call__(self, candidates: Sequence[int], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked += [(candidate, int(image)) for candidate in candidates for image in images]
        right = np.array([flat(self.candidates[index].masks)[self.channel[images]] for index in candidates])
        return right, np.where(right, -0.1, -3.0).astype(np.float32)

    def accuracy(self, candidate: Candidate) -> float:
        return float(flat(candidate.masks)[self.channel].mean())


def field_of(candidates: Sequence[Candidate], outcomes: Needs, seed: int = 0) -> Field:
    tie = [(candidate.params, candidate.id) for candidate in candidates]
    return Field(outcomes, len(candidates), IMAGES, seed=seed, pilots=0, tie=tie)


class Recorder(Strategy):
    """Keeps what it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.told: list[list[tuple[str, float]]] = []

    @classmethod
    def make(cls, *args: object, **kwargs: object) -> Recorder:
        raise AssertionError("the tests make it")

    def ask(self, n: int) -> list[Masks]:
        raise AssertionError("proposals come from `propose`")

    def tell(self, scored: Sequence[tuple[Masks, float]]) -> None:
        self.told.append([(Candidate(masks, "", 0, 0).id, score) for masks, score in scored])


class Supply:
    """Proposes the candidates that it was given, in their order, as many as are asked for."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.left = list(candidates)
        self.asked: list[tuple[int, set[str]]] = []

    def __call__(self, number: int, known: set[str]) -> list[Candidate]:
        self.asked.append((number, set(known)))
        found, self.left = self.left[:number], self.left[number:]
        return found


def ignore(look: Look) -> None:
    pass


# ---- the loop ----


@pytest.mark.parametrize("number", [10, POPULATION + 36])
def test_the_best_are_told_first_of_all_and_the_best_last(number: int) -> None:
    candidates, recorder = drawn(number, 1), Recorder()
    outcomes = Needs(candidates)
    field = field_of(candidates, outcomes)
    assert evolve(field, candidates, recorder, Supply([]), number=8, seen=IMAGES, report=ignore) == 0
    (told,) = recorder.told
    best = sorted(candidates, key=lambda c: (-outcomes.accuracy(c), c.params, c.id))[:POPULATION]
    assert [name for name, _ in told] == [candidate.id for candidate in reversed(best)]
    assert [score for _, score in told] == pytest.approx([outcomes.accuracy(c) for c in reversed(best)])
    assert told[-1][1] > told[0][1]
    assert len(field) == len(candidates) == number


def test_scores_are_told_after_every_generation() -> None:
    candidates, recorder, looks = drawn(12, 1), Recorder(), list[Look]()
    outcomes = Needs(candidates)
    field, new = field_of(candidates, outcomes), drawn(40, 2)
    supply = Supply(new)
    added = evolve(field, candidates, recorder, supply, number=40, seen=100, report=looks.append)
    sizes = [GENERATION, GENERATION, 40 - 2 * GENERATION]
    assert added == 40
    assert [number for number, _ in supply.asked] == sizes
    assert [len(told) for told in recorder.told] == [12, *sizes]
    assert [name for told in recorder.told[1:] for name, _ in told] == [candidate.id for candidate in new]
    estimated = field.accuracy(np.arange(12, 52))
    assert [score for told in recorder.told[1:] for _, score in told] == pytest.approx(list(estimated))
    assert [len(known) for _, known in supply.asked] == [12, 28, 44]
    assert supply.asked[-1][1] == {candidate.id for candidate in candidates[:44]}
    assert [(look.seen, look.racing, look.staying) for look in looks] == [(100, n, n) for n in (28, 44, 52)]
    assert [look.images for look in looks] == [28 * 100, 44 * 100, 52 * 100]


def test_candidates_and_field_grow_together() -> None:
    candidates, new = drawn(12, 1), drawn(20, 2)
    outcomes = Needs(candidates)
    field = field_of(candidates, outcomes)
    evolve(field, candidates, Recorder(), Supply(new), number=20, seen=90, report=ignore)
    assert candidates[12:] == new
    assert len(field) == len(candidates) == len(field.tie) == len(field.right) == len(field.log_prob) == 32
    assert field.tie == [(candidate.params, candidate.id) for candidate in candidates]
    assert field.seen.tolist() == [90] * 32
    assert field.start.tolist() == [0] * 12 + [90] * 20
    assert len(outcomes.asked) == len(set(outcomes.asked)) == field.spent == 32 * 90
    field.show(np.arange(32), IMAGES)
    assert field.accuracy(np.arange(32)) == pytest.approx([outcomes.accuracy(c) for c in candidates])


def test_who_is_added_is_compared_like_the_others_where_accuracies_are_equal() -> None:
    """Channels from 30 on are needed by no image: dropping them makes a candidate smaller and no worse."""
    (parent,) = drawn(1, 1)
    smaller, larger = ({name: mask.copy() for name, mask in parent.masks.items()} for _ in range(2))
    smaller["c"][:], larger["c"][:] = False, True
    new = [Candidate(masks, "evolution", cost(masks).params, cost(masks).macs) for masks in (larger, smaller)]
    candidates = [parent]
    field = field_of(candidates, Needs(candidates))
    evolve(field, candidates, Recorder(), Supply(new), number=2, seen=IMAGES, report=ignore)
    assert new[1].params < parent.params < new[0].params
    assert field.ranked(np.arange(3)).tolist() == [2, 0, 1]


def test_it_ends_where_nothing_new_is_proposed() -> None:
    candidates, supply, looks = drawn(12, 1), Supply(drawn(21, 2)), list[Look]()
    field = field_of(candidates, Needs(candidates))
    assert evolve(field, candidates, Recorder(), supply, number=400, seen=IMAGES, report=looks.append) == 21
    assert [number for number, _ in supply.asked] == [GENERATION] * 3
    assert len(field) == len(candidates) == 33
    assert len(looks) == 2


def test_proposals_are_new_usable_and_within_the_limits() -> None:
    net, old, known = SimpleNamespace(assess_many=lambda many: [cost(m) for m in many]), drawn(20, 1), set[str]()
    for total in (12, 24):  # the second search proposes what the first did, which is known by then
        search = Evolution(posterior(), 0)
        search.tell([(dict(candidate.masks), 0.5) for candidate in old])
        found = proposer(net, search, World(), max_params=31, max_macs=290)(12, known)
        known |= {candidate.id for candidate in found}
        assert len(known) == total
        assert {candidate.strategy for candidate in found} == {"evolution"}
        assert max(candidate.params for candidate in found) <= 29
    assert proposer(net, search, World(), max_params=0, max_macs=0)(12, set()) == []


def test_other_processes_than_the_master_do_not_propose(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get what the master found: here nothing is sent, and nothing was found."""
    monkeypatch.setattr("pgnas_cli.training.distributed.broadcast_object", lambda value, world: value)
    search, net = Evolution(posterior(), 0), SimpleNamespace(assess_many=lambda many: [cost(m) for m in many])
    assert proposer(net, search, World(rank=1, size=2), max_params=60, max_macs=600)(12, set()) == []
    assert len(proposer(net, search, World(rank=0, size=2), max_params=60, max_macs=600)(12, set())) == 12


def test_evolution_finds_better_candidates_than_as_many_draws() -> None:
    """Sixty draws and a hundred children against a hundred and sixty draws, six seeds."""
    net = SimpleNamespace(assess_many=lambda many: [cost(masks) for masks in many])
    gains = []
    for seed in range(6):
        candidates, search = drawn(60, seed), Evolution(posterior(), seed)
        outcomes = Needs(candidates, seed)
        propose = proposer(net, search, World(), max_params=60, max_macs=600)
        field = field_of(candidates, outcomes, seed)
        assert evolve(field, candidates, search, propose, number=100, seen=IMAGES, report=ignore) == 100
        evolved = max(outcomes.accuracy(candidate) for candidate in candidates)
        gains.append(evolved - max(outcomes.accuracy(candidate) for candidate in drawn(160, seed)))
    assert min(gains) > 0.02
    assert np.mean(gains) > 0.04


# ---- in a race ----


class Overfitted:
    """Outcomes of candidates of whom the last ones were proposed because of the first images, in the extreme.

    They answer all of those rightly; on the others they are worse than most.
    """

    def __init__(self, sampled: int, added: int, images: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rate = np.concatenate([np.clip(rng.normal(0.77, 0.04, sampled), 0, 1), np.full(added, 0.72)])
        self.right = rng.random((sampled + added, images)) < rate[:, None]
        self.sampled = sampled

    def fit(self, images: np.ndarray) -> None:
        self.right[self.sampled :, images] = True

    def __call__(self, candidates: Sequence[int], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = self.right[np.ix_(list(candidates), images)]
        return right, np.where(right, -0.1, -2.0).astype(np.float32)


def numbered(number: int) -> Candidate:
    bits = np.array([int(bit) for bit in f"{number:010b}"], bool)
    return Candidate({"a": bits}, "posterior", number, number)


@pytest.mark.parametrize("method", [Method("race", 0.8, margin=0.02), Method("race", 0.8, budget=0.3)], ids=str)
def test_the_guarantee_holds_for_candidates_that_were_chosen_by_the_first_images(method: Method) -> None:
    """At 80 % confidence at most 20 of 100 races may miss; one that is 3 standard errors above would be 32."""
    missed, sampled, added = 0, 20, 4
    for seed in range(100):
        outcomes = Overfitted(sampled, added, 1600, seed)
        candidates = [numbered(index) for index in range(sampled)]

        def search(field: Field, seen: int, report: Callable[[Look], None], told=outcomes, known=candidates) -> None:
            told.fit(field.draws.order[:seen])
            new = Supply([numbered(sampled + index) for index in range(added)])
            evolve(field, known, Recorder(), new, number=added, seen=seen, report=report)

        found = compare(outcomes, candidates, 1600, Method(**{**vars(method), "evolve": added, "seed": seed}), ignore,
                        search)  # fmt: skip
        field, winner, margin = found
        assert len(field) == sampled + added
        assert field.spent <= (method.budget or 1) * field.right.size
        accuracy = outcomes.right.mean(1)
        missed += accuracy.max() - accuracy[winner] > margin + 1e-12
    assert missed <= 20 + 3 * 4


def test_everybody_is_judged_by_the_first_slice_of_a_race_or_by_all_images() -> None:
    seen_by = {}
    for name, method in {
        "exhaustive": Method("exhaustive", evolve=8),
        "margin": Method("race", margin=0.01, evolve=8),
        "budget": Method("race", budget=0.5, evolve=8),
    }.items():
        candidates = drawn(30, 1)

        def search(field: Field, seen: int, report: object, name: str = name) -> None:
            assert field.spent == field.pilots * IMAGES
            seen_by[name] = seen

        compare(Needs(candidates), candidates, IMAGES, method, ignore, search)
    assert seen_by == {"exhaustive": 300, "margin": 32, "budget": 32}


def test_a_budget_that_is_too_small_for_the_expected_ones_is_refused_before_anything_is_evaluated() -> None:
    candidates = drawn(40, 1)
    outcomes = Needs(candidates)
    compare(outcomes, candidates, IMAGES, Method("race", budget=0.2), ignore)  # enough without them
    outcomes.asked.clear()

    def search(*_: object) -> None:
        raise AssertionError("refused before")

    with pytest.raises(UsageError, match="1040 candidates need"):
        compare(outcomes, candidates, IMAGES, Method("race", budget=0.1, evolve=1000), ignore, search)
    assert outcomes.asked == []


def test_a_race_goes_on_where_evolution_finds_nothing() -> None:
    candidates = drawn(40, 1)
    outcomes = Needs(candidates)
    method = Method("race", budget=0.2, evolve=400)
    field, winner, _ = compare(outcomes, candidates, IMAGES, method, ignore, lambda field, seen, report: 0)
    assert field.seen[winner] == IMAGES


# ---- a real run ----


def written(run: RunDirectory) -> dict[str, object]:
    """What a ranking leaves, without how long it took. Safetensors writes its metadata in no fixed order."""
    tensors, metadata = load_tensors(run.rank_path / MASKS, hint="")
    return {
        "rows": read_jsonl(run.rank_path / "leaderboard.jsonl"),
        "ranking": {**read_json(run.rank_path / "ranking.json"), **TIMES},
        MASKS: ({name: tensor.tolist() for name, tensor in tensors.items()}, metadata),
        ROWS: (run.rank_path / ROWS).read_bytes(),
    }


def narrow(run: RunDirectory, layer: str = "") -> int:
    """Make the posterior keep all channels, but those of one layer at p = 0.5; how many networks it then holds."""
    checkpoint = run.path / run.require("train")["checkpoint"]
    tensors, metadata = load_tensors(checkpoint, hint="")
    logits = [name for name in tensors if name.endswith(".drop_logit")]
    for name in logits:
        tensors[name] = torch.full_like(tensors[name], 0.0 if name == f"backbone.{layer}.gate.drop_logit" else -200.0)
    save_tensors(checkpoint, tensors, metadata)
    return 2 ** sum(len(read_candidates(run)[0].masks[name]) for name in [layer] if name)


def test_an_exhaustive_ranking_shows_the_evolved_every_image(run: RunDirectory) -> None:
    sampled, progress = read_candidates(run), []
    ranking = rank(run, device="cpu", evolve=20, report=progress.append)
    rows = read_jsonl(run.rank_path / "leaderboard.jsonl")
    assert (ranking["candidates"], ranking["evolved"]) == (28, 20)
    assert ranking["images"] == ranking["images_exhaustive"] == 28 * 200
    assert {row["n"] for row in rows} == {200}
    by_strategy = {row["id"]: row["strategy"] for row in rows}
    assert sorted(by_strategy.values()) == ["evolution"] * 20 + ["posterior"] * 8
    everyone = ranked_candidates(run)
    assert everyone[:8] == sampled == read_candidates(run)
    assert {candidate.id: candidate.strategy for candidate in everyone} == by_strategy
    assert read_jsonl(run.rank_path / ROWS)[0]["candidates"] == 20
    for unit in ("params", "macs"):
        assert max(getattr(c, unit) for c in everyone) == max(getattr(c, unit) for c in sampled)
    assert [(look["seen"], look["racing"]) for look in ranking["looks"]] == [(200, 24), (200, 28), (200, 28)]
    assert {report.total for report in progress} == {28 * 200}
    assert progress[-1].done == 28 * 200
    assert progress[-1].leader == ranking["winner"] == rows[0]["id"]


def test_the_answers_of_the_evolved_are_those_of_their_masks(run: RunDirectory) -> None:
    rank(run, device="cpu", evolve=4)
    rows = {row["id"]: row for row in read_jsonl(run.rank_path / "leaderboard.jsonl")}
    from pgnas_cli.training.data import open_data
    from pgnas_cli.training.loop import trained_supernet

    evaluator = Evaluator(trained_supernet(run), open_data("digits"), torch.device("cpu"))
    for candidate in ranked_candidates(run)[8:]:
        score = evaluator.score(candidate, "selection")
        assert (rows[candidate.id]["correct"], rows[candidate.id]["n"]) == (score.correct, score.n)


def test_the_limits_of_the_sample_are_those_of_its_evolution(run: RunDirectory) -> None:
    limit = run.require("sample")["params"]["max"]
    sample(run, n=2, seed=3, max_params=limit, force=True)
    largest = max(candidate.params for candidate in read_candidates(run))
    rank(run, device="cpu", evolve=24)
    sizes = [candidate.params for candidate in ranked_candidates(run)[2:]]
    assert largest < max(sizes) <= limit


def test_a_budget_pays_for_the_evolved_too(run: RunDirectory) -> None:
    budget = 0.5
    ranking = rank(run, device="cpu", evolve=24, budget=budget)
    rows = read_jsonl(run.rank_path / "leaderboard.jsonl")
    assert (ranking["candidates"], ranking["evolved"]) == (32, 24)
    assert ranking["images"] == sum(row["n"] for row in rows) <= budget * 32 * 200
    assert rows[0]["n"] == 200
    first = ranking["looks"][0]["seen"]
    assert min(row["n"] for row in rows if row["strategy"] == "evolution") >= first
    assert {row["strategy"] for row in rows} == {"posterior", "evolution"}


def test_a_margin_covers_the_evolved(run: RunDirectory) -> None:
    exact = {row["id"]: row["accuracy"] for row in rank(run, device="cpu", evolve=12)
             and read_jsonl(run.rank_path / "leaderboard.jsonl")}  # fmt: skip
    ranking = rank(run, device="cpu", evolve=12, margin=0.05)
    ids = {candidate.id for candidate in ranked_candidates(run)}
    assert len(ids) == 20
    assert ranking["margin"] <= 0.05
    known = {name: exact[name] for name in ids & exact.keys()}
    assert max(known.values()) - ranking["selection_accuracy"]["value"] <= ranking["margin"]


def test_the_seed_decides_what_is_proposed(run: RunDirectory) -> None:
    proposed = []
    for seed in (0, 5):
        rank(run, device="cpu", evolve=8, seed=seed)
        proposed.append({candidate.id for candidate in ranked_candidates(run)[8:]})
    assert not proposed[0] & proposed[1]


@pytest.mark.slow
def test_two_processes_evolve_what_one_does(run: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(shutil.copytree(run.path, tmp_path / "other"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rank(run, device="cpu", evolve=20, budget=0.6)
    finally:
        torch.set_num_threads(threads)
    ranking = rank(other, device="cpu", procs=2, evolve=20, budget=0.6)
    assert (ranking["processes"], ranking["evolved"]) == (2, 20)
    assert written(other) == written(run)


def test_stopped_in_a_generation_it_goes_on_and_ends_the_same(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RunDirectory(shutil.copytree(run.path, tmp_path / "other"))
    rank(run, device="cpu", evolve=40)
    plain, groups = Answers._group, []

    def group(self: Answers, chosen: list[Candidate], *args: object) -> object:
        groups.append({candidate.strategy for candidate in chosen})
        if len(groups) == 3:  # the sample, the first generation, and here the second
            signal.raise_signal(signal.SIGTERM)
        return plain(self, chosen, *args)

    monkeypatch.setattr(Answers, "_group", group)
    with pytest.raises(Stopped):
        rank(other, device="cpu", evolve=40)
    assert groups == [{"posterior"}, {"evolution"}, {"evolution"}]
    assert not other.rank_path.exists()
    monkeypatch.setattr(Answers, "_group", plain)
    ranking = rank(other, device="cpu", evolve=40)
    assert ranking["images_resumed"] == (8 + GENERATION) * 200
    assert written(other) == written(run)
    assert not (other.path / FOLDER).exists()


def test_what_evolution_added_can_be_exported_and_verified(run: RunDirectory, tmp_path: Path) -> None:
    ranking = rank(run, device="cpu", evolve=4)
    chosen = next(candidate for candidate in ranked_candidates(run)[8:] if candidate.id != ranking["winner"])
    record = export(run, output=tmp_path / "other", candidate=chosen.id[:10])
    assert (record["candidate"], record["params"], record["macs"]) == (chosen.id, chosen.params, chosen.macs)
    assert record["test_accuracy"] is None
    assert verify(tmp_path / "other", run).passed


def test_a_winner_that_evolution_added_is_exported_like_any_other(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Evaluator.outcomes

    def outcomes(self: Evaluator, candidates: Sequence[Candidate], *args: object) -> tuple:
        right, log_prob = plain(self, candidates, *args)
        sampled = np.array([candidate.strategy == "posterior" for candidate in candidates])
        right[sampled] = False
        return right, log_prob

    monkeypatch.setattr(Evaluator, "outcomes", outcomes)
    ranking = rank(run, device="cpu", evolve=8)
    assert read_jsonl(run.rank_path / "leaderboard.jsonl")[0]["strategy"] == "evolution"
    record = export(run)
    assert record["candidate"] == ranking["winner"] in {c.id for c in ranked_candidates(run)[8:]}
    assert record["test_accuracy"]["value"] == ranking["test_accuracy"]["value"]
    assert verify(run.export_path, run).passed


def test_a_new_sample_and_a_ranking_without_evolution_remove_them(run: RunDirectory) -> None:
    rank(run, device="cpu", evolve=4)
    assert len(ranked_candidates(run)) == 12
    assert rank(run, device="cpu")["evolved"] == 0
    assert ranked_candidates(run) == read_candidates(run)
    assert not (run.rank_path / MASKS).exists()
    rank(run, device="cpu", evolve=4)
    sample(run, n=5, seed=7, force=True)
    assert ranked_candidates(run) == read_candidates(run)
    assert len(ranked_candidates(run)) == 5


def test_a_run_that_has_committed_is_refused_with_its_posterior_before(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = rank(run, device="cpu")
    manifest = json.loads(run.manifest_path.read_text())
    manifest["stages"]["train"]["soft"] = {"checkpoint": manifest["stages"]["train"]["checkpoint"]}
    run.manifest_path.write_text(json.dumps(manifest))
    monkeypatch.setattr(Evaluator, "outcomes", None)
    with pytest.raises(UsageError, match="committed to one candidate") as error:
        rank(run, device="cpu", evolve=4)
    assert error.value.hint == f"pgnas sample --from soft --force --run {run.path}"
    assert read_json(run.rank_path / "ranking.json") == ranking
    monkeypatch.undo()
    sample(run, n=4, source="soft", force=True)
    assert rank(run, device="cpu", evolve=4)["evolved"] == 4


def test_a_posterior_with_little_left_gives_fewer_and_says_so(run: RunDirectory) -> None:
    networks = narrow(run, "stage1.0.branch1.conv2")
    sample(run, n=3, max_params=1e9, max_macs=1e12, force=True)
    ranking = rank(run, device="cpu", evolve=50)
    assert 0 < ranking["evolved"] <= networks - 3 < 50
    assert ranking["candidates"] == 3 + ranking["evolved"] == len(ranked_candidates(run))
    assert ranking["images"] == ranking["candidates"] * 200


def test_a_posterior_with_nothing_left_gives_none(run: RunDirectory) -> None:
    assert narrow(run) == 1
    assert sample(run, n=1, force=True)["candidates"] == 1
    ranking = rank(run, device="cpu", evolve=50)
    assert (ranking["evolved"], ranking["candidates"], ranking["images"]) == (0, 1, 200)
    assert not (run.rank_path / MASKS).exists()


@pytest.mark.parametrize("options", [{"evolve": -1}, {"evolve": -100, "budget": 0.5}])
def test_a_negative_number_is_refused(run: RunDirectory, options: dict) -> None:
    with pytest.raises(UsageError, match=f"--evolve {options['evolve']} was given, it should be at least 0") as error:
        rank(run, device="cpu", **options)
    assert error.value.hint == "--evolve 100"
