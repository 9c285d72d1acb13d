"""A training pass of a supernet: one draw for all gates, gradients, and what the pass leaves behind."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import forking
import pytest
import torch
from supernet_nets import RESNET18, TINY, grouped_net, images, spread_rates, supernet
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from pgnas_cli import Supernet
from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.gate import Gate

NETS = {"resnet18": lambda: supernet(**RESNET18), "shakeshake": lambda: supernet(**TINY), "plain": grouped_net}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)

# ---- one draw for all gates ----


def frozen_statistics(net: Supernet) -> Supernet:
    """In training mode, but for the BatchNorms: examples do not see each other."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    net.set_branch_noise(False)
    return net


def drawn_masks(net: Supernet, x: Tensor) -> dict[str, Tensor]:
    """Layer -> what a training pass multiplies its inputs with."""
    found = {}
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: found.update({name: m.gate.keep(args[0])}))
        for name, layer in net.search_layers.items()
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return {name: mask.detach().clone() for name, mask in found.items()}


def gradients(net: Supernet, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@every_net
@pytest.mark.parametrize("fixed", [None, 0.4])
def test_an_example_draws_the_same_however_the_batch_is_cut(make, fixed: float | None) -> None:
    """18 examples in one batch against 5 and 13 of the same global batch; values and gradients."""
    net = frozen_statistics(make())
    spread_rates(net, 0.2, 0.8)
    net.set_gates(fixed_drop=fixed)
    x = torch.randn(18, *images(net).shape[1:], generator=torch.Generator().manual_seed(0))
    net.set_noise(7, total=18)
    whole = net(x)
    wanted = gradients(net, whole.square().sum())
    parts, found = [], {}
    for rows in (slice(0, 5), slice(5, 18)):
        net.set_noise(7, rows=rows, total=18)
        parts.append(net(x[rows]))
        for name, slope in gradients(net, parts[-1].square().sum()).items():
            found[name] = found.get(name, 0) + slope
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, slope in wanted.items():
        assert (found[name] - slope).abs().max() <= 1e-3 * slope.abs().max() + 1e-5, name


def test_draws_depend_on_the_seed_and_the_example_alone() -> None:
    net = grouped_net().train()
    x = torch.randn(40, *net.input_size, generator=torch.Generator().manual_seed(0))
    net.set_noise(3)
    state = torch.get_rng_state()
    first = drawn_masks(net, x)
    assert torch.equal(torch.get_rng_state(), state)
    again = drawn_masks(net, x)
    net.set_noise(3, rows=slice(17, 19), total=100)
    two = drawn_masks(net, x[:2])
    net.set_noise(4)
    other = drawn_masks(net, x)
    for name, mask in first.items():
        assert len(mask.unique(dim=0)) == 40
        assert torch.equal(again[name], mask)
        assert torch.equal(two[name], mask[17:19])
        assert not torch.equal(other[name], mask)
    net.set_noise(None)
    assert not torch.equal(drawn_masks(net, x)["3"], drawn_masks(net, x)["3"])


@pytest.mark.parametrize("rows", [slice(0, 8, 2), slice(5, 3), slice(0, 9), slice(9, None), slice(-2, None)])
def test_rows_outside_the_global_batch_are_refused(rows: slice) -> None:
    with pytest.raises(ValueError, match="a contiguous part of the global batch of 8"):
        grouped_net().set_noise(0, rows=rows, total=8)


def test_a_batch_of_another_size_than_announced_is_refused() -> None:
    net = grouped_net().train()
    net.set_noise(0, rows=slice(4, 8), total=8)
    with pytest.raises(ValueError, match="the batch has 2 examples, set_noise was told rows 4 to 8"):
        net(images(net))


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("fixed", [None, 0.4])
def test_noise_per_batch_is_one_draw_for_all_examples(seed: int | None, fixed: float | None) -> None:
    net = grouped_net().train()
    net.set_gates(noise="batch", fixed_drop=fixed)
    net.set_noise(seed)
    masks = drawn_masks(net, images(net, 6))
    assert {name: mask.shape for name, mask in masks.items()} == {"3": (1, 8), "5": (1, 12), "9": (1, 8)}
    net.set_granularity("channel")
    assert {len(mask) for mask in drawn_masks(net, images(net, 6)).values()} == {1}
    net.set_gates(noise="example", fixed_drop=fixed)
    assert {len(mask) for mask in drawn_masks(net, images(net, 6)).values()} == {6}
    with pytest.raises(UsageError, match="one of example, batch"):
        net.set_gates(noise="pixel")


def test_a_gate_of_another_rate_or_temperature_draws_by_its_own() -> None:
    net = grouped_net().train()
    first, second, third = net.gates.values()
    first.fixed_drop, second.temperature, third.temperature = 0.5, 1e-4, 50.0
    masks = drawn_masks(net, images(net, 300))
    assert set(masks["3"].unique().tolist()) == {0.0, 1.0}
    assert abs(masks["3"].mean() - 0.5) < 0.05
    assert ((masks["5"] < 1e-3) | (masks["5"] > 1 - 1e-3)).float().mean() > 0.99
    assert (masks["9"] - 0.5).abs().max() < 0.2


@every_net
def test_without_gating_the_logits_learn_from_the_kl_alone(make) -> None:
    net = frozen_statistics(make())
    x = images(net)
    net.set_gating(False)
    assert torch.equal(net(x), net.eval()(x))
    frozen_statistics(net)
    given = {"l2": 10.0, "num_examples": 100.0}
    loss = net(x).square().sum()
    alone = gradients(net, net.kl(**given))
    both = gradients(net, loss + net.kl(**given))
    names = [name for name in alone if name.endswith("drop_logit")]
    assert len(names) == len(net.gates)
    assert all(torch.equal(both[name], alone[name]) for name in names)
    net.set_granularity("channel")
    assert not any(gate.enabled for gate in net.gates.values())
    net.set_gating(True)
    assert not torch.equal(net(x), net(x))


# ---- a step ----


@every_net
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("noise", ["example", "batch"])
def test_gradients_are_those_of_plain_arithmetic(make, memory_format: torch.memory_format, noise: str) -> None:
    """Forward, KL and several forwards before one backward, against x * keep and W.square() written out."""
    net = frozen_statistics(make()).to(memory_format=memory_format)
    net.set_gates(noise=noise)
    net.set_noise(1)
    x, given = images(net).contiguous(memory_format=memory_format), {"l2": 30.0, "num_examples": 20.0}
    found = gradients(net, sum(net(part).square().sum() + net.kl(**given) for part in (x, x + 1)))
    masks = drawn_masks(net, x)
    wanted: Tensor = torch.zeros(())
    for name, layer in net.search_layers.items():
        gate = layer.gate
        keep = masks[name].to(x.dtype)
        # d keep / d logit = -keep (1 - keep) / tau, put in by hand: the draw itself is tested above
        logits = gate.per_channel(gate.drop_logit)
        slope = keep * (1 - keep) / gate.temperature
        relaxed = keep - slope * (logits - logits.detach())

        def masked(_: nn.Module, args: tuple[Tensor], keep: Tensor = relaxed) -> tuple[Tensor]:
            return (args[0] * keep.view(*keep.shape, *[1] * (args[0].ndim - 2)),)

        layer.hook = layer.register_forward_pre_hook(masked)
    net.set_gating(False)
    for part in (x, x + 1):
        kl = sum(
            30 * (torch.sigmoid(-layer.gate.per_channel(layer.gate.drop_logit)) * _squares(layer)).sum()
            + (layer.gate.per_channel(_divergence(layer.gate))).sum()
            for layer in net.search_layers.values()
        )
        wanted = wanted + net.backbone(part).square().sum() + kl / 20
    for name, slope in gradients(net, wanted).items():
        assert (found[name] - slope).abs().max() <= 2e-4 * slope.abs().max() + 1e-5, name


def _squares(layer: nn.Module) -> Tensor:
    """[K] squared norm of the weights that read each channel."""
    groups = getattr(layer, "groups", 1)
    return (
        layer.weight.square().flatten(2).sum(2).unflatten(0, (groups, -1)).sum(1).flatten()
        if (layer.weight.ndim > 2)
        else layer.weight.square().sum(0)
    )


def _divergence(gate: Gate) -> Tensor:
    p = torch.sigmoid(gate.drop_logit)
    return p * torch.log(2 * p) + (1 - p) * torch.log(2 * (1 - p))


def test_the_kl_can_be_asked_for_at_any_time() -> None:
    """Before a forward pass, after it, twice, after its graph was freed, and after the weights have changed."""
    net = grouped_net().train()
    given = {"l2": 8.0, "num_examples": 10.0}
    value = net.kl(**given).item()
    wanted = gradients(net, net.kl(**given))
    loss = net(images(net)).sum()
    for kl in (net.kl(**given), net.kl(**given)):
        assert kl.item() == pytest.approx(value, rel=1e-6)
        for name, slope in gradients(net, kl).items():
            torch.testing.assert_close(slope, wanted[name])
    loss.backward()
    net(images(net)).sum().backward()
    for name, slope in gradients(net, net.kl(**given)).items():
        torch.testing.assert_close(slope, wanted[name])
    net(images(net))
    with torch.no_grad():
        for layer in net.search_layers.values():
            layer.weight.mul_(2)
    assert net.kl(**given).item() > 2 * value


@every_net
def test_a_pass_leaves_nothing_behind(make) -> None:
    """Not in the state dict, not in a copy or a file, and no activation stays alive."""
    net = make().train()
    before = list(net.state_dict())
    kept: list[StorageWeakRef] = []
    first = next(iter(net.search_layers.values()))
    hook = first.register_forward_pre_hook(lambda _, args: kept.append(StorageWeakRef(args[0].untyped_storage())))
    out = net(images(net))
    hook.remove()
    assert not kept[0].expired()
    assert all(layer.gate.drawn is None and layer.tapped_weight is None for layer in net.search_layers.values())
    del out
    assert kept[0].expired()
    assert list(net.state_dict()) == before
    other = copy.deepcopy(net)
    torch.save(net, io.BytesIO())
    other.set_noise(0)
    net.set_noise(0)
    torch.manual_seed(0)
    found = net(images(net))
    torch.manual_seed(0)
    assert torch.equal(other(images(net)), found)


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    net = grouped_net().train()
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 5, 8, 8))
    assert all(layer.gate.drawn is None and layer.tapped_weight is None for layer in net.search_layers.values())


