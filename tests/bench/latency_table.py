"""Latency by the table against measured latency: compact candidates of many sizes, in turns.

    python tests/bench/latency_table.py [--candidates 20] [--runs 15] [--channels-last] [--device cpu] [ARCH@SIZE ...]

Each candidate is drawn from its own random posterior, whose drop probabilities follow a Beta distribution around a
level between 0.05 and 0.9. Measured is the lower quartile over the turns, as in the table; the network with everything
kept is measured again in the same turns, and the times are divided by how much it has drifted since the table.
"""

from __future__ import annotations

import argparse
import platform
import time
from functools import partial

import numpy as np
import torch

from pgnas_cli import compact as compaction
from pgnas_cli import inflate
from pgnas_cli.supernet.latency import candidate_latency, expected_latency
from pgnas_cli.supernet.latency_measure import measure_table
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.timing import interleaved


@torch.no_grad()
def spread(net: Supernet, level: float, rng: np.random.Generator) -> None:
    for gate in net.gates.values():
        p = np.clip(rng.beta(4 * level, 4 * (1 - level), len(gate.sizes)), 0.003, 0.997)
        gate.drop_logit.copy_(torch.from_numpy(np.log(p / (1 - p))))


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


def compare(name: str, options: argparse.Namespace) -> None:
    arch, _, size = name.partition("@")
    device = torch.device(options.device)
    net = inflate(arch, img_size=int(size or 32), seed=0).to(device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    started = time.perf_counter()
    table = measure_table(net, channels_last=options.channels_last)
    seconds, rng = time.perf_counter() - started, np.random.default_rng(0)
    networks, predicted, gaps = [], [], []
    while len(networks) < options.candidates:
        spread(net, rng.uniform(0.05, 0.9), rng)
        masks = net.posterior().draw(rng)
        if net.assess(masks).usable:
            networks.append(net.compact(masks).to(memory_format=layout))
            predicted.append(candidate_latency(net, masks, table))
            with torch.no_grad():
                gaps.append(float(expected_latency(net, table)) / predicted[-1] - 1)
    networks.append(compaction.compact(net.graph, net.backbone, {}).to(memory_format=layout))
    images = torch.randn(1, *net.input_size, device=device).to(memory_format=layout)
    times = interleaved([partial(network, images) for network in networks], device, runs=options.runs)
    *measured, again = (np.quantile(turns, 0.25) for turns in times)
    drift = again / table.full_seconds
    ratio = np.array(predicted) * drift / np.array(measured)
    rank = np.corrcoef(ranks(np.array(predicted)), ranks(np.array(measured)))[0, 1]
    print(
        f"{name}: table {seconds:.1f} s, {len(table.entries)} operations, factor {table.scale:.2f}; whole "
        f"{1e3 * table.full_seconds:.2f} ms, drift {drift:.2f}; {len(measured)} candidates of "
        f"{1e3 * min(measured):.2f} to {1e3 * max(measured):.2f} ms: predicted / measured - 1 median "
        f"{100 * np.median(ratio - 1):+.1f} %, |.| median {100 * np.median(abs(ratio - 1)):.1f} % largest "
        f"{100 * abs(ratio - 1).max():.1f} %, rank correlation {rank:.3f}; expected / drawn - 1 median "
        f"{100 * np.median(gaps):+.1f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["shakeshake26_2x16d@32", "resnet18@32", "resnet50@64"])
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{platform.platform()}, torch {torch.__version__}, {options.device}, {threads} threads, batch 1")
    for name in options.networks:
        compare(name, options)


if __name__ == "__main__":
    main()
