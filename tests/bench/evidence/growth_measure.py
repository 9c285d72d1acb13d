"""Measure one point of a cost sweep, in a process of its own; `growth.py` starts it.

    python tests/bench/evidence/growth_measure.py '{"setting": {"width": 16, ...}, "work": ["step"], "repeats": 5}'

prints one line of JSON: the parameters of the supernet and, for each kind of work, seconds (median, quartiles), wall
seconds (median), megabytes and n, or the reason why there are none.

Memory: the process warms up on a tiny network, so that code is loaded, then forks a child for each kind of work before
it has done any of it itself. The child does the work once, the training step twice, since its second one has the
momentum too; its megabytes are those by which its peak of resident memory lies above what it held before. They are
those that the work adds: for `inflate` the supernet itself, for all others what comes on top of it.
Time: afterwards each kind of work is done once to warm up and then in turn, forth and back in alternation.

One thread. Training keeps freed memory, as `pgnas train` has glibc do: in the child of the training step, and for all
that is timed. The memory of a process is limited, so that a point that needs more fails instead of the machine.
Needs Linux (fork, /proc).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from growth_points import Setting

import pgnas_cli as pgnas
from pgnas_cli import Supernet
from pgnas_cli.errors import PgnasError
from pgnas_cli.posterior.sampling import sample_candidates
from pgnas_cli.posterior.strategies import make
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.training.allocator import keep_freed_memory
from pgnas_cli.training.data import Data, Part
from pgnas_cli.training.memory import ArrayStore, Normalisation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_overhead import Step

LIMIT = 7 << 30
"""Bytes that a process may allocate."""
TINY = Setting(width=2, img_size=8, classes=3, candidates=4, batch=2, images=2)
Work = Callable[[], object]
Seconds = tuple[float, float]
"""Of the process, and of the clock on the wall."""


def supernet(setting: Setting) -> Supernet:
    """Inflate: build the network with fresh weights and its gates, trace its channels, count it."""
    net = pgnas.inflate(f"shakeshake26_2x{setting.width}d", img_size=setting.img_size, num_classes=setting.classes)
    net.kept_cost()
    return net


def random_images(setting: Setting) -> Data:
    """A selection split of random images, in memory."""
    generator = torch.Generator().manual_seed(0)
    shape = (setting.images, 3, setting.img_size, setting.img_size)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    store = ArrayStore(pixels, torch.arange(setting.images) % setting.classes, flip=True)
    parts = {name: Part(store, torch.arange(setting.images)) for name in ("train", "selection", "test")}
    names = [str(index) for index in range(setting.classes)]
    return Data("random", names, 3, setting.img_size, Normalisation((0.5,) * 3, (0.25,) * 3), 0, parts, {})


def workload(setting: Setting) -> tuple[int, dict[str, Work]]:
    """Parameters of the supernet, and what is measured on it.

    Every gate drops with p = 1/2: candidates are distinct, and have about a quarter of the parameters.
    """
    torch.manual_seed(0)
    net = supernet(setting)
    with torch.no_grad():
        for gate in net.gates.values():
            gate.drop_logit.zero_()
    images = torch.randn(setting.batch, 3, setting.img_size, setting.img_size)
    step = Step(net, images, argparse.Namespace(compile=False, amp=False))
    step.labels = step.labels % setting.classes
    evaluator = Evaluator(net, random_images(setting), torch.device("cpu"))
    candidate = net.sample(generator=torch.Generator().manual_seed(0))
    many = make("posterior", net.posterior(), seed=1).ask(setting.candidates)

    def train() -> None:
        net.train()
        step()

    def sample() -> None:
        found, _ = sample_candidates(
            make("posterior", net.posterior(), seed=0), setting.candidates, assess_many=net.assess_many
        )
        assert len(found) == setting.candidates

    return net.kept_cost().params, {
        "inflate": lambda: supernet(setting),
        "step": train,
        "sample": sample,
        "costs": lambda: net.assess_many(many),
        "compact": lambda: net.compact(candidate),
        "evaluate": lambda: evaluator.score(candidate, "selection"),
    }


# ---- memory -------------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def growth(name: str, work: Work, tiny: Work) -> int:
    """Bytes by which the peak of this process rises above what it holds."""
    if name == "step":
        keep_freed_memory()
    tiny()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident()
    for _ in range(2 if name == "step" else 1):
        work()
    return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def forked_growth(name: str, work: Work, tiny: Work) -> int:
    """The same in a forked child, which has none of what the work leaves behind.

    Raises:
        RuntimeError: the work fails; the message says why.
    """

    def child(answer: Connection) -> None:
        try:
            answer.send(growth(name, work, tiny))
        except Exception as error:
            answer.send(_reason(error))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = None
    process.join()
    if found is None:
        raise RuntimeError(f"its process ended with exit code {process.exitcode}")
    if isinstance(found, str):
        raise RuntimeError(found)
    return int(found)


def _reason(error: Exception) -> str:
    """Why something was not measured, in one line."""
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"needs more than the {LIMIT / 2**30:g} GiB that it may have"
    return text


# ---- time ---------------------------------------------------------------------------------------------------


def timed(works: Mapping[str, Work], repeats: int) -> tuple[dict[str, list[Seconds]], dict[str, str]]:
    """Seconds of every repeat, in turn, and the reasons of those that failed: these are not tried again."""
    found: dict[str, list[Seconds]] = {name: [] for name in works}
    failed: dict[str, str] = {}
    for turn in range(repeats + 1):
        for name in list(works) if turn % 2 else list(works)[::-1]:
            if name in failed:
                continue
            began = time.process_time(), time.perf_counter()
            try:
                works[name]()
            except (RuntimeError, MemoryError, PgnasError) as error:
                failed[name] = _reason(error)
                continue
            if turn:  # the first warms up
                found[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    return found, failed


def summary(seconds: Sequence[Seconds]) -> dict[str, float]:
    """Median and quartiles of process seconds, median of wall seconds, and how many there are."""
    process, wall = zip(*seconds, strict=True)
    low, middle, high = statistics.quantiles(process, n=4, method="inclusive") if len(process) > 1 else process * 3
    return {"seconds": middle, "low": low, "high": high, "wall": statistics.median(wall), "n": len(process)}


# ---- a point ------------------------------------------------------------------------------------------------


def measure(setting: Setting, names: Sequence[str], repeats: int) -> dict[str, Any]:
    """JSON-ready: parameters, and for each kind of work its numbers, or the reason why there are none."""
    _, tiny = workload(TINY)
    for work in tiny.values():
        work()
    params, works = workload(setting)
    megabytes: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            megabytes[name] = forked_growth(name, works[name], tiny[name]) / 1e6
        except RuntimeError as error:
            reasons[name] = str(error)
    keep_freed_memory()
    seconds, failed = timed({name: works[name] for name in names if name in megabytes}, repeats)
    reasons |= failed
    rows = {
        name: {"reason": reasons[name]} if name in reasons else {**summary(seconds[name]), "megabytes": megabytes[name]}
        for name in names
    }
    return {"params": params, "rows": rows}


def main() -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    asked = json.loads(sys.argv[1])
    try:
        found = measure(Setting(**asked["setting"]), asked["work"], asked["repeats"])
    except (RuntimeError, MemoryError, PgnasError) as error:  # not even the supernet could be built
        found = {"params": None, "rows": {name: {"reason": _reason(error)} for name in asked["work"]}}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
