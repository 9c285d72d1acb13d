"""Checkpoints: folders renamed into place whole, two kept, the newest valid one is the last.

train/checkpoints/<step>/supernet.safetensors   weights and drop logits
                         state.pt               optimisers and budget (read with weights_only=True)
                         checkpoint.json        epoch, step, and the SHA-256 of the other two
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pgnas_cli.errors import RunError
from pgnas_cli.run import RunDirectory, load_tensors, replace_folder, save_tensors, write_bytes, write_json

KEEP = 2
WEIGHTS = "supernet.safetensors"
STATE = "state.pt"
DESCRIPTION = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint on disk.

    Args:
        path: its folder.
        epoch: epochs done.
        step: optimiser steps done.
    """

    path: Path
    epoch: int
    step: int

    @property
    def weights_path(self) -> Path:
        return self.path / WEIGHTS

    def state(self) -> dict[str, Any]:
        """Optimiser and budget state.

        Raises:
            RunError: the file is damaged.
        """
        try:
            state = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the damaged bytes make it raise
            raise RunError(
                f"{self.path / STATE} is damaged ({type(error).__name__})", "remove this folder to use the one before"
            ) from None
        if not isinstance(state, dict):
            raise RunError(f"{self.path / STATE} holds no checkpoint", "remove this folder to use the one before")
        return state


def save_checkpoint(run: RunDirectory, net: nn.Module, state: dict[str, Any], *, epoch: int, step: int) -> Checkpoint:
    """Write a checkpoint and remove all but the newest two. Nothing is removed before the new one is in place."""
    run.checkpoints_path.mkdir(parents=True, exist_ok=True)
    target = run.checkpoints_path / f"{step:09d}"
    for left_over in run.checkpoints_path.glob(".*.tmp"):  # of a save that was killed
        shutil.rmtree(left_over)
    folder = run.checkpoints_path / f".{target.name}.{secrets.token_hex(4)}.tmp"
    folder.mkdir()
    try:
        save_tensors(folder / WEIGHTS, net.state_dict())
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(folder / STATE, buffer.getvalue())
        digests = {name: _digest(folder / name) for name in (WEIGHTS, STATE)}
        write_json(folder / DESCRIPTION, {"epoch": epoch, "step": step, "sha256": digests})
        replace_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for old in _folders(run)[:-KEEP]:
        shutil.rmtree(old)
    return Checkpoint(target, epoch, step)


def last_checkpoint(run: RunDirectory) -> tuple[Checkpoint | None, list[Path]]:
    """The newest valid checkpoint, and the damaged ones that were passed over."""
    damaged: list[Path] = []
    for folder in reversed(_folders(run)):
        found = _read(folder)
        if found is not None:
            return found, damaged
        damaged.append(folder)
    return None, damaged


def read_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tensors of a checkpoint."""
    return load_tensors(checkpoint.weights_path, hint="pgnas train --resume uses the checkpoint before")[0]


def _folders(run: RunDirectory) -> list[Path]:
    if not run.checkpoints_path.is_dir():
        return []
    return sorted(path for path in run.checkpoints_path.iterdir() if path.is_dir() and path.name.isdigit())


def _read(folder: Path) -> Checkpoint | None:
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        digests = description["sha256"]
        if any(_digest(folder / name) != digests[name] for name in (WEIGHTS, STATE)):
            return None
        return Checkpoint(folder, int(description["epoch"]), int(description["step"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut_log(path: Path, lines: int) -> None:
    """Keep the first `lines` lines of a log, so that it agrees with the checkpoint that is resumed."""
    if path.is_file():
        kept = path.read_bytes().splitlines(keepends=True)[:lines]
        write_bytes(path, b"".join(kept))
    elif lines:
        raise RunError(f"{path} is missing", "pgnas train --force starts again")


def relative(path: Path, run: RunDirectory) -> str:
    """A path inside the run, with forward slashes."""
    return os.path.relpath(path, run.path).replace(os.sep, "/")
