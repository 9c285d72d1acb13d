"""Masked = compact: the largest relative difference of the logits, a row for each network of the zoo.

    python tests/bench/masked_compact.py [--candidates 20] [--emptied 64] [ARCH[@IMAGE_SIZE] ...]

Without names: every listed architecture of the zoo, at 64 pixels a side, at 32 where the family has a stem for small
images, or at the smallest size that it accepts. What is compared is what `pgnas_cli.supernet.proof.prove` says: random
candidates in both layouts, everything kept, everything dropped, one channel a layer, and gated layers emptied in turn.
Differences are relative to max(1, max |logit|), float32, two images, one thread. The rows are those of a Markdown
table; the exit code is 1 if any network fails.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import pgnas_cli as pgnas
from pgnas_cli import registry
from pgnas_cli.compact.equality import TOLERANCE
from pgnas_cli.supernet.proof import MAX_EMPTIED, prove

SIZE = 64
SMALLEST = {"inception_next": 64, "inception": 96, "nasnet": 96, "pnasnet": 96, "tinynet": 106}
"""Prefix of a name -> image size, for networks that shrink the image too much for SIZE."""


def small_size(arch: str) -> int:
    """The image size that an architecture is proven at where none is given."""
    _, plugin, plain = registry.find(arch)
    info = plugin.info(plain) or plugin.architectures()[0]
    usual = SIZE // 2 if "stem" in plugin.options else SIZE
    return min(next((size for prefix, size in SMALLEST.items() if plain.startswith(prefix)), usual), info.img_size)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="ARCH[@IMAGE_SIZE]")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--emptied", type=int, default=MAX_EMPTIED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.candidates} random candidates, tolerance {TOLERANCE:g}\n")
    print("| architecture | plugin | image | gated layers | barriers | comparisons | worst difference | |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    passed, started = True, time.perf_counter()
    for text in options.networks or [info.name for _, info in registry.architectures()]:
        arch, _, size = text.partition("@")
        net = pgnas.inflate(arch, img_size=int(size) if size else small_size(arch), num_classes=10)
        assert net.spec is not None
        proof = prove(net, candidates=options.candidates, max_emptied=options.emptied)
        passed = passed and proof.passed
        n = sum(comparison.n for comparison in proof.comparisons)
        print(
            f"| {arch} | {net.spec.plugin} | {net.spec.img_size} | {len(net.gates)} | {len(net.graph.barriers)} "
            f"| {n} | {proof.worst:.1e} | {'' if proof.passed else 'FAILS'} |",
            flush=True,
        )
    print(f"\n{'passed' if passed else 'FAILED'} in {time.perf_counter() - started:.0f} s")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
