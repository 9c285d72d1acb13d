"""One step: parts of a batch, precision, layout, compilation, averaged weights, shares of several processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgnas_cli import inflate, restore
from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine, check_compute, share_of_batch
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.optimizers import Optimizers

IMAGES = 12


def make_recipe(**changes: Any) -> Recipe:
    return override(load_recipe("posterior"), {"data.batch_size": IMAGES, "schedule.epochs": 2, **changes})


def make_engine(recipe: Recipe, *, world: World | None = None, frozen_norm: bool = True) -> Engine:
    """An engine on a small supernet; `frozen_norm` keeps BatchNorm in evaluation mode, so that images are alone."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    restore.apply_recipe(net, recipe)
    net.train()
    if frozen_norm:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    return Engine(net, Objective(recipe, 100), Optimizers(net, recipe, 4), recipe, world or World())


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(IMAGES, 1, 8, 8, generator=generator), torch.arange(IMAGES) % 10


def gradients(net: Supernet) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference, relative to the largest entry of each tensor."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / a[n].abs().max().clamp_min(1e-12)) for n in a)


# ---- parts of a batch ----


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_a_batch_give_the_gradient_and_the_loss_of_the_whole(batch, parts: int) -> None:
    whole = make_engine(make_recipe())
    terms = whole.gradients(*batch, key="0/0")
    cut = make_engine(make_recipe(**{"compute.accumulate": parts}))
    same = cut.gradients(*batch, key="0/0")
    assert difference(gradients(whole.net), gradients(cut.net)) < 1e-4
    assert any("drop_logit" in name for name in gradients(whole.net))
    for name in ("cross_entropy", "kl", "loss", "correct"):
        assert float(terms[name]) == pytest.approx(float(same[name]), rel=1e-5)


