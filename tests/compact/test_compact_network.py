"""The small network as others use it: weights of its own, files, fine-tuning, copies; and masks applied in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from compact_nets import GatedConv, Mix, ShakeNet, build, constant, pictures, random_masks, randomise
from timm.layers.drop import DropPath
from torch import Tensor, nn

from pgnas_cli.compact import ChannelGraph, CompactNetwork, apply_masks, compact, masked_parameters, trace
from pgnas_cli.compact.network import ChannelGather
from pgnas_cli.errors import UsageError

Example = tuple[nn.Module, ChannelGraph, dict[str, np.ndarray]]


def example(name: str, keep: float = 0.6) -> Example:
    model = build(name)
    graph = trace(model, (3, 32, 32), check=False)
    return model, graph, random_masks(graph, keep, np.random.default_rng(0))


@pytest.fixture(params=["shake", "resnet18", "mobilenetv3_small_050"])
def case(request: pytest.FixtureRequest) -> Example:
    return example(request.param)


def storages(tensors: Iterator[Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def test_parameters_are_fresh(case: Example) -> None:
    model, graph, masks = case
    for drawn in ({}, masks):
        small = compact(graph, model.requires_grad_(False), drawn)
        assert not storages(small.parameters()) & storages(model.parameters())
        assert not storages(small.buffers()) & storages(model.buffers())
        assert all(p.requires_grad and p.is_leaf and p.is_contiguous() for p in small.parameters())


def test_names_are_the_backbones_own(case: Example) -> None:
    model, graph, masks = case
    assert compact(graph, model, {}).state_dict().keys() == {k for k in model.state_dict() if ".gate." not in k}
    assert compact(graph, model, masks).state_dict().keys() <= model.state_dict().keys()
    assert compact(graph, model, masks).gather_indices()


def test_no_gate_survives() -> None:
    model, graph, masks = example("shake")
    small = compact(graph, model, masks)
    convs = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in convs} == {nn.Conv2d}
    assert not any(hasattr(m, "gate") or hasattr(m, "sizes") for m in convs)
    assert any(isinstance(m, Mix) for m in small.modules())


class SharedGate(nn.Module):
    """A gated convolution called twice (a barrier), and one inside a module that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.whole = GatedConv(3, 3, 1), Whole()

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.conv(self.conv(x))).mean((2, 3))


class Whole(nn.Module):
    channel_rule = "opaque"

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act = GatedConv(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.inner(x))


def test_barriers_lose_their_gates_too() -> None:
    model = randomise(SharedGate())
    graph = trace(model, (3, 8, 8))
    small = compact(graph, model, {})
    assert not graph.searchable
    assert not any(isinstance(m, GatedConv) for m in small.modules())
    assert small.whole.act.inplace is False
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small(images), model(images))


def test_loads_strictly_into_a_network_built_without_weights(case: Example) -> None:
    model, graph, masks = case
    small = compact(graph, model, masks)
    bare = copy.deepcopy(model).to("meta")
    empty = compact(trace(bare, (3, 32, 32)), bare, masks)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(small.state_dict(), strict=True, assign=True)
    here, there = small.gather_indices(), empty.gather_indices()
    assert here.keys() == there.keys()
    for name, index in there.items():
        assert index.device.type == "cpu"
        assert index.dtype == torch.int64
        assert torch.equal(index, here[name])
    assert torch.equal(empty(pictures()), small(pictures()))


def test_timm_on_the_meta_device() -> None:
    model, graph, masks = example("resnet18")
    with torch.device("meta"):
        bare = timm.create_model("resnet18", num_classes=10)
    empty = compact(trace(bare, (3, 32, 32)), bare, masks)
    small = compact(graph, model, masks)
    empty.load_state_dict(small.state_dict(), strict=True, assign=True)
    assert torch.equal(empty(pictures()), small(pictures()))


