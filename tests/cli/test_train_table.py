"""The table of a finished training: the target, beside what the posterior and its candidates cost."""

from __future__ import annotations

from typing import Any

import pytest

from pgnas_cli.commands.train import render
from pgnas_cli.console import console

RECORD = {
    "epochs": 40, "images": 48_000, "seconds": 12.0, "device": "cpu", "processes": 1, "params": 200_000,
    "macs": 9_000_000, "expected_params": 100_500.0, "expected_macs": 4_500_000.0, "expected_latency": 0.002002,
    "target_params": None, "target_macs": None, "target_latency": None, "selection_accuracy": 0.9,
    "p": {"mean": 0.4, "min": 0.0, "max": 1.0, "above_0.95": 0.25}, "sampled": None, "soft": None,
}  # fmt: skip


def sampled(mean: float, sd: float, unit: str = "params") -> dict[str, Any]:
    return {unit: {"mean": mean, "sd": sd, "n": 64}}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        (
            {"target_params": 100_000.0, "sampled": sampled(101_000.0, 2_345.0)},
            ["target 100 k parameters: expected +0.50 %; 64 sampled +1.00 %: 101 k +- 2.35 k"],
        ),
        ({"target_params": 100_000.0, "sampled": {}}, ["target 100 k parameters: expected +0.50 %"]),
        (
            {
                "target_params": 100_000.0,
                "expected_params": 99_900,
                "sampled": sampled(99_900, 0.0),
                "soft": {"expected_params": 100_010.0, "sampled": sampled(98_000.0, 2_345.0)},
            },
            [
                "target 100 k parameters: committed to -0.10 %",
                "before the commit expected +0.01 %; 64 sampled -2.00 %: 98.0 k +- 2.35 k",
            ],
        ),
        (
            {
                "target_latency": 0.002,
                "soft": {"expected_latency": 0.00199, "sampled": sampled(0.00202, 0.0001, "latency")},
            },
            [
                "target 2 ms an image: committed to +0.10 %",
                "before the commit expected -0.50 %; 64 sampled +1.00 %: 2.02 ms +- 0.1 ms",
            ],
        ),
    ],
    ids=["no target", "a posterior", "nothing to draw", "a candidate", "a candidate in time"],
)
def test_the_target_and_what_is_near_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict, lines: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    console.configure()  # an earlier command of this process may have left --json
    render({**RECORD, **changes})
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in out if line.startswith(("target", "before"))] == lines
