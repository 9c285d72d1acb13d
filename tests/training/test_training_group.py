"""Two processes take the steps of one, and what a training needs of its group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import group_workers
import pytest
import torch
from group_nets import BATCH, backward, freeze_norms, make_net
from torch import nn

from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World
from pgnas_cli.training.launch import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def heard() -> list[tuple[str, Any]]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def together(folder: Path, heard: list[tuple[str, Any]]) -> dict[str, Any]:
    """What the master of two processes has found."""
    return launch(group_workers.everything, (folder,), procs=2, hear=lambda *said: heard.append(said))


@pytest.fixture(scope="module")
def results(together: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What each of the two has found with a small network."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return group_workers.train_steps(World())


def largest_differences(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> tuple[float, float]:
    """(of the weights, of the drop logits)."""
    assert a.keys() == b.keys()
    found = {name: float((a[name] - b[name]).abs().max()) for name in a}
    logits = {name for name in found if "drop_logit" in name}
    return max(found[n] for n in found.keys() - logits), max(found[n] for n in logits)


@pytest.mark.parametrize("which", ["weights", "parts"])
def test_two_processes_take_the_steps_of_one(together, alone, which: str) -> None:
    """20 steps on the same global batches, in float64: with it the difference falls as rounding does (float32: 2e-3).

    Adam divides gradients of the drop logits by their size, which magnifies the rounding of those that are near 0.
    """
    weights, logits = largest_differences(alone, together[which])
    assert weights < 1e-7
    assert logits < 1e-5
    moved = [float((value + 2.1972).abs().max()) for name, value in alone.items() if "drop_logit" in name]
    assert max(moved) > 0.5  # they have gone far from p = 0.1
    assert float(alone["loss"]) == pytest.approx(float(together[which]["loss"]), rel=1e-6)


def test_what_the_master_hears(together, heard) -> None:
    assert together["world"] == (0, 2, 0, 2)
    assert together["sums"] == {"a": 2.0, "b": 1.0}
    assert together["object"] == {"rank": 0}
    assert together["agree"] == [(15, False), (0, True), (0, False)]
    assert together["averaged"] == ([0.5, 0.5], [2.5, 2.5])
    assert together["restored"] == {"mean": 1.0, "var": 5.0}  # each its own again: 0 + 1 and 2 + 3
    assert sorted(heard) == [("from", 0), ("from", 1)]


def test_statistics_of_two_processes_are_averaged_for_one(together) -> None:
    norm = nn.BatchNorm1d(2)
    distributed.restore_batch_stats(norm, together["gathered"], World())
    assert norm.running_mean.tolist() == [0.5, 0.5]
    assert norm.running_var.tolist() == [2.5, 2.5]


def test_gradients_are_the_mean_over_the_processes_also_of_what_ddp_does_not_see(results: list[Any]) -> None:
    whole = make_net()
    backward(whole, freeze_norms(whole.train()), slice(0, BATCH))
    assert any("drop_logit" in name for name, _ in whole.named_parameters())
    for name, parameter in whole.named_parameters():
        first, second = (found["gradients"][name] for found in results)
        assert torch.equal(first, second), name
        assert parameter.grad is not None
        torch.testing.assert_close(first, parameter.grad, rtol=1e-4, atol=1e-6)
        assert parameter.grad.abs().max() > 0, name


def test_wrapping_keeps_the_networks_own_names(results: list[Any]) -> None:
    assert results[0]["names"] == list(make_net().state_dict())


def test_batch_statistics_are_averaged_and_their_counter_is_not(results: list[Any]) -> None:
    first, second = (found["own"] for found in results)
    for name, value in results[0]["averaged"].items():
        assert torch.equal(value, results[1]["averaged"][name])
        if "tracked" in name:
            assert torch.equal(value, first[name])
        else:
            assert not torch.equal(first[name], second[name])
            torch.testing.assert_close(value, (first[name] + second[name]) / 2)


def test_each_process_gets_its_own_statistics_back(results: list[Any]) -> None:
    for rank, found in enumerate(results):
        running = [value for name, value in found["restored"].items() if "running" in name]
        assert all(bool((value == rank).all()) for value in running)
    assert [len(found["gathered"]) for found in results] == [2, 2]


def test_what_processes_tell_each_other(results: list[Any]) -> None:
    assert [found["world"] for found in results] == [(0, 2, 0, 2, True), (1, 2, 1, 2, False)]
    for found in results:
        assert found["object"] == {"from": 0}
        assert found["sums"] == {"a": 0.2, "b": 3.0}
        assert found["agreed"] == [(15, True), (0, False)]
