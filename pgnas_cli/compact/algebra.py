"""The logic that both passes of the analysis are written in, over booleans and over probabilities.

A value is a vector over units (channels or groups). On booleans (numpy) the analysis is exact, for one candidate or for
a batch of them; on probabilities (torch) it is the same for independent events, differentiable, and equal to the exact
one where every p is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class Algebra(Protocol[T]):
    """Operations on vectors of type T; [n] are shapes."""

    def ones(self, n: int) -> T:
        """True for each of n units."""

    def zeros(self, n: int) -> T:
        """False for each of n units."""

    def either(self, a: T, b: T) -> T:
        """a or b: 1 - (1 - a)(1 - b)."""

    def both(self, a: T, b: T) -> T:
        """a and b: a * b."""

    def any_of(self, x: T, groups: int) -> T:
        """Whether any unit of each group is true, [n] -> [groups]: 1 - prod(1 - x)."""

    def repeat(self, x: T, times: int) -> T:
        """Each unit `times` times in a row, [n] -> [n * times]."""

    def concat(self, parts: Sequence[T]) -> T:
        """The vectors one after the other."""

    def cut(self, x: T, start: int, stop: int) -> T:
        """Units [start, stop)."""

    def total(self, x: T) -> Any:
        """(Expected) number of true units."""

    def largest(self, x: T, present: T, groups: int) -> Any:
        """(Expected) largest number of true units in one group, over the groups that are `present` [groups]."""


class Booleans:
    """numpy bool vectors."""

    def __init__(self) -> None:
        self._ones: dict[int, np.ndarray] = {}

    def ones(self, n: int) -> np.ndarray:
        if n not in self._ones:
            self._ones[n] = np.ones(n, bool)
            self._ones[n].flags.writeable = False
        return self._ones[n]

    def zeros(self, n: int) -> np.ndarray:
        return np.zeros(n, bool)

    def either(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a | b

    def both(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a & b

    def any_of(self, x: np.ndarray, groups: int) -> np.ndarray:
        return x if len(x) == groups else np.asarray(x.reshape(groups, -1).any(1))

    def repeat(self, x: np.ndarray, times: int) -> np.ndarray:
        return x if times == 1 else x.repeat(times)

    def concat(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def cut(self, x: np.ndarray, start: int, stop: int) -> np.ndarray:
        return x[start:stop]

    def total(self, x: np.ndarray) -> int:
        return int(np.count_nonzero(x))

    def largest(self, x: np.ndarray, present: np.ndarray, groups: int) -> int:
        return int((x.reshape(groups, -1).sum(1) * present).max(initial=0))


class BooleanRows(Booleans):
    """numpy bool, one row for each of N candidates: [N, n] where a vector is [n].

    What is the same for all candidates stays a vector [n] and is computed once. Counts are int64, [N] or a scalar.
    """

    def any_of(self, x: np.ndarray, groups: int) -> np.ndarray:
        return x if x.shape[-1] == groups else np.asarray(_grouped(x, groups).any(-1))

    def repeat(self, x: np.ndarray, times: int) -> np.ndarray:
        return x if times == 1 else x.repeat(times, axis=-1)

    def concat(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return np.concatenate([np.broadcast_to(part, (*rows, part.shape[-1])) for part in parts], axis=-1)

    def cut(self, x: np.ndarray, start: int, stop: int) -> np.ndarray:
        return x[..., start:stop]

    def total(self, x: np.ndarray) -> Any:
        return x.sum(-1, dtype=np.int64)

    def largest(self, x: np.ndarray, present: np.ndarray, groups: int) -> Any:
        return (_grouped(x, groups).sum(-1, dtype=np.int64) * present).max(-1, initial=0)


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    """[..., n] -> [..., groups, n / groups]."""
    return x.reshape(*x.shape[:-1], groups, -1)


class _NoneOf(torch.autograd.Function):
    """prod(1 - x) over the last dimension.

    The gradient is exact where factors are 0 (torch.prod's own also is, but asks the device how many there are, which
    makes the host wait for it at every convolution).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rest = 1 - x
        result = rest.prod(-1)
        ctx.save_for_backward(rest)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (rest,) = ctx.saved_tensors
        zero = rest == 0
        zeros = zero.sum(-1, keepdim=True)
        factors = rest.masked_fill(zero, 1)
        product = factors.prod(-1, keepdim=True)
        without = torch.where(zero, product * (zeros == 1), product / factors * (zeros == 0))
        return -grads[0].unsqueeze(-1) * without


def none_of(x: Tensor) -> Tensor:
    """Probability that none of independent events happens, prod(1 - x) over the last dimension: [..., n] -> [...]."""
    result: Tensor = _NoneOf.apply(x)
    return result


def expected_largest(x: Tensor, present: Tensor) -> Tensor:
    """E[max over groups of (number of true units if the group is present, else 0)] for independent events.

    The number N of true units in a group is Poisson binomial; its distribution is the inverse Fourier transform of
    prod(1 - x + x e^{iw}) (Hong 2013). Then E[max] = sum over r of 1 - prod over groups (1 - present P(N > r)).

    Args:
        x: probabilities, [groups, units]. present: probabilities, [groups].

    Returns:
        A scalar tensor; the rounding error is about groups * units times the machine epsilon.
    """
    n = x.shape[1]
    angles = torch.arange(n + 1, device=x.device, dtype=x.dtype) * (2 * torch.pi / (n + 1))
    turn = torch.polar(torch.ones_like(angles), -angles) - 1
    spectrum = (1 + x.unsqueeze(-1) * turn).prod(1)
    pmf = torch.fft.ifft(spectrum).real
    more = 1 - pmf.cumsum(-1)[:, :-1]
    more = more + (more.clamp(0, 1) - more).detach()  # rounding, which has no part in the gradient
    return (1 - none_of((present.unsqueeze(-1) * more).T)).sum()


class Probabilities:
    """torch vectors of probabilities of independent events, on one device and of one dtype."""

    def __init__(self, like: Tensor) -> None:
        self._like = like.detach()
        self._ones: dict[int, Tensor] = {}

    def ones(self, n: int) -> Tensor:
        if n not in self._ones:
            self._ones[n] = self._like.new_ones(n)
        return self._ones[n]

    def zeros(self, n: int) -> Tensor:
        return self._like.new_zeros(n)

    def _certain(self, x: Tensor) -> bool:
        return self._ones.get(x.numel()) is x

    def either(self, a: Tensor, b: Tensor) -> Tensor:
        return self.ones(a.numel()) if self._certain(a) or self._certain(b) else a + b - a * b

    def both(self, a: Tensor, b: Tensor) -> Tensor:
        if self._certain(a):
            return b
        return a if self._certain(b) else a * b

    def any_of(self, x: Tensor, groups: int) -> Tensor:
        if x.numel() == groups:
            return x
        return self.ones(groups) if self._certain(x) else 1 - none_of(x.reshape(groups, -1))

    def repeat(self, x: Tensor, times: int) -> Tensor:
        if times == 1:
            return x
        return self.ones(times * x.numel()) if self._certain(x) else x.unsqueeze(1).expand(-1, times).reshape(-1)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def cut(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[start:stop]

    def total(self, x: Tensor) -> Tensor:
        return x.sum()

    def largest(self, x: Tensor, present: Tensor, groups: int) -> Tensor:
        return expected_largest(x.reshape(groups, -1), present)
