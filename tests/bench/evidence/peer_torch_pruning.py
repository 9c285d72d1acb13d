"""Torch-Pruning (Fang et al., DepGraph, CVPR 2023; `pip install torch-pruning`) down to a number of parameters or MACs.

Global, over all layers, by the importance of coupled channels: "group-norm" is GroupMagnitudeImportance as it is,
squared L2 norms, of BatchNorm's weights too, averaged over a group and divided by their mean in it; "taylor" is
GroupTaylorImportance, |w * dL/dw| of some training batches (Molchanov et al., CVPR 2019). Without its options for other
aims: no multiples of 8 channels (round_to), no ranking within isomorphic groups alone (isomorphic). Everything but the
classifier's outputs may be pruned: channels inside branches, and the channels that blocks add up, of all blocks of a
stage together with the stem. What it cannot do, and the gates can: drop an input of one convolution alone, or a branch
as a whole; one channel always stays.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from peer_training import DEVICE, Continuation, SettledNetwork, macs_of, params_of
from torch import nn

STAGES, SHARE = 10, 0.2
"""It is pruned so many times, training on in between, in the first share of the multiply-adds after the dense phase."""
GRAIN = 200
"""Of the channels that are left, 1 / GRAIN at a time are pruned until the size of a stage is reached."""
TAYLOR_BATCHES = 4
Cost = Callable[[nn.Module], int]
SETTINGS = {
    "tp-group-norm": ("group-norm", "params"), "tp-taylor": ("taylor", "params"),
    "tp-taylor-small": ("taylor", "params"),
    "tp-group-norm-macs": ("group-norm", "macs"),
}  # fmt: skip
"""Arm -> importance, and the cost that is brought down."""


def prune_and_train(training: Continuation, arm: str, targets: Mapping[str, int]) -> None:
    """Prune in stages of equal ratios down to a target, training on in between, then for the rest.

    Args:
        training: of a network after its dense phase, or somewhere on this way.
        arm: of SETTINGS.
        targets: "params" and "macs" -> of the network in the end, at most.
    """
    progress, (importance, unit) = training.progress, SETTINGS[arm]
    cost: Cost = params_of if unit == "params" else partial(macs_of, data=training.data)
    while True:
        training.train(SHARE * progress.stage / STAGES)
        if progress.stage == STAGES:
            break
        network = training.network.backbone
        started, now = time.perf_counter(), cost(network)
        if importance == "taylor":
            gradients(training)
        shrink(network, cost, now * (targets[unit] / now) ** (1 / (STAGES - progress.stage)), importance, training)
        progress.seconds += time.perf_counter() - started
        progress.stage += 1
        training.replace(SettledNetwork(network))
    training.train()


def gradients(training: Continuation) -> None:
    """Leave the sum of the gradients of some training batches' mean cross-entropies in the network."""
    epoch, first = divmod(training.progress.steps, training.per_epoch)
    network = training.network
    network.eval()
    network.zero_grad()
    batches = training.data.train_batches(training.dense_epochs + epoch, training.batch, DEVICE, start=first)
    for _, (x, y) in zip(range(TAYLOR_BATCHES), batches, strict=False):
        nn.functional.cross_entropy(network(x), y).backward()
        training.count(len(y))


def shrink(network: nn.Module, cost: Cost, target: float, importance: str, training: Continuation) -> None:
    """Prune a network, in place, to at most such a cost."""
    tp: Any = importlib.import_module("torch_pruning")  # optional, without types
    score = {"taylor": tp.importance.GroupTaylorImportance, "group-norm": tp.importance.GroupMagnitudeImportance}
    network.eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(1, training.data.in_chans, training.data.img_size, training.data.img_size)
    pruner = tp.pruner.BasePruner(
        network, example, importance=score[importance](), global_pruning=True, pruning_ratio=1.0, iterative_steps=GRAIN,
        ignored_layers=[last_linear(network)],
    )  # fmt: skip
    for _ in range(GRAIN - 1):
        if cost(network) <= target:
            return
        pruner.step()
    if cost(network) > target:
        raise ValueError(f"pruned to a cost of {cost(network)}, {target:.0f} were asked for")


def last_linear(network: nn.Module) -> nn.Module:
    """The classifier, whose outputs stay."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
