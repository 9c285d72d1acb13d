"""Small ENAS supernets for the tests, and what is asked of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from pgnas_cli import registry
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet.supernet import Supernet


def supernet(arch: str = "enas15_2f", *, img_size: int = 16, in_chans: int = 3, classes: int = 5, **options: object):
    spec = registry.make_spec(
        arch, Inflation(**options), num_classes=classes, in_chans=in_chans, img_size=img_size, seed=3
    )
    return registry.build(spec).eval()


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Statistics, scales and shifts of every BatchNorm, so that one that should be zeroed shows."""
    g = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=g)
            module.running_var.uniform_(0.5, 1.5, generator=g)
            module.weight.data.uniform_(0.5, 1.5, generator=g)
            module.bias.data.normal_(0, 0.2, generator=g)


@functools.cache
def randomised(*, surrogates: bool) -> Supernet:
    """Shared: a test may mask it, and leaves it as it was."""
    net = supernet(surrogate_pools=surrogates)
    randomise(net)
    return net


def pictures(net: Supernet, n: int = 2) -> Tensor:
    return torch.randn(n, *net.input_size, generator=torch.Generator().manual_seed(1))


def count(module: nn.Module, kind: type[nn.Module] = nn.Module) -> int:
    return sum(p.numel() for m in module.modules() if isinstance(m, kind) for p in m.parameters(recurse=False))
