"""Auxiliary loss, drop path, and gates of stem, classifier and head: values, and runs from inflation to export."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from few_cells import few_cells
from torch import Tensor, nn

from pgnas_cli import inflation, restore
from pgnas_cli.commands import sample as command
from pgnas_cli.export.export import export
from pgnas_cli.export.verify import verify
from pgnas_cli.ranking.candidates import read_candidates, sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.distributed import World
from pgnas_cli.training.loop import train, trained_supernet
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.setup import open_run_data, prepare
from pgnas_cli.training.trainer import Trainer

N = 400
GATED = {"objective.gate_stem": True, "objective.gate_classifier": True}


class Headed(nn.Module):
    """A little network with an auxiliary head."""

    training_only = ("auxiliary",)

    def __init__(self) -> None:
        super().__init__()
        self.aux_logits: Tensor | None = None
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.gated = nn.Conv2d(6, 4, 3, padding=1)
        self.auxiliary = nn.Linear(6, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.aux_logits = self.auxiliary(x.mean((2, 3))) if self.training else None
        return self.fc(self.gated(x.relu()).mean((2, 3)))


@pytest.fixture
def headed() -> Supernet:
    torch.manual_seed(0)
    return Supernet(Headed(), {"gated": [6]}, input_size=(1, 5, 5))


def objective(**changes: object) -> Objective:
    return Objective(override(Recipe(), {f"objective.{name}": value for name, value in changes.items()}), N)


# ---- the auxiliary loss ----


@pytest.mark.parametrize("weight", [0.4, 1.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_auxiliary_loss_is_weight_times_cross_entropy(headed: Supernet, weight: float, smoothing: float) -> None:
    labels = torch.tensor([0, 2, 1, 1])
    logits = headed.train()(torch.randn(4, 1, 5, 5))
    found = objective(auxiliary_weight=weight, label_smoothing=smoothing)(headed, logits, labels)
    wanted = weight * F.cross_entropy(headed.auxiliary_logits(), labels, label_smoothing=smoothing)
    torch.testing.assert_close(found.auxiliary, wanted)
    torch.testing.assert_close(found.total, found.cross_entropy + found.kl + found.penalty + wanted)
    assert float(found.terms()["auxiliary"]) == pytest.approx(wanted.item())
    torch.autograd.backward(found.auxiliary)
    assert headed.backbone.auxiliary.weight.grad.abs().max() > 0
    assert headed.backbone.fc.weight.grad is None


def test_the_default_weight_is_that_of_enas() -> None:
    assert Recipe().objective.auxiliary_weight == 0.4


@pytest.mark.parametrize("why", ["weight 0", "no head", "evaluation"])
def test_without_a_head_there_is_no_auxiliary_loss(headed: Supernet, why: str) -> None:
    net = headed.train(why != "evaluation")
    if why == "no head":
        plain = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net = Supernet(plain, {}, input_size=(1, 5, 5))
    logits = net(torch.randn(4, 1, 5, 5))
    found = objective(auxiliary_weight=0.0 if why == "weight 0" else 0.4)(net, logits, torch.tensor([0, 2, 1, 1]))
    assert found.auxiliary is None
    assert found.terms().keys() == {"loss", "cross_entropy", "kl"}
    torch.testing.assert_close(found.total, found.cross_entropy + found.kl + found.penalty)


# ---- training ----


def make_recipe(**changes: object) -> Recipe:
    small = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 64, "schedule.epochs": 1}
    return override(load_recipe("posterior"), {**small, **changes})


def make_run(folder: Path, arch: str) -> RunDirectory:
    net = inflation.inflate(arch, in_chans=1, img_size=8, seed=0)
    return restore.create_run(net, folder / "run", options={"explicit": ["in_chans", "img_size"]})


@pytest.fixture(scope="module")
def shake(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("shake"), "shakeshake26_2x2d")


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    with few_cells():
        yield make_run(tmp_path_factory.mktemp("enas"), "enas15_2f")


def copy(run: RunDirectory, folder: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(run.path, folder / "copy"))


def final_weights(run: RunDirectory) -> dict[str, Tensor]:
    return load_tensors(run.path / run.require("train")["checkpoint"], hint="")[0]


@pytest.mark.parametrize("granularity", ["group", "channel"])
def test_gates_of_stem_and_classifier_are_trained_and_every_stage_goes_on(shake, tmp_path, granularity: str) -> None:
    run = copy(shake, tmp_path)
    changes = {**GATED, "objective.granularity": granularity, "objective.initial_drop": 0.02}
    train(run, make_recipe(**changes), device="cpu")
    net = trained_supernet(run)
    assert {"stem", "fc"} <= net.gates.keys()
    assert net.gates["fc"].channels == 8
    for name in ("stem", "fc"):
        moved = net.gates[name].drop_logit.detach() - math.log(0.02 / 0.98)
        assert len(moved) == (1 if granularity == "group" else net.gates[name].channels)
        assert moved.abs().max() > 1e-3
    sample(run, n=4)
    assert {"stem", "fc"} <= read_candidates(run)[0].masks.keys()
    rank(run)
    export(run)
    assert verify(run.export_path).passed


def test_gates_start_where_the_recipe_says(shake) -> None:
    recipe = make_recipe(**GATED, **{"objective.initial_drop": 0.3, "objective.temperature": 0.5})
    gates = prepare(shake, recipe, open_run_data(shake, recipe)).net.gates
    assert {gate.temperature for gate in gates.values()} == {0.5}
    torch.testing.assert_close(torch.cat([gate.p for gate in gates.values()]), torch.full((len(gates),), 0.3))
    plain = make_recipe()
    assert prepare(shake, plain, open_run_data(shake, plain)).net.gates.keys() == gates.keys() - {"stem", "fc"}


def test_a_constant_rate_for_a_size_counts_the_gates_of_stem_and_classifier(shake) -> None:
    recipe = make_recipe(**GATED)
    prepared = prepare(shake, recipe, open_run_data(shake, recipe), fixed_drop="0.5x")
    net = prepared.net
    assert {gate.fixed_drop for gate in net.gates.values()} == {prepared.recipe.objective.fixed_drop}
    assert float(net.cost().expected_params) == pytest.approx(0.5 * net.kept_cost().params, rel=1e-4)


@pytest.fixture(scope="module")
def headed_run(enas: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two epochs of two steps with everything that an ENAS recipe has, and a target for the size."""
    run = copy(enas, tmp_path_factory.mktemp("trained"))
    extras = {"objective.drop_path": 0.4, "budget.target_params": "0.8x", "schedule.epochs": 2}
    train(run, make_recipe(**GATED, **extras, **{"data.rotation": 10.0}), device="cpu")
    return run


