"""Settling for one candidate inside a training: which one, what it inherits, and what the run holds afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_cells import few_cells
from torch import nn

from pgnas_cli import inflate, restore
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.ranking.candidates import read_candidates, sample, sampled_supernet
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.commit import CERTAIN, CommittedNetwork, origins, settle, settle_gates
from pgnas_cli.training.cost_target import Target, sampled_cost
from pgnas_cli.training.loop import train, trained_supernet
from pgnas_cli.training.trainer import Trainer


def make_net(arch: str = "shakeshake26_2x4d", granularity: str = "channel", seed: int = 0) -> Supernet:
    """A small supernet whose drop logits are spread at random, and whose BatchNorm has seen something."""
    net = inflate(arch, in_chans=1, img_size=8, seed=seed)
    net.set_granularity(granularity)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logit in net.gate_parameters():
            logit.copy_(torch.randn(logit.shape, generator=generator))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return net.eval()


# ---- which candidate ----


@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_largest_threshold_within_the_target(unit: str, share: float) -> None:
    net = make_net()
    target = Target(unit, share * getattr(net.kept_cost(), unit))
    masks = settle(net, [target])
    logits = np.concatenate([gate.drop_logit.detach().numpy() for gate in net.gates.values()])
    kept = np.concatenate([masks[name] for name in net.gates])
    assert logits[kept].max() < logits[~kept].min()
    assert getattr(net.assess(masks), unit) <= target.value
    following = np.sort(logits[~kept])[0]
    more = {name: gate.drop_logit.detach().numpy() <= following for name, gate in net.gates.items()}
    assert getattr(net.assess(more), unit) > target.value


@pytest.mark.parametrize(("shares", "binding"), [((0.3, 0.9), "params"), ((0.9, 0.3), "macs")])
def test_of_two_targets_neither_is_exceeded(shares: tuple[float, float], binding: str) -> None:
    net = make_net()
    targets = {unit: Target(unit, share * getattr(net.kept_cost(), unit))
               for unit, share in zip(("params", "macs"), shares, strict=True)}  # fmt: skip
    masks = settle(net, list(targets.values()))
    alone = settle(net, [targets[binding]])
    assert all(np.array_equal(masks[name], alone[name]) for name in masks)
    assert all(getattr(net.assess(masks), unit) <= target.value for unit, target in targets.items())


def test_groups_are_kept_or_dropped_as_a_whole() -> None:
    net = make_net(granularity="group")
    masks = settle(net, [Target("params", 0.5 * net.kept_cost().params)])
    for name, gate in net.gates.items():
        for group in range(len(gate.sizes)):
            assert len(set(masks[name][gate.group_of_channel.numpy() == group].tolist())) == 1


def test_gates_that_are_all_alike_are_refused() -> None:
    net = make_net()
    with torch.no_grad():
        for logit in net.gate_parameters():
            logit.fill_(-2.0)
    targets = [Target("params", 12345.0), Target("macs", 67890.0)]
    with pytest.raises(PgnasError, match=r"within 12345 \(--target-params\) and 67890 \(--target-macs\)") as error:
        settle(net, targets)
    with pytest.raises(PgnasError, match="too many drop probabilities are still alike"):
        settle(net, targets[:1])
    assert "--epochs" in error.value.hint


def test_a_candidate_that_does_not_see_the_image_is_refused() -> None:
    net = make_net()
    with torch.no_grad():
        for name, logit in zip(net.gates, net.gate_parameters(), strict=True):
            logit.add_(20.0 if name.endswith("conv2") or "skip" in name else -20.0)
    smallest = {
        name: np.full(gate.channels, "conv1" in name and "skip" not in name) for name, gate in net.gates.items()
    }
    with pytest.raises(PgnasError, match="does not depend on the image") as error:
        settle(net, [Target("params", float(net.assess(smallest).params))])
    assert "--force" in error.value.hint


def test_settled_gates_draw_their_masks_and_nothing_else() -> None:
    net = make_net()  # no layer loses all inputs, which would count as zeros and not as what BatchNorm makes of them
    masks = settle(net, [Target("params", 0.7 * net.kept_cost().params)])
    assert all(mask.any() for mask in masks.values())
    settle_gates(net, masks)
    posterior, generator = net.posterior(), np.random.default_rng(0)
    for _ in range(20):
        drawn = posterior.draw(generator)
        assert all(np.array_equal(drawn[name], masks[name]) for name in masks)
    assert float(net.cost().expected_params.detach()) == pytest.approx(net.assess(masks).params, rel=1e-6)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    net.eval()
    for module in net.modules():
        if not isinstance(module, nn.BatchNorm2d):
            module.training = True
    net.set_branch_noise(False)
    with torch.no_grad():
        noisy = net(x)
        net.eval()
        with net.masked(masks):
            torch.testing.assert_close(noisy, net(x), rtol=1e-4, atol=1e-5)


# ---- the small network ----


@pytest.mark.parametrize(
    ("arch", "granularity"),
    [
        ("shakeshake26_2x4d", "channel"),
        ("shakeshake26_2x4d", "group"),
        ("resnet18", "channel"),
        ("regnetx_002", "channel"),  # groups that are left unequally wide are filled up
    ],
)
def test_every_element_knows_where_it_came_from(arch: str, granularity: str) -> None:
    net = make_net(arch, granularity)
    masks = settle(net, [Target("params", 0.5 * net.kept_cost().params)])
    small, tensors = net.compact(masks).state_dict(), net.backbone.state_dict()
    found = origins(net, masks)
    assert found.keys() == {name for name, tensor in small.items() if tensor.is_floating_point() and tensor.numel()}
    for name, origin in found.items():
        assert torch.equal(origin.take(tensors[origin.name]), small[name]), name


def test_trained_weights_go_back_and_masked_equals_compact() -> None:
    net = make_net()
    masks = settle(net, [Target("params", 0.5 * net.kept_cost().params)])
    network = CommittedNetwork(net, masks)
    untouched = net.backbone.state_dict()["stem.weight"].clone()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in network.backbone.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    network.write_back(net)
    assert not torch.equal(net.backbone.state_dict()["stem.weight"], untouched)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    network.eval()
    with torch.no_grad(), net.masked(masks):
        torch.testing.assert_close(net(x), network(x), rtol=1e-4, atol=1e-5)


def test_what_fills_up_a_grouped_convolution_stays_zero() -> None:
    net = make_net("regnetx_002")
    masks = settle(net, [Target("params", 0.4 * net.kept_cost().params)])
    network = CommittedNetwork(net, masks)
    filled = {name: origin.index < 0 for name, origin in network.origins.items() if bool((origin.index < 0).any())}
    assert filled
    optimizer = torch.optim.SGD(network.weight_parameters(), lr=0.1, momentum=0.9)
    network.train()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        optimizer.zero_grad()
        (network(x).square().mean() + network.kl(l2=1.0, num_examples=10.0)).backward()
        optimizer.step()
    small = dict(network.backbone.named_parameters())
    for name, where in filled.items():
        assert float(small[name].detach()[where].abs().max()) == 0.0
        assert float(small[name].detach()[~where].abs().max()) > 0.0
    network.write_back(net)
    network.eval()
    with torch.no_grad(), net.masked(masks):
        torch.testing.assert_close(net(x), network(x), rtol=1e-4, atol=1e-5)


def test_momentum_is_inherited_element_by_element() -> None:
    net = make_net()
    before = torch.optim.SGD(net.weight_parameters(), lr=0.1, momentum=0.9)
    net.train()
    net(torch.randn(4, 1, 8, 8)).square().mean().backward()
    before.step()
    masks = settle(net.eval(), [Target("params", 0.5 * net.kept_cost().params)])
    network = CommittedNetwork(net, masks)
    after = torch.optim.SGD(network.weight_parameters(), lr=0.1, momentum=0.9)
    network.inherit_momentum(net, before, after)
    theirs = dict(net.backbone.named_parameters())
    for name, parameter in network.backbone.named_parameters():
        origin = network.origins[name]
        expected = before.state[theirs[origin.name]]["momentum_buffer"].flatten()[origin.index]
        assert torch.equal(after.state[parameter]["momentum_buffer"], expected), name
        assert expected.abs().max() > 0


def test_the_penalty_is_that_of_the_masked_supernet() -> None:
    """l2 / N * ||W||^2 of what is left: of layers that were gated, and of the other convolutions."""
    net = make_net()
    masks = settle(net, [Target("params", 0.5 * net.kept_cost().params)])
    network = CommittedNetwork(net, masks)
    small = net.compact(masks).requires_grad_(False)
    gated = sum(float(m.weight.double().square().sum()) for n, m in small.named_modules() if n in net.gates)
    others = sum(
        float(m.weight.double().square().sum())
        for n, m in small.named_modules()
        if isinstance(m, nn.Conv2d) and n not in net.gates
    )
    assert float(network.kl(l2=3.0, num_examples=2.0).detach()) == pytest.approx(1.5 * gated, rel=1e-5)
    assert float(network.ungated_penalty().detach()) == pytest.approx(others, rel=1e-5)
    assert others > 0


# ---- in a training ----


def make_recipe(**changes: Any) -> Recipe:
    small = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320, "schedule.epochs": 3}
    return override(load_recipe(None), {**small, "budget.target_params": "0.5x", "commit.at": 0.34, **changes})


@pytest.fixture(scope="module")
def inflated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("inflated") / "run"
    return restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})


@pytest.fixture
def new_run(inflated: RunDirectory, tmp_path: Path) -> Callable[[], RunDirectory]:
    count = iter(range(100))
    return lambda: RunDirectory(shutil.copytree(inflated.path, tmp_path / f"run{next(count)}"))


@pytest.fixture(scope="module")
def committed(inflated: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: one epoch of search, two of the candidate, with averaged weights."""
    run = RunDirectory(shutil.copytree(inflated.path, tmp_path_factory.mktemp("committed") / "run"))
    train(run, make_recipe(**{"optimizer.ema": 0.9}), device="cpu")
    return run