def test_fine_tuning(case: Example) -> None:
    """Every parameter gets a gradient, and the loss falls on a batch learned by heart."""
    model, graph, masks = case
    torch.manual_seed(0)
    small = compact(graph, model, masks).train()
    images, labels = pictures(batch=8), torch.arange(8)
    optimiser = torch.optim.Adam(small.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = F.cross_entropy(small(images), labels)
        loss.backward()
        assert all(p.grad is not None for p in small.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


class Stochastic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.path, self.drop = nn.Conv2d(3, 16, 1), DropPath(0.5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat(1, 1, 1, 1)
        x = F.dropout(self.path(self.conv(x)), 0.5, training=self.training)
        return self.drop(x.mean((2, 3)))


@pytest.mark.parametrize("model", [Stochastic(), ShakeNet()], ids=["dropout", "shake"])
def test_training_noise_survives(model: nn.Module) -> None:
    small = compact(trace(model, (3, 32, 32)), model, {})
    assert not small.training
    assert torch.equal(small(pictures()), small(pictures()))
    small.train()
    noisy = [m for m in small.modules() if isinstance(m, (nn.Dropout, DropPath, Mix))]
    assert len(noisy) >= 3
    for module in noisy:
        small.eval()
        module.train()
        assert not torch.equal(small(pictures(batch=16)), small(pictures(batch=16)))


def test_copies_and_text() -> None:
    model, graph, masks = example("shake")
    small = compact(graph, model, masks)
    twin = copy.deepcopy(small)
    assert isinstance(twin, CompactNetwork)
    assert torch.equal(twin(pictures()), small(pictures()))
    assert not storages(small.parameters()) & storages(twin.parameters())
    assert twin.gather_indices().keys() == small.gather_indices().keys()
    text = repr(small)
    assert text.startswith("CompactNetwork(")
    assert f"params={sum(p.numel() for p in small.parameters()):,}" in text
    assert str(small) == text


def test_other_image_and_batch_sizes() -> None:
    model, graph, masks = example("resnet18")
    small = compact(graph, model, masks)
    for images in (pictures(48, 1), pictures(32, 5)):
        with torch.no_grad(), apply_masks(graph, model, masks):
            masked = model(images)
        torch.testing.assert_close(small(images), masked, rtol=1e-5, atol=1e-5)


def test_constant_network() -> None:
    """Everything dropped: the classifier's bias, for any batch."""
    model, graph, _ = example("resnet18")
    small = compact(graph, model, constant(graph, False))
    assert torch.equal(small(pictures(batch=3)), model.fc.bias.expand(3, -1))


def test_export_and_autocast() -> None:
    model, graph, masks = example("shake")
    small = compact(graph, model, masks)
    exported = torch.export.export(small, (pictures(),)).module()
    torch.testing.assert_close(exported(pictures()), small(pictures()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(pictures()).isfinite().all()


def test_unknown_layout() -> None:
    model, graph, masks = example("shake")
    with pytest.raises(UsageError, match="unknown layout 'sparse'"):
        compact(graph, model, masks, layout="sparse")


# masked parameters ----------------------------------------------------------------------------------------------


def test_only_what_changes_is_substituted(case: Example) -> None:
    model, graph, masks = case
    assert masked_parameters(graph, model, {}) == {}
    assert masked_parameters(graph, model, constant(graph, True)) == {}
    parameters = dict(model.named_parameters())
    for name, tensor in masked_parameters(graph, model, masks).items():
        assert tensor.shape == parameters[name].shape
        assert not torch.equal(tensor, parameters[name])


def test_functional_call_with_gradients() -> None:
    model, graph, masks = example("shake")
    substitutes = masked_parameters(graph, model, masks)
    logits = torch.func.functional_call(model, substitutes, (pictures(),))
    with torch.no_grad(), apply_masks(graph, model, masks):
        assert torch.equal(model(pictures()), logits)
    logits.sum().backward()
    name = "blocks.1.branch1.conv2"
    grad = model.get_submodule(name).weight.grad
    assert (grad[:, ~masks[name]] == 0).all()
    assert (grad[:, masks[name]] != 0).any()


def test_weights_are_restored_bit_by_bit(case: Example) -> None:
    model, graph, masks = case
    objects = dict(model.named_parameters())
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in objects.items()}
    changed = []

    def fail() -> None:
        with apply_masks(graph, model, masks) as masked:
            changed.extend(name for name, p in masked.named_parameters() if not torch.equal(p, before[name][1]))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert changed
    for name, parameter in model.named_parameters():
        assert parameter is objects[name]
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_a_refused_mask_leaves_the_model_untouched() -> None:
    model, graph, masks = example("shake")
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    with pytest.raises(UsageError), apply_masks(graph, model, {**masks, "nowhere": np.ones(1, bool)}):
        pass
    assert before == {name: p.data_ptr() for name, p in model.named_parameters()}


def test_gathers_keep_channels_last_where_gradients_flow(case: Example) -> None:
    model, graph, masks = case
    small = compact(graph, randomise(model).double(), masks).eval()
    gathers = [m for m in small.modules() if isinstance(m, ChannelGather) and m.start is None]
    assert gathers
    layouts: list[tuple[bool, bool]] = []  # of what goes in, and of what comes out
    for gather in gathers:
        gather.register_forward_hook(lambda m, x, y: layouts.append((is_nhwc(x[0]), is_nhwc(y))))
    images, found = pictures().double(), []
    for layout in (torch.contiguous_format, torch.channels_last):
        small.to(memory_format=layout).zero_grad()
        given = images.to(memory_format=layout)
        logits = small(given)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in small.parameters() if p.grad is not None)])
        with torch.no_grad():
            assert torch.allclose(small(given), logits, rtol=1e-12, atol=1e-12)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    contiguous, plain, trained, scored = np.array(layouts).reshape(4, len(gathers), 2)
    assert not np.concatenate([contiguous, plain, scored[:, 1:]], axis=1).any()
    assert trained[:, 0].any()
    assert (trained[:, 0] == trained[:, 1]).all()


def is_nhwc(x: Tensor) -> bool:
    """In channels_last, and not contiguous at the same time as maps of one pixel are."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def test_a_network_with_gathers_can_be_traced_again(case: Example) -> None:
    model, graph, masks = case
    small = compact(graph, randomise(model), masks).eval().to(memory_format=torch.channels_last)
    images = pictures().to(memory_format=torch.channels_last)
    again = torch.fx.Tracer().trace(small)  # into the gathers, too, where they are no leaves
    assert any(node.target == "index_select" for node in again.nodes)
    with torch.no_grad():
        assert torch.equal(torch.fx.symbolic_trace(small)(images), small(images))
