"""The expected cost of the compact network with its gradient, by the tape over torch's autograd, in turns.

    python tests/bench/expected_cost.py [ARCH@PIXELS ...] [--pairs 21]

A budget computes it every four steps of a training. CPU time of one thread; median and quartiles of the ratio of a
pair, and the largest difference of the gradients relative to the largest gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pgnas_cli import inflate
from pgnas_cli.compact import ChannelGraph, Cost, count, expected, expected_cost

WAYS: dict[str, Callable[[ChannelGraph, dict[str, Tensor]], Cost[Tensor]]] = {
    "torch": lambda graph, keep: count(graph, expected(graph, keep)),
    "tape": expected_cost,
}


def slopes(way: str, graph: ChannelGraph, keep: dict[str, Tensor]) -> Tensor:
    """Of E[parameters], with respect to all probabilities, one after the other."""
    cost = WAYS[way](graph, keep).params
    return torch.cat(torch.autograd.grad(cost, list(keep.values()), materialize_grads=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ["shakeshake26_2x16d@32", "resnet50@64", "densenet121@64", "resnext50_32x4d@64", "enas15_36f@32"]
    parser.add_argument("networks", nargs="*", default=networks)
    parser.add_argument("--pairs", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | tape over torch | tape | largest difference |\n|---|---|---|---|")
    for network in options.networks:
        arch, _, pixels = network.partition("@")
        net = inflate(arch, img_size=int(pixels), num_classes=10)
        generator = torch.Generator().manual_seed(0)
        keep = {
            name: torch.rand(p.shape, generator=generator).requires_grad_()
            for name, p in net.keep_probabilities().items()
        }
        found = {way: slopes(way, net.graph, keep) for way in WAYS}
        difference = float((found["tape"] - found["torch"]).abs().max() / found["torch"].abs().max())
        ratios, milliseconds = [], []
        for pair in range(options.pairs):
            seconds = {}
            for way in WAYS if pair % 2 else reversed(WAYS):
                began = time.process_time()
                slopes(way, net.graph, keep)
                seconds[way] = time.process_time() - began
            ratios.append(seconds["tape"] / seconds["torch"])
            milliseconds.append(1e3 * seconds["tape"])
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"| {network} | {middle:.2f} ({low:.2f} to {high:.2f}, n = {len(ratios)}) "
            f"| {statistics.median(milliseconds):.1f} ms | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
