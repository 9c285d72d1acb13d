"""Latencies of the peers' networks: which are measured, and what they are divided by."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

EVIDENCE = Path(__file__).parents[1] / "bench" / "evidence"
sys.path[:0] = [str(EVIDENCE), str(EVIDENCE.parent), str(EVIDENCE / "zoo")]

import latency  # noqa: E402
from ledger import Ledger  # noqa: E402
from peer_arms import COLUMNS, NETWORK  # noqa: E402
from peer_training import params_of  # noqa: E402

FAMILY = "resnet"


@torch.inference_mode()
def in_turns(calls: Sequence[partial[object]], device: torch.device, *, runs: int) -> list[list[float]]:
    """A second for each parameter, in ONNX Runtime one second; every turn takes one more than the last."""
    for call in calls:
        assert np.isfinite(np.asarray(call())).all()
    each = [params_of(call.func) if isinstance(call.func, nn.Module) else 1 for call in calls]
    return [[float(seconds * (turn + 1)) for turn in range(runs)] for seconds in each]


def finished(folder: Path, arm: str, network: nn.Module | None, params: int | None = None) -> None:
    """Add the row of an arm in results/, and its network in out/ unless it is None."""
    if network is not None:
        file = folder / "out" / f"{FAMILY}-{arm}-0" / NETWORK
        file.parent.mkdir(parents=True)
        torch.save(network, file)
        params = params or params_of(network)
    row = dict.fromkeys(COLUMNS, 0) | {"family": FAMILY, "arm": arm, "seed": 0, "params": params}
    Ledger("peers", "peers", COLUMNS, ("family", "arm", "seed"), folder / "results").add(row)


def measure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Rows after a call for the seeds 0 and 1, the latter without arms."""
    options = ("--families", FAMILY, "--seeds", "0", "1", "--repeats", str(latency.TURNS + 1), "--out", folder / "out")
    monkeypatch.setattr(sys, "argv", ["latency.py", *map(str, options), "--results", str(folder / "results")])
    monkeypatch.setattr(latency, "interleaved", in_turns)
    latency.main()
    return Ledger("latency", "", latency.TIMES, latency.KEY, folder / "results").rows()


def test_networks_that_are_there_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, "plain", latency.plain_network(FAMILY))
    finished(tmp_path, "full", None, 1000)
    rows = measure(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert f"seed 0: not measured, they are not in {tmp_path / 'out'}: full\n" in said
    assert "seed 0: 1 networks\n" in said
    assert [(row["runtime"], row["batch"], row["arm"]) for row in rows] == [
        (runtime, batch, "plain") for batch in ("1", "64") for runtime in (latency.EAGER, latency.ONNX)
    ]
    assert {row["of_plain"] for row in rows} == {"1"}
    middle = 1e3 * statistics.median(range(1, latency.TURNS + 1))
    for row, seconds in zip(rows, (106_880, 1, 106_880, 1), strict=True):
        assert float(row["median_ms"]) == pytest.approx(seconds * middle, rel=1e-3)
        assert float(row["low_ms"]) < float(row["median_ms"]) < float(row["high_ms"])
        assert int(row["turns"]) == 2 * latency.TURNS
    larger = nn.Sequential(latency.plain_network(FAMILY), nn.Linear(10, 10_688, bias=False), nn.Linear(10_688, 10))
    finished(tmp_path, "default", larger)
    after = measure(tmp_path, monkeypatch)
    assert after[: len(rows)] == rows
    assert [row["arm"] for row in after[len(rows) :]] == ["default"] * latency.EACH
    ratio = params_of(larger) / 106_880
    assert [float(row["of_plain"]) for row in after[len(rows) :]] == pytest.approx([ratio, 1, ratio, 1], rel=1e-3)


def test_a_network_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path, "plain", latency.plain_network(FAMILY), params=5)
    with pytest.raises(ValueError, match=r"106,880 parameters, its row in peers.csv 5$"):
        measure(tmp_path, monkeypatch)
