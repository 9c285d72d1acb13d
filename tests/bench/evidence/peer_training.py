"""Training a small network on inside a budget of multiply-adds: what the arms that prune do after their dense phase.

The default recipe searches for a fifth of the epochs and trains the network that it found on along the rest of one
cosine. So do the arms of this file: a dense phase as long, then pruning, then the rest of that cosine, stretched over
as many steps as have, with the dense phase, the multiply-adds of the default recipe's training. A network with fewer
multiply-adds than the default's is therefore shown more images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from commands import Stopped
from peer_arms import PASSES
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pgnas_cli.recipe import Recipe
from pgnas_cli.training.commit import CommittedNetwork
from pgnas_cli.training.data import Data
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.optimizers import Optimizers

DEVICE = torch.device("cpu")


class SettledNetwork(CommittedNetwork):
    """Any network with the parts of a Supernet that a training step uses; all its convolutions have the plain L2.

    Args:
        backbone: images [B, C, H, W] -> logits [B, num_classes].
    """

    def __init__(self, backbone: nn.Module) -> None:
        nn.Module.__init__(self)
        self.origins, self._gated = {}, frozenset()
        self.add_module("backbone", backbone)


@dataclass
class Progress:
    """Where a training is.

    Args:
        total: multiply-adds that it may take, with those of the dense phase.
        dense: those of the dense phase.
        spent: so far.
        steps: after the dense phase.
        images: after the dense phase; those that only gradients for a score were taken of too.
        seconds: after the dense phase.
        stage: how often it has been pruned.
    """

    total: int
    dense: int
    spent: int
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    stage: int = 0

    @property
    def share(self) -> float:
        """Of what is there after the dense phase."""
        return (self.spent - self.dense) / (self.total - self.dense)

    def at(self, share: float) -> int:
        """What has been spent at such a share."""
        return self.dense + round(share * (self.total - self.dense))


class Continuation:
    """A network trained on after a dense phase; it is kept in a file once an epoch, and goes on from there.

    Args:
        recipe: of the dense phase, with the epochs of the table: one cosine over all of them.
        dense_epochs: of the dense phase.
        data: its training images are used from the epoch after the dense phase on.
        network: after the dense phase.
        progress: after the dense phase.
        file: where it is kept; what is there is gone on with.
        stopped: whether to stop.
    """

    def __init__(
        self, recipe: Recipe, dense_epochs: int, data: Data, network: CommittedNetwork, progress: Progress, file: Path,
        stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.recipe, self.dense_epochs, self.data, self.file, self.stopped = recipe, dense_epochs, data, file, stopped
        self.batch = recipe.data.batch_size
        self.per_epoch = data.num_train_batches(self.batch)
        momentum: dict[str, Any] | None = None
        if file.is_file():
            kept = torch.load(file, weights_only=False)  # our own: networks that were pruned have no other description
            network, momentum, progress = kept["network"], kept["momentum"], Progress(**kept["progress"])
        self.progress = progress
        self.replace(network, momentum)

    def replace(self, network: CommittedNetwork, momentum: dict[str, Any] | None = None) -> None:
        """Train this network from now on; without `momentum` its optimiser starts anew."""
        self.network = network.to(memory_format=torch.channels_last)
        self.macs = macs_of(network, self.data)
        self.optimizers = Optimizers(network, self.recipe, self.per_epoch)
        if momentum is not None:
            self.optimizers.load_state(momentum)
        objective = Objective(self.recipe, self.data.num_train)
        self.engine = Engine(network, objective, self.optimizers, self.recipe, World(device=DEVICE))

    def train(self, share: float = 1.0) -> None:
        """Train until this share of the budget after the dense phase is spent: to the nearest step, all of it at most.

        Raises:
            Stopped: it was to stop; the file holds where.
            ValueError: the loss is not finite, or what was counted has already exceeded the budget.
        """
        if self.progress.spent > self.progress.total:
            raise ValueError(
                f"{self.progress.spent} multiply-adds were spent, the budget is {self.progress.total}: more --epochs"
            )
        each, until = PASSES * self.macs * self.batch, self.progress.at(share)
        slack = each if share == 1.0 else each / 2
        self.network.train()
        while self.progress.spent + slack <= until:
            epoch, first = divmod(self.progress.steps, self.per_epoch)
            epoch += self.dense_epochs
            started = time.perf_counter()
            for x, y in self.data.train_batches(epoch, self.batch, DEVICE, start=first):
                self._step(x, y, epoch)
                if self.progress.spent + slack > until or self.stopped():
                    break
            self.progress.seconds += time.perf_counter() - started
            self.keep()
            if self.stopped():
                raise Stopped

    def _step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        done = self.progress
        loss = self.engine.gradients(x, y, key=f"{self.recipe.seed}/noise/{epoch}/{done.steps}")["loss"]
        if not bool(loss.isfinite()):
            raise ValueError(f"the loss is {float(loss)} after {done.steps} steps")
        self.engine.step(self.place)
        done.steps, done.images = done.steps + 1, done.images + len(y)
        done.spent += PASSES * self.macs * len(y)

    @property
    def place(self) -> int:
        """The step of the recipe whose rate is due: the rest of its cosine, stretched over what is left to spend."""
        whole, dense = self.recipe.schedule.epochs * self.per_epoch, self.dense_epochs * self.per_epoch
        return min(whole - 1, dense + int(self.progress.share * (whole - dense)))

    def count(self, images: int) -> None:
        """Count a forward and backward pass of images that changed no weights."""
        self.progress.images += images
        self.progress.spent += PASSES * self.macs * images

    def keep(self) -> None:
        """Write where it is."""
        state = {"network": self.network, "momentum": self.optimizers.state(), "progress": asdict(self.progress)}
        new = self.file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.file)


@torch.no_grad()
def macs_of(network: nn.Module, data: Data) -> int:
    """Multiply-adds of convolutions and linear layers for one image; the network's mode is kept."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, data.in_chans, data.img_size, data.img_size))
    network.train(training)
    return int(counter.get_total_flops() // 2)


def params_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def without_branch_noise(network: nn.Module) -> nn.Module:
    """The network, changed in place: branches of shake-shake are added in equal parts in training too."""
    for module in network.modules():
        if hasattr(module, "branch_noise"):
            setattr(module, "branch_noise", False)  # noqa: B010 - of our own ShakeShake alone
    return network
