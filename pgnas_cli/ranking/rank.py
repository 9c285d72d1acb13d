"""Ranking: candidates on the selection split, the winner alone on the test split."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgnas_cli import restore
from pgnas_cli.errors import DataError, RunError, UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking import race, result
from pgnas_cli.ranking.answers import Answers
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator, Way, measured_way
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.ranking.journal import FOLDER, Journal
from pgnas_cli.ranking.race import Field, Look
from pgnas_cli.run import RunDirectory
from pgnas_cli.training import distributed
from pgnas_cli.training.data import Data
from pgnas_cli.training.devices import choose_devices
from pgnas_cli.training.distributed import World
from pgnas_cli.training.launch import StopSignal, launch
from pgnas_cli.training.setup import open_run_data

METHODS = ("auto", "exhaustive", "race")
CONFIDENCE = 0.95
BUDGET = 0.15
AUTO_CANDIDATES, AUTO_IMAGES = 100, 1000
"""With at least so many candidates and selection images "auto" races; fewer are evaluated in full."""
MEASURED_FROM = 1000
"""Below so many selection images nothing is measured: candidates are masked."""
EFFECT_SAMPLE = 16
"""Candidates that are also scored without recalibration, to print what it does."""


@dataclass(frozen=True)
class RankProgress:
    """What ranking reports.

    Args:
        done, total: images (times candidates) answered so far, and the most that there will be.
        racing: candidates that can still win.
        leader: id of the best so far; empty before the first look.
        accuracy: its accuracy on the selection split, an estimate where it has seen a part.
    """

    done: int
    total: int
    racing: int
    leader: str
    accuracy: float


Report = Callable[[RankProgress], None]


def ignore(progress: RankProgress) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Method:
    """How candidates are compared.

    Args:
        name: "auto", "exhaustive" (every candidate sees the whole selection split) or "race" (`race`).
        confidence: of the margin and of the intervals, in (0, 1).
        margin: race until the winner is within so much accuracy of the best candidate.
        budget: instead: race within this share of the images of an exhaustive ranking.
        recalibrate: training images for BatchNorm recalibration of each candidate; 0 is off.
        seed: of the order of the images.
    """

    name: str = "auto"
    confidence: float = CONFIDENCE
    margin: float | None = None
    budget: float | None = None
    recalibrate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(
                f"--method {self.name!r} was given, it should be one of {', '.join(METHODS)}", "--method race"
            )
        if self.recalibrate < 0:
            raise UsageError(
                f"--recalibrate {self.recalibrate} was given, it should be at least 0", "--recalibrate 512"
            )
        if not 0 < self.confidence < 1:
            raise UsageError(
                f"--confidence {self.confidence:g} was given, it should lie between 0 and 1", "--confidence 0.95"
            )
        if self.margin is not None and self.budget is not None:
            raise UsageError(
                "--margin and --budget exclude each other: one says when a race ends, the other what it may cost",
                "leave one of them out",
            )
        if self.margin is not None and not 0 <= self.margin < 1:
            raise UsageError(
                f"a margin of {100 * self.margin:g} points was given, it should be at least 0 and below 100",
                "--margin 0.1",
            )
        if self.budget is not None and not 0 < self.budget <= 1:
            raise UsageError(f"--budget {self.budget:g} was given, it should lie between 0 and 1", "--budget 0.15")
        if self.name == "exhaustive" and (self.margin is not None or self.budget is not None):
            option = "--margin" if self.margin is not None else "--budget"
            raise UsageError(f"{option} belongs to a race", "--method race")

    def resolved(self, candidates: int, images: int) -> Method:
        """What "auto" means for so many candidates and selection images; a race without an end gets the budget."""
        asked = self.margin is not None or self.budget is not None
        large = candidates >= AUTO_CANDIDATES and images >= AUTO_IMAGES
        name = self.name if self.name != "auto" else "race" if asked or large else "exhaustive"
        budget = BUDGET if name == "race" and not asked else self.budget
        return Method(name, self.confidence, self.margin, budget, self.recalibrate, self.seed)


def rank(
    run: RunDirectory,
    *,
    method: str = "auto",
    confidence: float = CONFIDENCE,
    margin: float | None = None,
    budget: float | None = None,
    recalibrate: int = 0,
    seed: int = 0,
    device: str = "auto",
    gpus: str | None = None,
    procs: int | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
    force: bool = False,
    report: Report = ignore,
) -> dict[str, Any]:
    """Compare the candidates of a run on the selection split, and score the winner once on the test split.

    Neither the weights nor the posterior saw the selection split, and nothing is chosen on the test split. What has
    been evaluated is kept in the run until the ranking is written: the same call goes on after an interruption.

    Args:
        run: a run with candidates.
        method, confidence, margin, budget, recalibrate, seed: see `Method`. `margin` is a share, 0.001 for 0.1 points.
            With recalibration, up to 16 candidates are scored without it too, and the mean difference is recorded.
        device, gpus, procs: see `choose_devices`; the processes share the candidates.
        data_dir, workers: as in training.
        force: rank again although an export has used the last ranking.
        report: called as images are answered, from another thread where there are several processes.

    Returns:
        What rank/ranking.json holds.

    Raises:
        RunError: a stage is missing, or the candidates belong to another supernet.
        DataError: the data are not those that the supernet was trained with.
        UsageError: an option is out of range, or they contradict each other.
        Stopped: SIGINT or SIGTERM arrived; what has been evaluated is kept.
    """
    asked = Method(method, confidence, margin, budget, recalibrate, seed)
    run.begin("rank", force=force)
    read_candidates(run)
    devices = choose_devices(device, gpus, procs)
    request = _Request(asked, data_dir, workers)
    if devices.procs == 1 and not distributed.is_launched():
        return _rank(run, request, World(device=devices.single), report)
    arguments = (run.path, request, devices.kind, devices.indices)
    found: dict[str, Any] = launch(
        _worker, arguments, procs=devices.procs, hear=lambda channel, message: report(message)
    )
    return found


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
    data = same_data(run, data_dir=request.data_dir, workers=request.workers)
    method = request.method.resolved(len(candidates), data.num_selection)
    net = sampled_supernet(run, world.device)
    journal = Journal(run.path / FOLDER, _header(run, data, method, world)) if world.is_master else None
    way = distributed.broadcast_object(_way(run, net, data, candidates, world, method, journal), world)
    assert way is not None
    evaluator = Evaluator(net, data, world.device, recalibrate=method.recalibrate, way=way)
    readable = data.readable("selection").numpy()

    started = time.perf_counter()
    looks: list[Look] = []
    with StopSignal() as stop:
        told = _Told(report, candidates, looks, _most(method, len(candidates), len(readable)))
        answers = Answers(evaluator, candidates, readable, journal, world, stop, told)
        field, winner, margin = compare(answers, candidates, len(readable), method, told.look)
    seconds = time.perf_counter() - started
    ranking = None
    if world.is_master:
        ranking = _ranking(method, field, candidates, winner, margin, evaluator, looks)
        ranking |= {"seconds": seconds, "device": str(world.device), "processes": world.size, "way": asdict(way),
                    "images_resumed": answers.answered - answers.evaluated}  # fmt: skip
        result.write(run, result.leaderboard(field, candidates, winner), ranking)
        kept = ("method", "winner", "candidates", "images", "seconds", "recalibrate", "device")
        run.finish("rank", {name: ranking[name] for name in kept})
        assert journal is not None
        journal.close()
    ranking = distributed.broadcast_object(ranking, world)
    assert ranking is not None
    return ranking


def compare(
    answers: race.Outcomes, candidates: Sequence[Candidate], images: int, method: Method, report: race.Report
) -> tuple[Field, int, float]:
    """Have candidates compared by a method that is not "auto".

    Returns:
        (the field, index of the winner, margin)
    """
    tie = [(candidate.params, candidate.id) for candidate in candidates]
    racing = method.name == "race"
    pilots = race.pilots_of(len(candidates), method.budget) if racing else 0
    if racing and method.budget is not None:
        race.plan(len(candidates), images, pilots, method.budget)  # refuses before anything is evaluated
    field = Field(answers, len(candidates), images, seed=method.seed, pilots=pilots, tie=tie)
    if not racing:
        return field, race.exhaustive(field, report=report), 0.0
    if method.margin is not None:
        return field, *race.guaranteed(field, confidence=method.confidence, margin=method.margin, report=report)
    assert method.budget is not None
    return field, *race.budgeted(field, confidence=method.confidence, budget=method.budget, report=report)


class _Told:
    """Turns numbers of images and looks into progress."""

    def __init__(self, report: Report, candidates: Sequence[Candidate], looks: list[Look], total: int) -> None:
        self.report, self.candidates, self.looks, self.total = report, candidates, looks, total
        self.done = 0

    def __call__(self, done: int) -> None:
        self.done = done
        last = self.looks[-1] if self.looks else None
        leader = "" if last is None else self.candidates[last.leader].id
        racing = len(self.candidates) if last is None else last.staying
        self.report(RankProgress(done, self.total, racing, leader, math.nan if last is None else last.accuracy))

    def look(self, look: Look) -> None:
        self.looks.append(look)
        self(self.done)


def _most(method: Method, candidates: int, images: int) -> int:
    """The most images that a ranking takes."""
    return round((method.budget or 1.0) * candidates * images)


def _header(run: RunDirectory, data: Data, method: Method, world: World) -> dict[str, Any]:
    """What the answers depend on: what a journal was written for."""
    return {
        "candidates": run.require("sample")["sha256"],
        "checkpoint": run.require("train").get("checkpoint"),
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
    stored = journal.way()
    if stored is not None:
        return Way(**stored)
    compute, kind = restore.run_recipe(run).compute, world.device.type
    amp = compute.amp if compute.amp != "none" and kind == "cuda" else ""
    way = Way(compute.channels_last, amp)
    if data.num_selection >= MEASURED_FROM:
        middle = sorted(candidates, key=lambda candidate: candidate.macs)[len(candidates) // 2]
        way = Way(compute.channels_last, amp, measured_way(Evaluator(net, data, world.device, way=way), middle))
    journal.keep_way(asdict(way))
    return way


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


def same_data(run: RunDirectory, *, data_dir: Path | None = None, workers: int | None = None) -> Data:
    """The data set that the run was trained with.

    Raises:
        DataError: it has changed since: other images, labels, or splits (by the checksums of Data.describe), or other
            classes.
    """
    recipe = restore.run_recipe(run)
    trained = run.require("train").get("data")
    if not isinstance(trained, dict):
        raise RunError(f"{run.manifest_path}: stages.train.data is missing", "pgnas train --force trains again")
    data = open_run_data(run, recipe, data_dir=data_dir, workers=workers)
    now = data.describe()
    before = trained.get("sha256")
    changed = [
        f"{key} is {now[key]}, it was {trained.get(key)}"
        for key in ("num_classes", "in_chans", "img_size")
        if now[key] != trained.get(key)
    ] or [
        f"the {split} images, their labels or their order differ"
        for split, digest in now["sha256"].items()
        if not isinstance(before, dict) or before.get(split) != digest
    ]
    if changed:
        raise DataError(
            f"{recipe.data.name} has changed since training: {changed[0]}",
            "put back what the supernet was trained on (--data-dir names another place), or train again: "
            f"pgnas train --run {run.path} --data {recipe.data.name} --force",
        )
    return data
