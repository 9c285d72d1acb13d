"""Strategies that aim: tilted and stratified draws on a cost that is linear in the masks, where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Assessment
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.sampling import sample_candidates
from pgnas_cli.posterior.strategies import make
from pgnas_cli.posterior.strategies.evolution import Evolution
from pgnas_cli.posterior.strategies.strategy import Options
from pgnas_cli.posterior.tilting import keep_probabilities, reachable, solve, solve_sampled, tilt

PRICE = {"a": np.linspace(1, 20, 40), "b": np.full(30, 5.0)}
WHOLE = sum(price.sum() for price in PRICE.values())


class Linear:
    """C(m) = sum of the prices of what is kept: the mean-field tilt is the exact one."""

    def whole(self, unit: str) -> float:
        return float(WHOLE)

    def expected(self, keep: dict[str, np.ndarray], unit: str) -> float:
        return float(sum(PRICE[name] @ values for name, values in keep.items()))

    def slope(self, keep: dict[str, np.ndarray], unit: str) -> dict[str, np.ndarray]:
        return {name: PRICE[name].copy() for name in keep}

    def assess_many(self, many: Sequence[Masks]) -> list[Assessment]:
        sizes = [round(self.expected({name: m.astype(float) for name, m in masks.items()}, "")) for masks in many]
        return [Assessment(size, 10 * size, size > 0) for size in sizes]


def learned(seed: int = 0) -> Posterior:
    rng = np.random.default_rng(seed)
    return Posterior({
        "a": LayerPosterior(rng.uniform(0.1, 0.9, 40), (1,) * 40),
        "b": LayerPosterior(rng.uniform(0.1, 0.9, 10), (3,) * 10),
    })  # fmt: skip


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_tilt_is_the_exponential_one_and_meets_its_target(share: float) -> None:
    """With a linear cost, logit q - logit p = lambda * price, one lambda for all; of a group the mean price."""
    found = solve(learned(), Linear(), "params", share * WHOLE)
    keep = keep_probabilities(found.distribution)
    assert Linear().expected(keep, "") == pytest.approx(share * WHOLE, rel=1e-4)
    moved = []
    for name, layer in learned().items():
        q = found.distribution[name].drop_prob
        shift = np.log(q / (1 - q)) - np.log(layer.drop_prob / (1 - layer.drop_prob))
        price = PRICE[name] if name == "a" else PRICE[name].reshape(10, 3).mean(1)
        moved += list(shift / price)
    assert moved == pytest.approx([found.multiplier] * len(moved), rel=1e-3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_tilted_candidates_have_the_mean_size_that_was_asked_for(share: float) -> None:
    strategy = make("tilted", learned(), Linear(), Options(params=share * WHOLE), n=200, seed=3)
    found, report = sample_candidates(strategy, 200, assess_many=Linear().assess_many)
    assert np.mean([candidate.params for candidate in found]) == pytest.approx(share * WHOLE, rel=0.02)
    facts = strategy.facts(found, report.strata)
    assert facts["relative_error"] == pytest.approx(0.0, abs=0.02)
    assert (facts["unit"], facts["target"], facts["candidates"]) == ("params", share * WHOLE, 200)
    assert {candidate.strategy for candidate in found} == {"tilted"}
    assert found[0].log_prob == pytest.approx(strategy.log_prob(found[0].masks))


def test_stratified_candidates_are_spread_evenly() -> None:
    strategy = make("stratified", learned(), Linear(), Options(params=(0.3 * WHOLE, 0.9 * WHOLE)), n=70, seed=1)
    found, report = sample_candidates(strategy, 70, assess_many=Linear().assess_many)
    assert [report.strata.count(stratum) for stratum in range(7)] == [10] * 7
    for index, target in enumerate(np.linspace(0.3, 0.9, 7) * WHOLE):
        sizes = [c.params for c, stratum in zip(found, report.strata, strict=True) if stratum == index]
        assert abs(np.mean(sizes) - target) < 4 * np.std(sizes, ddof=1) / np.sqrt(10)
    assert len(strategy.facts(found, report.strata)["strata"]) == 7


def test_settled_gates_stay_settled_and_extremes_do_not_overflow() -> None:
    drop = np.array([0.0, 1.0, 1e-12, 1 - 1e-12, 0.5])
    posterior = Posterior({"a": LayerPosterior(drop, (1,) * 5)})
    for multiplier in (-1e4, 0.0, 1e4):
        found = tilt(posterior, {"a": np.linspace(1, 2, 5)}, multiplier)["a"].drop_prob
        assert np.isfinite(found).all()
        assert found[:2].tolist() == [0.0, 1.0]
        assert multiplier or found == pytest.approx(drop)


def test_what_cannot_be_reached_names_what_can() -> None:
    posterior = Posterior({**learned(), "a": LayerPosterior(np.zeros(40), (1,) * 40)})
    low, high = reachable(posterior, Linear(), "params")
    assert (low, high) == (pytest.approx(PRICE["a"].sum()), pytest.approx(WHOLE))
    for target in (0.5 * low, 2 * high):
        with pytest.raises(UsageError, match=f"reaches {low:.0f} to {high:.0f}") as error:
            solve_sampled(posterior, Linear(), "params", target, seed=0)
        assert "--params" in error.value.hint


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tilted", Options(), "needs the size"),
        ("tilted", Options(params=(1.0, 2.0)), "is a range"),
        ("tilted", Options(params=1.0, macs=1.0), "both given"),
        ("tilted", Options(drop_prob=0.5), "belongs to --strategy uniform"),
        ("stratified", Options(params=100.0), "is one size"),
        ("stratified", Options(params=(200.0, 100.0)), "should rise"),
        ("posterior", Options(params=100.0), "belongs to --strategy tilted or stratified"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, learned(), Linear(), options, n=5)


def test_tilting_without_costs_is_refused() -> None:
    with pytest.raises(UsageError, match="needs to know what networks cost"):
        make("tilted", learned(), None, Options(params=100.0))


def score(masks: Masks) -> float:
    return float(masks["a"].sum() - masks["b"].sum())


def test_evolution_finds_what_sampling_does_not() -> None:
    """It climbs on a score that the posterior is indifferent to."""
    flat = Posterior({name: LayerPosterior(np.full(len(v.sizes), 0.5), v.sizes) for name, v in learned().items()})
    drawn = make("posterior", flat, seed=0).ask(600)
    search = Evolution(flat, 0, population=40)
    best = -np.inf
    for _ in range(15):
        proposals = search.ask(40)
        best = max(best, *map(score, proposals))
        search.tell([(masks, score(masks)) for masks in proposals])
    assert best > max(map(score, drawn)) + 3


def test_evolution_repeats_itself_and_its_children_come_from_parents_or_the_posterior() -> None:
    ids = []
    for split in ((6,), (2, 4)):
        search = Evolution(learned(), 5, population=10)
        parents = search.ask(10)
        search.tell([(masks, score(masks)) for masks in parents])
        children = [child for count in split for child in search.ask(count)]
        ids.append([tuple(np.concatenate(list(child.values()))) for child in children])
    assert ids[0] == ids[1]
    settled = Posterior({name: LayerPosterior(np.zeros(len(v.sizes)), v.sizes) for name, v in learned().items()})
    search = Evolution(settled, 0)
    search.tell([(masks, 0.0) for masks in settled.draw(np.random.default_rng(0)) and search.ask(4)])
    assert all(mask.all() for child in search.ask(5) for mask in child.values())
