"""`pgnas bench`: its numbers against known ones, the pairing by turn, and what is left out and why."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import forking
import numpy as np
import pytest
import torch
from hub_server import LocalHub, use
from scipy import stats
from tiny_artifact import tiny_installed, whole
from torch import nn

from pgnas_cli.commands.bench import render
from pgnas_cli.errors import UsageError
from pgnas_cli.export import bench as benching
from pgnas_cli.export import bench_networks as ways
from pgnas_cli.export.bench import Benchmark, Ratio, Timing, bench, median_interval, quartiles
from pgnas_cli.export.skipped import SkippedError

NETWORKS = ["baseline", "supernet", "found", "found, dense"]
QUICK: dict[str, Any] = {"compiled": False, "onnx": False, "repeats": 1}
Times = Mapping[str, Sequence[float]]


@pytest.fixture(scope="module")
def inflated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Read only: the export of a network that was found in one of twice its width; its plugin is installed."""
    with tiny_installed():
        folder = tmp_path_factory.mktemp("inflated") / "export"
        whole(folder, "tiny_6", "tiny", 8, 0, width=2.0)
        yield folder


@pytest.fixture
def plain(tmp_path: Path, inflated: Path) -> Path:
    """The same of a backbone that was not inflated."""
    whole(tmp_path / "plain", "tiny_6", "tiny", 8, 0)
    return tmp_path / "plain"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Times], None]:
    """`timed({"found": [0.5, ...]})`: networks take so long in each turn; the others 1 s, and nothing is measured."""

    def prescribe(times: Times) -> None:
        turns = max(map(len, times.values()), default=1)

        def fake(calls: Sequence[Callable[[], object]], device: torch.device, **options: Any) -> list[list[float]]:
            each = [list(times.get(name, [1.0] * turns)) for name in NETWORKS]
            return (each * len(calls))[: len(calls)]

        monkeypatch.setattr(benching, "interleaved", fake)

    return prescribe


# ---- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3, 3, 3)),
        ([2.0, 1.0], (1.25, 1.5, 1.75)),
        ([4.0, 1.0, 3.0, 2.0, 5.0], (2, 3, 4)),
        ([1.0, 2.0, 3.0, 4.0], (1.75, 2.5, 3.25)),
    ],
)
def test_quartiles_of_known_values(values: list[float], expected: tuple[float, float, float]) -> None:
    assert quartiles(values) == pytest.approx(expected)


def test_quartiles_are_those_of_numpy() -> None:
    for n in range(1, 12):
        values = np.random.default_rng(n).exponential(size=n).tolist()
        assert quartiles(values) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))


@pytest.mark.parametrize(
    ("n", "k", "level"),
    [(1, 1, 0.0), (2, 1, 0.5), (5, 1, 0.9375), (6, 1, 0.96875), (8, 1, 1 - 2**-7), (9, 2, 1 - 20 / 2**9),
     (20, 6, 0.9586105346679688)],
)  # fmt: skip
def test_an_interval_and_the_level_that_it_reaches(n: int, k: int, level: float) -> None:
    ranks = np.random.default_rng(0).permutation(np.arange(1, n + 1)).tolist()
    assert median_interval(ranks) == (k, n + 1 - k, pytest.approx(level, abs=1e-12))


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_level_is_exact_and_the_interval_the_narrowest_that_reaches_it(confidence: float) -> None:
    for n in (*range(1, 60), 500, 1500):
        low, high, level = median_interval(range(1, n + 1), confidence)
        assert low + high == n + 1  # as far from both ends
        assert level == pytest.approx(1 - 2 * stats.binom.cdf(low - 1, n, 0.5), abs=1e-9)
        assert level >= confidence or low == 1
        narrower = 1 - 2 * stats.binom.cdf(low, n, 0.5)
        assert narrower < confidence or low + 1 > high - 1


def test_five_values_are_too_few_for_95_percent_and_six_are_not() -> None:
    levels = [median_interval(range(n))[2] for n in range(1, 7)]
    assert levels == sorted(levels)
    assert [level >= benching.CONFIDENCE for level in levels] == [False] * 5 + [True]


def test_an_interval_follows_its_values() -> None:
    values = np.random.default_rng(0).exponential(size=20)
    low, high, level = median_interval(values.tolist())
    assert low <= np.median(values) <= high
    assert median_interval((3 * values + 1).tolist()) == pytest.approx((3 * low + 1, 3 * high + 1, level))
    assert median_interval((-values).tolist()) == pytest.approx((-high, -low, level))
    widths = [np.subtract(*median_interval(values.tolist(), c)[1::-1]) for c in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)]
    assert widths == sorted(widths)