def test_the_candidate_costs_what_was_asked_for(committed: RunDirectory) -> None:
    record, net = committed.require("train"), trained_supernet(committed)
    target = record["target_params"]
    assert 0.99 * target < net.mode().params <= target
    assert record["expected_params"] == pytest.approx(net.mode().params, rel=1e-6)
    assert all(float(logit.detach().abs().min()) == CERTAIN for logit in net.gate_parameters())
    rows = read_jsonl(committed.train_path / "posterior.jsonl")
    assert len(rows) == 3
    assert {value for p in rows[1]["p"].values() for value in p} == {0.0, 1.0}
    assert any(0.01 < value < 0.99 for p in rows[0]["p"].values() for value in p)


def test_the_posterior_stays_with_its_weights(committed: RunDirectory) -> None:
    soft, record = trained_supernet(committed, source="soft"), committed.require("train")["soft"]
    assert record["epoch"] == 1
    assert record["expected_params"] == pytest.approx(float(soft.cost().expected_params.detach()), rel=1e-5)
    assert record["expected_params"] == pytest.approx(committed.require("train")["target_params"], rel=0.02)
    drawn = sampled_cost(soft, seed=0)
    assert record["sampled"] == drawn
    for unit in ("params", "macs"):
        assert drawn[unit]["n"] == 64
        assert drawn[unit]["sd"] > 0.005 * drawn[unit]["mean"]  # it has width
        spread = 3 * drawn[unit]["sd"] / drawn[unit]["n"] ** 0.5
        assert drawn[unit]["mean"] == pytest.approx(record[f"expected_{unit}"], abs=spread)
    assert drawn["params"]["mean"] == pytest.approx(committed.require("train")["target_params"], rel=0.02)
    p = np.concatenate([layer.per_channel() for layer in soft.posterior().values()])
    assert ((p > 0.01) & (p < 0.99)).all()
    first = read_jsonl(committed.train_path / "posterior.jsonl")[0]["p"]
    assert np.allclose(np.concatenate(list(first.values())), p, atol=1e-5)


