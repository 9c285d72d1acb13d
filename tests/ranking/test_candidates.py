"""The sample stage: what it draws, what it warns of, and files that do not fit together."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.posterior.candidate import pack
from pgnas_cli.posterior.diversity import diversity
from pgnas_cli.ranking.candidates import MASKS, ROWS, read_candidates, sample, write_candidates
from pgnas_cli.ranking.network_costs import NetworkCosts
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl, save_tensors
from pgnas_cli.training.loop import trained_supernet


def test_candidates_come_back_as_they_were_drawn(run: RunDirectory) -> None:
    net = trained_supernet(run)
    generator = torch.Generator().manual_seed(5)
    drawn = [net.sample(generator=generator) for _ in range(5)]
    digest = write_candidates(run, net, drawn)
    run.finish("sample", {})
    found = read_candidates(run)
    assert digest == read_jsonl(run.path / ROWS)[0]["sha256"]
    assert [candidate.summary() for candidate in found] == [candidate.summary() for candidate in drawn]
    for a, b in zip(found, drawn, strict=True):
        assert list(a.masks) == list(b.masks)
        assert all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)


def test_the_record_and_the_files_agree(sampled: RunDirectory) -> None:
    record, found, net = sampled.require("sample"), read_candidates(sampled), trained_supernet(sampled)
    assert (record["candidates"], record["asked"], record["strategy"], record["seed"]) == (8, 8, "posterior", 1)
    assert len({candidate.id for candidate in found}) == 8
    for candidate in found:
        assert candidate.params == sum(p.numel() for p in net.compact(candidate).parameters())
        assert candidate.log_prob == pytest.approx(net.posterior().log_prob(candidate.masks))
    sizes = [candidate.params for candidate in found]
    assert record["params"] == {"mean": sum(sizes) / 8, "min": min(sizes), "max": max(sizes)}


def test_a_seed_decides_the_draws(run: RunDirectory, sampled: RunDirectory) -> None:
    ids = {seed: sample(run, n=8, seed=seed) and [c.id for c in read_candidates(run)] for seed in (1, 2)}
    assert ids[1] == [candidate.id for candidate in read_candidates(sampled)]
    assert not set(ids[1]) & set(ids[2])


@pytest.mark.parametrize(("limit", "key"), [("max_params", "params"), ("max_macs", "macs")])
def test_limits_are_respected(run: RunDirectory, limit: str, key: str) -> None:
    middle = run.require("sample")[key]["mean"]
    record = sample(run, n=5, **{limit: middle})
    assert record["too_large"] > 0
    assert record[limit] == middle
    assert max(getattr(candidate, key) for candidate in read_candidates(run)) <= middle


def test_fewer_than_asked_is_a_warning(run: RunDirectory) -> None:
    smallest = sample(run, n=400, seed=1)["params"]["min"]  # of as many draws as eight candidates may take
    record = sample(run, n=8, seed=1, max_params=smallest)
    assert 1 <= record["candidates"] == len(read_candidates(run)) < 8
    (warning,) = record["warnings"]
    found = "1 distinct candidate" if record["candidates"] == 1 else f"{record['candidates']} distinct candidates"
    assert warning.startswith(f"{found} in 400 draws, 8 were asked for")
    assert f"{record['too_large']} above the limits" in warning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"max_params": 1}, "within the limits"),
        ({"strategy": "best"}, "unknown strategy"),
        ({"strategy": "uniform"}, "needs the rate"),
        ({"strategy": "uniform", "drop_prob": 1.0}, "below 1"),
        ({"drop_prob": 0.3}, "belongs to --strategy uniform"),
        ({"params": 100.0}, "belongs to --strategy tilted"),
        ({"strategy": "tilted"}, "needs the size"),
        ({"strategy": "tilted", "params": 1.0}, "reaches"),
        ({"strategy": "evolution"}, "a sample has no scores"),
    ],
)
def test_a_refused_request_leaves_the_last_candidates(run: RunDirectory, options: dict, message: str) -> None:
    before = [candidate.id for candidate in read_candidates(run)]
    with pytest.raises(UsageError, match=message) as error:
        sample(run, **{"n": 2, **options})
    assert error.value.hint
    assert [candidate.id for candidate in read_candidates(run)] == before


def test_uniform_candidates_of_a_guided_supernet_are_warned_of(run: RunDirectory) -> None:
    record = sample(run, n=4, strategy="uniform", drop_prob=0.1)
    (warning,) = record["warnings"]
    assert "trained with a learned posterior" in warning
    assert "--fixed-drop" in warning
    assert {candidate.strategy for candidate in read_candidates(run)} == {"uniform"}


@pytest.mark.parametrize(("asked", "drawn", "warned"), [(None, 0.3, False), (0.3, 0.3, False), (0.1, 0.1, True)])
def test_a_uniform_supernet_is_drawn_at_its_own_rate(run: RunDirectory, asked, drawn: float, warned: bool) -> None:
    manifest = json.loads(run.manifest_path.read_text())
    manifest["stages"]["train"]["fixed_drop"] = 0.3
    run.manifest_path.write_text(json.dumps(manifest))
    record = sample(run, n=4, strategy="uniform", drop_prob=asked)
    assert record["drop_prob"] == drawn
    assert ["trained at 0.3" in warning for warning in record["warnings"]] == [True] * warned
    kept = np.mean([candidate.kept_share() for candidate in read_candidates(run)])
    assert kept == pytest.approx(1 - drawn, abs=0.04)


# ---- sizes ----


@pytest.mark.parametrize(("unit", "share"), [("params", 0.3), ("macs", 0.7)])
def test_tilted_candidates_of_a_run_have_the_size_asked_for(run: RunDirectory, unit: str, share: float) -> None:
    net = trained_supernet(run)
    target = share * float(getattr(net.kept_cost(), unit))
    record = sample(run, n=60, strategy="tilted", **{unit: target})
    facts = record["strategy_facts"]
    assert record[unit]["mean"] == pytest.approx(target, rel=0.02)
    assert facts["sampled"] == pytest.approx(
        np.mean([getattr(net.assess(c.masks), unit) for c in read_candidates(run)])
    )
    assert facts["relative_error"] == pytest.approx(facts["sampled"] / target - 1)
    assert facts["calibration"]["mean"] == pytest.approx(target, rel=0.02)
    assert (facts["lambda"] > 0) is (share < 0.5)  # the posterior was trained to one half
    assert run.require("sample")["strategy_facts"] == facts


def test_the_expected_cost_of_a_run_is_the_supernets_own(run: RunDirectory) -> None:
    net, costs = trained_supernet(run), NetworkCosts(trained_supernet(run))
    keep = {name: 1 - layer.per_channel() for name, layer in net.posterior().items()}
    for unit in ("params", "macs"):
        own = getattr(net.cost(), f"expected_{unit}").item()
        assert costs.expected(keep, unit) == pytest.approx(own, rel=1e-4)
        slope, name = costs.slope(keep, unit), next(iter(keep))
        moved = {**keep, name: keep[name] - 1e-4 * (np.arange(len(keep[name])) == 0)}
        difference = costs.expected(keep, unit) - costs.expected(moved, unit)
        assert slope[name][0] == pytest.approx(difference / 1e-4, rel=1e-3)


def test_stratified_candidates_of_a_run_go_from_0_3_to_0_9(run: RunDirectory) -> None:
    record = sample(run, n=3, strategy="stratified")
    strata = record["strategy_facts"]["strata"]
    assert [stratum["candidates"] for stratum in strata] == [1] * 3
    whole = float(trained_supernet(run).kept_cost().params)
    assert [stratum["target"] / whole for stratum in strata] == pytest.approx([0.3, 0.6, 0.9])
    assert [stratum["calibration"]["mean"] / whole for stratum in strata] == pytest.approx([0.3, 0.6, 0.9], rel=0.02)
    assert [candidate.params for candidate in read_candidates(run)] == [stratum["sampled"] for stratum in strata]


def test_the_diversity_of_a_set_is_on_record(run: RunDirectory) -> None:
    record = sample(run, n=8, seed=1)
    assert record["diversity"] == vars(diversity([candidate.masks for candidate in read_candidates(run)]))
    assert record["diversity"]["distinct"] == 8


def test_after_a_commit_sizes_are_drawn_from_the_soft_posterior(run: RunDirectory) -> None:
    manifest = json.loads(run.manifest_path.read_text())
    manifest["stages"]["train"]["soft"] = {"checkpoint": manifest["stages"]["train"]["checkpoint"]}
    run.manifest_path.write_text(json.dumps(manifest))
    for strategy, size in (("tilted", 24000.0), ("stratified", (20000.0, 30000.0))):
        with pytest.raises(UsageError, match=f"leaves --strategy {strategy} nothing") as error:
            sample(run, n=4, strategy=strategy, params=size)
        assert "--from soft" in error.value.hint
    assert sample(run, n=4, strategy="tilted", params=24000.0, source="soft")["candidates"] == 4


# ---- damaged files ----


def rewrite(run: RunDirectory, change: Callable[[list[dict]], object]) -> None:
    rows = read_jsonl(run.path / ROWS)
    change(rows)
    (run.path / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_masks(run: RunDirectory) -> None:
    tensors, metadata = load_tensors(run.path / MASKS, hint="")
    tensors["masks"][0, 0] ^= 1
    save_tensors(run.path / MASKS, tensors, metadata)


def truncate(run: RunDirectory) -> None:
    (run.path / MASKS).write_bytes((run.path / MASKS).read_bytes()[:-3])


def without_metadata(run: RunDirectory) -> None:
    save_tensors(run.path / MASKS, load_tensors(run.path / MASKS, hint="")[0])


def other_rows(run: RunDirectory) -> None:
    masks = (run.path / MASKS).read_bytes()
    sample(run, n=8, seed=2)
    (run.path / MASKS).write_bytes(masks)


DAMAGE: dict[str, Callable[[RunDirectory], None]] = {
    "masks truncated": truncate,
    "masks missing": lambda run: (run.path / MASKS).unlink(),
    "masks edited": edit_masks,
    "masks of nothing": without_metadata,
    "rows of another draw": other_rows,
    "rows missing": lambda run: (run.path / ROWS).unlink(),
    "rows empty": lambda run: (run.path / ROWS).write_text(""),
    "rows no JSON": lambda run: (run.path / ROWS).write_text('{"sha256": '),
    "rows binary": lambda run: (run.path / ROWS).write_bytes(b"\xff\xfe"),
    "another hash": lambda run: rewrite(run, lambda rows: rows[0].update(sha256="0" * 64)),
    "one row less": lambda run: rewrite(run, list.pop),
    "two rows swapped": lambda run: rewrite(run, lambda rows: rows.insert(1, rows.pop(2))),
    "no params": lambda run: rewrite(run, lambda rows: rows[3].pop("params")),
    "params edited": lambda run: rewrite(run, lambda rows: rows[3].update(params=1)),
    "macs edited": lambda run: rewrite(run, lambda rows: rows[3].update(macs=1)),
    "params a text": lambda run: rewrite(run, lambda rows: rows[3].update(params="many")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_files_that_do_not_fit_are_a_run_error_with_the_way_out(run: RunDirectory, damage) -> None:
    damage(run)
    with pytest.raises(RunError) as error:
        read_candidates(run)
    assert str(run.path) in str(error.value)
    assert "pgnas sample --force" in error.value.hint
    sample(run, n=2)
    assert len(read_candidates(run)) == 2


def test_masks_of_another_network_are_a_run_error(run: RunDirectory) -> None:
    drawn = read_candidates(run)
    tensors, metadata = load_tensors(run.path / MASKS, hint="")
    bits = pack([candidate.masks for candidate in drawn])[:, :-2]
    save_tensors(run.path / MASKS, {"masks": torch.from_numpy(bits.copy())}, metadata)
    with pytest.raises(RunError):
        read_candidates(run)
    assert tensors["masks"].shape[1] == bits.shape[1] + 2


def test_a_write_that_fails_leaves_the_last_candidates(run: RunDirectory, monkeypatch) -> None:
    sample(run, n=4, seed=1)
    before = [candidate.id for candidate in read_candidates(run)]

    def full(path: Path, rows: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pgnas_cli.ranking.candidates.write_jsonl", full)
    with pytest.raises(OSError, match="No space left"):
        sample(run, n=3, seed=5)
    assert [candidate.id for candidate in read_candidates(run)] == before
    assert not list(run.path.glob(".*"))
