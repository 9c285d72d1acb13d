"""Checkpoints: whole or not there, two kept, a damaged one passed over."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pgnas_cli.errors import RunError
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.checkpoint import (
    DESCRIPTION,
    STATE,
    WEIGHTS,
    Checkpoint,
    cut_log,
    last_checkpoint,
    read_weights,
    relative,
    save_checkpoint,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def save(run: RunDirectory, epoch: int) -> tuple[Checkpoint, nn.Module]:
    torch.manual_seed(epoch)
    net = nn.Linear(3, 2)
    state = {"optimizers": {"momentum": torch.full((2, 3), epoch / 7)}, "seconds": epoch / 3}
    return save_checkpoint(run, net, state, epoch=epoch, step=10 * epoch), net


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints_path.iterdir())


def test_two_are_kept_and_the_newest_is_the_last(run: RunDirectory) -> None:
    for epoch in (1, 2, 9, 10):
        found, net = save(run, epoch)
    assert names(run) == ["000000090", "000000100"]
    last, damaged = last_checkpoint(run)
    assert (last, damaged) == (found, [])
    assert (last.epoch, last.step) == (10, 100)
    weights = read_weights(last)
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    state = last.state()
    assert state["seconds"] == 10 / 3
    assert torch.equal(state["optimizers"]["momentum"], torch.full((2, 3), 10 / 7))
    assert relative(last.weights_path, run) == "train/checkpoints/000000100/supernet.safetensors"


def test_without_checkpoints_there_is_no_last(run: RunDirectory) -> None:
    assert last_checkpoint(run) == (None, [])


def test_the_same_step_is_replaced(run: RunDirectory) -> None:
    save(run, 1)
    torch.manual_seed(7)
    net = nn.Linear(3, 2)
    found = save_checkpoint(run, net, {}, epoch=1, step=10)
    assert names(run) == ["000000010"]
    assert torch.equal(read_weights(found)["weight"], net.weight)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights truncated": lambda folder: truncate(folder / WEIGHTS),
    "one bit of the weights": lambda folder: flip(folder / WEIGHTS),
    "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
    "state truncated": lambda folder: truncate(folder / STATE),
    "state missing": lambda folder: (folder / STATE).unlink(),
    "description missing": lambda folder: (folder / DESCRIPTION).unlink(),
    "description truncated": lambda folder: (folder / DESCRIPTION).write_text('{"epoch": 2'),
    "description binary": lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff\xfe\x00"),
    "description a list": lambda folder: (folder / DESCRIPTION).write_text("[]"),
    "no hash": lambda folder: (folder / DESCRIPTION).write_text('{"epoch": 2, "step": 20, "sha256": {}}'),
    "no file left": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_is_passed_over_and_named(run: RunDirectory, damage: Callable[[Path], None]) -> None:
    older, _ = save(run, 1)
    newer, _ = save(run, 2)
    damage(newer.path)
    assert last_checkpoint(run) == (older, [newer.path])
    damage(older.path)
    assert last_checkpoint(run) == (None, [newer.path, older.path])


def test_other_folders_are_no_checkpoints(run: RunDirectory) -> None:
    found, _ = save(run, 1)
    for name in (".000000020.abcd.tmp", "notes", "20b"):
        (run.checkpoints_path / name).mkdir()
    (run.checkpoints_path / "000000030").write_text("a file")
    assert last_checkpoint(run) == (found, [])


def test_what_a_killed_save_left_is_cleared_by_the_next(run: RunDirectory) -> None:
    save(run, 1)
    left_over = run.checkpoints_path / ".000000015.abcd.tmp"
    left_over.mkdir()
    (left_over / "supernet.safetensors").write_bytes(b"half")
    save(run, 2)
    assert not left_over.exists()
    assert names(run) == ["000000010", "000000020"]


def test_a_write_that_fails_leaves_the_last_one_and_nothing_else(run: RunDirectory) -> None:
    found, _ = save(run, 1)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(run, nn.Linear(3, 2), {"not": lambda: None}, epoch=2, step=20)
    assert names(run) == ["000000010"]
    assert last_checkpoint(run) == (found, [])


def test_a_state_that_cannot_be_read_is_an_error_that_names_it(run: RunDirectory) -> None:
    found, _ = save(run, 1)
    (found.path / STATE).write_bytes(b"PK\x03\x04")
    with pytest.raises(RunError, match=f"{STATE} is damaged") as error:
        found.state()
    assert error.value.hint


def test_no_code_in_a_state_is_run(run: RunDirectory, tmp_path: Path) -> None:
    found, _ = save(run, 1)
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    (found.path / STATE).write_bytes(pickle.dumps({"optimizers": Trap()}))
    description = json.loads((found.path / DESCRIPTION).read_text())
    description["sha256"][STATE] = hashlib.sha256((found.path / STATE).read_bytes()).hexdigest()
    (found.path / DESCRIPTION).write_text(json.dumps(description))
    assert last_checkpoint(run)[0] == found
    with pytest.raises(RunError, match="is damaged"):
        found.state()
    assert not trap.exists()


@pytest.mark.parametrize(("lines", "kept"), [(0, b""), (1, b"a\n"), (2, b"a\nb\n"), (9, b"a\nb\nhalf a li")])
def test_cut_log_keeps_the_first_lines(tmp_path: Path, lines: int, kept: bytes) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"a\nb\nhalf a li")
    cut_log(log, lines)
    assert log.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_missing_log_is_an_error_unless_nothing_is_wanted_of_it(tmp_path: Path) -> None:
    cut_log(tmp_path / "log.jsonl", 0)
    assert not (tmp_path / "log.jsonl").exists()
    with pytest.raises(RunError, match="is missing"):
        cut_log(tmp_path / "log.jsonl", 1)
