"""How long the networks of peers.py take: eager and in ONNX Runtime, in turns, beside the plain network.

    python tests/bench/evidence/latency.py --out DIR [--families ...] [--seeds 0 1 2] [--repeats 60] [--results DIR]

DIR is that of peers.py. Every arm is measured whose network is there and which has a row in results/peers.csv, with as
many parameters; do it on a machine that does nothing else. They and the plain network, which is built for this, take
turns on the same batch, of 1 and of 64 images, one thread, so that a drift of the machine's speed meets all alike; each
runtime has turns of its own, and their order changes, since every network finds in the caches what the one before it
left. One row of results/latency.csv for each network, runtime and batch size: median and quartiles of the time of a
batch in milliseconds, and the median of its quotient with the plain network's time in the same turn, with a 95 %
interval of that median. The arm plain is its own network's time over that of the one built: 1, but for its noise. An
arm that has rows is not measured again. About two minutes for a family and seed.

All are graphs of torch.fx (the arms of pgnas are; others are traced for this), in NCHW, float32.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "zoo")]

import torch  # noqa: E402
from ledger import RESULTS, Ledger  # noqa: E402
from peer_arms import COLUMNS, FAMILIES, NETWORK  # noqa: E402
from peer_training import params_of, without_branch_noise  # noqa: E402
from run_steps import IMAGE  # noqa: E402
from torch import fx, nn  # noqa: E402

from pgnas_cli import registry  # noqa: E402
from pgnas_cli.export.bench import median_interval, quartiles  # noqa: E402
from pgnas_cli.export.bench_networks import Call, onnx_session  # noqa: E402
from pgnas_cli.export.onnx_file import write_onnx  # noqa: E402
from pgnas_cli.export.pt2_file import capture  # noqa: E402
from pgnas_cli.plugin import Inflation  # noqa: E402
from pgnas_cli.supernet.timing import interleaved  # noqa: E402

ABOUT = "Latency of the networks of peers.csv: one thread, in turns, milliseconds a batch and times the plain network's"
KEY = ("family", "seed", "runtime", "batch", "arm")
TIMES = (*KEY, "median_ms", "low_ms", "high_ms", "of_plain", "of_plain_low", "of_plain_high", "turns")
EAGER, ONNX = "eager", "ONNX Runtime"
BATCHES = (1, 64)
EACH = 2 * len(BATCHES)
"""Rows of an arm: both runtimes."""
TURNS = 6
"""In the same order; then it is drawn anew."""
BUILT = "built"
"""The plain network that all are divided by; it has no rows."""


def graph(network: nn.Module) -> nn.Module:
    network = network.eval().to(memory_format=torch.contiguous_format)
    return network if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network)


def load(file: Path, params: int) -> nn.Module:
    """The network that an arm ended with, as a graph.

    Raises:
        ValueError: it has another number of parameters.
    """
    network: nn.Module = torch.load(file, weights_only=False)  # our own file
    if (found := params_of(network)) != params:
        raise ValueError(f"{file} has {found:,} parameters, its row in peers.csv {params:,}")
    return graph(network)


def plain_network(family: str) -> nn.Module:
    """The plain network of a family with weights drawn from a fixed seed, as a graph."""
    torch.manual_seed(0)
    spec = registry.make_spec(FAMILIES[family].plain, Inflation(), num_classes=10, in_chans=1, img_size=IMAGE)
    return graph(without_branch_noise(registry.build_model(spec)))


def calls(networks: dict[str, nn.Module], batch: int, folder: Path) -> dict[str, dict[str, Call]]:
    """Runtime -> arm -> a call on a batch of images."""
    images = torch.randn(batch, 1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    sessions: dict[str, Call] = {}
    for arm, network in networks.items():
        file, probe = folder / f"{arm}.onnx", images[:1].repeat(8, 1, 1, 1)
        if not file.is_file():
            with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of the exporter
                write_onnx(file, capture(network, probe), probe, network(probe))
        sessions[arm] = onnx_session(file, images)
    return {EAGER: {arm: partial(network, images) for arm, network in networks.items()}, ONNX: sessions}


def in_turns(made: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, by its name, in so many turns and up to TURNS - 1 more."""
    found: dict[str, list[float]] = {name: [] for name in made}
    order, draw = list(made), random.Random(0)
    while len(found[order[0]]) < repeats:
        draw.shuffle(order)
        times = interleaved([made[name] for name in order], torch.device("cpu"), runs=TURNS)
        for name, seconds in zip(order, times, strict=True):
            found[name] += seconds
    return found


def measured(networks: dict[str, nn.Module], family: str, seed: int, repeats: int) -> list[dict[str, object]]:
    """The rows of all networks of a family and seed but that named BUILT, which they are divided by."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            for runtime, made in calls(networks, batch, Path(folder)).items():
                times = in_turns(made, repeats)
                reference = times.pop(BUILT)
                for arm, seconds in times.items():
                    low, median, high = (1e3 * value for value in quartiles(seconds))
                    ratios = [mine / its for mine, its in zip(seconds, reference, strict=True)]
                    of_plain = (statistics.median(ratios), *median_interval(ratios)[:2])
                    values = [f"{value:.4g}" for value in (median, low, high, *of_plain)]
                    row = (family, seed, runtime, batch, arm, *values, len(seconds))
                    rows.append(dict(zip(TIMES, row, strict=True)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    peers = Ledger("peers", "", COLUMNS, ("family", "arm", "seed"), options.results).rows()
    ledger = Ledger("latency", ABOUT, TIMES, KEY, options.results)
    for family in options.families:
        for seed in options.seeds:
            group = (family, str(seed))
            sizes = {row["arm"]: int(row["params"]) for row in peers if (row["family"], row["seed"]) == group}
            there = {row["arm"] for row in ledger.rows() if (row["family"], row["seed"]) == group}
            files = {arm: options.out / f"{family}-{arm}-{seed}" / NETWORK for arm in sorted(sizes.keys() - there)}
            missing = [arm for arm, file in files.items() if not file.is_file()]
            if missing:
                print(f"{family}, seed {seed}: not measured, they are not in {options.out}: {', '.join(missing)}")
            networks = {arm: load(file, sizes[arm]) for arm, file in files.items() if arm not in missing}
            if networks:
                for row in measured({BUILT: plain_network(family), **networks}, family, seed, options.repeats):
                    ledger.add(row)
            print(f"{family}, seed {seed}: {len(networks)} networks", flush=True)


if __name__ == "__main__":
    main()
