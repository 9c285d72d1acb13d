"""distilled.py: the gradients of a step, and when there is a teacher."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgnas_cli import inflate, restore
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine
from pgnas_cli.training.optimizers import Optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "evidence"))

from distilled import DistillingEngine, TaughtObjective

IMAGES = 12
Gradients = dict[str, Tensor]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(IMAGES, 1, 8, 8, generator=generator), torch.arange(IMAGES) % 10


@pytest.fixture
def recipe() -> Recipe:
    return override(load_recipe("posterior"), {"data.batch_size": IMAGES, "schedule.epochs": 2})


def make_engine(kind: type[Engine], recipe: Recipe) -> Engine:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    restore.apply_recipe(net, recipe)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return kind(net, TaughtObjective(recipe, 100), Optimizers(net, recipe, 4), recipe, World())


def gradients(engine: Engine) -> Gradients:
    return {name: p.grad.clone() for name, p in engine.net.named_parameters() if p.grad is not None}


def assert_alike(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        scale = float(wanted[name].abs().max().clamp_min(1e-12))
        assert float((gradient - wanted[name]).abs().max()) < 1e-4 * scale, name


def test_the_gradient_is_that_of_the_teacher_on_labels_and_of_the_masked_network_on_the_teacher(batch, recipe) -> None:
    images, labels = batch
    distilling = make_engine(DistillingEngine, recipe)
    terms = distilling.gradients(images, labels, key="0/0")

    teacher = make_engine(Engine, recipe)
    teacher.net.set_gating(False)
    logits_BC = teacher.net(images)
    F.cross_entropy(logits_BC, labels, label_smoothing=teacher.objective.label_smoothing).backward()
    student = make_engine(Engine, recipe)
    student.objective.taught = logits_BC.detach().softmax(1)
    alone = student.gradients(images, labels, key="0/0")
    wanted = gradients(student)
    for name, gradient in gradients(teacher).items():
        wanted[name] = wanted[name] + gradient
    assert_alike(gradients(distilling), wanted)
    assert float(terms["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-6)
    assert max(float(gradient.abs().max()) for gradient in gradients(teacher).values()) > 1e-3


def test_without_masks_there_is_no_teacher(batch, recipe) -> None:
    distilling, plain = (make_engine(kind, recipe) for kind in (DistillingEngine, Engine))
    for engine in (distilling, plain):
        engine.net.set_gating(False)
        engine.gradients(*batch, key="0/0")
    assert_alike(gradients(distilling), gradients(plain))
