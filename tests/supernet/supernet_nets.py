"""Small supernets and masks for the tests of the supernet."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pgnas_cli import inflate
from pgnas_cli.supernet.supernet import Supernet

Masks = dict[str, np.ndarray]
RESNET18 = {"arch": "resnet18", "width": 0.25, "num_classes": 10, "img_size": 32}
SHAKE = {"arch": "shakeshake26_2x16d"}
TINY = {"arch": "shakeshake26_2x4d"}


def supernet(arch: str, seed: int = 0, **options: object) -> Supernet:
    """An inflated supernet whose BatchNorms are away from their start, so that a lost shift or mean shows."""
    net = inflate(arch, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                with torch.no_grad():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return net.eval()


def grouped_net() -> Supernet:
    """A plain network with several gate groups a layer, a grouped convolution and a gated linear layer."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 8, 1, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return Supernet(backbone, {"3": [2, 6], "5": [6, 6], "9": [3, 5]}, input_size=(3, 8, 8)).eval()


def spread_rates(net: Supernet, low: float, high: float, seed: int = 0) -> None:
    """Draw every drop probability from [low, high]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in net.gate_parameters():
            logits.copy_(torch.logit(torch.rand(logits.shape, generator=generator) * (high - low) + low))


def all_kept(net: Supernet) -> Masks:
    return {name: np.ones(gate.channels, dtype=bool) for name, gate in net.gates.items()}


def nothing_kept(net: Supernet) -> Masks:
    return {name: np.zeros(gate.channels, dtype=bool) for name, gate in net.gates.items()}


def one_channel(net: Supernet) -> Masks:
    return {name: np.arange(gate.channels) == 0 for name, gate in net.gates.items()}


def one_layer_emptied(net: Supernet) -> Masks:
    masks = all_kept(net)
    name = list(masks)[len(masks) // 2]
    return masks | {name: np.zeros_like(masks[name])}


DEGENERATE = {
    "all kept": all_kept,
    "one channel": one_channel,
    "one layer emptied": one_layer_emptied,
    "nothing kept": nothing_kept,
}


def images(net: Supernet, n: int = 2) -> torch.Tensor:
    channels, height, width = net.input_size
    return torch.randn(n, channels, min(height, 32), min(width, 32), generator=torch.Generator().manual_seed(9))
