"""Masked = compact: the largest relative difference of the logits, for networks of the zoo.

    python tests/bench/masked_compact.py [ARCH[@IMAGE_SIZE] ...]

Each network gets random BatchNorm statistics and affine parameters, then 100 random candidates (channels kept with
probability 0.5 to 0.9, one rate a layer) and every degenerate one: all kept, all dropped, one channel a layer, and each
gated layer emptied in turn. Differences are relative to max(1, max |logit|), float32, two images, one thread.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn

import pgnas_cli as pgnas
from pgnas_cli.export.artifact import TOLERANCE, relative_difference

NETWORKS = ["resnet18@64", "resnet50@64", "shakeshake26_2x16d@32"]


def randomise(net: nn.Module, generator: torch.Generator) -> None:
    """Statistics and affine parameters as after training: nothing is zero or one."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)


def candidates(sizes: dict[str, int], rng: np.random.Generator) -> dict[str, list[dict[str, np.ndarray]]]:
    """Kind -> masks."""
    kept = {name: np.ones(size, bool) for name, size in sizes.items()}
    dropped = {name: np.zeros(size, bool) for name, size in sizes.items()}
    random = [{n: rng.random(size) < rng.uniform(0.5, 0.9) for n, size in sizes.items()} for _ in range(100)]
    single = {name: np.arange(size) == rng.integers(size) for name, size in sizes.items()}
    emptied = [{**kept, name: dropped[name]} for name in sizes]
    return {"random": random, "all kept": [kept], "all dropped": [dropped], "one channel a layer": [single],
            "one layer emptied": emptied}  # fmt: skip


def main() -> int:
    torch.set_num_threads(1)
    worst_of_all = 0.0
    print(f"torch {torch.__version__}, tolerance {TOLERANCE:g}")
    for text in sys.argv[1:] or NETWORKS:
        arch, _, size = text.partition("@")
        net = pgnas.inflate(arch, img_size=int(size) if size else None).eval()
        generator = torch.Generator().manual_seed(0)
        randomise(net, generator)
        images = torch.randn(2, *net.input_size, generator=generator)
        sizes = {name: gate.channels for name, gate in net.gates.items()}
        for kind, many in candidates(sizes, np.random.default_rng(0)).items():
            worst = 0.0
            for masks in many:
                with net.masked(masks), torch.inference_mode():
                    masked = net(images)
                with torch.inference_mode():
                    worst = max(worst, relative_difference(net.compact(masks)(images), masked))
            print(f"{text:26} {kind:20} n = {len(many):4}  worst {worst:.1e}")
            worst_of_all = max(worst_of_all, worst)
    return int(worst_of_all > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