def test_the_head_is_gated_trained_and_logged_but_no_part_of_a_candidate(headed_run: RunDirectory) -> None:
    rows, weights = read_jsonl(headed_run.train_path / "log.jsonl"), final_weights(headed_run)
    for row in rows:
        assert row["auxiliary"] > 0.4
        assert row["loss"] >= row["cross_entropy"] + row["kl"] + row["auxiliary"] - 1e-6
    net = trained_supernet(headed_run)
    head = {name for name in weights if name.startswith("backbone.auxiliary") and name.endswith("drop_logit")}
    assert len(head) == 3
    assert not any(name.startswith("auxiliary") for name in net.gates)
    assert len(net.gate_parameters()) == len(net.gates) + 3
    start = float(torch.logit(torch.tensor(0.1)))
    assert all(bool(((weights[name] - start).abs() > 1e-3).all()) for name in head)
    candidate = net.sample(generator=torch.Generator().manual_seed(0))
    assert candidate.params == sum(p.numel() for p in net.compact(candidate).parameters())


def test_resuming_with_everything_on_ends_in_the_same_bits(headed_run: RunDirectory, tmp_path: Path) -> None:
    run = copy(headed_run, tmp_path)
    (sorted(run.checkpoints_path.iterdir())[-1] / "state.pt").write_bytes(b"")
    train(run, device="cpu", resume=True)
    wanted, found = final_weights(headed_run), final_weights(run)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("rate", [0.4, 0.0])
def test_drop_path_grows_with_depth_and_with_every_step(enas, monkeypatch, rate: float) -> None:
    recipe = make_recipe(**{"schedule.epochs": 2, "objective.drop_path": rate})
    trainer = Trainer(enas, prepare(enas, recipe, open_run_data(enas, recipe)), World())
    paths = [module for module in trainer.net.modules() if "depth_share" in vars(module)]
    shares = [path.depth_share for path in paths]
    assert max(shares) == 1.0
    assert min(shares) == pytest.approx(1 / 4)
    seen = []
    whole = Objective.__call__

    def spy(self: Objective, net: Supernet, logits: Tensor, labels: Tensor, *, kl: bool) -> object:
        seen.append([path.drop_prob for path in paths])
        return whole(self, net, logits, labels, kl=kl)

    monkeypatch.setattr(Objective, "__call__", spy)
    for _ in range(2):
        trainer.train_epoch(lambda progress: None, lambda: None)
    assert seen == [[pytest.approx(rate * share * (step + 1) / 4) for share in shares] for step in range(4)]


# ---- how many candidates ----


def test_the_recipe_says_how_many_candidates_are_drawn_unless_n_does(shake, tmp_path: Path) -> None:
    run = copy(shake, tmp_path)
    train(run, make_recipe(**{"sampling.candidates": 7, "objective.initial_drop": 0.4}), device="cpu")
    for draw in (sample, partial(command.draw, limits={})):
        assert draw(run, n=None, source="final")["candidates"] == 7
        assert draw(run, n=3, source="final")["candidates"] == 3
