"""Pretrained weights in a wider network: how far the logits move, and how far the symmetry of the copies is broken.

    python tests/bench/pretrained_width.py [ARCH[@IMAGE_SIZE] ...]

Weights of the plain network are written to a safetensors file, after its BatchNorm statistics and affine parameters
were made as uneven as training makes them; then the network is inflated from that file at each width, as
`pgnas inflate ARCH --width W --weights FILE` does. Differences are max |a - b| / max(1, max |b|), float32, one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import pgnas_cli as pgnas
from pgnas_cli import registry
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet.proof import randomise

NETWORKS = ["resnet50@64", "densenet121@64", "shakeshake26_2x32d@32"]
WIDTHS = [1.3, 1.7, 2.0]


def main() -> int:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; symmetry noise 0.01")
    print(f"{'network':24} {'width':>5} {'parameters':>12} {'difference of the logits':>25} {'seconds':>8}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for text in sys.argv[1:] or NETWORKS:
            arch, _, size = text.partition("@")
            options = {"img_size": int(size)} if size else {}
            plain, _ = registry.build_backbone(registry.make_spec(arch, Inflation(), **options))
            randomise(plain, torch.Generator().manual_seed(0))
            file = Path(folder) / f"{arch}.safetensors"
            save_file(plain.state_dict(), file)
            for width in WIDTHS:
                started = time.perf_counter()
                net = pgnas.inflate(arch, width=width, weights=file, **options)
                elapsed = time.perf_counter() - started
                assert net.inherited is not None
                difference = net.inherited.logit_difference
                worst = max(worst, difference)
                print(f"{text:24} {width:5.1f} {net.kept_cost().params:12,} {difference:25.1e} {elapsed:8.1f}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
