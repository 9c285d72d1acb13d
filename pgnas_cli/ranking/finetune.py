"""Training a candidate's compact network by itself: on from the supernet's weights, or with fresh ones."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pgnas_cli import registry, restore
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.recipe import Compute, Recipe, Schedule
from pgnas_cli.run import RunDirectory
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d
from pgnas_cli.training.allocator import keep_freed_memory
from pgnas_cli.training.commit import CommittedNetwork
from pgnas_cli.training.data import Data
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine, share_of_batch
from pgnas_cli.training.mix import Mix
from pgnas_cli.training.objective import Objective, evaluate
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.progress import Report, TrainProgress, ignore

LR_SHARE = 0.1
"""Fine-tuning starts at this share of the recipe's rate."""
ASYNC_INTERVAL = 10
"""Steps between two looks at the loss on an accelerator, which computes ahead; the CPU is looked at every step."""


@dataclass(frozen=True)
class Trained:
    """A compact network after its training.

    Args:
        network: in evaluation mode; with averaged weights where the recipe averages them.
        images: shown to it, each as often as it was.
        seconds: of the training.
    """

    network: nn.Module
    images: int
    seconds: float


def finetune(
    run: RunDirectory,
    evaluator: Evaluator,
    winner: Candidate,
    epochs: int,
    *,
    confidence: float = 0.95,
    report: Report = ignore,
) -> dict[str, Any]:
    """Train the winner on, from the weights that it was ranked with, and score it again.

    The compact network is trained by the run's recipe, without gates, at rates that fall along one cosine from a tenth
    of the recipe's. Nothing is chosen: the test split is read for the network that the ranking had chosen before.

    Args:
        run: a trained run.
        evaluator: of its supernet.
        winner: what to train.
        epochs: passes over the training images.
        confidence: of the intervals.
        report: called after every step.

    Returns:
        JSON-ready: epochs, lr (the first), images (training), seconds, and selection_accuracy and test_accuracy as
        {value, low, high, n}.

    Raises:
        UsageError: epochs is below 1.
        PgnasError: the loss is not finite.
    """
    if epochs < 1:
        raise UsageError(f"--finetune {epochs} was given, it should be at least 1", "--finetune 5")
    recipe = finetune_recipe(run, evaluator.device, epochs)
    with evaluator.ready(winner):
        network = CommittedNetwork(evaluator.net, winner.masks)
    trained = train_compact(network, recipe, evaluator.data, evaluator.device, report)
    selection, test = (evaluate(trained.network, evaluator.batches(split)) for split in ("selection", "test"))
    return {
        "epochs": epochs,
        "lr": recipe.optimizer.lr,
        "images": trained.images,
        "seconds": trained.seconds,
        "selection_accuracy": wilson(selection.correct, selection.n, confidence).to_json(),
        "test_accuracy": wilson(test.correct, test.n, confidence).to_json(),
    }


def train_compact(
    network: CommittedNetwork, recipe: Recipe, data: Data, device: torch.device, report: Report = ignore
) -> Trained:
    """Train a compact network by a recipe, on one device, as a training goes on after it has settled for a candidate.

    Everything random depends on the recipe's seed, the epoch and the step.

    Args:
        network: changed in place.
        recipe: see `compact_recipe`.
        data: its training images are used.
        device: where to train.
        report: called after every step.

    Raises:
        PgnasError: the loss is not finite.
    """
    if device.type == "cpu":
        keep_freed_memory()
    network.to(device)
    if recipe.compute.channels_last:
        network.to(memory_format=torch.channels_last)
    world, mix = World(device=device), Mix(recipe.data, data.num_classes)
    share = share_of_batch(recipe, world)
    per_epoch, epochs = data.num_train_batches(share), recipe.schedule.epochs
    objective, optimizers = Objective(recipe, data.num_train), Optimizers(network, recipe, per_epoch)
    engine = Engine(network, objective, optimizers, recipe, world)
    step = images = 0
    steps, started = epochs * per_epoch, time.perf_counter()
    network.train()
    for epoch in range(epochs):
        for batch, (x, y) in enumerate(data.train_batches(epoch, share, device)):
            network.set_drop_path(recipe.objective.drop_path * (step + 1) / steps)
            mixer = functools.partial(mix, key=f"{recipe.seed}/mix/{epoch}/{batch}") if mix.active(epoch) else None
            terms = engine.gradients(x, y, key=f"{recipe.seed}/noise/{epoch}/{batch}", mix=mixer)
            engine.step(step)
            step, images = step + 1, images + len(y)
            engine.average(step)
            if device.type == "cpu" or step % ASYNC_INTERVAL == 0 or step == steps:
                loss = float(terms["loss"])
                if not np.isfinite(loss):
                    raise PgnasError(f"the loss is {loss} at step {step} of {steps}: the network cannot be trained so")
                report(TrainProgress(epoch + (batch + 1 == per_epoch), epochs, step, steps, {"loss": loss}))
    return Trained(engine.kept.eval(), images, time.perf_counter() - started)


