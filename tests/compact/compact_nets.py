"""Networks, masks and the comparison that the tests of compaction share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import timm
import torch
from torch import Tensor, nn

from pgnas_cli.compact import ChannelGraph, analyse, apply_masks, compact, count

Masks = dict[str, np.ndarray]
SMALLER = {"channels": (16, 32, 64, 128)}
# timm's options of the same network with fewer channels
NARROW = {
    "resnet18": SMALLER,
    "resnet50": SMALLER,
    "seresnet18": SMALLER,
    "res2net50_26w_4s": SMALLER,
    "resnext50_32x4d": {"channels": (32, 64, 128, 256)},
    "resnetv2_50": {"channels": (64, 128, 256, 512)},
    "densenet121": {"growth_rate": 8},
}


class Mix(nn.Module):
    """Random convex mixing in training, the mean in evaluation."""

    channel_rule = "add"

    def forward(self, a: Tensor | None, b: Tensor | None) -> Tensor:
        some = a if a is not None else b
        assert some is not None
        alpha = torch.rand(some.shape[0], 1, 1, 1, device=some.device) if self.training else 0.5
        parts = [x * f for x, f in ((a, alpha), (b, 1 - alpha)) if x is not None]
        return sum(parts[1:], parts[0])


class GatedConv(nn.Conv2d):
    """Stands for the supernet's layer: a convolution with something more that must not survive."""

    plain_class = nn.Conv2d

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.gate = nn.Linear(1, 1)
        self.sizes = (self.in_channels,)


class Branch(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu1 = nn.ReLU()
        self.conv1 = GatedConv(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = GatedConv(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)


class Shortcut(nn.Module):
    """Two paths, concatenated, then one BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(1, stride)
        self.conv1 = GatedConv(inputs, outputs // 2, 1)
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))
        self.conv2 = GatedConv(inputs, outputs - outputs // 2, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.conv1(self.pool(x)), self.conv2(self.pool(self.shift(x)))], 1))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = Branch(inputs, outputs, stride), Branch(inputs, outputs, stride)
        self.mix = Mix()
        self.skip = nn.Identity() if inputs == outputs else Shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.mix(self.branch1(x), self.branch2(x))


class ShakeNet(nn.Module):
    """A small shake-shake network; its stem's bias and every convolution's must vanish with a dead operation."""

    def __init__(self, width: int = 8, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.stem_bn = nn.BatchNorm2d(8)
        members, inputs = [], 8
        for stage in range(3):
            for block in range(blocks):
                members.append(Block(inputs, width << stage, 2 if stage and not block else 1))
                inputs = width << stage
        self.blocks = nn.Sequential(*members)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem_bn(self.stem(x)))
        return self.fc(self.pool(self.relu(x)).flatten(1))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, BatchNorm weights and statistics, so that a forgotten shift or scale shows; evaluation mode."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=g) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=g) + 0.5)
            if module.affine:
                module.weight.data = torch.rand(n, generator=g) + 0.5
                module.bias.data = torch.randn(n, generator=g) * 0.2
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.data = torch.randn(module.bias.shape, generator=g) * 0.1
    return model.eval()


def build(name: str, *, narrow: bool = False) -> nn.Module:
    """A timm model without downloads, on request with fewer channels, or the small shake-shake network for "shake"."""
    torch.manual_seed(0)
    if name == "shake":
        return randomise(ShakeNet())
    options = NARROW.get(name, {}) if narrow else {}
    if name.startswith("vgg"):
        options = {"mlp_ratio": 0.02}
    return randomise(timm.create_model(name, pretrained=False, num_classes=10, **options))


def sizes(graph: ChannelGraph) -> dict[str, int]:
    """Name -> number of units that a random mask draws: channels, or groups of a grouped convolution."""
    found = dict(graph.searchable)
    found.update({name: g.groups for name, g in graph.convs.items() if g.groups > 1})
    return found


def random_masks(
    graph: ChannelGraph, keep: float | tuple[float, float], rng: np.random.Generator, *, by_channel: bool = False
) -> Masks:
    """Independent draws of units, or of single channels also within groups; from a range of probabilities, one for
    each layer."""
    low, high = keep if isinstance(keep, tuple) else (keep, keep)
    units = graph.searchable if by_channel else sizes(graph)
    return {name: rng.random(n) < rng.uniform(low, high) for name, n in units.items()}


def constant(graph: ChannelGraph, value: bool, prefix: str = "") -> Masks:
    """All kept or all dropped, for the layers whose name starts with `prefix`."""
    return {name: np.full(n, value) for name, n in sizes(graph).items() if name.startswith(prefix)}


def only_one(graph: ChannelGraph) -> Masks:
    """A single unit kept in every layer."""
    return {name: np.arange(n) == n // 2 for name, n in sizes(graph).items()}


def assert_equal(
    graph: ChannelGraph,
    model: nn.Module,
    masks: Mapping[str, np.ndarray],
    images: Tensor,
    tolerance: float,
    layouts: Sequence[str] = ("gather", "dense"),
) -> None:
    """Masked = compact to `tolerance` relative to max(1, max |logit|), and the count = the gathered parameters."""
    with torch.no_grad(), apply_masks(graph, model, masks):
        masked = model(images)
    assert masked.isfinite().all()
    for layout in layouts:
        network = compact(graph, model, masks, layout=layout)
        with torch.no_grad():
            small = network(images)
        assert small.shape == masked.shape
        assert (masked - small).abs().max() <= tolerance * masked.abs().max().clamp_min(1)
        if layout == "gather":
            assert count(graph, analyse(graph, masks)).params == parameters(network)


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def pictures(size: int = 32, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded random images [batch, 3, size, size]."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2)).to(dtype)
