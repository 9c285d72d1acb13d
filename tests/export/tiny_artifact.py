"""A small artifact without a run: of a network of 500 weights, or of any architecture with random weights and masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli import registry
from pgnas_cli.export.writing import write_artifact
from pgnas_cli.plugin import ArchitectureInfo, BuildSpec, Inflation, ZooPlugin

CONFIG, WEIGHTS, PROOF = "config.json", "model.safetensors", "pgnas.safetensors"
Files = dict[str, bytes]


class TinyNet(nn.Module):
    """A stem, two gated convolutions with a skip, a cat and a classifier: every kind of index layer, 500 weights."""

    def __init__(self, width: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.a = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn_a = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        y = x + self.relu(self.bn_a(self.a(x)))
        return self.fc(torch.cat([self.b(y), x], 1).mean((2, 3)))


class TinyPlugin(ZooPlugin):
    """tiny_<W>, W channels wide, any whole number."""

    name = "tiny"

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return (ArchitectureInfo("tiny_6", 500, 1000, num_classes=3, img_size=8, in_chans=1),)

    def matches(self, arch: str) -> bool:
        return arch.startswith("tiny_")

    def build(self, arch: str, inflation: Inflation, *, num_classes: int, in_chans: int, **_: Any) -> nn.Module:
        return TinyNet(round(int(arch.removeprefix("tiny_")) * inflation.width), num_classes, in_chans)

    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        return {name: [model.get_submodule(name).in_channels] for name in ("a", "b")}


@contextlib.contextmanager
def tiny_installed(distribution: str = "pgnas 0") -> Iterator[None]:
    """TinyPlugin is found as an installed plugin of a distribution, one of pgnas's own if that is pgnas."""
    status = registry.PluginStatus("tiny", distribution, TinyPlugin())
    found = registry.plugins()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "plugins", lambda: (*found, status))
        yield


def whole(folder: Path, arch: str, plugin: str, img_size: int, seed: int, *, width: float = 1.0) -> Files:
    """Write an artifact of random weights and masks, found in a backbone so many times as wide; return its files."""
    spec = BuildSpec(arch, plugin, Inflation(width=width), 3, 1, img_size, distribution="pgnas 0")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, groups = registry.build_backbone(spec)
    random_numbers = np.random.default_rng(seed)
    masks = {name: random_numbers.random(sum(sizes)) < 0.7 for name, sizes in groups.items()}
    graph = compaction.trace(backbone.eval(), (1, img_size, img_size))
    network = compaction.compact(graph, backbone, masks)
    section: dict[str, Any] = {
        "versions": {"python": "3.11", "torch": "2"},
        "candidate": {"id": "0" * 16, "strategy": "random", "params": 1, "macs": 1},
        "data": {"spec": "digits", "num_classes": 3},
        "test_accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100},
    }
    cfg = {"input_size": [1, img_size, img_size], "mean": [0.5], "std": [0.25], "num_classes": 3, "crop_pct": 1.0,
           "interpolation": "bilinear", "label_names": ["cat", "dog", "{{ 7 * 7 }}"]}  # fmt: skip
    write_artifact(
        folder, network, spec, masks, torch.randn(8, 1, img_size, img_size, generator=generator), layout="gather",
        section=section, pretrained_cfg=cfg, card="---\n---\n", pictures={},
    )  # fmt: skip
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, PROOF)}
