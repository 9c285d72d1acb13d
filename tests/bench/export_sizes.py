"""An exported network of half a resnet50: bytes, time to load, and latency over the masked and the plain network.

    python tests/bench/export_sizes.py [--pairs 21] [--threads 1] [--batch-size 64] [--stem backbone|auto]

resnet50 at 64x64 with 10 classes, random weights and BatchNorm statistics, and timm's own stem unless --stem auto asks
for the one that `pgnas inflate` chooses for small images; half of the inputs of every gated layer are kept, by a fixed
seed. Tables: bytes of each file of the artifact in both layouts and with folded BatchNorms, beside the plain resnet50;
seconds of `pgnas_cli.load` in a process that has loaded before, and in fresh ones, with the whole process; milliseconds
of a batch of one and of --batch-size images. All networks of a table of latencies take turns in one series after three
turns of warm-up: masked (the supernet with masks in its weights), the compact ones and the plain one, and all but the
masked one in ONNX Runtime too. A ratio is that of a turn; medians and quartiles of --pairs turns. Plain over masked is
the control: the same arithmetic with other weights.

The exit code is 1 if the compact network (gather, as `pgnas export` writes it) takes more than 0.60 of the masked one's
time at --batch-size. Cost: 6 to 10 minutes on one core beside other work; with --stem auto, which keeps maps four times
as high and wide, about sixteen times that.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pgnas_cli as pgnas
from pgnas_cli import registry
from pgnas_cli.compact import CompactNetwork
from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.export.artifact import CONFIG, PROBES, PROOF, WEIGHTS
from pgnas_cli.export.bench import processor, quartiles
from pgnas_cli.export.bench_networks import onnx_session
from pgnas_cli.export.deployment import Deployment, file_writer
from pgnas_cli.export.fold import fold_batch_norms
from pgnas_cli.export.onnx_file import ONNX, write_onnx
from pgnas_cli.export.pt2_file import capture
from pgnas_cli.export.writing import write_artifact
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.run import save_tensors
from pgnas_cli.supernet.proof import randomise
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.timing import interleaved

ARCH, SIZE, CLASSES, SEED = "resnet50", 64, 10, 0
GOAL = 0.60
LOADS, FRESH = 10, 3
FILES = (CONFIG, WEIGHTS, PROOF, ONNX)
FOUND, DENSE, FOLDED, PLAIN = "found, gather", "found, dense", "found, gather, BN folded", "plain resnet50"
LOAD = """
import sys, time
begun = time.perf_counter()
import torch
torch.set_num_threads(int(sys.argv[2]))
imported = time.perf_counter()
import pgnas_cli
pgnas_cli.load(sys.argv[1])
print(imported - begun, time.perf_counter() - imported)
"""


@dataclass(frozen=True)
class Networks:
    """What is measured.

    Args:
        net: the supernet, whose `masked` makes it the candidate.
        candidate: the masks.
        compact: name -> compact network.
        plain: the resnet50 without gates and masks.
        images: [P, 3, SIZE, SIZE] probe images.
    """

    net: Supernet
    candidate: Candidate
    compact: dict[str, CompactNetwork]
    plain: nn.Module
    images: Tensor


def make(stem: str) -> Networks:
    """The networks, the same ones for the same stem."""
    generator = torch.Generator().manual_seed(SEED)
    net = pgnas.inflate(ARCH, img_size=SIZE, num_classes=CLASSES, stem=stem, seed=SEED)
    assert net.spec is not None
    plain = registry.build_model(net.spec)
    with torch.no_grad():
        randomise(net.backbone, generator)
        randomise(plain, generator)
    rng = np.random.default_rng(SEED)
    masks = {name: rng.permutation(gate.channels) < gate.channels // 2 for name, gate in net.gates.items()}
    candidate = net.candidate(masks)
    gather = net.compact(candidate)
    compact = {FOUND: gather, DENSE: net.compact(candidate, layout="dense"), FOLDED: fold_batch_norms(gather)}
    images = torch.randn(PROBES, 3, SIZE, SIZE, generator=generator)
    return Networks(net, candidate, compact, plain.eval(), images)


def write(networks: Networks, place: Path) -> dict[str, Path]:
    """Name -> folder of an artifact of each compact network, and of the plain network's weights and model.onnx."""
    cfg = {"input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": CLASSES}
    spec, images, wanted = networks.net.spec, networks.images, Deployment(onnx=True)
    assert spec is not None
    folders = {name: place / str(number) for number, name in enumerate((*networks.compact, PLAIN))}
    for name, network in networks.compact.items():
        write_artifact(
            folders[name], network, spec, dict(networks.candidate.masks), images,
            layout="dense" if name == DENSE else "gather", fold_bn=name == FOLDED, section={}, pretrained_cfg=cfg,
            card="", pictures={}, extra=[file_writer(network, images, wanted, {})],
        )  # fmt: skip
    folders[PLAIN].mkdir()
    save_tensors(folders[PLAIN] / WEIGHTS, networks.plain.state_dict())
    with torch.no_grad():
        logits = networks.plain(images)
    write_onnx(folders[PLAIN] / ONNX, capture(networks.plain, images), images, logits)
    return folders


