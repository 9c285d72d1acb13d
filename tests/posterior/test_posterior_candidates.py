"""Candidates: their identity, their bits, and drawing distinct ones within limits."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.posterior.assessment import Assessment
from pgnas_cli.posterior.candidate import Candidate, masks_id, pack, unpack
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.sampling import DRAWS_PER_CANDIDATE, sample_candidates
from pgnas_cli.posterior.strategies import make

layouts = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 20), min_size=1, max_size=6)


@st.composite
def mask_sets(draw: st.DrawFn) -> tuple[dict[str, int], list[dict[str, np.ndarray]]]:
    layout = draw(layouts)
    count = draw(st.integers(1, 4))
    bits = st.lists(st.booleans(), min_size=sum(layout.values()), max_size=sum(layout.values()))
    many = []
    for _ in range(count):
        row, masks = draw(bits), {}
        for name, size in layout.items():
            masks[name], row = np.array(row[:size]), row[size:]
        many.append(masks)
    return layout, many


# ---- identity and bits ----


@settings(max_examples=60, deadline=None)
@given(mask_sets())
def test_unpack_is_the_inverse_of_pack(drawn: tuple[dict[str, int], list[dict[str, np.ndarray]]]) -> None:
    layout, many = drawn
    bits = pack(many)
    assert bits.dtype == np.uint8
    assert bits.shape == (len(many), -(-sum(layout.values()) // 8))
    for masks, found in zip(many, unpack(bits, layout), strict=True):
        assert list(found) == list(layout)
        for name, mask in masks.items():
            assert found[name].dtype == bool
            assert (found[name] == mask).all()


@settings(max_examples=60, deadline=None)
@given(mask_sets(), st.data())
def test_flipping_any_bit_changes_the_id(
    drawn: tuple[dict[str, int], list[dict[str, np.ndarray]]], data: st.DataObject
) -> None:
    masks = drawn[1][0]
    before = masks_id(masks)
    assert len(before) == 16
    assert int(before, 16) >= 0
    assert masks_id({name: mask.copy() for name, mask in masks.items()}) == before
    name = data.draw(st.sampled_from(list(masks)))
    channel = data.draw(st.integers(0, len(masks[name]) - 1))
    masks[name][channel] ^= True
    assert masks_id(masks) != before


def test_the_id_depends_on_names_and_on_where_layers_end() -> None:
    bits = np.array([True, False, True])
    ids = {
        masks_id(masks)
        for masks in ({"a": bits}, {"b": bits}, {"a": bits[:1], "b": bits[1:]}, {"a": bits[:2], "b": bits[2:]})
    }
    assert len(ids) == 4


def test_the_id_is_the_same_in_every_version() -> None:
    """It names candidates in files: changing how it is computed needs a new format."""
    wanted = hashlib.sha256(b'{"a": 3, "b": 1}' + bytes([0b10100000])).hexdigest()[:16]
    assert masks_id({"a": np.array([True, False, True]), "b": np.array([False])}) == wanted


@pytest.mark.parametrize(
    "bits",
    [np.zeros((2, 3), np.uint8), np.zeros((2, 1), np.uint8), np.zeros(2, np.uint8), np.zeros((2, 2), np.int64)],
)
def test_bits_that_do_not_fit_the_layout_are_refused(bits: np.ndarray) -> None:
    with pytest.raises(RunError, match="do not fit 9 gated channels"):
        unpack(bits, {"a": 4, "b": 5})


def test_equality_shares_and_summary() -> None:
    masks = {"a": np.array([True, False]), "b": np.zeros(2, dtype=bool)}
    one = Candidate(masks, "posterior", 10, 20, -1.5)
    assert one == dataclasses.replace(one, strategy="mode", params=0)
    assert one != "another kind of thing"
    assert one.kept_share() == 0.25
    assert one.dropped_operations() == ["b"]
    assert one.summary() == {"id": one.id, "strategy": "posterior", "params": 10, "macs": 20, "log_prob": -1.5}
    assert Candidate(masks, "given", 1, 2).summary()["log_prob"] is None


# ---- sampling ----


def rates(*drop: float, channels: int = 6) -> Posterior:
    return Posterior({str(i): LayerPosterior(np.array([p]), (channels,)) for i, p in enumerate(drop)})


def assess(masks: Masks) -> Assessment:
    """A parameter a kept channel; usable if the first layer keeps anything."""
    kept = int(sum(mask.sum() for mask in masks.values()))
    return Assessment(params=kept, macs=100 * kept, usable=bool(masks["0"].any()))


def draw(distribution: Posterior, n: int, *, seed: int = 0, **options: object):
    strategy = make("posterior", distribution, n=n, seed=seed)
    return sample_candidates(strategy, n, assess_many=lambda many: [assess(masks) for masks in many], **options)


@pytest.mark.parametrize(
    ("distribution", "n", "options", "full"),
    [
        (rates(0.4, 0.4), 40, {}, True),
        (rates(0.8, 0.5), 40, {"max_params": 5}, True),
        (rates(0.4, 0.5), 40, {"max_macs": 600.0}, True),
        (rates(0.5, channels=3), 20, {}, False),  # seven usable networks in all
        (rates(0.9, 0.0, channels=2), 5, {}, False),
        (rates(0.5, 0.5), 30, {"max_params": 2}, False),  # 6 + 36 - ... at most 21
    ],
)
def test_candidates_are_distinct_usable_and_within_the_limits(
    distribution: Posterior, n: int, options: dict, full: bool
) -> None:
    progress: list[int] = []
    found, report = draw(distribution, n, **options, progress=progress.append)
    assert (len(found) == n) is full
    assert len({candidate.id for candidate in found}) == len(found)
    assert progress == list(range(1, len(found) + 1))
    assert report.draws == len(found) + report.duplicates + report.unusable + report.too_large
    assert full or report.draws == DRAWS_PER_CANDIDATE * n
    for candidate in found:
        cost = assess(candidate.masks)
        assert cost.usable
        assert (candidate.params, candidate.macs) == (cost.params, cost.macs)
        assert cost.params <= options.get("max_params", 12)
        assert cost.macs <= options.get("max_macs", 1200)
        assert candidate.log_prob == distribution.log_prob(candidate.masks)
        assert candidate.strategy == "posterior"
    assert (report.too_large > 0) is bool(options)


def test_every_reason_to_pass_over_a_draw_is_counted() -> None:
    _, report = draw(rates(0.7, 0.5, channels=2), 9, max_params=3)
    assert min(report.duplicates, report.unusable, report.too_large) > 0


def test_limits_are_inclusive() -> None:
    found, _ = draw(rates(0.5, 0.5), 200, max_params=6)
    assert max(candidate.params for candidate in found) == 6


def test_the_seed_decides_what_is_drawn() -> None:
    ids = [[c.id for c in draw(rates(0.4, 0.4), 10, seed=seed)[0]] for seed in (0, 0, 1)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    longer = [c.id for c in draw(rates(0.4, 0.4), 20, seed=0)[0]]
    assert longer[:10] == ids[0]


@pytest.mark.parametrize(
    ("distribution", "n", "options", "message"),
    [
        (rates(0.1), 0, {}, "0 candidates"),
        (rates(0.1), -3, {}, "-3 candidates"),
        (rates(0.5), 3, {"max_params": 0}, r"none of 150 draws is within the limits: the smallest has 1 parameters"),
        (rates(0.5), 3, {"max_macs": 99.0}, r"the smallest has 1 parameters and 100 MACs"),
        (rates(1.0, 0.0), 2, {}, "none of 100 draws gives a network whose logits depend on the image"),
    ],
)
def test_what_cannot_be_drawn_says_why(distribution: Posterior, n: int, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        draw(distribution, n, **options)