def test_an_interval_encloses_the_median_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).exponential(size=(4000, 20))
    enclosed = [low <= math.log(2) <= high for low, high, _ in map(median_interval, draws.tolist())]
    assert np.mean(enclosed) == pytest.approx(0.9586, abs=4 * math.sqrt(0.9586 * 0.0414 / 4000))


# ---- pairing ------------------------------------------------------------------------------------------------


def test_ratios_are_of_the_same_turn(inflated: Path, timed: Callable[[Times], None]) -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    timed({"baseline": drift, "found": [time / 2 for time in drift], "supernet": drift[1:] + drift[:1]})
    found = {timing.network: timing for timing in bench(inflated, batch_sizes=(4,), **QUICK).timings}
    assert list(found) == NETWORKS
    assert found["baseline"].ratio == Ratio(1.0, 1.0, 1.0, 0.96875)
    assert found["found"].ratio == Ratio(0.5, 0.5, 0.5, 0.96875)
    assert found["supernet"].ratio == Ratio(2.0, 1 / 32, 2.0, 0.96875)  # of the medians it is 1
    assert found["found"] == Timing(
        "found", "eager", 4, 6, 3000.0, pytest.approx(1250.0), pytest.approx(7000.0), pytest.approx(4 / 3),
        found["found"].ratio,
    )  # fmt: skip


