"""The posterior as plain numbers: draws, mode and probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.posterior import LayerPosterior, Posterior
from pgnas_cli.posterior.sampling import resolve
from pgnas_cli.posterior.strategies import make

RATES = {"a": ([0.1, 0.5, 0.9], (2, 3, 1)), "b": ([0.3], (7,)), "c": ([0.0, 1.0], (1, 2))}


def posterior(rates: dict[str, tuple[list[float], tuple[int, ...]]] = RATES) -> Posterior:
    return Posterior({name: LayerPosterior(np.array(p), sizes) for name, (p, sizes) in rates.items()})


def test_sizes() -> None:
    found = posterior()
    assert list(found) == ["a", "b", "c"]
    assert (len(found), found.channels, found.groups) == (3, 16, 6)
    assert found["a"].per_channel().tolist() == [0.1, 0.1, 0.5, 0.5, 0.5, 0.9]
    assert found.log10_candidates() == pytest.approx(math.log10(2**16))


def test_tables_of_a_layer_cannot_be_written_to() -> None:
    layer = posterior()["a"]
    with pytest.raises(ValueError, match="read-only"):
        layer.per_channel()[0] = 0.5
    mask = np.array([True, False, True, False, False, True])
    wanted = math.log(0.9) + math.log(0.1) + 3 * math.log(0.5) + math.log(0.1)
    assert layer.log_prob(mask) == pytest.approx(wanted, rel=1e-12) == layer.log_prob(mask)


def test_draws_are_independent_bernoulli() -> None:
    found, n = posterior(), 4000
    rng = np.random.default_rng(0)
    drawn = np.array([np.concatenate(list(found.draw(rng).values())) for _ in range(n)])
    drop = np.concatenate([layer.per_channel() for layer in found.values()])
    for channel, p in enumerate(drop):
        assert stats.binomtest(int((~drawn[:, channel]).sum()), n, p).pvalue > 1e-4
    free = drawn[:, (drop > 0) & (drop < 1)].astype(float)
    correlation = np.corrcoef(free.T) - np.eye(free.shape[1])
    assert np.abs(correlation).max() < 4.5 / math.sqrt(n)


def test_draws_depend_on_the_seed_alone() -> None:
    first, second, other = (make("posterior", posterior(), seed=seed) for seed in (3, 3, 4))
    streams = [first.ask(5), second.ask(2) + second.ask(3), other.ask(5)]
    flat = [np.concatenate([mask for masks in stream for mask in masks.values()]) for stream in streams]
    assert (flat[0] == flat[1]).all()
    assert (flat[0] != flat[2]).any()


def test_the_mode_is_the_most_probable_of_all_masks() -> None:
    found = posterior({"a": ([0.2, 0.55], (2, 1)), "b": ([0.5, 0.9], (1, 1))})
    mode = found.mode()
    assert mode["a"].tolist() == [True, True, False]
    assert mode["b"].tolist() == [True, False]
    every = [
        {"a": np.array(bits[:3], dtype=bool), "b": np.array(bits[3:], dtype=bool)} for bits in np.ndindex(2, 2, 2, 2, 2)
    ]
    logs = [found.log_prob(masks) for masks in every]
    assert found.log_prob(mode) == pytest.approx(max(logs))
    assert sum(map(math.exp, logs)) == pytest.approx(1.0)


def test_log_prob_is_the_sum_of_a_loop() -> None:
    found = posterior()
    masks = found.draw(np.random.default_rng(1))
    total = 0.0
    for name, (rates, sizes) in RATES.items():
        channel = 0
        for p, size in zip(rates, sizes, strict=True):
            for _ in range(size):
                total += math.log(1 - p if masks[name][channel] else p)
                channel += 1
    assert found.log_prob(masks) == pytest.approx(total, rel=1e-12)
    masks["c"] = ~masks["c"]
    assert found.log_prob(masks) == -math.inf


@pytest.mark.parametrize("p", [1e-300, 1e-12, 1 - 1e-12])
def test_log_prob_at_extreme_rates(p: float) -> None:
    found = posterior({"a": ([p], (1,))})
    assert found.log_prob({"a": np.array([False])}) == pytest.approx(math.log(p))
    assert found.log_prob({"a": np.array([True])}) == pytest.approx(math.log1p(-p))


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.999])
def test_at_rate_forgets_what_was_learned(rate: float) -> None:
    found = posterior().at_rate(rate)
    assert {float(p) for layer in found.values() for p in layer.drop_prob} == {rate}
    assert [layer.sizes for layer in found.values()] == [sizes for _, sizes in RATES.values()]
    if rate == 0:
        assert all(mask.all() for mask in found.draw(np.random.default_rng(0)).values())


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, math.nan])
def test_at_rate_refuses_rates_outside_0_to_1(rate: float) -> None:
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        posterior().at_rate(rate)


@pytest.mark.parametrize(
    ("rates", "sizes", "message"),
    [
        ([0.1, 0.2], (1,), "1 groups"),
        ([[0.1]], (1,), "1 groups"),
        ([1.1], (1,), r"in \[0, 1\]"),
        ([-0.1], (1,), r"in \[0, 1\]"),
        ([math.nan], (1,), r"in \[0, 1\]"),
    ],
)
def test_layers_that_are_no_distribution_are_refused(rates: list[float], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerPosterior(np.array(rates), sizes)


def test_strategies_resolve_to_distributions() -> None:
    learned = posterior()
    assert resolve(learned, "posterior", None) is learned
    assert resolve(learned, "uniform", 0.25)["b"].drop_prob.tolist() == [0.25]


@pytest.mark.parametrize(
    ("strategy", "rate", "message"),
    [("uniform", None, "needs the rate"), ("posterior", 0.1, "belongs to"), ("Uniform", 0.1, "unknown strategy")],
)
def test_strategies_that_make_no_sense_are_refused(strategy: str, rate: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(posterior(), strategy, rate)
