"""The diversity of a set against all its pairs, one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.diversity import Diversity, diversity

Masks = dict[str, np.ndarray]
SIZES = {"a": 5, "b": 1, "c": 13}
CHANNELS = sum(SIZES.values())


def drawn(n: int, keep: float, seed: int = 0) -> list[Masks]:
    rng = np.random.default_rng(seed)
    return [{name: rng.random(size) < keep for name, size in SIZES.items()} for _ in range(n)]


def flat(masks: Masks) -> np.ndarray:
    return np.concatenate([masks[name] for name in SIZES])


@pytest.mark.parametrize("n", [2, 3, 17, 1100])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.97, 1.0])
def test_the_mean_over_all_pairs(n: int, keep: float) -> None:
    many = drawn(n, keep)
    rows = np.array([flat(masks) for masks in many])
    pairs = [int((rows[i + 1 :] != rows[i]).sum()) for i in range(n)]
    mean = sum(pairs) / len(list(combinations(range(n), 2)))
    found = diversity(many)
    assert found.hamming == mean
    assert found.hamming_share == pytest.approx(mean / CHANNELS, rel=1e-15)
    assert (found.candidates, found.distinct) == (n, len(np.unique(rows, axis=0)))


def test_independent_draws_differ_in_twice_p_times_one_minus_p_of_the_channels() -> None:
    assert diversity(drawn(1500, 0.3)).hamming_share == pytest.approx(2 * 0.3 * 0.7, abs=0.01)


def test_two_opposites_differ_everywhere_and_twins_nowhere() -> None:
    (one,) = drawn(1, 0.5)
    other = {name: ~mask for name, mask in one.items()}
    assert diversity([one, other]) == Diversity(2, 2, CHANNELS, 1.0)
    assert diversity([one, one]) == Diversity(2, 1, 0.0, 0.0)
    assert diversity([one, other, one]).hamming == pytest.approx(2 * CHANNELS / 3)


def test_one_candidate_is_at_distance_0() -> None:
    assert diversity(drawn(1, 0.5)) == Diversity(1, 1, 0.0, 0.0)


def test_the_order_of_the_layers_does_not_matter() -> None:
    one, other = drawn(2, 0.5)
    assert diversity([one, dict(reversed(one.items()))]).distinct == 1
    assert diversity([one, dict(reversed(other.items()))]) == diversity([one, other])


def test_what_is_no_set_of_candidates_is_refused() -> None:
    one, other = drawn(2, 0.5)
    with pytest.raises(UsageError, match="no candidates"):
        diversity([])
    for wrong in ({**other, "d": other["a"]}, {**other, "a": other["b"]}, {"a": other["a"]}):
        with pytest.raises(UsageError, match="different layers or sizes"):
            diversity([one, wrong])
