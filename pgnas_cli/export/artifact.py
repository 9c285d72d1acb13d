"""The artifact: a folder from which the exact network comes back, with the proof of it inside.

    config.json        timm-style keys, and "pgnas": how the network is built again, what it scored, on what
    model.safetensors  the small network's weights, nothing else
    pgnas.safetensors  bit-packed masks, gather indices, probe images and their logits
    README.md          the model card
    architecture.png   the network, drawn inside its supernet

The same run gives the same bytes: nothing in it is a time, a path or a random number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pgnas_cli.errors import RunError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.run import read_json

FORMAT = 1
SEMANTICS = 1
"""What a dropped channel means; see compact/."""
ARCHITECTURE = "pgnas"
PROBES = 8
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROOF = "pgnas.safetensors"
CARD = "README.md"
PICTURE = "architecture.png"
DAMAGED = "export again, or download the folder again"
MOST_CONFIG = 2**22
"""Bytes of config.json, 4 MiB: the names of 20,000 classes take one. Parsed, it may take twenty times its size."""


@dataclass(frozen=True)
class Artifact:
    """An artifact as read from disk, checked for consistency but not built.

    Args:
        path: its folder.
        config: config.json.
        spec: how the backbone is built.
        masks: layer name -> bool [K].
        layout: "gather" or "dense".
        folded: the surrogates that were left out.
        gather: name -> int64 indices.
        images: [P, C, H, W] probe images.
        logits: [P, num_classes] of the exported network.
    """

    path: Path
    config: dict[str, Any]
    spec: BuildSpec
    masks: dict[str, np.ndarray]
    layout: str
    folded: tuple[str, ...]
    gather: dict[str, Tensor]
    images: Tensor
    logits: Tensor


def is_artifact(path: Path) -> bool:
    """Whether a folder looks like an artifact."""
    try:
        return "pgnas" in read_json(path / CONFIG, most=MOST_CONFIG)
    except (OSError, RunError):
        return False


def weights_digest(path: Path) -> str:
    """SHA-256 of an artifact's weights file."""
    return file_digest(path / WEIGHTS)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
