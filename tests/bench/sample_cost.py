"""Many candidates of one supernet: the time of their draws and exact costs, and their bytes on disk.

    python tests/bench/sample_cost.py [ARCH] [-n 10000] [--subset 200] [--pairs 15]

The targets are for 10 000 candidates of resnet50: exact costs in under a minute, under 1 GiB on disk. Every gate has a
random drop probability; nothing is trained. `assess_many` of all candidates is timed once; on a subset it alternates
with a loop of `assess`, and which goes first alternates too: the median of the ratios of neighbours, and their
quartiles. One thread; time is the CPU time of the process, to which other processes add little.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import pgnas_cli as pgnas
from pgnas_cli import Supernet
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.diversity import diversity
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.ranking.candidates import MASKS, ROWS, write_candidates

SECONDS, BYTES = 60.0, 1 << 30


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def random_posterior(net: Supernet, generator: np.random.Generator) -> Posterior:
    """Every gate group at its own rate, uniform between 0.1 and 0.9."""
    layers = net.gates.items()
    return Posterior({n: LayerPosterior(generator.uniform(0.1, 0.9, len(g.sizes)), g.sizes) for n, g in layers})


def compare(net: Supernet, many: list[Masks], pairs: int) -> None:
    """Print how much faster `assess_many` is than one after the other, and check that both say the same."""
    sides = {"loop": lambda: [net.assess(masks) for masks in many], "batch": lambda: net.assess_many(many)}
    if sides["loop"]() != sides["batch"]():  # warms up, too
        raise SystemExit("assess_many differs from assess")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in sorted(sides, reverse=bool(pair % 2)):
            times[name].append(seconds(sides[name]))
    ratios = [loop / batch for loop, batch in zip(times["loop"], times["batch"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    each = {name: 1000 * statistics.median(values) / len(many) for name, values in times.items()}
    print(
        f"{len(many)} of them, {pairs} pairs: assess {each['loop']:.3f} ms, assess_many {each['batch']:.3f} ms each, "
        f"ratio {middle:.2f} (quartiles {low:.2f} to {high:.2f})"
    )


def written(net: Supernet, candidates: list[Candidate]) -> tuple[int, int]:
    """Bytes of the masks and of the rows in a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = pgnas.create_run(net, Path(folder) / "run")
        write_candidates(run, net, candidates)
        return (run.path / MASKS).stat().st_size, (run.path / ROWS).stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("arch", nargs="?", default="resnet50")
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--subset", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"numpy {np.__version__}, torch {torch.__version__}, {platform.machine()}, one thread, {options}")
    net = pgnas.inflate(options.arch)
    print(f"tracing {seconds(lambda: net.graph):.2f} s, once for a supernet")
    generator = np.random.default_rng(0)
    posterior = random_posterior(net, generator)
    many: list[Masks] = []
    drawing = seconds(lambda: many.extend(posterior.draw(generator) for _ in range(options.n)))
    candidates: list[Candidate] = []

    def assess() -> None:
        costs = zip(many, net.assess_many(many), strict=True)
        candidates.extend(Candidate(masks, "posterior", cost.params, cost.macs) for masks, cost in costs)

    costing = seconds(assess)
    print(
        f"{options.n} candidates of {posterior.channels} channels: draws {drawing:.2f} s, exact costs {costing:.2f} s"
    )
    compare(net, many[: options.subset], options.pairs)
    masks, rows = written(net, candidates)
    print(f"on disk: {MASKS} {masks / 1e6:.1f} MB, {ROWS} {rows / 1e6:.1f} MB, in all {(masks + rows) / BYTES:.4f} GiB")
    print(f"{diversity(many)} in {seconds(lambda: diversity(many)):.2f} s")
    return int(costing > SECONDS or masks + rows > BYTES)


if __name__ == "__main__":
    raise SystemExit(main())
