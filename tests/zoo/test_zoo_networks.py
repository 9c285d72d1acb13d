"""The networks of the zoo: parallel kernels, shake-shake mixing, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from pgnas_zoo.resnet_net import KERNELS, ParallelConv2d, inner_channels
from pgnas_zoo.shakeshake_net import ShakeShake, ShakeShakeNet, Shortcut
from torch import nn

from pgnas_cli import inflate

# ---- parallel kernels ----


@pytest.mark.parametrize("extent", KERNELS)
def test_a_kernel_reaches_as_far_as_its_name(extent: int) -> None:
    """The response to an impulse is `extent` pixels wide, centred, with its ends in use."""
    conv = ParallelConv2d(1, 1, [extent], 1)
    nn.init.ones_(conv.branches[0].weight)
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 10] = 1
    response = conv(image)[0, 0]
    assert response.shape == (21, 21)
    rows, columns = response.nonzero(as_tuple=True)
    reach = extent // 2
    for index in (rows, columns):
        assert (index.min().item(), index.max().item()) == (10 - reach, 10 + reach)


@pytest.mark.parametrize(("extent", "taps"), [(1, 1), (3, 9), (5, 9), (9, 25)])
def test_dilated_kernels_have_the_weights_of_the_paper(extent: int, taps: int) -> None:
    assert ParallelConv2d(1, 1, [extent], 1).branches[0].weight.numel() == taps


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", [4, 7, 10])
@pytest.mark.parametrize("size", [7, 8])
def test_parallel_kernels_share_the_outputs(stride: int, outputs: int, size: int) -> None:
    conv = ParallelConv2d(3, outputs, [1, 3, 5, 9], stride)
    shares = [branch.out_channels for branch in conv.branches]
    assert sum(shares) == outputs
    assert max(shares) - min(shares) <= 1
    x = torch.randn(2, 3, size, size)
    found = conv(x)
    assert found.shape == nn.Conv2d(3, outputs, 3, stride, 1)(x).shape
    torch.testing.assert_close(found[:, : shares[0]], conv.branches[0](x))


@pytest.mark.parametrize(
    ("planes", "width", "kernels", "wanted"),
    [
        (64, 1.0, (), 64),
        (64, 1.7, (), 109),
        (64, 1.7, (1, 3, 5, 9), 108),
        (64, 1.38, (1, 3, 5, 9), 88),
        (64, 1e-6, (), 1),
        (64, 1e-6, (1, 3), 2),
        (64, 0.5, (1, 3, 5), 33),
    ],
)
def test_inner_channels(planes: int, width: float, kernels: tuple[int, ...], wanted: int) -> None:
    assert inner_channels(planes, width, kernels) == wanted


def test_only_inner_widths_change() -> None:
    net = inflate("resnet26", width=0.5, num_classes=7, img_size=32)
    block = net.backbone.layer2[0]
    assert (block.conv1.in_channels, block.conv1.out_channels) == (256, 64)
    assert (block.conv2.out_channels, block.conv2.stride) == (64, (2, 2))
    assert (block.conv3.in_channels, block.conv3.out_channels) == (64, 512)


# ---- shake-shake ----


@pytest.mark.parametrize(("training", "noise"), [(False, True), (False, False), (True, False)])
def test_without_noise_it_is_the_mean_of_both_branches(training: bool, noise: bool) -> None:
    a, b = torch.randn(2, 3, 4, 5, 5)
    mix = ShakeShake().train(training)
    mix.branch_noise = noise
    torch.testing.assert_close(mix(a, b), (a + b) / 2)
    assert torch.equal(mix(a, None), a * 0.5)
    assert torch.equal(mix(None, b), b * 0.5)
    with pytest.raises(ValueError, match="both branches"):
        mix(None, None)


def test_training_mixes_each_example_with_its_own_shares() -> None:
    """alpha = u1 / (u1 + u2): mean 1/2, and P(alpha < 1/4) = P(3 u1 < u2) = 1/6."""
    n = 6000
    a, b = torch.ones(n, 1, 2, 2), torch.zeros(n, 1, 2, 2)
    a.requires_grad_()
    b.requires_grad_()
    torch.manual_seed(0)
    mix = ShakeShake().train()
    mix.branch_noise = True
    mixed = mix(a, b)
    alpha = mixed[:, 0, 0, 0]
    assert torch.equal(mixed, alpha.view(n, 1, 1, 1).expand_as(mixed))
    assert alpha.mean().item() == pytest.approx(0.5, abs=0.015)
    assert (alpha < 0.25).double().mean().item() == pytest.approx(1 / 6, abs=4.5 * math.sqrt(5 / 36 / n))
    mixed.sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    beta = a.grad[:, 0, 0, 0]
    torch.testing.assert_close(a.grad + b.grad, torch.ones_like(a))
    assert (beta < 0.25).double().mean().item() == pytest.approx(1 / 6, abs=4.5 * math.sqrt(5 / 36 / n))
    correlation = torch.corrcoef(torch.stack([alpha.detach(), beta]))[0, 1].item()
    assert abs(correlation) < 4.5 / math.sqrt(n)  # forward and backward are drawn independently


def test_the_second_path_of_a_shortcut_is_shifted_by_one_pixel() -> None:
    shortcut = Shortcut(1, 2, 2).eval()
    nn.init.ones_(shortcut.conv1.weight)
    nn.init.ones_(shortcut.conv2.weight)
    x = torch.arange(1.0, 37.0).view(1, 1, 6, 6)
    found = shortcut(x) * math.sqrt(1 + shortcut.bn.eps)
    torch.testing.assert_close(found[0, 0], x[0, 0, ::2, ::2])
    torch.testing.assert_close(found[0, 1], x[0, 0, 1::2, 1::2])


def test_initial_weights_are_those_of_the_program() -> None:
    """Convolutions N(0, 2 / (k k out)), linear U(+-1 / sqrt(out)) with zero bias."""
    torch.manual_seed(0)
    net = ShakeShakeNet(32, 10, 3)
    weight = net.stage2[1].branch1.conv1.weight
    wanted = math.sqrt(2 / (9 * 64))
    assert weight.std().item() == pytest.approx(wanted, rel=0.02)
    assert abs(weight.mean().item()) < 4.5 * wanted / math.sqrt(weight.numel())
    bound = 1 / math.sqrt(10)
    assert 0.95 * bound < net.fc.weight.abs().max().item() <= bound
    assert (net.fc.bias == 0).all()
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d)]) == 1 + 2 * 2 * 12 + 2 * 3
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 10)


# ---- seeds ----


@pytest.mark.parametrize(
    ("arch", "options"),
    [("resnet18", {"width": 0.1, "kernels": (1, 3), "img_size": 32}), ("shakeshake26_2x4d", {})],
    ids=["resnet", "shakeshake"],
)
def test_the_seed_decides_the_weights_and_the_callers_generator_is_left(arch: str, options: dict) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = inflate(arch, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = inflate(arch, seed=5, **options), inflate(arch, seed=6, **options)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
