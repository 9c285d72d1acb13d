"""What a ranking has evaluated so far, kept in the run until it is finished, so that nothing is evaluated twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgnas_cli.errors import RunError
from pgnas_cli.run import load_tensors, read_json, remove, save_tensors, write_json

Answers = tuple[NDArray[np.bool_], NDArray[np.float32]]
FOLDER = ".ranking"


class Journal:
    """A folder with one file for every group of candidates that has been evaluated.

    Args:
        path: the folder; made when the first group is written.
        header: what decides the answers. What lies there under another header is removed.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, dict(header)
        if self._stored_header() != self.header:
            remove(path)

    def _stored_header(self) -> dict[str, Any] | None:
        try:
            return read_json(self.path / "header.json")
        except RunError:
            return None

    def way(self) -> dict[str, Any] | None:
        """How the answers were computed, as `keep_way` had it."""
        try:
            return read_json(self.path / "way.json")
        except RunError:
            return None

    def keep_way(self, way: Mapping[str, Any]) -> None:
        """Keep how the answers are computed: measured anew it might differ."""
        self._begin()
        write_json(self.path / "way.json", way)

    def _begin(self) -> None:
        if not self.path.is_dir():
            write_json(self.path / "header.json", self.header)

    def key(self, candidates: Sequence[str], images: NDArray[np.int64]) -> str:
        """The name of a group: of candidates and of the images that they see."""
        text = json.dumps(list(candidates)).encode() + images.astype("<i8").tobytes()
        return hashlib.sha256(text).hexdigest()[:24]

    def read(self, key: str, shape: tuple[int, int]) -> Answers | None:
        """The answers of a group; None if it has not been evaluated, or its file is damaged."""
        try:
            tensors, _ = load_tensors(self.path / f"{key}.safetensors", hint="")
            right = np.unpackbits(tensors["right"].numpy(), axis=1, count=shape[1]).astype(bool)
            log_prob = tensors["log_prob"].numpy()
        except (RunError, KeyError, ValueError):
            return None
        if right.shape != shape or log_prob.shape != shape:
            return None
        return right, log_prob

    def write(self, key: str, answers: Answers) -> None:
        """Keep the answers of a group; whole or not at all."""
        right, log_prob = answers
        self._begin()
        bits = torch.from_numpy(np.packbits(right, axis=1))
        save_tensors(self.path / f"{key}.safetensors", {"right": bits, "log_prob": torch.from_numpy(log_prob)})

    def close(self) -> None:
        """The ranking is finished and written: the journal is not needed any more."""
        remove(self.path)