@pytest.mark.parametrize(("source", "distinct"), [("final", 1), ("soft", 5)])
def test_candidates_of_either(committed: RunDirectory, tmp_path: Path, source: str, distinct: int) -> None:
    run = RunDirectory(shutil.copytree(committed.path, tmp_path / "run"))
    record = sample(run, None if source == "final" else 5, source=source)
    assert record["candidates"] == distinct
    assert record["warnings"] == []
    expected = load_tensors(run.path / (run.require("train")["soft"] or {})["checkpoint"], hint="")[0]
    same = torch.equal(sampled_supernet(run).state_dict()["backbone.stem.weight"], expected["backbone.stem.weight"])
    assert same is (source == "soft")
    assert len(read_candidates(run)) == distinct


def test_without_a_commit_there_is_no_other_posterior(inflated: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(inflated.path, tmp_path / "run"))
    train(run, make_recipe(**{"budget.target_params": None, "schedule.epochs": 1}), device="cpu")
    assert run.require("train")["soft"] is None
    with pytest.raises(UsageError, match="has not committed") as error:
        trained_supernet(run, source="soft")
    assert error.value.hint == "--from final"
    with pytest.raises(UsageError, match="--from 'hard'"):
        trained_supernet(run, source="hard")


def test_the_temperature_falls_in_the_search_and_only_there(new_run, monkeypatch) -> None:
    """Ten steps of search, in the first of which nothing is dropped; ten of the candidate."""
    seen: list[float] = []
    monkeypatch.setattr(Trainer, "_set_gates", lambda self, of=Trainer._set_gates: (of(self), seen.append(
        next(iter(self.net.gates.values())).temperature)))  # fmt: skip
    train(new_run(), make_recipe(**{"schedule.epochs": 2, "commit.at": 0.5}), device="cpu")
    assert len(seen) == 10
    assert seen[:2] == [0.2, 0.2]
    assert seen[-1] == pytest.approx(0.05)
    assert seen[1:] == sorted(set(seen), reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [9, 10, 14, 20])