def test_the_shares_of_two_processes_average_to_the_gradient_of_the_whole(batch) -> None:
    """Without a process group: each rank's gradient by itself, on its rows of the same noise."""
    images, labels = batch
    whole = make_engine(make_recipe())
    whole.gradients(images, labels, key="0/0")
    found = []
    for rank in range(2):
        engine = make_engine(make_recipe())
        engine.world = World(rank=rank, size=2)
        engine.gradients(images[6 * rank : 6 * rank + 6], labels[6 * rank : 6 * rank + 6], key="0/0")
        found.append(gradients(engine.net))
    mean = {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
    assert difference(gradients(whole.net), mean) < 1e-4
    assert difference(gradients(whole.net), found[0]) > 1e-2


def test_noise_depends_on_the_key_alone(batch) -> None:
    engine = make_engine(make_recipe())
    first, _, again, other = (
        float(engine.gradients(*batch, key=key)["cross_entropy"]) for key in ("0/0", "9/9", "0/0", "0/1")
    )
    assert first == again != other


# ---- precision, layout, compilation ----


def test_bfloat16_is_near_and_leaves_weights_in_float32(batch) -> None:
    exact, mixed = make_engine(make_recipe()), make_engine(make_recipe(**{"compute.amp": "bfloat16"}))
    a, b = (engine.gradients(*batch, key="0/0") for engine in (exact, mixed))
    assert float(a["cross_entropy"]) != float(b["cross_entropy"])
    assert float(a["cross_entropy"]) == pytest.approx(float(b["cross_entropy"]), rel=0.03)
    assert float(a["kl"]) == pytest.approx(float(b["kl"]), rel=1e-5)
    assert all(g.dtype == torch.float32 for g in gradients(mixed.net).values())
    first, second = gradients(exact.net), gradients(mixed.net)
    flat = [torch.cat([g.flatten() for g in found.values()]) for found in (first, second)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.9  # 8 bits of mantissa, 26 layers deep


def test_channels_last_gives_the_same_gradient(batch) -> None:
    plain, last = make_engine(make_recipe()), make_engine(make_recipe(**{"compute.channels_last": True}))
    last.net.to(memory_format=torch.channels_last)
    for engine in (plain, last):
        engine.gradients(*batch, key="0/0")
    assert difference(gradients(plain.net), gradients(last.net)) < 1e-4
    weight = last.net.backbone.get_submodule("stem").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_what_needs_a_gpu_is_refused_on_the_cpu() -> None:
    for changes, option in (({"compute.amp": "float16"}, "--amp float16"), ({"compute.sync_bn": True}, "--sync-bn")):
        with pytest.raises(UsageError, match=option):
            check_compute(make_recipe(**changes).compute, World())
    check_compute(make_recipe(**{"compute.amp": "bfloat16"}).compute, World())


def test_batchnorm_over_all_processes_needs_a_gpu_for_each() -> None:
    compute, gpu = make_recipe(**{"compute.sync_bn": True}).compute, torch.device("cuda", 0)
    with pytest.raises(UsageError, match="--sync-bn needs a GPU for each process, and one was named twice") as error:
        check_compute(compute, World(rank=1, size=2, device=gpu, shares_gpu=True))
    assert error.value.hint == "leave --sync-bn out"
    check_compute(compute, World(rank=1, size=2, device=gpu))
    for changes in ({}, {"compute.amp": "float16"}):
        check_compute(make_recipe(**changes).compute, World(size=2, device=gpu, shares_gpu=True))


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [({}, 1, 12), ({}, 2, 6), ({"compute.accumulate": 3}, 2, 6)],
)
def test_the_share_of_each_process(changes: dict, size: int, expected: int) -> None:
    assert share_of_batch(make_recipe(**changes), World(size=size)) == expected


@pytest.mark.parametrize(
    ("changes", "size", "fix"),
    [({}, 5, "--batch-size 10"), ({}, 8, "--batch-size 16"), ({"compute.accumulate": 4}, 2, "--batch-size 16")],
)
def test_a_batch_that_does_not_divide_names_one_that_does(changes: dict, size: int, fix: str) -> None:
    with pytest.raises(UsageError) as error:
        share_of_batch(make_recipe(**changes), World(size=size))
    assert error.value.hint == fix


# ---- averaged weights ----


def test_averaged_weights_follow_and_drop_logits_are_not_averaged(batch) -> None:
    engine = make_engine(make_recipe(**{"optimizer.ema": 0.9}), frozen_norm=False)
    expected = None
    for step in range(3):
        engine.gradients(*batch, key=f"0/{step}")
        engine.step(step)
        engine.average(step + 1)
        weight = engine.net.backbone.get_submodule("stem").weight.detach().clone()
        decay = 0.0 if step == 0 else min(0.9, 1 - (1 + step) ** (-2 / 3))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    assert engine.kept is not engine.net
    torch.testing.assert_close(engine.kept.backbone.get_submodule("stem").weight, expected)
    for kept, now in zip(engine.kept.gate_parameters(), engine.net.gate_parameters(), strict=True):
        assert torch.equal(kept, now)
    assert not torch.equal(engine.net.gate_parameters()[0], torch.full_like(engine.net.gate_parameters()[0], -2.1972))


def test_without_averaging_the_network_itself_is_kept() -> None:
    engine = make_engine(make_recipe())
    assert engine.kept is engine.net
    assert engine.state()["raw"] is None


def test_a_step_with_waiting_gates_moves_the_weights_alone(batch) -> None:
    engine = make_engine(make_recipe())
    before = {name: value.clone() for name, value in engine.net.state_dict().items()}
    engine.gradients(*batch, key="0/0")
    engine.step(0, gates=False)
    moved = {name for name, value in engine.net.state_dict().items() if not torch.equal(value, before[name])}
    assert "backbone.stem.weight" in moved
    assert not any("drop_logit" in name for name in moved)


# ---- mixing ----


def test_mixed_targets_are_what_the_loss_sees(batch) -> None:
    images, labels = batch
    target = torch.full((IMAGES, 10), 0.1)
    engine = make_engine(make_recipe())
    mixed = engine.gradients(images, labels, key="0/0", mix=lambda x, y: (x, target[: len(y)]))
    engine.net.set_noise(None)
    plain = engine.gradients(images, labels, key="0/0")
    assert float(mixed["cross_entropy"]) != float(plain["cross_entropy"])
    assert float(mixed["correct"]) == float(plain["correct"])
