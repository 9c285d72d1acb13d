"""One process alone, without a group; joining one on any device, and its threads; synchronised BatchNorm."""

from __future__ import annotations

import copy

import pytest
import torch
from group_nets import make_net, statistics
from torch import nn

from pgnas_cli.errors import UsageError
from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World


def test_one_process_alone_needs_no_group() -> None:
    world, net = World(), make_net()
    assert distributed.wrap(net, world) is net
    before = statistics(net)
    distributed.average_batch_stats(net, world)
    assert distributed.gather_batch_stats(net, world) is None
    distributed.restore_batch_stats(net, None, world)
    assert all(torch.equal(value, before[name]) for name, value in statistics(net).items())
    assert distributed.broadcast_object("x", world) == "x"
    assert distributed.reduce_sums({"a": 1.0}, world) == {"a": 1.0}
    assert distributed.agree(2, True, world) == (2, True)
    distributed.barrier(world)
    distributed.leave()


def test_statistics_of_more_processes_become_their_mean() -> None:
    net = make_net()
    count = sum(value.numel() for name, value in statistics(net).items() if "running" in name)
    distributed.restore_batch_stats(net, [torch.full((count,), 1.0), torch.full((count,), 3.0)], World())
    assert all(bool((v == 2.0).all()) for name, v in statistics(net).items() if "running" in name)


@pytest.mark.parametrize(
    ("given", "ours", "threads"),
    [(None, True, 3), (None, False, 3), ("1", False, 3), ("1", True, None), ("4", False, None)],
    ids=["nothing, launched", "nothing", "torchrun's 1", "the user's 1", "the user's 4"],
)
def test_threads_are_shared_unless_the_user_says(
    monkeypatch: pytest.MonkeyPatch, given: str | None, ours: bool, threads: int | None
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if ours:
        monkeypatch.setenv(distributed.LAUNCHED, "1")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert distributed.join("cpu") == World(local_size=2)
    assert set_to == ([] if threads is None else [threads])


@pytest.mark.parametrize(
    ("devices", "gpus", "backend", "shares"),
    [
        ((0, 1), [0, 1], "nccl", False),
        ((1, 0), [1, 0], "nccl", False),
        ((0, 0), [0, 0], "gloo", True),
        ((0, 0, 1), [0, 0, 1], "gloo", True),  # all of them, since they are one group
        (None, [0, 1], "nccl", False),
    ],
    ids=str,
)
def test_processes_on_one_gpu_talk_by_gloo(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[int, ...] | None, gpus: list[int], backend: str, shares: bool
) -> None:
    used: list[torch.device] = []
    groups: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: groups.append(backend))
    size = len(gpus)
    for rank in range(size):
        for name, value in {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}.items():
            monkeypatch.setenv(name, str(value))
        world = distributed.join("cuda", devices)
        assert world == World(rank, size, rank, size, torch.device("cuda", gpus[rank]), shares)
    assert used == [torch.device("cuda", index) for index in gpus]
    assert groups == [f"cpu:gloo,cuda:{backend}"] * size


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": 2, "WORLD_SIZE": 3, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="process 2 of this node has no GPU: there are 2") as error:
        distributed.join("cuda")
    assert error.value.hint == "torchrun --nproc-per-node 2"


@pytest.mark.parametrize("name", ["densenet121", "mobilenetv3_small_050", "resnet18"])
def test_synchronised_batchnorm_computes_the_same_under_the_same_names(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import timm

    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda net, **_: net)
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    converted = copy.deepcopy(net)
    converted = distributed.wrap(converted, World(size=2), sync_bn=True)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert list(converted.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        assert torch.equal(converted(images), net(images))
