"""The speed of an exported network: beside its baseline and its supernet, in several runtimes, in turns.

    baseline, supernet, found  x  eager, compiled, ONNX Runtime  x  batch sizes

All networks in all runtimes take turns on the same batch, so that a drift of the machine's speed meets all alike; what
is compared with the baseline is compared turn by turn. The numbers are of one machine.
"""

from __future__ import annotations

import copy
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgnas_cli.errors import UsageError
from pgnas_cli.export import bench_networks as ways
from pgnas_cli.export.artifact import Artifact
from pgnas_cli.export.bench_networks import BASELINE, FOUND, SUPERNET, Call, Subject
from pgnas_cli.export.loading import locate
from pgnas_cli.export.reading import read_artifact
from pgnas_cli.export.skipped import SkippedError
from pgnas_cli.supernet.timing import interleaved
from pgnas_cli.training.devices import choose_device

EAGER, COMPILED, ONNX_RUNTIME = "eager", "compiled", "ONNX Runtime"
BATCHES = (1, 64)
REPEATS = 20
WARMUP = 3
TIME_LIMIT = 120.0
"""Seconds after which no further turn of a batch size starts, though three are always measured."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """The median of a quotient, with an interval of the median.

    Args:
        value: the median.
        low, high: ends of the interval; see `median_interval`.
        level: with what probability it encloses the median; at least CONFIDENCE from six turns on, 0 of one.
    """

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Timing:
    """One network in one runtime on batches of one size.

    Args:
        network: its name.
        runtime: "eager", "compiled" or "ONNX Runtime".
        batch_size: images in a batch.
        n: measured turns.
        median_ms, low_ms, high_ms: median and quartiles of the time of a batch, milliseconds.
        images_per_second: of the median.
        ratio: time over the baseline's in the same runtime and turn; None where the baseline does not run in it.
    """

    network: str
    runtime: str
    batch_size: int
    n: int
    median_ms: float
    low_ms: float
    high_ms: float
    images_per_second: float
    ratio: Ratio | None


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Args:
        path: the artifact, as it was named.
        candidate: id of its network.
        environment: of what machine and versions the numbers are.
        networks: name -> {"params", "macs"}.
        timings: by batch size, then runtime, then network.
        skipped: network or runtime -> why it was not measured.
    """

    path: str
    candidate: str
    environment: dict[str, Any]
    networks: dict[str, dict[str, int]]
    timings: tuple[Timing, ...]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    path: str | Path,
    *,
    batch_sizes: Sequence[int] = BATCHES,
    threads: int | None = None,
    device: str = "cpu",
    repeats: int = REPEATS,
    compiled: bool = True,
    onnx: bool = True,
    channels_last: bool = False,
    trust_plugins: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Measure an exported network beside its baseline and its supernet.

    Args:
        path: the artifact's folder, or a repository of the Hub: "user/repo" or "user/repo@revision".
        batch_sizes: images in a batch, one series of turns for each.
        threads: of torch and ONNX Runtime on the CPU; torch's own number if None. torch's is set back afterwards.
        device: cpu, cuda, cuda:1 or mps. ONNX Runtime is measured on the CPU alone.
        repeats: measured turns, at most: see TIME_LIMIT.
        compiled: also through torch.compile.
        onnx: also in ONNX Runtime; exported on the fly where the artifact has no model.onnx.
        channels_last: maps and weights lie in memory as NHWC, in eager and compiled.
        trust_plugins: of a downloaded network, also let an installed plugin build it that is not pgnas's own.
        say: is told what comes next.

    Raises:
        RunError, UsageError, HubError: see `pgnas_cli.load`; or there is no such device.
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise UsageError(f"batch sizes {list(batch_sizes)} were given, they should be at least 1", "--batch-size 64")
    if repeats < 1:
        raise UsageError(f"{repeats} repeats were asked for, it should be at least 1", f"--repeats {REPEATS}")
    where = choose_device(device)
    folder, own = locate(path, everything=True)
    artifact = read_artifact(folder, trust_plugins=own or trust_plugins)
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        found, skipped = ways.subjects(artifact)
        runtimes = _Runtimes(artifact, where, channels_last, skipped, say)
        runtimes.add(EAGER, found)
        if compiled:
            runtimes.add(COMPILED, found)
        if onnx:
            runtimes.add_onnx(found, stack)
        timings: list[Timing] = []
        for size in dict.fromkeys(batch_sizes):
            calls = runtimes.calls(size)
            say(f"batches of {size}: {len(calls)} networks in turns")
            times = interleaved(list(calls.values()), where, runs=repeats, warmup=WARMUP, limit=TIME_LIMIT)
            timings += _timings(dict(zip(calls, times, strict=True)), size)
        environment = _environment(artifact, where, channels_last)
    networks = {subject.name: {"params": subject.params, "macs": subject.macs} for subject in found}
    candidate = str(artifact.config["pgnas"].get("candidate", {}).get("id", ""))
    return Benchmark(str(path), candidate, environment, networks, tuple(timings), skipped)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Runtimes:
    """Makes the calls that are timed, and notes what does not run here."""

    def __init__(
        self, artifact: Artifact, device: torch.device, channels_last: bool, skipped: dict[str, str],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._artifact, self._device, self._skipped, self._say = artifact, device, skipped, say
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._makers: dict[tuple[str, str], Callable[[Tensor], Call]] = {}

    def add(self, runtime: str, found: Sequence[Subject]) -> None:
        """Networks in torch."""
        make = ways.eager if runtime == EAGER else ways.compiled
        for subject in found:
            if runtime == COMPILED and subject.name not in (BASELINE, SUPERNET, FOUND):
                continue  # the other layout is not worth compiling
            network = copy.deepcopy(subject.network).to(self._device).to(memory_format=self._format)
            self._makers[runtime, subject.name] = partial(make, network)

    def add_onnx(self, found: Sequence[Subject], stack: ExitStack) -> None:
        """Networks in ONNX Runtime, exported into a folder that is gone when `stack` is closed."""
        try:
            if self._device.type != "cpu":
                raise SkippedError(f"it is measured on the CPU alone, not on {self._device}")
            folder = stack.enter_context(ways.onnx_folder())
        except SkippedError as error:
            self._skipped[ONNX_RUNTIME] = str(error)
            return
        for subject in found:
            self._say(f"{ONNX_RUNTIME}: {subject.name}")
            try:
                file = ways.onnx_file(subject, self._artifact, folder)
            except SkippedError as error:
                self._skipped[f"{ONNX_RUNTIME}, {subject.name}"] = str(error)
                continue
            self._makers[ONNX_RUNTIME, subject.name] = partial(ways.onnx_session, file)

    def calls(self, batch_size: int) -> dict[tuple[str, str], Call]:
        """(runtime, network) -> a call on a batch; what fails is noted and never tried again."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch_size, *self._artifact.images.shape[1:])
        images = torch.randn(shape, generator=generator).to(self._device, memory_format=self._format)
        found = {}
        for (runtime, name), make in list(self._makers.items()):
            if runtime == COMPILED:
                self._say(f"compiling: {name}, batches of {batch_size}")
            try:
                found[runtime, name] = make(images)
            except SkippedError as error:
                self._skipped[f"{runtime}, {name}"] = str(error)
                del self._makers[runtime, name]
        return found


# ---- numbers ------------------------------------------------------------------------------------------------


def _timings(times: dict[tuple[str, str], list[float]], batch_size: int) -> Iterator[Timing]:
    for (runtime, name), seconds in times.items():
        low, median, high = quartiles(seconds)
        ratio = None
        if (baseline := times.get((runtime, BASELINE))) is not None:
            quotients = [mine / its for mine, its in zip(seconds, baseline, strict=True)]
            ratio = Ratio(statistics.median(quotients), *median_interval(quotients))
        yield Timing(
            name, runtime, batch_size, len(seconds), 1e3 * median, 1e3 * low, 1e3 * high, batch_size / median, ratio
        )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least one value, interpolated between neighbours."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """An interval of the median of a distribution, from independent draws, without any assumption on its shape.

    The k-th smallest and the k-th largest value enclose the median with probability 1 - 2 P(B < k), B binomial of n
    draws at 1/2. k is the largest with at least `confidence`. Fewer than six values cannot reach 95 %: the interval is
    from the smallest to the largest then, at 1 - 2^(1 - n), 93.75 % of five and nothing of one.

    Args:
        values: at least one.
        confidence: in (0, 1); what should be reached.

    Returns:
        Its ends, and the probability that it reaches.
    """
    ordered, n = sorted(values), len(values)
    k, outside = 1, 2 / 2**n
    while k < (n + 1) // 2 and outside + 2 * math.comb(n, k) / 2**n <= 1 - confidence:
        outside += 2 * math.comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k], 1 - outside


def _environment(artifact: Artifact, device: torch.device, channels_last: bool) -> dict[str, Any]:
    """Of what the numbers are."""
    shape = [int(size) for size in artifact.images.shape[1:]]
    versions = {name: metadata.version(name) for name in ("torch", "onnxruntime") if _installed(name)}
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "device": str(device), **gpu, "processor": processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "system": platform.system(), **versions, "image": shape,
        "dtype": "float32", "channels_last": channels_last,
    }  # fmt: skip


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def processor() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
