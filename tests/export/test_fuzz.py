"""Fuzzing: no changed artifact crashes, loads something else in silence, or takes long or much."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from fuzz import Outcome, attempt, logits, mutants
from safetensors.torch import load as tensors_of
from tiny_artifact import PROOF, tiny_installed, whole

from pgnas_cli.export.loading import load

N = 1000
SECONDS, MEGABYTES = 1.0, 64.0
"""Most that loading one may take; the artifact has 6 KB."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Outcome]]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with tiny_installed():
        files, other = (whole(folder / f"{seed}", "tiny_6", "tiny", 8, seed) for seed in (0, 1))
        images = tensors_of(files[PROOF])["probe_images"]
        expected = logits(load(folder / "0"), images)
        yield [
            attempt(folder / "mutant", mutant, images, expected) for mutant in islice(mutants(files, other, seed=0), N)
        ]


def test_every_artifact_is_refused_with_a_hint_or_is_the_original(outcomes: list[Outcome]) -> None:
    assert [outcome.fault for outcome in outcomes if outcome.fault] == []


def test_none_takes_long_or_much(outcomes: list[Outcome]) -> None:
    assert max(outcome.seconds for outcome in outcomes) < SECONDS
    assert max(outcome.megabytes for outcome in outcomes) < MEGABYTES


def test_the_changes_reach_every_check(outcomes: list[Outcome]) -> None:
    """What is refused is refused for many reasons, and not everything is."""
    loaded = [outcome for outcome in outcomes if not outcome.refusal]
    assert 50 <= len(loaded) <= N // 3
    for reason in (
        "not valid JSON", "stands twice", "should be", "describes another network", "SHA-256", "probe images differ",
        "NaN or infinite", "gather indices", "is missing", "unknown", "truncated", "expected", "the masks",
        "no installed",
    ):  # fmt: skip
        assert any(reason in outcome.refusal for outcome in outcomes), reason
