"""Tilting where the cost is not linear, where its expectation is wrong, and where the posterior is nearly settled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior import sampling
from pgnas_cli.posterior.assessment import Assessment
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.sampling import DRAWS_PER_CANDIDATE, sample_candidates
from pgnas_cli.posterior.strategies import make
from pgnas_cli.posterior.strategies.strategy import Options
from pgnas_cli.posterior.tilting import Tilt, group_slope, keep_probabilities, solve, solve_sampled

WEIGHTS = (np.linspace(1, 3, 12), np.linspace(2, 1, 20), np.ones(16))


class Chain:
    """C(m) = sum over layers of (kept here, weighted) (kept in the next layer, weighted): as convolutions cost.

    Args:
        bias: what the expectation, not the exact cost, is multiplied with.
    """

    def __init__(self, bias: float = 1.0) -> None:
        self.bias = bias

    def _cost(self, keep: dict[str, np.ndarray]) -> float:
        sums = [float(weights @ keep[str(layer)]) for layer, weights in enumerate(WEIGHTS)]
        return sum(a * b for a, b in pairwise(sums))

    def whole(self, unit: str) -> float:
        return self._cost({str(layer): np.ones(len(weights)) for layer, weights in enumerate(WEIGHTS)})

    def expected(self, keep: dict[str, np.ndarray], unit: str) -> float:
        return self.bias * self._cost(keep)

    def slope(self, keep: dict[str, np.ndarray], unit: str) -> dict[str, np.ndarray]:
        sums = [0.0, *(float(weights @ keep[str(layer)]) for layer, weights in enumerate(WEIGHTS)), 0.0]
        return {str(i): self.bias * weights * (sums[i] + sums[i + 2]) for i, weights in enumerate(WEIGHTS)}

    def assess_many(self, many: Sequence[Masks]) -> list[Assessment]:
        sizes = [round(self._cost({name: mask.astype(float) for name, mask in masks.items()})) for masks in many]
        return [Assessment(size, 10 * size, size > 0) for size in sizes]


def learned(spread: float, seed: int = 0) -> Posterior:
    """Logits of the given standard deviation; groups of 3, of 1 and of a whole layer."""
    rng = np.random.default_rng(seed)
    sizes = {"0": (3,) * 4, "1": (1,) * 20, "2": (16,)}
    return Posterior({
        name: LayerPosterior(1 / (1 + np.exp(-rng.normal(0, spread, len(groups)))), groups)
        for name, groups in sizes.items()
    })  # fmt: skip


def objective(logits: dict[str, np.ndarray], posterior: Posterior, multiplier: float) -> float:
    """KL(q || p) + lambda E_q[C], channel by channel."""
    q = {name: LayerPosterior(1 / (1 + np.exp(-logits[name])), layer.sizes) for name, layer in posterior.items()}
    keep = keep_probabilities(Posterior(q))
    total = multiplier * Chain().expected(keep, "params")
    for name, layer in posterior.items():
        a, b = 1 - keep[name], layer.per_channel()
        total += float((a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum())
    return total


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_tilt_minimises_the_divergence_at_its_price(share: float) -> None:
    """No group's log-odds can be moved to a smaller KL(q || p) + lambda E_q[C], whatever the group's size."""
    posterior = learned(1.5)
    found = solve(posterior, Chain(), "params", share * Chain().whole("params"))
    logits = {n: np.log(layer.drop_prob) - np.log1p(-layer.drop_prob) for n, layer in found.distribution.items()}
    there = objective(logits, posterior, found.multiplier)
    for name, values in logits.items():
        for group in range(len(values)):
            for step in (-0.2, 0.2):
                moved = {**logits, name: values + step * (np.arange(len(values)) == group)}
                assert objective(moved, posterior, found.multiplier) > there


def test_one_lambda_for_less_and_more_than_the_posterior_expects() -> None:
    posterior = learned(1.5)
    start = Chain().expected(keep_probabilities(posterior), "params")
    found = [solve(posterior, Chain(), "params", factor * start).multiplier for factor in (0.5, 0.8, 1.2, 1.4)]
    assert found == sorted(found, reverse=True)
    assert found[1] > 0 > found[2]
    assert solve(posterior, Chain(), "params", start).multiplier == 0.0


@pytest.mark.parametrize("spread", [3.0, 8.0, 30.0])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_nearly_settled_posterior_still_meets_its_target(spread: float, share: float, seed: int) -> None:
    posterior = learned(spread, seed)
    found = solve(posterior, Chain(), "params", share * Chain().whole("params"))
    keep = keep_probabilities(found.distribution)
    assert Chain().expected(keep, "params") == pytest.approx(share * Chain().whole("params"), rel=1e-3)
    assert found.expected == pytest.approx(Chain().expected(keep, "params"), rel=1e-12)
    assert found.residual < 0.01


@pytest.mark.parametrize("bias", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_draws_have_the_size_though_the_expectation_is_wrong(bias: float, share: float) -> None:
    costs = Chain(bias)
    target = share * costs.whole("params")
    found = solve_sampled(learned(1.0), costs, "params", target, seed=0)
    drawn = [found.distribution.draw(rng) for rng in [np.random.default_rng(9)] for _ in range(2000)]
    assert np.mean([cost.params for cost in costs.assess_many(drawn)]) == pytest.approx(target, rel=0.02)
    assert found.expected == pytest.approx(bias * target, rel=0.02)
    assert (found.target, found.usable) == (target, 200)


def test_macs_are_met_as_well() -> None:
    class Tenfold(Chain):
        def whole(self, unit: str) -> float:
            return (10 if unit == "macs" else 1) * super().whole(unit)

        def expected(self, keep: dict[str, np.ndarray], unit: str) -> float:
            return (10 if unit == "macs" else 1) * super().expected(keep, unit)

        def slope(self, keep: dict[str, np.ndarray], unit: str) -> dict[str, np.ndarray]:
            return {n: (10 if unit == "macs" else 1) * v for n, v in super().slope(keep, unit).items()}

    half = Tenfold().whole("macs") / 2
    strategy = make("tilted", learned(1.0), Tenfold(), Options(macs=half), n=100, seed=0)
    found, report = sample_candidates(strategy, 100, assess_many=Tenfold().assess_many)
    assert np.mean([candidate.macs for candidate in found]) == pytest.approx(half, rel=0.03)
    facts = strategy.facts(found, report.strata)
    assert (facts["unit"], facts["target"]) == ("macs", half)


def test_draws_of_which_none_is_usable_are_an_error_that_says_so() -> None:
    class Dead(Chain):
        def assess_many(self, many: Sequence[Masks]) -> list[Assessment]:
            return [Assessment(1, 1, usable=False) for _ in many]

    with pytest.raises(UsageError, match="no draw is usable; in expectation, this posterior reaches 0 to") as error:
        solve_sampled(learned(1.0), Dead(), "params", 100.0, seed=0)
    assert "--params" in error.value.hint


def test_a_size_that_no_round_comes_near_names_the_nearest() -> None:
    class Stuck(Chain):
        def assess_many(self, many: Sequence[Masks]) -> list[Assessment]:
            return [Assessment(700, 700, usable=True) for _ in many]

    with pytest.raises(UsageError, match="nearest mean size is 700") as error:
        solve_sampled(learned(1.0), Stuck(), "params", 400.0, seed=0)
    assert error.value.hint.startswith("--params 700")


def test_the_slope_of_a_group_is_the_mean_of_its_channels() -> None:
    found = group_slope(learned(1.0), {"0": np.arange(12.0), "1": np.arange(20.0), "2": np.arange(16.0)})
    assert found["0"].tolist() == [1.0, 4.0, 7.0, 10.0]
    assert found["1"].tolist() == list(range(20))
    assert found["2"].tolist() == [7.5]


# ---- sets of candidates ----


@pytest.mark.parametrize("name", ["posterior", "tilted", "stratified", "evolution"])
def test_what_is_found_does_not_depend_on_the_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"tilted": Options(params=400.0), "stratified": Options(params=(300.0, 600.0))}.get(name)
    posterior = learned(2.0)
    reports = []
    for chunk in (256, 7, 1):
        monkeypatch.setattr(sampling, "CHUNK", chunk)
        strategy = make(name, posterior, Chain(), options, n=30, seed=4)
        strategy.tell([(masks, float(i)) for i, masks in enumerate(make("posterior", posterior, seed=1).ask(5))])
        found, report = sample_candidates(strategy, 30, assess_many=Chain().assess_many, max_params=700)
        reports.append(([candidate.id for candidate in found], report))
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0][0]) == 30


def test_no_more_masks_are_assessed_at_once_than_a_chunk() -> None:
    sizes = []

    def assess_many(many: Sequence[Masks]) -> list[Assessment]:
        sizes.append(len(many))
        return Chain().assess_many(many)

    sample_candidates(make("posterior", learned(1.0)), 600, assess_many=assess_many)
    assert max(sizes) == sampling.CHUNK


def test_a_stratum_that_has_few_networks_is_not_filled_by_others() -> None:
    """Its room stays empty, and that is reported."""
    settled = Posterior({n: LayerPosterior((layer.drop_prob > 0.5).astype(float), layer.sizes)
                         for n, layer in learned(1.0).items()})  # fmt: skip
    tilts = [Tilt(p, "params", 1.0, 0.0, 1.0, 0.0) for p in (learned(1.0), settled)]
    strategy = make("stratified", learned(1.0), Chain(), Options(params=(300.0, 600.0)), n=2)
    strategy.tilts = tuple(tilts)  # type: ignore[attr-defined]
    found, report = sample_candidates(strategy, 10, assess_many=Chain().assess_many)
    assert (report.strata.count(0), report.strata.count(1)) == (5, 1)
    assert (
        report.draws
        == DRAWS_PER_CANDIDATE * 10
        == (len(found) + report.duplicates + report.surplus + report.unusable + report.too_large)
    )


def test_known_networks_are_not_found_again() -> None:
    first, _ = sample_candidates(make("posterior", learned(2.0)), 10, assess_many=Chain().assess_many)
    again, report = sample_candidates(
        make("posterior", learned(2.0)), 10, assess_many=Chain().assess_many, known={c.id for c in first}
    )
    assert not {c.id for c in first} & {c.id for c in again}
    assert report.duplicates >= 10


def test_a_set_of_which_all_is_known_says_so() -> None:
    settled = Posterior({n: LayerPosterior(np.zeros(len(v.sizes)), v.sizes) for n, v in learned(1.0).items()})
    (one,), _ = sample_candidates(make("posterior", settled), 1, assess_many=Chain().assess_many)
    with pytest.raises(UsageError, match="none of 50 draws is new"):
        sample_candidates(make("posterior", settled), 1, assess_many=Chain().assess_many, known={one.id})