# ---- recipes ----


def compact_recipe(run: RunDirectory, device: torch.device) -> Recipe:
    """A run's recipe for one compact network on one device: what there is about gates has nothing to act on.

    Of several processes each one's share of a step becomes a part of it, so that a part needs as much memory, and
    BatchNorm sees as many images, as there; with --sync-bn it saw the whole step, and does here. Nothing is compiled,
    and the CPU computes float32 in the place of float16.
    """
    recipe = restore.run_recipe(run)
    before = recipe.compute
    processes = 1 if before.sync_bn else int(run.require("train").get("processes", 1))
    amp = "none" if before.amp == "float16" and device.type == "cpu" else before.amp
    compute = Compute(amp=amp, channels_last=before.channels_last, accumulate=before.accumulate * processes)
    return replace(recipe, compute=compute)


def finetune_recipe(run: RunDirectory, device: torch.device, epochs: int) -> Recipe:
    """The run's recipe with one cosine of so many epochs from a tenth of its rate."""
    recipe = compact_recipe(run, device)
    rate = recipe.optimizer.lr * LR_SHARE
    schedule = Schedule(epochs=epochs, warmup_epochs=0, lr_min=min(recipe.schedule.lr_min, rate))
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=rate), schedule=schedule)


def scratch_recipe(run: RunDirectory, device: torch.device, epochs: int | None = None) -> Recipe:
    """The run's recipe; with another number of epochs than its own, on one cosine over them.

    Raises:
        UsageError: epochs is below 1.
    """
    recipe = compact_recipe(run, device)
    own = recipe.schedule
    if epochs is None or epochs == own.epochs:
        return recipe
    return replace(recipe, schedule=Schedule(epochs=epochs, warmup_epochs=own.warmup_epochs, lr_min=own.lr_min))


# ---- fresh weights ----


@torch.no_grad()
def fresh_network(net: Supernet, candidate: Candidate, seed: int) -> CommittedNetwork:
    """The compact network of a candidate, with weights as they are before any training.

    They are what the architecture starts its channels with, for this seed, times sqrt(inputs in the supernet / inputs
    that are kept), so that a layer's outputs vary as much as they do in the supernet before training (He et al.,
    ICCV 2015, Eq. 10). Surrogates start as the identity.

    Args:
        net: gives the architecture; its weights decide only which surrogates are left out.
        candidate: whose network.
        seed: of the weights.
    """
    assert net.spec is not None
    network = CommittedNetwork(net, candidate.masks)
    backbone = registry.build(replace(net.spec, seed=seed)).backbone
    tensors = backbone.state_dict()
    for name, tensor in network.backbone.state_dict().items():
        origin = network.origins.get(name)
        if origin is None:  # BatchNorm's counter
            tensor.zero_()
            continue
        source = tensors[origin.name]
        layer = backbone.get_submodule(origin.name.rpartition(".")[0])
        scale = 1.0
        if source.ndim > 1 and not isinstance(layer, SurrogateConv2d):
            kept = float((origin.index >= 0).flatten(1).sum(1).double().mean())
            scale = (source[0].numel() / max(kept, 1.0)) ** 0.5
        tensor.copy_(scale * origin.take(source))
    return network