def test_each_runtime_has_its_own_baseline(
    inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    timed({"baseline": [2.0]})
    result = bench(inflated, batch_sizes=(1,), onnx=False, repeats=1)
    assert [(t.runtime, t.network) for t in result.timings] == [
        *(("eager", name) for name in NETWORKS),
        *(("compiled", name) for name in NETWORKS[:3]),
    ]
    assert {t.ratio.value for t in result.timings if t.ratio is not None and t.network != "baseline"} == {0.5}


# ---- what is left out ---------------------------------------------------------------------------------------


def test_of_a_backbone_that_was_not_inflated_the_supernet_is_the_baseline(
    plain: Path, timed: Callable[[Times], None]
) -> None:
    timed({})
    result = bench(plain, batch_sizes=(1,), **QUICK)
    assert result.skipped == {"supernet": "it was not inflated: the supernet is the baseline"}
    assert [t.network for t in result.timings] == list(result.networks) == ["baseline", "found", "found, dense"]


@pytest.mark.parametrize(("most", "left"), [(0, ["found"]), (600, ["baseline", "found"])])
def test_what_is_too_large_to_build_is_left_out(
    inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch, capsys: Any, most: int,
    left: list[str],
) -> None:  # fmt: skip
    timed({})
    monkeypatch.setattr(ways, "MOST_PARAMETERS", most)
    result = bench(inflated, batch_sizes=(1,), **QUICK)
    assert [t.network for t in result.timings] == left
    assert list(result.skipped) == [name for name in NETWORKS if name not in left]
    for reason in result.skipped.values():
        assert reason.startswith("tiny_6 takes ")
        assert reason.endswith(f"parameters to build, at most {most} are")
    assert all((t.ratio is not None) is ("baseline" in left) for t in result.timings)
    render(result)
    assert f"not measured: supernet: {result.skipped['supernet']}" in capsys.readouterr().out


def test_a_network_that_does_not_compile_is_noted_and_not_tried_again(
    inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(network: nn.Module, dynamic: bool) -> None:
        def call(images: torch.Tensor) -> None:
            tried.append(len(images))
            raise RuntimeError("no g++\n  on this machine" + "!" * 300)

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    timed({})
    result = bench(inflated, batch_sizes=(1, 2, 1), onnx=False, repeats=1)
    assert tried == [1, 1, 1]
    assert list(result.skipped) == [f"compiled, {name}" for name in NETWORKS[:3]]
    assert all(text.startswith("torch.compile fails: no g++ on this machine!") for text in result.skipped.values())
    assert max(map(len, result.skipped.values())) < 250
    assert [(t.runtime, t.batch_size) for t in result.timings] == [("eager", 1)] * 4 + [("eager", 2)] * 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("then", ["returns", "fails"])
def test_an_interrupt_is_no_failure_to_compile(
    signum: int, lost: bool, then: str, stopped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(images: torch.Tensor) -> None:
        if lost:  # what is raised in such a callback is printed and forgotten
            monkeypatch.setattr(sys, "unraisablehook", lambda _: stopped.append(0))
            thing = nn.Identity()
            weakref.finalize(thing, signal.raise_signal, signum)
            del thing
        else:
            signal.raise_signal(signum)
        if then == "fails":
            raise RuntimeError("a worker is gone")

    monkeypatch.setattr(torch, "compile", lambda network, dynamic: call)
    before = signal.getsignal(signum)
    with pytest.raises(KeyboardInterrupt, match=str(signum)):
        ways.compiled(nn.Identity(), torch.zeros(1))
    assert stopped == ([signum, 0, signum] if lost else [signum])
    assert signal.getsignal(signum) is before


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that have arrived; each raises KeyboardInterrupt."""
    arrived: list[int] = []

    def stop(signum: int, frame: object) -> None:
        arrived.append(signum)
        raise KeyboardInterrupt(signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield arrived
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (("onnxruntime",), "onnxruntime not installed: pip install 'pgnas[onnx]'"),
        (("onnx", "onnxscript", "onnxruntime"), "onnx and onnxscript and onnxruntime not installed"),
    ],
)
def test_without_its_packages_there_is_no_onnx_runtime(
    inflated: Path,
    timed: Callable[[Times], None],
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    reason: str,
) -> None:
    find = importlib.util.find_spec
    known = {name: find("json") for name in ways.PACKAGES if name not in missing}  # whatever is installed here
    absent = dict.fromkeys(missing)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: {**known, **absent}[name] if name in ways.PACKAGES else find(name)
    )
    timed({})
    result = bench(inflated, batch_sizes=(1,), compiled=False, repeats=1)
    assert list(result.skipped) == ["ONNX Runtime"]
    assert result.skipped["ONNX Runtime"].startswith(reason)


def test_on_another_device_there_is_no_onnx_runtime(
    inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benching, "choose_device", lambda name: torch.device("meta"))
    timed({})
    result = bench(inflated, batch_sizes=(1,), compiled=False, repeats=1)
    assert result.skipped == {"ONNX Runtime": "it is measured on the CPU alone, not on meta"}
    assert result.environment["device"] == "meta"


def test_a_network_that_onnx_cannot_hold_is_noted_alone(
    inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def write(path: Path, *_: Any) -> None:
        if path.stem == "supernet":
            raise ValueError("no such operator")

    def session(path: Path, images: torch.Tensor) -> Callable[[], None]:
        if path.stem == "found":
            raise SkippedError("ONNX Runtime refuses it")
        return lambda: None

    monkeypatch.setattr(ways, "write_onnx", write)
    monkeypatch.setattr(ways, "onnx_session", session)
    timed({})
    result = bench(inflated, batch_sizes=(1,), compiled=False, repeats=1)
    assert result.skipped == {
        "ONNX Runtime, supernet": "the supernet cannot be exported: no such operator",
        "ONNX Runtime, found": "ONNX Runtime refuses it",
    }
    names = [t.network for t in result.timings if t.runtime == "ONNX Runtime"]
    assert names == ["baseline", "found, dense"]


# ---- usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": ()}, r"batch sizes \[\] were given"),
        ({"batch_sizes": (1, 0)}, r"batch sizes \[1, 0\] were given, they should be at least 1"),
        ({"repeats": 0}, "0 repeats were asked for"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        bench("nowhere/at all", **options)
    assert error.value.hint


def test_threads_are_set_back(inflated: Path, timed: Callable[[Times], None], monkeypatch: pytest.MonkeyPatch) -> None:
    timed({})
    before = torch.get_num_threads()
    result = bench(inflated, batch_sizes=(1,), threads=before + 1, **QUICK)
    assert (result.environment["threads"], torch.get_num_threads()) == (before + 1, before)
    monkeypatch.setattr(benching, "interleaved", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench(inflated, batch_sizes=(1,), threads=before + 1, **QUICK)
    assert torch.get_num_threads() == before


# ---- what is shown ------------------------------------------------------------------------------------------


def shown(turns: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a table of the found network after so many turns."""
    ratio = Ratio(0.5, *median_interval([0.4 + 0.01 * turn for turn in range(turns)]))
    timing = Timing("found", "eager", 64, turns, 12.34, 11.0, 13.5, 5186.4, ratio)
    place = {"processor": "an abacus", "threads": 1, "torch": "2", "image": [1, 8, 8], "channels_last": False}
    render(Benchmark("folder", "0" * 16, place, {}, (timing,), {}))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("turns", "level"), [(6, "96.9 %"), (20, "95.9 %")])
def test_a_table_names_the_level_that_is_reached(turns: int, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(turns, capsys)
    title = f"batches of 64, {turns} turns: median and quartiles; times over the baseline's, {level} interval"
    assert title in lines
    assert lines[-1].split()[:6] == ["eager", "found", "12.3", "11-13.5", "5186", "0.50"]
    assert lines[-1].split()[-1] == {6: "0.40-0.45", 20: "0.45-0.54"}[turns]


@pytest.mark.parametrize("turns", [1, 5])
def test_a_table_of_few_turns_has_no_interval(turns: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(turns, capsys)
    assert any(line.endswith("times over the baseline's, too few turns for a 95 % interval") for line in lines)
    assert lines[-1].split()[-2:] == ["0.50", "-"]


def test_the_json_document(inflated: Path, timed: Callable[[Times], None]) -> None:
    timed({"found": [0.5] * 5})
    document = json.loads(json.dumps(bench(inflated, batch_sizes=(2,), **QUICK).to_json()))
    assert list(document) == ["path", "candidate", "environment", "networks", "timings", "skipped"]
    assert (document["path"], document["candidate"]) == (str(inflated), "0" * 16)
    assert document["environment"].keys() >= {"device", "processor", "cores", "threads", "torch", "image", "dtype"}
    assert list(document["networks"]) == NETWORKS
    baseline, supernet, found, dense = document["networks"].values()
    assert 0 < baseline["params"] < supernet["params"] > dense["params"] >= found["params"] > 0
    assert 0 < baseline["macs"] < supernet["macs"] > dense["macs"] >= found["macs"] > 0
    assert document["timings"][2] == {
        "network": "found", "runtime": "eager", "batch_size": 2, "n": 5, "median_ms": 500.0, "low_ms": 500.0,
        "high_ms": 500.0, "images_per_second": 4.0, "ratio": {"value": 0.5, "low": 0.5, "high": 0.5, "level": 0.9375},
    }  # fmt: skip


# ---- for real -----------------------------------------------------------------------------------------------


def test_onnx_runtime_is_measured(plain: Path) -> None:
    pytest.importorskip("onnxruntime")
    (plain / "model.onnx").write_bytes(b"damaged")
    said: list[str] = []
    result = bench(plain, batch_sizes=(2,), compiled=False, repeats=2, say=said.append)
    measured = [(t.network, t.n) for t in result.timings if t.runtime == "ONNX Runtime"]
    assert measured == [("baseline", 2), ("found, dense", 2)]
    assert result.skipped["ONNX Runtime, found"].startswith("ONNX Runtime refuses model.onnx: ")
    assert said == [*(f"ONNX Runtime: {name}" for name in result.networks), "batches of 2: 5 networks in turns"]


def test_a_repository_of_the_hub(inflated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHub() as hub:
        use(monkeypatch, hub.url, tmp_path / "home", token=None)
        hub.add("alice/net", {path.name: path.read_bytes() for path in inflated.iterdir()})
        result = bench("alice/net@main", batch_sizes=(1,), **QUICK)
    assert (result.path, [t.network for t in result.timings]) == ("alice/net@main", NETWORKS)


def test_the_command(tmp_path: Path) -> None:
    whole(tmp_path / "export", "shakeshake26_2x4d", "shakeshake", 8, 0)
    environment = {"OMP_NUM_THREADS": "1", "TERM": "dumb", "PATH": "/usr/bin:/bin"}
    options = ["--no-compile", "--no-onnx", "--repeats", "3", "--batch-size", "2"]

    def pgnas(*arguments: str | Path) -> Any:
        return forking.run(arguments, cwd=tmp_path, env=environment, outputs=tmp_path)

    done = pgnas("bench", "export", *options, "--output", "bench.json", "--json")
    assert (done.returncode, done.stderr) == (0, "batches of 2: 3 networks in turns\n")
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "bench.json").read_text())
    assert [(t["network"], t["n"], t["ratio"]["level"]) for t in document["timings"]] == [
        ("baseline", 3, 0.75), ("found", 3, 0.75), ("found, dense", 3, 0.75),
    ]  # fmt: skip
    assert all(0 < t["low_ms"] <= t["median_ms"] <= t["high_ms"] for t in document["timings"])
    refused = pgnas("bench", "export", "--batch-size", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--batch-size" in refused.stderr
