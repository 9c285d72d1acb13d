"""The peers' arms: what a training may cost, how a training inside a budget goes on, what magnitude pruning keeps."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

EVIDENCE = Path(__file__).parents[1] / "bench" / "evidence"
sys.path[:0] = [str(EVIDENCE), str(EVIDENCE.parent), str(EVIDENCE / "zoo")]

import peers  # noqa: E402
from commands import Failed, Stopped  # noqa: E402
from ledger import Ledger  # noqa: E402
from peer_arms import COLUMNS, COMMIT, TARGET_MACS  # noqa: E402
from peer_magnitude import magnitude_masks  # noqa: E402
from peer_runs import affordable_epochs, errors, training_macs  # noqa: E402
from peer_training import Continuation, Progress, SettledNetwork, macs_of, params_of  # noqa: E402

import pgnas_cli as pgnas  # noqa: E402
from pgnas_cli.recipe import Budget, Commit, Recipe, Schedule  # noqa: E402
from pgnas_cli.training.data import Data, open_data  # noqa: E402

EPOCHS, DENSE = 5, 1


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data("digits", seed=0, limit_train=256)


def recipe() -> Recipe:
    plain = Recipe()
    schedule = Schedule(epochs=EPOCHS, warmup_epochs=0.5)
    return replace(plain, schedule=schedule, data=replace(plain.data, batch_size=64))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def continuation(data: Data, file: Path, total: int, stop_after: float = float("inf")) -> Continuation:
    made: list[Continuation] = []

    def stopped() -> bool:
        return made[0].progress.steps >= stop_after

    network = SettledNetwork(small_network())
    made.append(Continuation(recipe(), DENSE, data, network, Progress(total, 1000, 1000), file, stopped))
    return made[0]


def test_macs_of_a_training() -> None:
    dense = {"images": 1000, "epochs": 10, "macs": 50, "soft": None}
    assert training_macs(dense, 7) == 3 * 1000 * 50
    assert training_macs({**dense, "soft": {"epoch": 2}}, 7) == 3 * (200 * 50 + 800 * 7)


@pytest.mark.parametrize(
    ("macs", "supernet", "fewer", "epochs"),
    [(8, 22, 4, 18), (7_199_826, 22_000_000, 3_336_440, 19), (4, 22, 4, 10), (3, 22, 4, 8), (8, 10, 4, 24)],
)
def test_a_smaller_network_is_trained_longer_at_no_more_cost(macs: int, supernet: int, fewer: int, epochs: int) -> None:
    """After 2 epochs of search, as long as 10 epochs in a larger supernet."""
    ours = {"images": 1000 * 10, "epochs": 10, "macs": 22 if macs < 100 else 22_000_000, "soft": {"epoch": 2}}
    budget = training_macs(ours, macs)
    assert affordable_epochs(budget, 1000, 2, supernet, fewer) == epochs
    longer = {"images": 1000 * epochs, "epochs": epochs, "macs": supernet, "soft": {"epoch": 2}}
    assert training_macs(longer, fewer) <= budget
    assert training_macs(longer, fewer) + 3 * 1000 * fewer > budget


def test_an_epoch_is_left_after_a_search_that_spends_the_budget() -> None:
    assert affordable_epochs(3 * 1000 * 20, 1000, 2, 22, 4) == 3


class Recorder:
    """Stands in for Runs: notes what is asked of it."""

    epochs, search_epochs = 10, 2

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def supernet_macs(self, family: str, arm: str, seed: int) -> int:
        return {"default-both": 22_000_000, "default-small": 5_600_000}[arm]

    def row(self, *asked: object) -> dict[str, object]:
        self.asked.append(asked)
        return {}


def test_arms_inside_the_defaults_arithmetic(tmp_path: Path) -> None:
    ledger = Ledger("peers", "about", COLUMNS, ("family", "arm", "seed"), tmp_path)
    recorder = Recorder()
    with pytest.raises(Failed, match="plain-equal needs the rows of plain and default of resnet, seed 0"):
        peers.made(recorder, ledger, "resnet", "plain-equal", 0)  # type: ignore[arg-type]
    row = dict.fromkeys(COLUMNS, 0) | {"family": "resnet", "seed": 0, "training_images": 10_000}
    ledger.add(
        row | {"arm": "default", "macs": 7_199_826, "training_macs": 3 * 1000 * (2 * 22_000_000 + 8 * 7_199_826)}
    )
    ledger.add(row | {"arm": "plain", "macs": 3_336_440})
    for arm in ("default", "default-both", "default-small", "plain-equal"):
        peers.made(recorder, ledger, "resnet", arm, 0)  # type: ignore[arg-type]
    meant = {TARGET_MACS: "3336440", COMMIT: "commit.at=0.1053"}
    assert recorder.asked == [
        ("resnet", "default", 0, 10),
        ("resnet", "default-both", 0, 19, meant),
        ("resnet", "default-small", 0, 29, meant | {COMMIT: "commit.at=0.0690"}),
        ("resnet", "plain-equal", 0, 30),
    ]  # fmt: skip
    assert (
        replace(Recipe(), schedule=Schedule(epochs=19), commit=Commit(at=0.1053), budget=Budget("1M")).commit_epoch == 2
    )


def test_errors_of_accuracies() -> None:
    found = errors({"value": 0.9, "n": 200}, {"value": 0.8, "low": 0.75, "high": 0.86, "n": 300})
    assert found == {
        "test_error": 20.0, "test_low": 14.0, "test_high": 25.0, "test_images": 300, "selection_error": 10.0,
        "selection_images": 200,
    }  # fmt: skip


def test_a_budget_is_spent_along_the_rest_of_the_cosine(data: Data, tmp_path: Path) -> None:
    each = 3 * macs_of(small_network(), data) * 64
    training = continuation(data, tmp_path / "a.pt", 1000 + 10 * each + each // 4)
    per_epoch = training.per_epoch
    assert training.place == per_epoch * DENSE
    training.train(0.5)
    assert training.progress.steps == 5
    assert training.place == pytest.approx(per_epoch * (DENSE + (EPOCHS - DENSE) / 2), abs=1)
    training.train()
    assert training.progress.steps == 10  # of 20 that an unstretched cosine has left
    assert training.progress.spent == 1000 + 10 * each
    assert training.progress.images == 640
    assert training.optimizers.lr < 0.1 * training.recipe.optimizer.lr


def test_scores_that_exceed_the_budget_are_no_row(data: Data, tmp_path: Path) -> None:
    each = 3 * macs_of(small_network(), data) * 64
    training = continuation(data, tmp_path / "a.pt", 1000 + 2 * each)
    training.count(2 * 64)
    training.train()  # nothing is left
    assert training.progress.steps == 0
    training.count(1)
    with pytest.raises(ValueError, match="were spent, the budget is"):
        training.train()


def test_an_interrupted_training_ends_the_same(data: Data, tmp_path: Path) -> None:
    total = 1000 + 6 * 3 * macs_of(small_network(), data) * 64
    whole = continuation(data, tmp_path / "whole.pt", total)
    whole.train()
    with pytest.raises(Stopped):
        continuation(data, tmp_path / "parts.pt", total, stop_after=3).train()
    rest = continuation(data, tmp_path / "parts.pt", total)
    assert rest.progress.steps == 3
    rest.train()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name


def test_magnitude_keeps_the_largest_norms(data: Data) -> None:
    net = pgnas.inflate("shakeshake26_2x4d", num_classes=10, in_chans=1, img_size=8)
    net.set_granularity("channel")
    target = 0.5 * net.kept_cost().params
    masks = magnitude_masks(net, target)
    assert 0.45 / 0.5 * target < net.assess(masks).params <= target
    norms = {n: layer.weight.transpose(0, 1).flatten(1).norm(dim=1).detach() for n, layer in net.search_layers.items()}
    kept = torch.cat([norms[name][torch.from_numpy(mask)] for name, mask in masks.items()])
    dropped = torch.cat([norms[name][~torch.from_numpy(mask)] for name, mask in masks.items()])
    assert dropped.max() < kept.min()


@pytest.mark.parametrize("importance", ["group-norm", "taylor"])
def test_torch_pruning_reaches_a_size(data: Data, tmp_path: Path, importance: str) -> None:
    pytest.importorskip("torch_pruning")
    from peer_torch_pruning import gradients, shrink

    training = continuation(data, tmp_path / "a.pt", 10**9)
    network = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), *small_network())
    network[2] = nn.Conv2d(32, 4, 3, padding=1, bias=False)
    training.replace(SettledNetwork(network))
    if importance == "taylor":
        before = training.progress.spent
        gradients(training)
        assert training.progress.spent - before == 3 * training.macs * 256
    cost = params_of if importance == "taylor" else partial(macs_of, data=data)
    wanted = 0.5 * cost(network)
    shrink(network, cost, wanted, importance, training)
    assert 0.9 * wanted < cost(network) <= wanted
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
