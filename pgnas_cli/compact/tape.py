"""Probabilities of independent events in numpy, with the gradient of what is computed from them.

There are hundreds of operations on short vectors, so that calling them is what takes time: numpy's are called faster
than torch's, and this tape knows no more than the ten that the analysis consists of. Gradients are exact also where a
probability is 0 or 1. Reverse accumulation: Griewank and Walther 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

Gradient = Any
"""Of a vector an array of its shape, or a float that stands for all units; of a number a float."""
CONSTANT = -1
"""The place of what no gradient is asked for."""


class Vector:
    """Probabilities of units, float64 [n], and their place on a tape."""

    __slots__ = ("data", "place")

    def __init__(self, data: np.ndarray, place: int = CONSTANT) -> None:
        self.data, self.place = data, place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def __len__(self) -> int:
        return len(self.data)


class Scalar:
    """A number that was computed from vectors on a tape."""

    __slots__ = ("data", "place", "tape")

    def __init__(self, tape: Tape, data: float, place: int = CONSTANT) -> None:
        self.tape, self.data, self.place = tape, data, place

    def __add__(self, other: Scalar | float) -> Scalar:
        number, place = (other.data, other.place) if isinstance(other, Scalar) else (other, CONSTANT)
        return Scalar(self.tape, self.data + number, self.tape.record(_pull_sum, self.place, place))

    def __mul__(self, other: Scalar | float) -> Scalar:
        number, place = (other.data, other.place) if isinstance(other, Scalar) else (other, CONSTANT)
        return Scalar(self.tape, self.data * number, self.tape.record(_pull_both, self.place, place, self.data, number))

    __radd__, __rmul__ = __add__, __mul__


class Tape:
    """`Algebra` on vectors that remembers how every value was computed.

    Args:
        remember: False where no gradient will be asked for.
    """

    def __init__(self, *, remember: bool = True) -> None:
        self._remember = remember
        self._steps: list[tuple[Any, ...]] = []
        self._ones: dict[int, Vector] = {}

    def variable(self, data: np.ndarray) -> Vector:
        """Numbers that gradients may be asked for."""
        return Vector(data, self.record(_pull_nothing, 0, 0))

    def record(self, pull: Callable[..., None], first: int, second: int, *operands: Any) -> int:
        """The place of a value that was computed from others at one or two places; of constants only, that of one.

        Args:
            pull: called with the gradient of the value, the gradients so far, and everything that follows here; adds to
                the gradients of what stands at these places.
        """
        if not self._remember or (first < 0 and second < 0):
            return CONSTANT
        self._steps.append((pull, first, second, *operands))
        return len(self._steps) - 1

    def gradients(self, seeds: Sequence[tuple[Scalar, float]], wanted: Sequence[Vector]) -> list[np.ndarray]:
        """Gradients of the sum of seed * number over `seeds`, each of the shape of the vector that is wanted."""
        found: list[Gradient] = [None] * len(self._steps)
        for number, seed in seeds:
            _add(found, number.place, seed)
        for place in range(len(found) - 1, -1, -1):
            gradient = found[place]
            if gradient is not None:
                pull, *operands = self._steps[place]
                pull(gradient, found, *operands)
        ready = [found[vector.place] if vector.place >= 0 else None for vector in wanted]
        return [_whole(0.0 if g is None else g, len(vector)) for g, vector in zip(ready, wanted, strict=True)]

    # ---- the algebra ----

    def ones(self, n: int) -> Vector:
        if n not in self._ones:
            self._ones[n] = Vector(np.ones(n))
        return self._ones[n]

    def zeros(self, n: int) -> Vector:
        return Vector(np.zeros(n))

    def _certain(self, x: Vector) -> bool:
        return x.place < 0 and self._ones.get(len(x.data)) is x

    def either(self, a: Vector, b: Vector) -> Vector:
        if self._certain(a) or self._certain(b):
            return self.ones(len(a.data))
        x, y = a.data, b.data
        return Vector(x + y - x * y, self.record(_pull_either, a.place, b.place, x, y))

    def both(self, a: Vector, b: Vector) -> Vector:
        if self._certain(a):
            return b
        if self._certain(b):
            return a
        return Vector(a.data * b.data, self.record(_pull_both, a.place, b.place, a.data, b.data))

    def any_of(self, x: Vector, groups: int) -> Vector:
        if len(x.data) == groups:
            return x
        if self._certain(x):
            return self.ones(groups)
        rest = (1.0 - x.data).reshape(groups, -1)
        none = np.multiply.reduce(rest, 1)
        return Vector(1.0 - none, self.record(_pull_any, x.place, CONSTANT, rest, none))

    def repeat(self, x: Vector, times: int) -> Vector:
        if times == 1:
            return x
        n = len(x.data)
        if self._certain(x):
            return self.ones(n * times)
        return Vector(x.data.repeat(times), self.record(_pull_repeat, x.place, CONSTANT, n, times))

    def concat(self, parts: Sequence[Vector]) -> Vector:
        joined, start = Vector(np.concatenate([part.data for part in parts])), 0
        n = len(joined)
        for part in parts:  # one step a part: each passes the gradient on to the next
            stop = start + len(part)
            joined.place = self.record(_pull_part, part.place, joined.place, start, stop, n)
            start = stop
        return joined

    def cut(self, x: Vector, start: int, stop: int) -> Vector:
        return Vector(x.data[start:stop], self.record(_pull_cut, x.place, CONSTANT, start, stop, len(x.data)))

    def total(self, x: Vector) -> Scalar:
        return Scalar(self, float(np.add.reduce(x.data)), self.record(_pull_sum, x.place, CONSTANT))

    def largest(self, x: Vector, present: Vector, groups: int) -> Scalar:
        """As `algebra.expected_largest`, which gives the formula."""
        there = present.data[:, None]
        turn = _turns(len(x.data) // groups)
        factors = 1.0 + x.data.reshape(groups, -1, 1) * turn
        pmf = np.fft.ifft(np.multiply.reduce(factors, 1)).real
        more = (1.0 - np.add.accumulate(pmf, 1)[:, :-1]).clip(0.0, 1.0)
        fewer = 1.0 - there * more
        value = float((1.0 - np.multiply.reduce(fewer, 0)).sum())
        place = self.record(_pull_largest, x.place, present.place, factors, turn, there, more, fewer)
        return Scalar(self, value, place)


# ---- from the gradient g of a value to those of what is at the places i and j ----


def _add(found: list[Gradient], place: int, g: Gradient) -> None:
    if place >= 0:
        known = found[place]
        found[place] = g if known is None else known + g


def _whole(g: Gradient, n: int) -> np.ndarray:
    """A gradient as an array [n]."""
    return g if isinstance(g, np.ndarray) else np.full(n, g)


def _pull_nothing(g: Gradient, found: list[Gradient], i: int, j: int) -> None:
    """Of a variable."""


def _pull_sum(g: Gradient, found: list[Gradient], i: int, j: int) -> None:
    """x + y of numbers; the sum of a vector."""
    _add(found, i, g)
    _add(found, j, g)


def _pull_both(g: Gradient, found: list[Gradient], i: int, j: int, x: Any, y: Any) -> None:
    """x * y."""
    if i >= 0:
        _add(found, i, g * y)
    if j >= 0:
        _add(found, j, g * x)


def _pull_either(g: Gradient, found: list[Gradient], i: int, j: int, x: np.ndarray, y: np.ndarray) -> None:
    """x + y - x * y."""
    if i >= 0:
        _add(found, i, g * (1.0 - y))
    if j >= 0:
        _add(found, j, g * (1.0 - x))


def _pull_any(g: Gradient, found: list[Gradient], i: int, j: int, rest: np.ndarray, none: np.ndarray) -> None:
    """1 - none, none = prod(rest) over rows [groups, n], rest = 1 - x: to each factor the product of the others."""
    others = none[:, None] / rest if none.all() else _others(rest, 1)
    _add(found, i, ((g[:, None] if isinstance(g, np.ndarray) else g) * others).reshape(-1))


def _pull_repeat(g: Gradient, found: list[Gradient], i: int, j: int, n: int, times: int) -> None:
    _add(found, i, np.add.reduce(_whole(g, n * times).reshape(n, times), 1))


def _pull_part(g: Gradient, found: list[Gradient], i: int, j: int, start: int, stop: int, n: int) -> None:
    """Of a part of a row of vectors at i; at j what was joined before."""
    g = _whole(g, n)
    _add(found, i, g[start:stop])
    _add(found, j, g)


def _pull_cut(g: Gradient, found: list[Gradient], i: int, j: int, start: int, stop: int, n: int) -> None:
    whole = np.zeros(n)
    whole[start:stop] = g
    _add(found, i, whole)


def _pull_largest(
    g: float, found: list[Gradient], i: int, j: int, factors: np.ndarray, turn: np.ndarray, there: np.ndarray,
    more: np.ndarray, fewer: np.ndarray,
) -> None:  # fmt: skip
    """Back through the product over groups, the sums of the distribution, the Fourier transform, the other product.

    Shapes: groups, units, units + 1 frequencies or numbers of true units.
    """
    others = g * _others(fewer, 0)
    of_more = there * others
    of_pmf = np.zeros((len(of_more), len(turn)))
    of_pmf[:, :-1] = -np.add.accumulate(of_more[:, ::-1], 1)[:, ::-1]
    of_spectrum = np.fft.ifft(of_pmf) * turn
    _add(found, i, (_others(factors, 1) * of_spectrum[:, None]).real.sum(2).reshape(-1))
    _add(found, j, (more * others).sum(1))


def _others(factors: np.ndarray, axis: int) -> np.ndarray:
    """Of each factor the product of all others along an axis, exact where factors are 0."""
    zero = factors == 0.0
    zeros = zero.sum(axis, keepdims=True)
    nonzero = np.where(zero, 1.0, factors)
    others = np.multiply.reduce(nonzero, axis, keepdims=True) / nonzero
    return others * ((zeros == 0) | (zero & (zeros == 1)))


@cache
def _turns(n: int) -> np.ndarray:
    """exp(-i w) - 1 at the n + 1 frequencies w of a distribution over 0 .. n."""
    return np.exp(-2j * np.pi / (n + 1) * np.arange(n + 1)) - 1.0
