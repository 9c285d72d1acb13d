"""What evolution proposes after it has been told, and the log-probability of a stratified draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.strategies.evolution import Evolution
from pgnas_cli.posterior.strategies.stratified import Stratified
from pgnas_cli.posterior.tilting import Tilt

SIZES = {"a": (2, 3), "b": (4,), "c": (1,) * 6}


def flat_posterior(drop: float = 0.5) -> Posterior:
    return Posterior({name: LayerPosterior(np.full(len(s), drop), s) for name, s in SIZES.items()})


def flat(masks: Masks) -> np.ndarray:
    return np.concatenate([masks[name] for name in SIZES])


def all_of(value: bool) -> Masks:
    return {name: np.full(sum(sizes), value) for name, sizes in SIZES.items()}


def test_what_is_asked_depends_on_what_was_told_not_on_how_much_was_asked_before() -> None:
    told = [(masks, float(i)) for i, masks in enumerate(Evolution(flat_posterior(), 1).ask(8))]
    children = []
    for asked in (3, 11):
        search = Evolution(flat_posterior(), 0)
        search.ask(asked)
        search.tell(told)
        search.ask(asked)
        search.tell(told)
        children.append([flat(child) for child in search.ask(5)])
    assert np.array_equal(children[0], children[1])


def test_two_generations_told_the_same_do_not_repeat_their_children() -> None:
    told = [(masks, float(i)) for i, masks in enumerate(Evolution(flat_posterior(), 1).ask(8))]
    search = Evolution(flat_posterior(), 0, population=8)
    search.tell(told)
    first = [flat(child) for child in search.ask(5)]
    search.tell(told)
    assert not np.array_equal(first, [flat(child) for child in search.ask(5)])


def test_every_child_is_mutated_at_least_once() -> None:
    """A rate of 0 leaves the one group that is always drawn anew: all channels of it, and of no other."""
    search = Evolution(flat_posterior(1.0), 0, mutation=0.0, crossover=0.0)
    search.tell([(all_of(True), 1.0)] * 2)
    ends = np.cumsum([0, *(size for sizes in SIZES.values() for size in sizes)])
    seen = set()
    for child in search.ask(200):
        (group,) = {int(np.searchsorted(ends, channel, side="right")) - 1 for channel in np.flatnonzero(~flat(child))}
        assert (~flat(child)).sum() == ends[group + 1] - ends[group]
        seen.add(group)
    assert seen == set(range(len(ends) - 1))


def test_crossover_takes_each_layer_whole_from_one_parent() -> None:
    search = Evolution(flat_posterior(), 0, mutation=0.0, crossover=1.0, tournament=1)
    search.tell([(all_of(True), 1.0), (all_of(False), 1.0)])
    mixed = 0
    for child in search.ask(200):
        layers = [set(mask.tolist()) for mask in child.values()]
        assert sum(len(kinds) == 2 for kinds in layers) <= 1  # the mutated group
        mixed += len({next(iter(kinds)) for kinds in layers if len(kinds) == 1}) == 2
    assert mixed > 20


def test_the_oldest_leave_whatever_they_scored() -> None:
    search = Evolution(flat_posterior(0.0), 0, population=4, crossover=0.0, mutation=0.0)
    search.tell([(all_of(False), 100.0)])
    search.tell([(all_of(True), float(score)) for score in range(4)])
    assert all(flat(child).all() for child in search.ask(20))


def test_the_better_of_a_tournament_is_the_parent() -> None:
    search = Evolution(flat_posterior(0.0), 0, crossover=0.0, mutation=0.0, tournament=50)
    search.tell([(all_of(True), 0.0), (all_of(False), 1.0)])
    assert all(flat(child).sum() <= 4 for child in search.ask(20))  # the largest group, kept again


@pytest.mark.parametrize(("population", "tournament"), [(1, 8), (64, 0)])
def test_sizes_that_make_no_sense_are_refused(population: int, tournament: int) -> None:
    with pytest.raises(ValueError, match="at least 2 and 1"):
        Evolution(flat_posterior(), 0, population=population, tournament=tournament)


def test_a_stratified_draw_has_the_probability_of_the_mixture() -> None:
    tilts = [Tilt(flat_posterior(drop), "params", 1.0, 0.0, 1.0, 0.0) for drop in (0.2, 0.9)]
    channels = sum(size for sizes in SIZES.values() for size in sizes)
    found = Stratified(tilts, 0).log_prob(all_of(True))
    assert found == pytest.approx(math.log((0.8**channels + 0.1**channels) / 2))
