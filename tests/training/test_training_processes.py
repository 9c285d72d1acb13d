"""Whole trainings by two processes: stopped and resumed, with a head that is not trained, short of memory or images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import process_workers
import pytest
import torch
from few_cells import few_cells
from image_sets import write_folder
from process_workers import Job

from pgnas_cli import inflate, restore
from pgnas_cli.errors import PgnasError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl
from pgnas_cli.training.data import open_data
from pgnas_cli.training.launch import launch
from pgnas_cli.training.loop import train
from pgnas_cli.training.seeds import generator_from

pytestmark = pytest.mark.slow

STEPS = 5  # an epoch
TIMES = ("seconds", "images_per_second")


def make_run(folder: Path, arch: str = "shakeshake26_2x4d", **options: int) -> Path:
    net = inflate(arch, seed=0, **{"in_chans": 1, "img_size": 8, **options})
    return restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]}).path


def make_recipe(**changes: Any) -> Recipe:
    small = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 32 * STEPS, "schedule.epochs": 3}
    return override(load_recipe(None), {**small, **changes})


def silent(channel: str, message: Any) -> None:
    """What the master says."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunDirectory, dict[str, Any]]]:
    """Read only: one training that was never stopped, the same stopped twice, and one whose head is not trained."""
    root = tmp_path_factory.mktemp("together")
    targets = {"budget.target_params": "0.5x", "budget.target_macs": "0.6x"}
    averaged = make_recipe(**targets, **{"commit.at": 0.34, "optimizer.ema": 0.9})
    untrained = {"objective.auxiliary_weight": 0.0, "objective.gate_classifier": True}
    plain = make_recipe(**untrained, **{"schedule.epochs": 1, "data.limit_train": 96})
    whole = make_run(root / "whole")
    with few_cells():
        headed = make_run(root / "headed", "enas15_1f")
    jobs = {
        "whole": Job(whole, averaged),
        # in the middle of the search, and in the middle of an epoch of the candidate
        "stopped": Job(Path(shutil.copytree(whole, root / "stopped")), averaged, (STEPS - 2, 2 * STEPS + 2)),
        "headed": Job(headed, plain),
    }
    found = launch(process_workers.trainings, (list(jobs.values()),), procs=2, hear=silent)
    return {name: (RunDirectory(job.run), record) for (name, job), record in zip(jobs.items(), found, strict=True)}


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_tensors(run.path / run.require("train")["checkpoint"], hint="")[0]


def test_two_processes_with_averaged_weights_end_in_the_same_bits_when_they_are_stopped(records) -> None:
    (whole, wanted), (stopped, found) = records["whole"], records["stopped"]
    ours, theirs = weights(stopped), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_jsonl(run.train_path / "log.jsonl")]
        for run in (stopped, whole)
    ]
    assert rows[0] == rows[1]
    assert {**found, "seconds": 0} == {**wanted, "seconds": 0}
    assert (found["processes"], found["steps"]) == (2, 3 * STEPS)


def test_two_processes_do_not_wait_for_a_head_that_is_not_trained(records) -> None:
    run, record = records["headed"]
    assert record["steps"] == 3
    before, after = load_tensors(run.supernet_path, hint="")[0], weights(run)
    heads = [name for name in before if ".auxiliary." in name and name.endswith((".weight", ".bias"))]
    assert len(heads) > 3
    assert all(torch.equal(before[name], after[name]) for name in heads)
    assert not torch.equal(before["backbone.fc.weight"], after["backbone.fc.weight"])


def test_out_of_memory_in_any_process_names_a_batch_for_all(tmp_path: Path) -> None:
    """Each has 32 of 64 images; what fits is looked for without the others, which may be waiting."""
    rooms = [(12, 12), (99, 12)]  # both run out of memory, and then the second, whose failure ends the first
    runs = (make_run(tmp_path / f"run{number}") for number in range(2))
    jobs = [Job(run, make_recipe(**{"data.batch_size": 64})) for run in runs]
    message, hint = (
        "out of memory on cpu with 32 images at a time: 8 fit",
        "--accumulate 4 takes the same steps in parts",
    )
    with pytest.raises(PgnasError, match=f"^rank 1: {message}$") as error:
        launch(process_workers.short_of_memory, (jobs, rooms, tmp_path), procs=2, hear=silent)
    assert error.value.hint == f"{hint}, or --batch-size 16"
    said = {path.name: path.read_text() for path in tmp_path.glob("[01].[01]")}
    assert said == dict.fromkeys(("0.0", "0.1", "1.1"), f"{message}\n{hint}, or --batch-size 16")


def test_images_that_one_of_two_processes_cannot_read_are_counted_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    changes = {"data.name": f"folder:{folder}", "data.selection": 4.0, "data.batch_size": 4, "data.limit_train": None}
    recipe = make_recipe(**changes, **{"schedule.epochs": 1})
    parts = open_data(f"folder:{folder}", img_size=32, selection=4, workers=0, seed=recipe.seed).parts
    index, chosen = parts["train"].index, parts["selection"].index
    order = index[torch.randperm(len(index), generator=generator_from(f"{recipe.seed}/epoch/0/order"))]
    store = parts["train"].store
    broken = {  # one for each process, and one of the selection split for the second
        "train": sorted(store.images.name(int(order[place])) for place in (4, 9)),
        "selection": [store.images.name(int(chosen[1]))],
    }
    for path in (*broken["train"], *broken["selection"]):
        Path(path).write_bytes(b"no image")
    run = RunDirectory(make_run(tmp_path / "run", "shakeshake26_2x2d", in_chans=3, img_size=32))
    warned: list[str] = []
    record = train(run, recipe, device="cpu", procs=2, workers=0, warn=warned.append)
    assert record["data"]["corrupt"] == broken
    (line,) = (line for line in warned if "could not be read" in line)
    assert line.startswith(f"3 images could not be read, such as {broken['train'][0]}: ")