@every_net
@pytest.mark.parametrize("noise", ["example", "batch"])
def test_a_step_under_autocast(make, noise: str) -> None:
    net = make().train()
    net.set_gates(noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images(net, 8))
        kl = net.kl(l2=10.0, num_examples=100.0)
    assert (logits.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
    assert kl.item() == pytest.approx(net.kl(l2=10.0, num_examples=100.0).item(), rel=1e-6)
    slopes = gradients(net, logits.float().square().sum() + kl)
    assert set(slopes) == {name for name, _ in net.named_parameters()}
    assert all(slope.dtype == torch.float32 and slope.isfinite().all() for slope in slopes.values())


@pytest.mark.parametrize("noise", ["example", "batch"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_backbone_has_no_graph_breaks_and_is_compiled_once(noise: str, backend: str) -> None:
    torch._dynamo.reset()
    net = frozen_statistics(grouped_net())
    net.set_gates(noise=noise)
    x, given = images(net, 4), {"l2": 10.0, "num_examples": 100.0}
    net.set_noise(2)
    logits = net(x)
    wanted = gradients(net, logits.square().sum() + net.kl(**given))
    net.backbone.compile(backend=backend, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for temperature in (0.7, 0.5, 0.2):
            net.set_gates(temperature=temperature)
            found = net(x)
            slopes = gradients(net, found.square().sum() + net.kl(**given))
    torch.testing.assert_close(found, logits)
    for name, slope in wanted.items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def _replica(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/join", rank=rank, world_size=2)
    net = frozen_statistics(grouped_net())
    x = images(net, 6)
    rows = slice(3 * rank, 3 * rank + 3)
    net.set_noise(11, rows=rows, total=6)
    replica = nn.parallel.DistributedDataParallel(net)
    (replica(x[rows]).square().mean() + net.kl(l2=10.0, num_examples=100.0)).backward()
    torch.save({name: p.grad for name, p in net.named_parameters()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    context = forking.context()
    processes = [context.Process(target=_replica, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    net = frozen_statistics(grouped_net())
    net.set_noise(11, total=6)
    wanted = gradients(net, net(images(net, 6)).square().mean() + net.kl(l2=10.0, num_examples=100.0))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, slope in wanted.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], slope, rtol=1e-4, atol=1e-6)


def test_a_pass_in_inference_mode_leaves_training_alone() -> None:
    net = supernet(**TINY).train()
    x = torch.randn(4, *net.input_size)
    with torch.inference_mode():
        net(x)
    net(x).square().mean().backward()
    assert all(logit.grad is not None for logit in net.gate_parameters())


def test_a_copy_has_neither_the_noise_of_a_step_nor_the_compiled_call_of_the_original() -> None:
    net = supernet(**TINY)
    net.train().set_noise(0, rows=slice(0, 4), total=8)
    net.compile(backend="eager")
    twin = copy.deepcopy(net)
    assert twin._compiled_call_impl is None
    with torch.no_grad():
        for parameter in twin.weight_parameters():
            parameter.zero_()
        assert float(twin(torch.randn(3, *net.input_size)).abs().max()) == 0.0
