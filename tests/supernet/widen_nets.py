"""Small networks of any width, and random ones, for the tests of widening."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

IMAGE = (3, 8, 8)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every tensor anew, so that a norm, bias, scale or counter that is lost shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1 or tensor.shape[1:] == (1, 1):
                low, high = (0.5, 1.5) if name.endswith(("weight", "var", "scale")) else (-0.3, 0.3)
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            elif tensor.ndim > 1:  # strong enough for every layer to matter in the logits
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
            else:
                tensor.fill_(7)
    return model.eval()


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Head(nn.Sequential):
    def __init__(self, inputs: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 5))


class Residual(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, n), conv(n, 2 * n), conv(2 * n, n), Head(n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.b(self.a(x)))


class Dense(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, n), nn.BatchNorm2d(3 * n)
        self.a, self.b, self.head = conv(n, n), conv(2 * n, n), Head(3 * n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.a(x)], 1)
        return self.head(self.norm(torch.cat([x, self.b(x)], 1)))


class Excite(nn.Module):
    """Squeeze-excite and a learned scale and shift per channel."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.head = conv(3, n), Head(n)
        self.down, self.up = nn.Conv2d(n, max(1, n // 2), 1), nn.Conv2d(max(1, n // 2), n, 1)
        self.scale, self.shift = nn.Parameter(torch.rand(n, 1, 1)), nn.Parameter(torch.rand(n, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(x * self.scale + self.shift)


class Separable(nn.Module):
    """Inverted residual behind two concatenated convolutions, as in the reductions of cells."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, n // 2, 1), nn.Conv2d(3, n - n // 2, 1)
        self.expand, self.depthwise, self.project = conv(n, 3 * n, 1), conv(3 * n, 3 * n, 3, 3 * n), conv(3 * n, n, 1)
        self.direct, self.head = conv(n, n, 3, n), Head(n)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.head(self.direct(x) + self.project(self.depthwise(self.expand(x))))


class Grouped(nn.Module):
    """Groups that grow, groups that become more, and two outputs for each input of a depthwise convolution."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.wider, self.more = conv(3, n), conv(n, 2 * n, 3, 2), conv(2 * n, 2 * n, 3, n)
        self.dense, self.twice, self.head = conv(2 * n, n), conv(n, 2 * n, 3, n), Head(2 * n)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(self.dense(self.more(self.wider(self.stem(x))))))


class Flat(nn.Module):
    """A map of 4 x 4 is flattened into linear layers."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.pool = conv(3, n), nn.AvgPool2d(2)
        self.norm, self.hidden = nn.BatchNorm1d(16 * n), nn.Linear(16 * n, 3 * n)
        self.out = nn.Linear(3 * n, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.flatten(self.pool(self.stem(x)), 1))
        return self.out(torch.relu(self.hidden(x)))


class Parts(nn.Module):
    """Res2Net's chain over the parts of a map, and a map that is read twice in one concatenation."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 3 * n), conv(n, n), conv(n, n), Head(4 * n)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.chunk(self.stem(x), 3, 1)
        second = self.a(second)
        return self.head(torch.cat([first, second, self.b(third + second), first], 1))


class DualPath(nn.Module):
    """One part of each block's output is added, the rest concatenated."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.stem, self.head = n, conv(3, n), Head(3 * n)
        self.a, self.b = conv(n, 2 * n), conv(2 * n, 2 * n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a(x)
        x, dense = x + y[:, : self.n], y[:, self.n :]
        y = self.b(torch.cat([x, dense], 1))
        return self.head(torch.cat([x + y[:, : self.n], dense, y[:, self.n :]], 1))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    kind.__name__: kind for kind in (Residual, Dense, Excite, Separable, Grouped, Flat, Parts, DualPath)
}


class Drawn(nn.Module):
    """A random network: each operation reads the newest map, or the two newest, of equal channels.

    Args:
        operations: names of OPERATIONS.
        widths: channels that the convolutions take turns with.
    """

    def __init__(self, operations: Sequence[str], widths: Sequence[int]) -> None:
        super().__init__()
        self.operations, self.layers = tuple(operations), nn.ModuleList()
        channels = widths[0]
        self.stem = conv(3, channels)
        for turn, kind in enumerate(operations):
            wanted = widths[turn % len(widths)]
            if kind == "conv":
                self.layers.append(conv(channels, wanted))
                channels = wanted
            elif kind == "depthwise":
                self.layers.append(conv(channels, channels, 3, channels))
            elif kind == "residual":
                self.layers.append(nn.Sequential(conv(channels, wanted), conv(wanted, channels)))
            elif kind == "halves":  # added to what is there, whose channels may be bounded elsewhere
                halves = (channels // 2, channels - channels // 2)
                self.layers.append(nn.ModuleList(conv(channels, half, 1) for half in halves))
            elif kind == "cat":
                self.layers.append(conv(channels, wanted))
                channels += wanted
            elif kind == "excite":
                self.layers.append(nn.Conv2d(channels, channels, 1))
        self.head = Head(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, layer in zip(self.operations, self.layers, strict=True):
            if kind in ("conv", "depthwise"):
                x = layer(x)
            elif kind == "residual":
                x = x + layer(x)
            elif kind == "halves":
                x = x + torch.cat([layer[0](x), layer[1](x)], 1)
            elif kind == "cat":
                x = torch.cat([x, layer(x)], 1)
            else:
                x = x * torch.sigmoid(layer(x.mean((2, 3), keepdim=True)))
        return self.head(x)


OPERATIONS = ("conv", "depthwise", "residual", "halves", "cat", "excite")
