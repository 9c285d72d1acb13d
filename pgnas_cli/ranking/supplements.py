"""What a finished ranking can be asked for besides: the front, its fidelity, and the winner fine-tuned.

One process computes them after the candidates were compared, and ranking.json is written again after each, so that
what is done stays done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgnas_cli.errors import UsageError
from pgnas_cli.ranking.candidates import ranked_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator, Way
from pgnas_cli.ranking.fidelity import FEWEST, certify, spread
from pgnas_cli.ranking.finetune import finetune
from pgnas_cli.ranking.frontier import fronts
from pgnas_cli.ranking.result import LEADERBOARD, RANKING
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.run import RunDirectory, read_jsonl, write_json
from pgnas_cli.training.progress import TrainProgress

TrainingReport = Callable[[str, TrainProgress], None]
"""(what trains: "certify" or "finetune", its progress)."""


def silent(what: str, progress: TrainProgress) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Supplements:
    """What is asked for.

    Args:
        front: see `frontier.fronts`.
        certify: train so many candidates from scratch, see `fidelity.certify`; None: none.
        certify_epochs: of each of them; None: the recipe's.
        finetune: epochs for the winner, see `finetune.finetune`; None: it is not fine-tuned.
    """

    front: bool = False
    certify: int | None = None
    certify_epochs: int | None = None
    finetune: int | None = None

    def __post_init__(self) -> None:
        if self.certify is not None and self.certify < FEWEST:
            raise UsageError(
                f"--certify {self.certify} was given, it should be at least {FEWEST}", f"--certify {FEWEST}"
            )
        if self.certify_epochs is not None and self.certify is None:
            raise UsageError("--certify-epochs says how long --certify trains, which was not given", "--certify 8")
        if self.certify_epochs is not None and self.certify_epochs < 1:
            raise UsageError(
                f"--certify-epochs {self.certify_epochs} was given, it should be at least 1", "--certify-epochs 10"
            )
        if self.finetune is not None and self.finetune < 1:
            raise UsageError(f"--finetune {self.finetune} was given, it should be at least 1", "--finetune 5")

    def check(self, candidates: int) -> None:
        """Refuse what so many candidates cannot give, before anything is evaluated.

        Raises:
            UsageError: more are to be certified.
        """
        if self.certify is not None:
            spread(candidates, self.certify)

    def __bool__(self) -> bool:
        return self.front or self.certify is not None or self.finetune is not None


def supplement(
    run: RunDirectory,
    ranking: dict[str, Any],
    wanted: Supplements,
    device: torch.device,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    report: TrainingReport = silent,
) -> dict[str, Any]:
    """Add what is wanted to a ranking and to its file.

    Args:
        run: whose last ranking it is.
        ranking: what rank/ranking.json holds.
        wanted: what to add; what the ranking has of the same kind is replaced, but for a fine-tuning of as many epochs.
        device: where to compute.
        data_dir, workers: as in training.
        report: called after every step of a training.

    Returns:
        The ranking with front, certify and finetune where they were wanted.

    Raises:
        UsageError: there are fewer candidates than are to be certified.
        PgnasError: a training diverges.
    """
    data = same_data(run, data_dir=data_dir, workers=workers)
    way = Way(**ranking["way"])
    if str(ranking["device"]).partition(":")[0] != device.type:  # neither its types nor its timing hold here
        way = Way(way.channels_last)
    evaluator = Evaluator(sampled_supernet(run, device), data, device, recalibrate=ranking["recalibrate"], way=way)
    candidates, rows = ranked_candidates(run), read_jsonl(run.rank_path / LEADERBOARD)
    wanted.check(len(rows))  # evolution may have found fewer than it was to add
    winner = next(candidate for candidate in candidates if candidate.id == ranking["winner"])
    confidence = ranking["confidence"]

    def add(name: str, found: dict[str, Any]) -> None:
        ranking[name] = {**found, "device": str(device)}
        write_json(run.rank_path / RANKING, ranking)

    if wanted.front:
        before, started = evaluator.images, time.perf_counter()
        front = fronts(rows, evaluator, candidates, winner.id, confidence=confidence)
        add("front", {**front, "images": evaluator.images - before, "seconds": time.perf_counter() - started})
    if wanted.certify is not None:
        found = certify(
            run, evaluator, candidates, rows, wanted.certify, epochs=wanted.certify_epochs, confidence=confidence,
            report=lambda progress: report("certify", progress),
        )  # fmt: skip
        add("certify", found)
    if wanted.finetune is not None and ranking.get("finetune", {}).get("epochs") != wanted.finetune:
        found = finetune(
            run, evaluator, winner, wanted.finetune, confidence=confidence,
            report=lambda progress: report("finetune", progress),
        )  # fmt: skip
        add("finetune", found)
    return ranking
