"""The recipes of the published runs: their numbers, and what their headers say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pgnas_cli import registry
from pgnas_cli.recipe import Augmentation, Recipe
from pgnas_cli.recipe_file import load_recipe, recipe_names

FOLDER = Path(__file__).parents[2] / "templates" / "recipes" / "paper"
STEPS_30, STEPS_D121 = (30, 60), (90, 140, 160)
# name -> architecture, l2, N, lr, schedule, epochs, milestones, batch size, clipping, candidates, published
PUBLISHED = {
    "cifar10-m": ("supnet-m", 50, 5e5, 0.01, "cosine", 1800, (), 128, 5, 1500, "2.20 % error at 21.6 M"),
    "cifar10-mi": ("supnet-mi", 150, 5e5, 0.01, "cosine", 1800, (), 128, 5, 1500, "2.06 % error at 33.4 M"),
    "cifar100-mi": ("supnet-mi", 2500, 5e5, 0.01, "cosine", 1800, (), 128, 5, 5000, "14.28 % error"),
    "cifar10-e": ("supnet-e", 0.1, 5e5, 0.05, "restarts", 630, (), 144, 0, 1500, "2.73 % error at 3.1 M"),
    "cifar10-ei": ("supnet-ei", 0.1, 5e5, 0.05, "restarts", 630, (), 144, 0, 1500, "2.56 % error at 10.8 M"),
    "imagenet-r50": ("supnet-r50", 80, 1281167, 0.1, "step", 90, STEPS_30, 256, 0, 1500, "error 22.73 % at 26.0 M"),
    "imagenet-d121": ("supnet-d121", 100, 1281167, 0.1, "step", 180, STEPS_D121, 300, 0, 1500, "24.8 % at 6.6 M"),
}


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.toml").read_text().partition("\n[")[0].splitlines()
    return " ".join(" ".join(line.removeprefix("#") for line in lines).split())


def test_there_is_a_recipe_for_each_published_run() -> None:
    assert [name for name in recipe_names() if name.startswith("paper/")] == sorted(f"paper/{n}" for n in PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_are_the_published_ones(name: str) -> None:
    _, l2, num_examples, lr, schedule, epochs, milestones, batch_size, clip, candidates, _ = PUBLISHED[name]
    recipe = load_recipe(f"paper/{name}")
    assert (recipe.objective.l2, recipe.objective.num_examples) == (l2, num_examples)
    assert (recipe.optimizer.lr, recipe.optimizer.clip) == (lr, clip)
    assert (recipe.schedule.name, recipe.schedule.epochs, recipe.schedule.milestones) == (schedule, epochs, milestones)
    assert (recipe.data.batch_size, recipe.sampling.candidates) == (batch_size, candidates)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_all_published_runs_share(name: str) -> None:
    recipe = load_recipe(f"paper/{name}")
    objective, optimizer = recipe.objective, recipe.optimizer
    assert (objective.temperature, objective.initial_drop, objective.prior_drop) == (0.2, 0.1, 0.5)
    assert (objective.granularity, objective.ungated_l2, objective.label_smoothing) == ("group", False, 0.0)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.gate_optimizer) == (0.9, True, "sgd")
    assert optimizer.resolved_gate_lr() == optimizer.lr
    assert (recipe.schedule.warmup_epochs, recipe.schedule.gamma) == (0.0, 0.1)
    assert (recipe.budget.target_params, objective.fixed_drop) == (None, None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_families_have_of_their_own(name: str) -> None:
    recipe = load_recipe(f"paper/{name}")
    family = {"m": "shake", "mi": "shake", "e": "enas", "ei": "enas"}.get(name.partition("-")[2], "imagenet")
    plain = Recipe()
    gated = family != "imagenet"
    assert (recipe.objective.gate_stem, recipe.objective.gate_classifier) == (gated, gated)
    assert recipe.objective.branch_noise == (family == "shake")
    assert recipe.objective.drop_path == (0.4 if family == "enas" else 0.0)
    assert recipe.objective.auxiliary_weight == 0.4
    restarts = (10, 2, 0.0001) if family == "enas" else (10, 2, plain.schedule.lr_min)
    assert (recipe.schedule.restart_epochs, recipe.schedule.restart_factor, recipe.schedule.lr_min) == restarts
    wanted = {
        "shake": Augmentation(cutout=16, auto_augment="cifar10"),
        "enas": Augmentation(cutout=16),
        "imagenet": Augmentation(color_jitter=0.5, rotation=10.0),
    }[family]
    fields = [field.name for field in dataclasses.fields(Augmentation)]
    assert [getattr(recipe.data, field) for field in fields] == [getattr(wanted, field) for field in fields]
    assert recipe.data.name == f"torch/{name.partition('-')[0]}"
    assert recipe.data.selection == (50_000 if family == "imagenet" else 0.1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_header_gives_commands_cost_published_result_source_and_departures(name: str) -> None:
    arch, *_, published = PUBLISHED[name]
    text = header(name)
    classes = " --classes 100" if name.startswith("cifar100") else ""
    commands = f"pgnas inflate {arch}{classes} pgnas train --recipe paper/{name} --data-dir DIR pgnas sample pgnas rank"
    assert text.startswith(f"Command: {commands} Expected cost: ")
    assert "published, not ours" in text
    assert published in text
    assert "AAAI 2020 (arXiv 1906.09557)" in text
    assert "picked its winner" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_cost_in_the_header_is_that_of_the_architecture(name: str) -> None:
    """Two operations a multiply-add, three forward passes a step, 10 TFLOP/s; ranking one forward pass an image."""
    recipe, text, arch = load_recipe(f"paper/{name}"), header(name), PUBLISHED[name][0]
    info = registry.find(arch)[1].info(arch)
    train, selection = (1_281_167 - 50_000, 50_000) if name.startswith("imagenet") else (45_000, 5000)
    training = 6.0 * info.macs * train * recipe.schedule.epochs
    ranking = 2.0 * info.macs * selection * recipe.sampling.candidates
    days = training / 1e13 / 86_400
    assert f"= {training:.1e} operations".replace("e+", "e") in text
    assert f"at most {ranking:.1e} operations".replace("e+", "e") in text
    assert (f": {days:.1f} GPU-days at" if days >= 1 else f": {24 * days:.1f} GPU-hours at") in text
    assert info.recipe == f"paper/{name}" or name == "cifar100-mi"
