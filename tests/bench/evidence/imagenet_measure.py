"""What `imagenet.py` needs of a network beside speeds on a GPU: what the package counts, and what its export takes.

What is exported, and so how long that takes, does not depend on how well the network was trained: the run that
`export_seconds` exports from has one epoch of a few random images of full size, and two candidates.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from pgnas_cli import registry
from pgnas_cli.plugin import Inflation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from commands import Commands

CLASSES, IMAGES = 2, 2
"""Of a folder of images, and of each class in each split."""


def random_folder(folder: Path, img_size: int) -> None:
    """`folder`/train, val and test with random images in classes."""
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in range(CLASSES):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(IMAGES):
                pixels = generator.integers(256, size=(img_size, img_size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")


def counted(name: str, img_size: int) -> dict[str, int]:
    """Parameters, MACs, convolutions and gated channels of a network of ImageNet's classes, on torch's meta device."""
    spec = registry.make_spec(name, Inflation(), num_classes=1000, img_size=img_size)
    net = registry.build_on_meta(spec)
    cost, convolutions = net.kept_cost(), [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]
    channels = sum(gate.channels for gate in net.gates.values())
    return {
        "params": int(cost.params), "macs": int(cost.macs), "convolutions": len(convolutions), "channels": channels,
    }  # fmt: skip


def export_seconds(arch: str, img_size: int) -> float:
    """CPU seconds of `pgnas export` of a candidate, one thread.

    Raises:
        Stopped: SIGINT or SIGTERM ended it.
    """
    pgnas = Commands()
    pgnas.stop_at_signals()
    with tempfile.TemporaryDirectory() as name:
        data, run = Path(name) / "images", Path(name) / "run"
        random_folder(data, img_size)
        pgnas("inflate", arch, "--classes", CLASSES, "--img-size", img_size, "--run", run)
        pgnas(
            "train", "--recipe", "posterior", "--data", f"folder:{data}", "--epochs", 1, "--batch-size", 4, "--run", run
        )
        pgnas("sample", "-n", 2, "--run", run)
        pgnas("rank", "--method", "exhaustive", "--run", run)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        pgnas("export", "--run", run)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
