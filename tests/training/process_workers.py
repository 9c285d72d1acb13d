"""What the processes of test_training_processes.py run: a module of its own, so that started processes find it."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from few_cells import few_cells
from torch import Tensor

from pgnas_cli.errors import PgnasError, Stopped
from pgnas_cli.recipe import Recipe
from pgnas_cli.run import RunDirectory
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed, loop
from pgnas_cli.training.cadence import Cadence
from pgnas_cli.training.progress import Callbacks, TrainProgress

SAY = Callable[[str, Any], None]


@dataclass(frozen=True)
class Job:
    """A training: `stops` are the steps after which the master is told to stop; it is resumed after each."""

    run: Path
    recipe: Recipe
    stops: Sequence[int] = ()


def request(recipe: Recipe) -> loop.Request:
    return loop.Request(
        recipe, workers=0, data_dir=None, fixed_drop=None, resume=False, force=False, tensorboard=False,
        cadence=Cadence.parse("10m"),
    )  # fmt: skip


def trainings(jobs: Sequence[Job], say: SAY) -> list[dict[str, Any]]:
    """The records of several trainings, one after the other by the same processes."""
    world = distributed.join("cpu")
    try:
        with few_cells():
            return [_train(job, world) for job in jobs]
    finally:
        distributed.leave()


def _train(job: Job, world: distributed.World) -> dict[str, Any]:
    wanted, run = request(job.recipe), RunDirectory(job.run)
    for step in job.stops:

        def stop(progress: TrainProgress, step: int = step) -> None:
            if world.is_master and progress.step == step:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Stopped, match=f"stopped after step {step} of"):
            loop._train(run, wanted, world, Callbacks(report=stop))
        distributed.barrier(world)  # the master has written its checkpoint: as if all had ended
        wanted = dataclasses.replace(wanted, recipe=None, resume=True)
    return loop._train(run, wanted, world, Callbacks())


def short_of_memory(jobs: Sequence[Job], rooms: Sequence[Sequence[int]], folder: Path, say: SAY) -> None:
    """Trainings whose process n finds memory for `room[n]` images; what each process said of it goes to a file."""
    plain, rank = Supernet.forward, int(os.environ["RANK"])
    limit = 0

    def small(net: Supernet, images: Tensor) -> Tensor:
        if net.training and len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(net, images)

    Supernet.forward = small  # type: ignore[method-assign]
    world = distributed.join("cpu")
    try:
        for number, (job, room) in enumerate(zip(jobs, rooms, strict=True)):
            limit = room[rank]
            try:
                loop._train(RunDirectory(job.run), request(job.recipe), world, Callbacks())
            except PgnasError as error:
                (folder / f"{number}.{rank}").write_text(f"{error}\n{error.hint}")
                if number == len(jobs) - 1:
                    raise
    finally:
        distributed.leave()
