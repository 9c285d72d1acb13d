"""What the processes of test_training_group.py run: a module of its own, so that started processes find it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from group_nets import BATCH, backward, freeze_norms, make_batch, make_net, statistics
from torch import Tensor, nn

from pgnas_cli import inflate, restore
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.training import distributed
from pgnas_cli.training.budget import make_budget
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine, share_of_batch
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.optimizers import Optimizers

STEPS = 20
IMAGES = 16


def make_engine(recipe: Recipe, world: World) -> Engine:
    """An engine on a small supernet in float64 whose BatchNorm stays in evaluation mode."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    restore.apply_recipe(net, recipe)
    net.double().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return Engine(net, Objective(recipe, 100), Optimizers(net, recipe, STEPS), recipe, world)


def train_steps(world: World, parts: int = 1) -> dict[str, Tensor]:
    """Twenty steps on seeded images: weights, drop logits, and the summed cross-entropy."""
    changes = {"data.batch_size": IMAGES, "schedule.epochs": 1, "optimizer.lr": 0.02, "budget.target_params": "0.6x"}
    recipe = override(load_recipe("posterior"), {**changes, "compute.accumulate": parts})
    engine = make_engine(recipe, world)
    budget = make_budget(engine.net, recipe)
    assert budget is not None
    share, total = share_of_batch(recipe, world), 0.0
    generator = torch.Generator().manual_seed(3)
    for step in range(STEPS):
        images = torch.randn(IMAGES, 1, 8, 8, generator=generator).double()
        labels = torch.randint(10, (IMAGES,), generator=generator)
        own = slice(world.rank * share, (world.rank + 1) * share)
        terms = engine.gradients(images[own], labels[own], key=f"0/{step}")
        total += float(terms["cross_entropy"]) / world.size
        engine.step(step)
        budget.correct((step + 1) / STEPS, engine.optimizers.gate_metric)
    sums = distributed.reduce_sums({"loss": total}, world)
    return {**{n: p.detach().clone() for n, p in engine.net.named_parameters()}, "loss": torch.tensor(sums["loss"])}


def _small(world: World) -> dict[str, Any]:
    """What each process finds with a small network."""
    rows = slice(world.rank * BATCH // 2, (world.rank + 1) * BATCH // 2)
    net = make_net()
    model = distributed.wrap(freeze_norms(net.train()), world)
    names = list(net.state_dict())
    backward(net, model, rows)
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}

    net = make_net().train()
    net(make_batch()[0][rows])
    own = statistics(net)
    distributed.average_batch_stats(net, world)
    gathered = distributed.gather_batch_stats(net, world)
    kept = statistics(net)
    distributed.restore_batch_stats(net, [torch.full_like(gathered[0], float(rank)) for rank in range(2)], world)
    return {
        "world": (world.rank, world.size, world.local_rank, world.local_size, world.is_master),
        "names": names,
        "gradients": gradients,
        "own": own,
        "averaged": kept,
        "gathered": gathered,
        "restored": statistics(net),
        "object": distributed.broadcast_object({"from": world.rank}, world),
        "sums": distributed.reduce_sums({"b": world.rank + 1.0, "a": 0.1}, world),
        "agreed": [distributed.agree(15 * world.rank, world.is_master, world), distributed.agree(0, False, world)],
        "threads": torch.get_num_threads(),
    }


def everything(folder: Path, say: Callable[[str, Any], None]) -> dict[str, Any]:
    """One launch, many looks; what each process finds goes to a file."""
    world = distributed.join("cpu")
    try:
        say("from", world.rank)
        torch.save(_small(world), folder / f"{world.rank}.pt")
        found: dict[str, Any] = {"weights": train_steps(world), "parts": train_steps(world, parts=2)}
        found["world"] = (world.rank, world.size, world.local_rank, world.local_size)
        found["sums"] = distributed.reduce_sums({"a": 1.0, "b": float(world.rank)}, world)
        found["object"] = distributed.broadcast_object({"rank": world.rank}, world)
        found["agree"] = [
            distributed.agree(15 if world.rank == 1 else 0, False, world),
            distributed.agree(0, world.rank == 0, world),
            distributed.agree(0, False, world),
        ]
        norm = nn.BatchNorm1d(2)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(world.rank)
        norm.running_var.fill_(2.0 + world.rank)
        gathered = distributed.gather_batch_stats(norm, world)
        distributed.average_batch_stats(norm, world)
        found["averaged"] = (norm.running_mean.tolist(), norm.running_var.tolist())
        distributed.restore_batch_stats(norm, gathered, world)
        own = torch.tensor([float(norm.running_mean[0]), float(norm.running_var[0])])
        found["restored"] = distributed.reduce_sums({"mean": float(own[0]), "var": float(own[1])}, world)
        found["gathered"] = gathered
        distributed.barrier(world)
        return found
    finally:
        distributed.leave()
