"""Ranking: candidates on the selection split, the winner alone on the test split."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgnas_cli import restore
from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.strategies.evolution import Evolution
from pgnas_cli.ranking import race, result
from pgnas_cli.ranking.answers import Answers
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator, Way, measured_way
from pgnas_cli.ranking.evolve import evolve, proposer
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.ranking.journal import FOLDER, Journal
from pgnas_cli.ranking.method import CONFIDENCE, Method
from pgnas_cli.ranking.progress import Report, Told, ignore
from pgnas_cli.ranking.race import Field, Look
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.ranking.supplements import Supplements, TrainingReport, silent, supplement
from pgnas_cli.run import RunDirectory, read_json
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed
from pgnas_cli.training.data import Data
from pgnas_cli.training.devices import choose_devices
from pgnas_cli.training.distributed import World
from pgnas_cli.training.launch import StopSignal, launch

MEASURED_FROM = 1000
"""Below so many selection images nothing is measured: candidates are masked."""
EFFECT_SAMPLE = 16
"""Candidates that are also scored without recalibration, to print what it does."""


def rank(
    run: RunDirectory,
    *,
    method: str = "auto",
    confidence: float = CONFIDENCE,
    margin: float | None = None,
    budget: float | None = None,
    recalibrate: int = 0,
    evolve: int = 0,
    front: bool = False,
    certify: int | None = None,
    certify_epochs: int | None = None,
    finetune: int | None = None,
    seed: int = 0,
    device: str = "auto",
    gpus: str | None = None,
    procs: int | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
    force: bool = False,
    report: Report = ignore,
    report_training: TrainingReport = silent,
) -> dict[str, Any]:
    """Compare the candidates of a run on the selection split, and score the winner once on the test split.

    Neither the weights nor the posterior saw the selection split, and nothing is chosen on the test split. What has
    been evaluated is kept in the run until the ranking is written: the same call goes on after an interruption.

    Args:
        run: a run with candidates.
        method, confidence, margin, budget, recalibrate, evolve, seed: see `Method`. `margin` is a share, 0.001 for 0.1
            points. With recalibration, up to 16 candidates are scored without it too, and the mean difference is
            recorded.
        front, certify, certify_epochs, finetune: see `Supplements`. They are added to the last ranking of these
            candidates, where there is one, and nothing is compared again; `force` compares again.
        device, gpus, procs: see `choose_devices`; the processes share the candidates.
        data_dir, workers: as in training.
        force: rank again although an export has used the last ranking.
        report: called as images are answered, from another thread where there are several processes.
        report_training: called after every step of what certify and finetune train.

    Returns:
        What rank/ranking.json holds.

    Raises:
        RunError: a stage is missing, or the candidates belong to another supernet.
        DataError: the data are not those that the supernet was trained with.
        UsageError: an option is out of range, or they contradict each other.
        Stopped: SIGINT or SIGTERM arrived; what has been evaluated is kept.
    """
    asked = Method(method, confidence, margin, budget, recalibrate, seed, evolve)
    wanted = Supplements(front, certify, certify_epochs, finetune)
    devices = choose_devices(device, gpus, procs)
    ranking = _last(run, asked) if wanted and not force else None
    if ranking is not None:
        wanted.check(ranking["candidates"])
    else:
        run.begin("rank", force=force)
        wanted.check(len(read_candidates(run)) + evolve)
        _check_evolution(run, asked)
        request = _Request(asked, data_dir, workers)
        if devices.procs == 1 and not distributed.is_launched():
            ranking = _rank(run, request, World(device=devices.single), report)
        else:
            arguments = (run.path, request, devices.kind, devices.indices)
            ranking = launch(_worker, arguments, procs=devices.procs, hear=lambda channel, message: report(message))
    assert ranking is not None
    if not wanted or (distributed.is_launched() and os.environ.get("RANK", "0") != "0"):
        return ranking
    return supplement(run, ranking, wanted, devices.single, data_dir=data_dir, workers=workers, report=report_training)


def _last(run: RunDirectory, method: Method) -> dict[str, Any] | None:
    """The last ranking of these candidates, to be added to; None if there is none.

    Raises:
        UsageError: options of the comparison are given, and they are not those that it was made with.
    """
    if run.stage("rank") is None:
        return None
    ranking = read_json(run.rank_path / result.RANKING, hint=f"pgnas rank --force --run {run.path}")
    before = ranking.get("asked")
    if not isinstance(before, dict) or {**before, **_subject(run)} != before:
        return None
    if method != Method() and {**before, **asdict(method)} != before:
        given = [name for name, value in asdict(method).items() if value != before.get(name)]
        raise UsageError(
            f"the last ranking was made with another {' and '.join(given)}",
            "leave the options of the comparison out to add to it; --force ranks anew",
        )
    return ranking


def _subject(run: RunDirectory) -> dict[str, Any]:
    """Which networks a ranking compares: masks, and the training that gave the weights."""
    train = run.require("train")
    return {
        "candidates": run.require("sample")["sha256"],
        "checkpoint": train.get("checkpoint"),
        "trained": train.get("finished"),
    }


def _check_evolution(run: RunDirectory, method: Method) -> None:
    """Refuse evolution where there is nothing to draw from, before anything is evaluated.

    Raises:
        UsageError: the training has committed to one candidate.
    """
    source = run.require("sample").get("source", "final")
    if method.evolve and source == "final" and run.require("train").get("soft") is not None:
        raise UsageError(
            "the training committed to one candidate, which leaves --evolve nothing to draw from",
            f"pgnas sample --from soft --force --run {run.path}",
        )


@dataclass(frozen=True)
class _Request:
    """What every process of a ranking is told."""

    method: Method
    data_dir: Path | None
    workers: int | None


def _worker(
    path: Path, request: _Request, kind: str, indices: tuple[int, ...], say: Callable[[str, Any], None]
) -> dict[str, Any]:
    """One process of several: joins the others, and only the master speaks and writes."""
    world = distributed.join(kind, indices)
    try:
        report = functools.partial(say, "report") if world.is_master else ignore
        return _rank(RunDirectory(path), request, world, report)
    finally:
        distributed.leave()


def _rank(run: RunDirectory, request: _Request, world: World, report: Report) -> dict[str, Any]:
    candidates = read_candidates(run)
    sampled = len(candidates)
    data = same_data(run, data_dir=request.data_dir, workers=request.workers)
    method = request.method.resolved(sampled + request.method.evolve, data.num_selection)
    net = sampled_supernet(run, world.device)
    journal = Journal(run.path / FOLDER, _header(run, data, method, world)) if world.is_master else None
    way = distributed.broadcast_object(_way(run, net, data, candidates, world, method, journal), world)
    assert way is not None
    evaluator = Evaluator(net, data, world.device, recalibrate=method.recalibrate, way=way)
    readable = data.readable("selection").numpy()

    started = time.perf_counter()
    looks: list[Look] = []
    with StopSignal() as stop:
        told = Told(report, candidates, looks, _most(method, sampled + method.evolve, len(readable)))
        answers = Answers(evaluator, candidates, readable, journal, world, stop, told)
        search = _evolution(run, net, candidates, method, world)
        field, winner, margin = compare(answers, candidates, len(readable), method, told.look, search)
    seconds = time.perf_counter() - started
    ranking = None
    if world.is_master:
        ranking = _ranking(method, field, candidates, winner, margin, evaluator, looks)
        ranking |= {"evolved": len(candidates) - sampled, "asked": {**_subject(run), **asdict(request.method)}}
        ranking |= {"seconds": seconds, "device": str(world.device), "processes": world.size, "way": asdict(way),
                    "images_resumed": answers.answered - answers.evaluated}  # fmt: skip
        rows = result.leaderboard(field, candidates, winner)
        result.write(run, rows, ranking, evolved=candidates[sampled:], net=net)
        kept = ("method", "winner", "candidates", "images", "seconds", "recalibrate", "device")
        run.finish("rank", {name: ranking[name] for name in kept})
        assert journal is not None
        journal.close()
    ranking = distributed.broadcast_object(ranking, world)
    assert ranking is not None
    return ranking


Search = Callable[[Field, int, race.Report], None]
"""(field, images that everybody is judged by, report): lets further candidates in."""


def _evolution(
    run: RunDirectory, net: Supernet, candidates: list[Candidate], method: Method, world: World
) -> Search | None:
    """What lets evolution's candidates in; None where none are wanted.

    None is larger than the limits of the sample or, where it has none, than its largest candidate.
    """
    if not method.evolve:
        return None
    record, proposals = run.require("sample"), Evolution(net.posterior(), method.seed)
    limits = {
        f"max_{unit}": record.get(f"max_{unit}") or max(getattr(candidate, unit) for candidate in candidates)
        for unit in ("params", "macs")
    }
    propose = proposer(net, proposals, world, **limits)

    def search(field: Field, seen: int, report: race.Report) -> None:
        evolve(field, candidates, proposals, propose, number=method.evolve, seen=seen, report=report)

    return search


def compare(
    answers: race.Outcomes, candidates: list[Candidate], images: int, method: Method, report: race.Report,
    search: Search | None = None,
) -> tuple[Field, int, float]:  # fmt: skip
    """Have candidates compared by a method that is not "auto".

    Args:
        answers: evaluates them.
        candidates: in any order; `search` may append more.
        images: of the selection split.
        method: how.
        report: called after every slice.
        search: called once everybody can be judged: after the first slice of a race, or after all images.

    Returns:
        (the field, index of the winner, margin)
    """
    tie = [(candidate.params, candidate.id) for candidate in candidates]
    racing, expected = method.name == "race", len(candidates) + (method.evolve if search is not None else 0)
    pilots = min(race.pilots_of(expected, method.budget), len(candidates)) if racing else 0
    first = images
    if racing and method.budget is not None:  # refuses before anything is evaluated
        first = race.plan(expected, images, pilots, method.budget)[0][0]
    elif racing:
        first = race.slices(images, race.GROWTH["guarantee"])[0]
    field = Field(answers, len(candidates), images, seed=method.seed, pilots=pilots, tie=tie, expected=expected)
    if search is not None:
        search(field, first, report)
    if not racing:
        return field, race.exhaustive(field, report=report), 0.0
    if method.margin is not None:
        return field, *race.guaranteed(field, confidence=method.confidence, margin=method.margin, report=report)
    assert method.budget is not None
    return field, *race.budgeted(
        field, confidence=method.confidence, budget=method.budget, report=report, strict=len(field) == expected
    )


def _most(method: Method, candidates: int, images: int) -> int:
    """The most images that a ranking takes."""
    return round((method.budget or 1.0) * candidates * images)


def _header(run: RunDirectory, data: Data, method: Method, world: World) -> dict[str, Any]:
    """What the answers depend on: what a journal was written for."""
    return {
        **_subject(run),
        "data": data.describe()["sha256"],
        "recalibrate": method.recalibrate,
        "device": world.device.type,
    }


def _way(
    run: RunDirectory, net: Any, data: Data, candidates: Sequence[Candidate], world: World, method: Method,
    journal: Journal | None,
) -> Way | None:  # fmt: skip
    """How logits are computed: as in training; the master measures when a compact network repays, once a ranking."""
    if journal is None:
        return None
    stored = journal.way() or _last_way(run, world)
    if stored is not None:
        journal.keep_way(stored)
        return Way(**stored)
    compute, kind = restore.run_recipe(run).compute, world.device.type
    amp = compute.amp if compute.amp != "none" and kind == "cuda" else ""
    way = Way(compute.channels_last, amp)
    if data.num_selection >= MEASURED_FROM:
        middle = sorted(candidates, key=lambda candidate: candidate.macs)[len(candidates) // 2]
        way = Way(compute.channels_last, amp, measured_way(Evaluator(net, data, world.device, way=way), middle))
    journal.keep_way(asdict(way))
    return way


def _last_way(run: RunDirectory, world: World) -> dict[str, Any] | None:
    """How the last ranking of the same networks on the same kind of device computed: measured anew it might differ."""
    path = run.rank_path / result.RANKING
    if run.stage("rank") is None or not path.is_file():
        return None
    ranking = read_json(path)
    before, device = ranking.get("asked"), str(ranking.get("device", ""))
    same = isinstance(before, dict) and {**before, **_subject(run)} == before
    return ranking["way"] if same and device.partition(":")[0] == world.device.type else None


def _ranking(
    method: Method, field: Field, candidates: Sequence[Candidate], winner: int, margin: float, evaluator: Evaluator,
    looks: Sequence[Look],
) -> dict[str, Any]:  # fmt: skip
    """What ranking.json holds of the comparison; the winner is scored on the test split for it."""
    chosen = candidates[winner]
    effect = recalibration_effect(evaluator, field, candidates)
    test = evaluator.score(chosen, "test")
    selection = wilson(int(field.right[winner].sum()), int(field.seen[winner]), method.confidence)
    accuracies = field.accuracy(np.arange(len(field)))
    return {
        "method": method.name,
        "winner": chosen.id,
        "params": chosen.params,
        "macs": chosen.macs,
        "candidates": len(candidates),
        "images": field.spent,
        "images_exhaustive": len(candidates) * field.images,
        "confidence": method.confidence,
        "margin": margin,
        "margin_asked": method.margin,
        "budget": method.budget,
        "pilots": field.pilots,
        "seed": method.seed,
        "recalibrate": evaluator.recalibrate,
        "recalibration_effect": effect,
        "selection_accuracy": selection.to_json(),
        "test_accuracy": wilson(test.correct, test.n, method.confidence).to_json(),
        "distribution": result.distribution(accuracies),
        "looks": result.history(looks, candidates),
    }


def recalibration_effect(
    evaluator: Evaluator, field: Field, candidates: Sequence[Candidate]
) -> dict[str, float] | None:
    """Mean and standard deviation of (accuracy with - without recalibration); None if it is off.

    Of the first candidates that have seen the whole selection split.
    """
    if not evaluator.recalibrate:
        return None
    whole = np.flatnonzero(field.seen == field.images)[:EFFECT_SAMPLE]
    differences = [
        field.right[index].mean() - evaluator.score(candidates[index], "selection", recalibrate=False).accuracy
        for index in whole
    ]
    found = result.distribution(differences)
    return {"mean": found["mean"], "std": found["std"], "candidates": len(differences)}