def test_resuming_before_at_and_after_the_commit_ends_in_the_same_bits(new_run, committed, monkeypatch, stop) -> None:
    """Ten steps an epoch; the commit comes after step 10. The process dies after a checkpoint at step `stop`."""
    run, plain = new_run(), Trainer.save

    class KilledError(Exception):
        pass

    def killed(self: Trainer) -> Any:
        found = plain(self)
        if self.step == stop:
            raise KilledError
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", killed)
        with pytest.raises(KilledError):
            train(run, make_recipe(**{"optimizer.ema": 0.9}), device="cpu", checkpoint_every="1")
    train(run, device="cpu", resume=True)
    ours, theirs = (load_tensors(r.path / r.require("train")["checkpoint"], hint="")[0] for r in (run, committed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.require("train")["soft"] == committed.require("train")["soft"]
    times = ("seconds", "images_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in read_jsonl(r.train_path / "log.jsonl")]
        for r in (run, committed)
    ]
    assert rows[0] == rows[1]


@pytest.fixture
def _few_cells() -> Iterator[None]:
    with few_cells():
        yield


@pytest.mark.usefixtures("_few_cells")
def test_drop_path_goes_on_growing_after_the_commit_and_after_a_resume(tmp_path: Path, monkeypatch) -> None:
    net = inflate("enas15_2f", in_chans=1, img_size=8, seed=0)
    runs = [restore.create_run(net, tmp_path / name, options={"explicit": ["in_chans", "img_size"]}) for name in "ab"]
    changes = {"data.limit_train": 96, "schedule.epochs": 2, "objective.drop_path": 0.3, "budget.target_params": "0.7x"}
    plain, step = Trainer._train_step, 4  # the second of three steps after the commit

    def stopped(self: Trainer, *batch: Any) -> Any:
        if self.step == step:
            raise KeyboardInterrupt
        return plain(self, *batch)

    train(runs[0], make_recipe(**changes), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(runs[1], make_recipe(**changes), device="cpu", checkpoint_every="1")
    train(runs[1], device="cpu", resume=True)
    ours, theirs = (load_tensors(r.path / r.require("train")["checkpoint"], hint="")[0] for r in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
