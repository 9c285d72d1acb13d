"""A network of two gated convolutions for the tests of groups, and what is computed with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgnas_cli.supernet.supernet import Supernet

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