def bytes_table(networks: Networks, folders: Mapping[str, Path]) -> None:
    print(f"\n| network | parameters | largest difference | {' | '.join(FILES)} |")
    print(f"|---|---:|---:|{'---:|' * len(FILES)}")
    with torch.inference_mode(), networks.net.masked(networks.candidate):
        expected = networks.net(networks.images)
    for name, network in {**networks.compact, PLAIN: networks.plain}.items():
        paths = [folders[name] / file for file in FILES]
        sizes = [f"{path.stat().st_size:,}" if path.is_file() else "-" for path in paths]
        with torch.inference_mode():
            difference = relative_difference(network(networks.images), expected)
        shown = "-" if name == PLAIN else f"{difference:.1e}"
        params = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {name} | {params:,} | {shown} | {' | '.join(sizes)} |", flush=True)


def loading_table(folders: Mapping[str, Path], threads: int) -> None:
    """Seconds of `pgnas_cli.load`: here, and in processes that have imported torch and nothing else."""
    artifacts = {name: folder for name, folder in folders.items() if name != PLAIN}
    print(f"\n| `pgnas_cli.load` | warm, s (n = {LOADS}) | fresh process, s (n = {FRESH}) | of it all, with torch, s |")
    print("|---|---:|---:|---:|")
    calls = [partial(pgnas.load, folder) for folder in artifacts.values()]
    warm = interleaved(calls, torch.device("cpu"), runs=LOADS, warmup=1)
    for (name, folder), seconds in zip(artifacts.items(), warm, strict=True):
        fresh, whole = [], []
        for _ in range(FRESH):
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", LOAD, str(folder), str(threads)], check=True, text=True, stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )  # fmt: skip
            whole.append(time.perf_counter() - begun)
            fresh.append(float(done.stdout.split()[1]))
        numbers = f"{spread(seconds)} | {statistics.median(fresh):.2f} | {statistics.median(whole):.2f}"
        print(f"| {name} | {numbers} |", flush=True)


def spread(values: Sequence[float], digits: int = 3) -> str:
    low, median, high = quartiles(values)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def latency_table(networks: Networks, folders: Mapping[str, Path], batch: int, pairs: int) -> float:
    """All networks on a batch, in turns; the median of found over masked."""
    images = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED))
    masked, runtime = "masked", "ONNX Runtime: "
    calls: dict[str, Callable[[], object]] = {masked: partial(networks.net, images)}
    calls |= {name: partial(network, images) for name, network in networks.compact.items()}
    calls[PLAIN] = partial(networks.plain, images)
    calls |= {runtime + name: onnx_session(folder / ONNX, images) for name, folder in folders.items()}
    with networks.net.masked(networks.candidate):
        times = interleaved(list(calls.values()), images.device, runs=pairs)
    seconds = dict(zip(calls, times, strict=True))

    def over(name: str, base: str) -> list[float]:
        return [mine / its for mine, its in zip(seconds[name], seconds[base], strict=True)]

    print(f"\n| batch of {batch}, n = {pairs} | ms | over masked | over the plain resnet50 in the same runtime |")
    print("|---|---:|---:|---:|")
    for name, turns in seconds.items():
        in_torch = not name.startswith(runtime)
        over_masked = spread(over(name, masked)) if in_torch else "-"
        over_plain = spread(over(name, PLAIN if in_torch else runtime + PLAIN))
        print(f"| {name} | {spread([1000 * turn for turn in turns], 1)} | {over_masked} | {over_plain} |", flush=True)
    return statistics.median(over(FOUND, masked))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--stem", choices=["backbone", "auto"], default="backbone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "onnxruntime"))
    print(f"{platform.platform()}, {processor()}, {os.cpu_count()} cores")
    print(f"python {platform.python_version()}, {versions}")
    print(f"{ARCH} at {SIZE}x{SIZE}, stem {options.stem}, {CLASSES} classes, {options.threads} thread(s)", flush=True)
    networks = make(options.stem)
    with tempfile.TemporaryDirectory() as place:
        folders = write(networks, Path(place))
        bytes_table(networks, folders)
        loading_table(folders, options.threads)
        latency_table(networks, folders, 1, options.pairs)
        ratio = latency_table(networks, folders, options.batch_size, options.pairs)
    good = ratio <= GOAL
    print(f"\nfound over masked at {options.batch_size}: {ratio:.3f}, {'within' if good else 'ABOVE'} {GOAL}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
