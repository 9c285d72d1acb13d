"""One optimiser step: precision, compilation, parts of a batch, gradients of several processes, averaged weights.

Shapes: B images of this process's share of a step, C classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Compute, Recipe
from pgnas_cli.training import distributed
from pgnas_cli.training.commit import Trainable
from pgnas_cli.training.distributed import World
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.seeds import seed_step

AMP = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images [B, ...], labels [B]) -> images, and targets [B, C] in the place of the labels."""


def check_compute(compute: Compute, world: World) -> None:
    """Refuse what this device cannot do.

    Raises:
        UsageError: float16 on the CPU; synchronised BatchNorm there, or on a GPU that processes share.
    """
    kind = world.device.type
    if compute.amp == "float16" and kind == "cpu":
        raise UsageError("--amp float16 needs a GPU: its gradients are scaled there", "--amp bfloat16")
    if compute.sync_bn and kind != "cuda":
        raise UsageError(f"--sync-bn needs GPUs: there is none for BatchNorm on the {kind}", "leave --sync-bn out")
    if compute.sync_bn and world.shares_gpu:
        raise UsageError("--sync-bn needs a GPU for each process, and one was named twice", "leave --sync-bn out")


def share_of_batch(recipe: Recipe, world: World) -> int:
    """Images of a step that each process gets.

    Raises:
        UsageError: the batch cannot be divided evenly, or its parts would hold fewer than two images.
    """
    size, parts = recipe.data.batch_size, recipe.compute.accumulate
    if size % world.size:
        nearest = max(world.size, round(size / world.size) * world.size)
        raise UsageError(
            f"a batch of {size} images cannot be divided evenly among {world.size} processes",
            f"--batch-size {nearest}",
        )
    if size // world.size < 2 * parts:
        raise UsageError(
            f"a batch of {size} images in {world.size} x {parts} parts leaves fewer than two images for BatchNorm",
            f"--batch-size {2 * parts * world.size}",
        )
    return size // world.size


class Engine:
    """Computes gradients and takes steps.

    Args:
        net: the supernet, on its device.
        objective: the loss.
        optimizers: of its weights and gates.
        recipe: gives precision, layout, compilation, parts and averaging.
        world: this process among the others.
    """

    def __init__(
        self, net: Trainable, objective: Objective, optimizers: Optimizers, recipe: Recipe, world: World
    ) -> None:
        self.net, self.objective, self.optimizers, self.recipe, self.world = net, objective, optimizers, recipe, world
        compute = recipe.compute
        self.layout = torch.channels_last if compute.channels_last else torch.contiguous_format
        self.autocast_type = AMP[compute.amp]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=compute.amp == "float16")
        if not recipe.objective.auxiliary_weight:  # processes would wait for its gradient
            for name in getattr(net.backbone, "training_only", ()):
                net.backbone.get_submodule(name).requires_grad_(False)
        if compute.compile:
            net.backbone.compile()
        self.model: nn.Module = distributed.wrap(net, world, sync_bn=compute.sync_bn)
        self.ema: ModelEmaV3 | None = None
        if recipe.optimizer.ema:
            self.ema = ModelEmaV3(net, decay=recipe.optimizer.ema, use_warmup=True)

    @property
    def kept(self) -> Trainable:
        """The network that is assessed and saved: the averaged one where there is one."""
        return self.net if self.ema is None else self.ema.module

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, convolutions and linear layers compute in the recipe's type."""
        if self.autocast_type is None:
            return nullcontext()
        return torch.autocast(self.world.device.type, self.autocast_type)

    def gradients(self, images: Tensor, labels: Tensor, *, key: str, mix: Mixer | None = None) -> dict[str, Tensor]:
        """Gradients of the loss of this process's share of a step, averaged over the processes.

        The share is cut into parts; each part's cross-entropy counts by its images, and the KL once, so that the
        gradient is that of the whole step.

        Args:
            images, labels: [B, C, H, W] and int64 [B].
            key: what the random numbers of this step are derived from.
            mix: blends images and labels, where the recipe asks for it.

        Returns:
            Scalar tensors without gradient: the terms of the loss, and `correct`, the images classified rightly as they
            were shown.
        """
        seed = seed_step(key, self.world.rank)
        self.optimizers.zero_grad()
        count, found = len(labels), dict[str, Tensor]()
        targets = labels
        if mix is not None:
            images, targets = mix(images, labels)
        parts = list(_parts(count, self.recipe.compute.accumulate))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            shown = images[part].contiguous(memory_format=self.layout)
            first = self.world.rank * count
            rows = slice(first + part.start, first + part.stop)
            self.net.set_noise(seed, rows=rows, total=count * self.world.size)
            with self._averaging(last):
                with self.autocast():
                    logits = self.model(shown)
                losses = self.objective(self.net, logits, targets[part], kl=last)
                weight = (part.stop - part.start) / count
                self.scaler.scale(losses.weighted(weight)).backward()
            terms = losses.terms(weight)
            terms["correct"] = (logits.detach().argmax(1) == labels[part]).sum()
            for name, value in terms.items():
                found[name] = found[name] + value if name in found else value
        return found

    def probe(self, images: Tensor, labels: Tensor) -> None:
        """The memory of a step with these images, in this process alone; changes nothing but gradients."""
        self.optimizers.zero_grad()
        self.net.set_noise(0)
        with self.autocast():
            logits = self.net(images.contiguous(memory_format=self.layout))
        total = self.objective(self.net, logits, labels).total
        # not backward(): gradients that are accumulated would be sent to the other processes
        torch.autograd.grad(total, [p for p in self.net.parameters() if p.requires_grad], allow_unused=True)

    def step(self, step: int, *, gates: bool = True) -> None:
        """Update the weights, and the gates too unless they wait; `step` counts from 0."""
        self.optimizers.step(step, self.scaler, gates=gates)

    def average(self, step: int) -> None:
        """Move the averaged weights towards the present ones. Drop logits are not averaged: they are at the target."""
        if self.ema is None:
            return
        self.ema.update(self.net, step=step)
        with torch.no_grad():
            for kept, now in zip(self.kept.gate_parameters(), self.net.gate_parameters(), strict=True):
                kept.copy_(now)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the network that it saves: the raw weights where averages are saved."""
        raw = None if self.ema is None else {k: v.detach().cpu() for k, v in self.net.state_dict().items()}
        return {"optimizers": self.optimizers.state(), "scaler": self.scaler.state_dict(), "raw": raw}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint whose network has been loaded into `kept`."""
        self.optimizers.load_state(state["optimizers"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.net.load_state_dict(state["raw"])

    def _averaging(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between the processes once a step, with its last part."""
        no_sync: Callable[[], AbstractContextManager[Any]] | None = getattr(self.model, "no_sync", None)
        return nullcontext() if last or no_sync is None else no_sync()


def _parts(count: int, parts: int) -> Iterator[slice]:
    """`count` images in `parts` slices that differ by one image at most."""
    bounds = [round(count * n / parts) for n in range(parts + 1)]
    yield from (slice(a, b) for a, b in itertools.pairwise(bounds) if b > a)
