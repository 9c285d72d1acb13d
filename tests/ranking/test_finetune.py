"""Training one compact network: its recipe, where it starts, what it learns, and what is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pgnas_cli import inflate, registry, restore
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.plugin import BuildSpec, Inflation
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.finetune import (
    compact_recipe,
    finetune,
    finetune_recipe,
    fresh_network,
    scratch_recipe,
    train_compact,
)
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d
from pgnas_cli.training.commit import CommittedNetwork
from pgnas_cli.training.data import Data, open_data
from pgnas_cli.training.objective import evaluate
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.progress import TrainProgress

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def few() -> Data:
    """128 training images."""
    return open_data("digits", limit_train=128)


@pytest.fixture
def evaluator(sampled: RunDirectory, few: Data) -> Evaluator:
    return Evaluator(sampled_supernet(sampled), few, CPU, recalibrate=64)


def changed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Recipe:
    """Make this the recipe of every run."""
    given = {"optimizer.lr": 0.2, **{name.replace("__", "."): value for name, value in changes.items()}}
    recipe = override(load_recipe("posterior"), given)
    monkeypatch.setattr(restore, "run_recipe", lambda run: recipe)
    return recipe


def rates(recipe: Recipe, network: CommittedNetwork, steps_per_epoch: int) -> list[float]:
    """The rate of each step."""
    optimizers, found = Optimizers(network, recipe, steps_per_epoch), []
    for step in range(recipe.schedule.epochs * steps_per_epoch):
        for scheduler in optimizers.schedulers:
            scheduler.step_update(step)
        found.append(optimizers.lr)
    return found


# ---- recipes ----


@pytest.mark.parametrize("schedule", ["cosine", "step", "restarts"])
def test_finetuning_falls_once_from_a_tenth(
    sampled: RunDirectory, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    own = changed(monkeypatch, schedule__name=schedule, schedule__warmup_epochs=2.0, optimizer__momentum=0.8)
    recipe = finetune_recipe(sampled, CPU, 3)
    assert replace(recipe, optimizer=own.optimizer, schedule=own.schedule) == own
    assert replace(recipe.optimizer, lr=0.2) == own.optimizer
    network = CommittedNetwork(evaluator.net, evaluator.net.mode().masks)
    found = rates(recipe, network, 4)
    assert found[0] == pytest.approx(0.02)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.001


def test_from_scratch_the_recipe_is_the_runs_own(sampled: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    own = changed(monkeypatch, schedule__name="step", schedule__epochs=8, schedule__milestones=[4, 6])
    assert scratch_recipe(sampled, CPU) == scratch_recipe(sampled, CPU, 8) == own
    short = scratch_recipe(sampled, CPU, 5)
    assert (short.schedule.name, short.schedule.epochs) == ("cosine", 5)
    assert replace(short, schedule=own.schedule) == own
    with pytest.raises(UsageError, match="epochs is 0"):
        scratch_recipe(sampled, CPU, 0)


@pytest.mark.parametrize(
    ("sync", "processes", "parts"), [(False, 1, 2), (False, 4, 8), (True, 4, 2)]
)  # fmt: skip
def test_one_device_computes_in_parts_what_several_did(
    sampled: RunDirectory, monkeypatch: pytest.MonkeyPatch, sync: bool, processes: int, parts: int
) -> None:
    changed(monkeypatch, compute__accumulate=2, compute__sync_bn=sync, compute__compile=True, compute__amp="float16")
    monkeypatch.setattr(RunDirectory, "require", lambda self, name: {"processes": processes})
    found = compact_recipe(sampled, CPU).compute
    assert (found.accumulate, found.sync_bn, found.compile, found.amp) == (parts, False, False, "none")
    assert compact_recipe(sampled, torch.device("cuda")).compute.amp == "float16"


# ---- fresh weights ----


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def test_fresh_weights_are_those_of_an_untrained_network(sampled: RunDirectory, evaluator: Evaluator) -> None:
    candidate = read_candidates(sampled)[0]
    before = {name: tensor.clone() for name, tensor in evaluator.net.state_dict().items()}
    network, again = (fresh_network(evaluator.net, candidate, 7) for _ in range(2))
    other = fresh_network(evaluator.net, candidate, 8)
    assert sum(parameter.numel() for parameter in network.parameters()) == candidate.params
    plain = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=7).backbone
    trained, scales = evaluator.net.backbone, []
    for name, layer in convolutions(network.backbone).items():
        if layer.weight.numel():
            assert torch.equal(layer.weight, again.backbone.get_submodule(name).weight)
            assert not torch.equal(layer.weight, other.backbone.get_submodule(name).weight)
            whole, index = plain.get_submodule(name).weight, network.origins[f"{name}.weight"].index
            scales.append((whole.shape[1] / layer.weight.shape[1]) ** 0.5)
            assert torch.allclose(layer.weight, scales[-1] * whole.reshape(-1)[index])
            assert not torch.allclose(layer.weight, trained.get_submodule(name).weight.reshape(-1)[index], atol=1e-3)
    assert max(scales) > 1.1
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
            assert int(module.num_batches_tracked) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in evaluator.net.state_dict().items())


def plain_layers(seed: int) -> Supernet:
    """Eight convolutions without BatchNorm, of He's initialisation."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for place in range(8):
        layers += [nn.Conv2d(64 if place else 3, 64, 3, padding=1, bias=False), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    gates = {str(place): [64] for place in range(2, 16, 2)}
    net = Supernet(backbone, gates, input_size=(3, 8, 8), spec=BuildSpec("plain", "test", Inflation(), 10, 3, 8))
    net.set_granularity("channel")
    return net.eval()


def test_outputs_vary_as_much_as_before_channels_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm they would fade with every layer, here to 0.25^(7/2)."""
    monkeypatch.setattr(registry, "build", lambda spec: plain_layers(spec.seed))
    net = plain_layers(3)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = np.arange(64) % 4 == 0
    candidate = net.candidate(dict.fromkeys(net.gates, mask))
    network = fresh_network(net, candidate, 4)
    with torch.no_grad():
        ratio = float(network.eval()(images).std() / net(images).std())
    assert 0.3 < ratio < 3


def test_surrogates_start_as_the_identity() -> None:
    """Also those that drop inputs, and so are not left out; scaled like the others they would be no identity."""
    net = inflate("enas15_4f", num_classes=10, img_size=8, surrogate_pools=True, seed=0)
    surrogates = [name for name, layer in net.search_layers.items() if isinstance(layer, SurrogateConv2d)]
    generator = torch.Generator().manual_seed(0)
    candidate = net.candidate(
        {name: (torch.rand(gate.channels, generator=generator) < 0.6).numpy() for name, gate in net.gates.items()}
    )
    network = fresh_network(net, candidate, 0)
    weights = {name: layer.weight for name, layer in convolutions(network.backbone).items() if name in surrogates}
    assert weights
    for weight in weights.values():
        assert set(weight.unique().tolist()) <= {0.0, 1.0}


# ---- training ----


def test_it_learns(sampled: RunDirectory, evaluator: Evaluator, few: Data) -> None:
    told: list[TrainProgress] = []
    network = fresh_network(evaluator.net, read_candidates(sampled)[0], 1)
    start = evaluate(network.eval(), few.eval_batches("train", 128))
    trained = train_compact(network, scratch_recipe(sampled, CPU, 8), few, CPU, told.append)
    end = evaluate(trained.network, few.eval_batches("train", 128))
    assert not trained.network.training
    assert end.log_likelihood > start.log_likelihood + 0.5
    assert end.accuracy > start.accuracy + 0.2
    assert (trained.images, trained.seconds > 0) == (8 * 128, True)
    assert [progress.step for progress in told] == list(range(1, 33))
    assert [progress.epoch for progress in told[:9]] == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert (told[-1].epoch, told[-1].epochs, told[-1].steps) == (8, 8, 32)


def test_the_same_seed_gives_the_same_weights(sampled: RunDirectory, evaluator: Evaluator, few: Data) -> None:
    found = []
    for seed in (5, 5, 6):
        recipe = replace(scratch_recipe(sampled, CPU, 1), seed=seed)
        recipe = replace(recipe, data=replace(recipe.data, mixup=0.5))
        network = fresh_network(evaluator.net, read_candidates(sampled)[0], 1)
        trained = train_compact(network, recipe, few, CPU).network
        found.append(torch.cat([tensor.reshape(-1).float() for tensor in trained.state_dict().values()]))
        torch.rand(7)  # the caller's random state has no part in it
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__ema": 0.9},
        {"compute__channels_last": True, "compute__accumulate": 2},
        {"data__mixup": 0.4, "objective__label_smoothing": 0.1, "compute__amp": "bfloat16"},
    ],
)
def test_what_the_recipe_asks_for_is_done(
    sampled: RunDirectory, evaluator: Evaluator, few: Data, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    weights, start = [], torch.empty(0)
    for given in ({}, changes):
        changed(monkeypatch, data__batch_size=32, **given)
        network = fresh_network(evaluator.net, read_candidates(sampled)[0], 1)
        start = torch.cat([parameter.detach().reshape(-1).clone() for parameter in network.parameters()])
        trained = train_compact(network, scratch_recipe(sampled, CPU, 1), few, CPU)
        weights.append(torch.cat([parameter.detach().reshape(-1) for parameter in trained.network.parameters()]))
    assert weights[1].isfinite().all()
    assert (trained.network is network) == ("optimizer__ema" not in changes)
    assert not torch.allclose(weights[0], weights[1], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(weights[1], start, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_ends_it(sampled: RunDirectory, evaluator: Evaluator, few: Data) -> None:
    network = fresh_network(evaluator.net, read_candidates(sampled)[0], 1)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(PgnasError, match="the loss is nan at step 1 of 4"):
        train_compact(network, scratch_recipe(sampled, CPU, 1), few, CPU)


# ---- the winner, trained on ----


def test_the_winner_is_trained_on_and_scored_on_both_splits(
    sampled: RunDirectory, evaluator: Evaluator, few: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgnas_cli.ranking import finetune as module

    started, ended, plain = [], [], module.train_compact

    def spy(network, *arguments):
        with torch.no_grad():
            started.append(network.eval()(few.probe(8)))
        ended.append(plain(network, *arguments))
        return ended[-1]

    monkeypatch.setattr(module, "train_compact", spy)
    winner = read_candidates(sampled)[0]
    before = {name: tensor.clone() for name, tensor in evaluator.net.state_dict().items()}
    with evaluator.ready(winner), torch.no_grad():
        ranked = evaluator.net(few.probe(8))
    record = finetune(sampled, evaluator, winner, 2, confidence=0.9)
    assert torch.allclose(started[0], ranked, atol=1e-4)
    assert (record["epochs"], record["images"]) == (2, 256)
    assert record["lr"] == pytest.approx(0.1 * restore.run_recipe(sampled).optimizer.lr)
    for split in ("selection", "test"):
        score = evaluate(ended[0].network, few.eval_batches(split, 64))
        assert record[f"{split}_accuracy"] == wilson(score.correct, score.n, 0.9).to_json()
    assert all(torch.equal(before[name], tensor) for name, tensor in evaluator.net.state_dict().items())


def test_no_epochs_are_refused(sampled: RunDirectory, evaluator: Evaluator) -> None:
    with pytest.raises(UsageError, match="--finetune 0 was given"):
        finetune(sampled, evaluator, read_candidates(sampled)[0], 0)
