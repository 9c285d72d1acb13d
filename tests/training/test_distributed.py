"""A group of two processes against one process that does the whole work; and one process alone, without a group."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World
from pgnas_cli.training.launch import launch

BATCH = 8
KL = {"l2": 10.0, "num_examples": 100.0}


def make_net() -> Supernet:
    """Two gated convolutions, one with a gate for each channel; the same weights in every process."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    return Supernet(backbone, {"3": [1, 1, 1, 1], "8": [2, 4]}, input_size=(3, 8, 8))


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 3, 8, 8, generator=generator), torch.randint(5, (BATCH,), generator=generator)


def freeze_norms(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net


def backward(net: Supernet, model: nn.Module, rows: slice) -> None:
    """Gradients of the mean cross-entropy of `rows` plus the KL, which is computed outside of the model's forward."""
    images, labels = make_batch()
    net.set_noise(3, rows=rows, total=BATCH)
    logits = model(images[rows])
    (nn.functional.cross_entropy(logits, labels[rows]) + net.kl(**KL)).backward()


def statistics(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if "running" in name or "tracked" in name}


def both(folder: Path, say: Callable[[str, Any], None]) -> None:
    """What each of two processes does; its results go to a file."""
    world = distributed.join("cpu")
    try:
        torch.save(_results(world), folder / f"{world.rank}.pt")
    finally:
        distributed.leave()


def _results(world: World) -> dict[str, Any]:
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("group")
    launch(both, (folder,), procs=2, hear=lambda channel, message: None)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
def test_gradients_are_the_mean_over_the_processes_also_of_what_ddp_does_not_see(results: list[Any]) -> None:
    whole = make_net()
    backward(whole, freeze_norms(whole.train()), slice(0, BATCH))
    assert any("drop_logit" in name for name, _ in whole.named_parameters())
    for name, parameter in whole.named_parameters():
        first, second = (found["gradients"][name] for found in results)
        assert torch.equal(first, second), name
        assert parameter.grad is not None
        torch.testing.assert_close(first, parameter.grad, rtol=1e-4, atol=1e-6)
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.slow
def test_wrapping_keeps_the_networks_own_names(results: list[Any]) -> None:
    assert results[0]["names"] == list(make_net().state_dict())


@pytest.mark.slow
def test_batch_statistics_are_averaged_and_their_counter_is_not(results: list[Any]) -> None:
    first, second = (found["own"] for found in results)
    for name, value in results[0]["averaged"].items():
        assert torch.equal(value, results[1]["averaged"][name])
        if "tracked" in name:
            assert torch.equal(value, first[name])
        else:
            assert not torch.equal(first[name], second[name])
            torch.testing.assert_close(value, (first[name] + second[name]) / 2)


@pytest.mark.slow
def test_each_process_gets_its_own_statistics_back(results: list[Any]) -> None:
    for rank, found in enumerate(results):
        running = [value for name, value in found["restored"].items() if "running" in name]
        assert all(bool((value == rank).all()) for value in running)
    assert [len(found["gathered"]) for found in results] == [2, 2]


@pytest.mark.slow
def test_what_processes_tell_each_other(results: list[Any]) -> None:
    assert [found["world"] for found in results] == [(0, 2, 0, 2, True), (1, 2, 1, 2, False)]
    for found in results:
        assert found["object"] == {"from": 0}
        assert found["sums"] == {"a": 0.2, "b": 3.0}
        assert found["agreed"] == [(15, True), (0, False)]


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
