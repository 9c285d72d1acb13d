"""This process among the others of a training: joining and leaving the group, and what they tell each other.

One process alone has no group: every function here then does nothing, or gives back what it was given. The group itself
is what torchrun, or torch's elastic launcher, has put into the environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR.
"""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pgnas_cli.errors import UsageError

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than the master takes to write a large checkpoint."""

LAUNCHED = "PGNAS_LAUNCHED"
"""Set in processes that our own launcher started."""

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among `size`.

    Args:
        rank: of all processes; 0 is the master, which prints and writes.
        size: number of processes on all nodes.
        local_rank, local_size: the same on this node.
        device: where this process computes.
        shares_gpu: whether processes of this node share a GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shares_gpu: bool = False

    @property
    def is_master(self) -> bool:
        return self.rank == 0


def is_launched() -> bool:
    """Whether torchrun, or our own launcher, has started this process as one of a group."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(kind: str, devices: Sequence[int] | None = None) -> World:
    """Join the group that the environment names.

    GPUs talk by nccl, which refuses two processes on one GPU: there they do by gloo, over the CPU. All nodes have to
    agree on that.

    Args:
        kind: "cpu" (gloo) or "cuda".
        devices: index of the GPU of each local process; None: process n has GPU n.

    Raises:
        UsageError: there is no GPU for this process.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device, shares = torch.device(kind), False
    if kind == "cuda":
        indices = range(torch.cuda.device_count()) if devices is None or len(devices) < local_size else devices
        if local_rank >= len(indices):
            raise UsageError(
                f"process {local_rank} of this node has no GPU: there are {len(indices)}",
                f"torchrun --nproc-per-node {len(indices)}",
            )
        used = list(indices)[:local_size]
        device, shares = torch.device("cuda", used[local_rank]), len(set(used)) < len(used)
        torch.cuda.set_device(device)
    else:
        _share_threads(local_size)
    if size > 1:
        # what is said between steps lies on the CPU, so that no step waits for a GPU because of it
        between_gpus = "gloo" if shares else "nccl"
        dist.init_process_group(f"cpu:gloo,cuda:{between_gpus}" if kind == "cuda" else "gloo", timeout=TIMEOUT)
    return World(rank, size, local_rank, local_size, device, shares)


def _share_threads(local_size: int) -> None:
    """Each process its part of the cores, unless the user says otherwise; torchrun says 1 where the user does not."""
    said = os.environ.get("OMP_NUM_THREADS")
    if said is None or (said == "1" and LAUNCHED not in os.environ):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_size))


def leave() -> None:
    """Leave the group. What still holds DistributedDataParallel goes first: alive at the end it may abort."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def wrap(net: nn.Module, world: World, *, sync_bn: bool = False) -> nn.Module:
    """The module whose forward pass makes the backward pass average gradients over the processes.

    Terms of the loss that are computed from the parameters outside of that forward pass (the KL) are averaged with the
    rest: a gradient travels once all that contributes to it has been added.

    Args:
        net: on its device.
        world: this process.
        sync_bn: replace BatchNorm inside `net` by one that computes its statistics over all processes (GPUs only).
    """
    if sync_bn and world.size > 1:
        from timm.layers.norm_act import convert_sync_batchnorm  # torch's own loses the activation of a BatchNormAct2d

        convert_sync_batchnorm(net)
    if world.size == 1:
        return net
    options: dict[str, Any] = {"device_ids": [world.device.index] if world.device.type == "cuda" else None}
    # each process keeps its own running statistics; the option has another name from torch 2.14 on
    known = inspect.signature(DistributedDataParallel).parameters
    options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    return DistributedDataParallel(net, gradient_as_bucket_view=True, **options)


# ---- BatchNorm ----------------------------------------------------------------------------------------------


def _statistics(net: nn.Module) -> list[Tensor]:
    """running_mean and running_var of every BatchNorm, in the network's order."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]


@torch.no_grad()
def average_batch_stats(net: nn.Module, world: World) -> None:
    """Give running means and variances the mean over the processes."""
    statistics = _statistics(net)
    if world.size == 1 or not statistics:
        return
    flat = torch.cat([statistic.flatten() for statistic in statistics])
    dist.all_reduce(flat)
    flat /= world.size
    for statistic, mean in zip(statistics, flat.split([s.numel() for s in statistics]), strict=True):
        statistic.copy_(mean.view_as(statistic))


def gather_batch_stats(net: nn.Module, world: World) -> list[Tensor] | None:
    """Each process's running statistics as one flat tensor, for a checkpoint inside an epoch; None for one process."""
    if world.size == 1:
        return None
    statistics = _statistics(net)
    own = torch.cat([s.flatten() for s in statistics]).cpu() if statistics else torch.zeros(0)
    all_of_them = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(all_of_them, own)
    return all_of_them


@torch.no_grad()
def restore_batch_stats(net: nn.Module, stored: Sequence[Tensor] | None, world: World) -> None:
    """Give each process the statistics that it had; their mean where there are now more or fewer processes."""
    if stored is None:
        return
    own = stored[world.rank] if len(stored) == world.size else torch.stack(list(stored)).mean(0)
    statistics = _statistics(net)
    for statistic, value in zip(statistics, own.split([s.numel() for s in statistics]), strict=True):
        statistic.copy_(value.view_as(statistic))


# ---- messages -----------------------------------------------------------------------------------------------


def broadcast_object(value: T, world: World) -> T:
    """The master's value, for every process."""
    if world.size == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


def gather_objects(value: T, world: World) -> list[T]:
    """The values of all processes, in the order of their ranks, for every process."""
    if world.size == 1:
        return [value]
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, value)
    return found


def reduce_sums(sums: Mapping[str, float], world: World) -> dict[str, float]:
    """Each entry summed over the processes; all have the same names."""
    if world.size == 1 or not sums:
        return dict(sums)
    names = sorted(sums)
    values = torch.tensor([sums[name] for name in names], dtype=torch.float64)
    dist.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))


@torch.no_grad()
def take_from_master(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Give every process the master's values: what each computed for itself may differ in its last digits."""
    if world.size == 1:
        return
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters]).cpu()
    dist.broadcast(flat, src=0)
    parts = flat.to(parameters[0].device).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))


def union(mask: Tensor, world: World) -> Tensor:
    """Where a bool tensor on the CPU, of the same shape in all processes, is set in any of them."""
    if world.size == 1:
        return mask
    found = mask.to(torch.uint8)  # a copy
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.bool()


def agree(signum: int, due: bool, world: World) -> tuple[int, bool]:
    """The largest signal that any process has seen, and whether any finds a checkpoint due: the same on all of them."""
    if world.size == 1:
        return signum, due
    flags = torch.tensor([signum, int(due)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    signum, most = (int(flag) for flag in flags.tolist())
    return signum, bool(most)


def barrier(world: World) -> None:
    """Wait for all processes."""
    if world.size > 1:
        dist.barrier()
