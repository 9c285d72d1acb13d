"""How long a training and a ranking take on so many GPUs, from measured steps: ranges through two readings of them.

    step(n) = max(floor * convolutions, n * MACs / rate)          seconds, n images on one GPU

A step of few images waits for the processor, which launches its operations one after the other: `floor` is the time of
the shortest measured step, for each convolution of its network. A step of many images waits for the GPU: `rate` is MACs
(of the forward pass) a second of a measured step. Which of the two a measured step has waited for is not known, and
the networks asked about were not measured, so the rate is a range: at best the highest of all measured steps, at worst
the lowest of those at the images' size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both above 0."""

    low: float
    high: float

    @staticmethod
    def exactly(value: float) -> Range:
        """A range without width."""
        return Range(value, value)

    def __mul__(self, other: Range | float) -> Range:
        by = other if isinstance(other, Range) else Range.exactly(other)
        return Range(self.low * by.low, self.high * by.high)

    def __truediv__(self, other: Range | float) -> Range:
        by = other if isinstance(other, Range) else Range.exactly(other)
        return Range(self.low / by.high, self.high / by.low)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class Network:
    """What is known of a network without measuring.

    Args:
        name: of `pgnas zoo list`.
        params, macs: with everything kept; MACs of one image.
        convolutions: how many.
        channels: gated ones.
    """

    name: str
    params: int
    macs: int
    convolutions: int
    channels: int


@dataclass(frozen=True)
class Task:
    """What a recipe asks for.

    Args:
        epochs, batch: of the training; the batch is that of all GPUs together.
        train, selection: images.
        candidates: to be ranked.
        budget: share of all candidates' images that the race may see.
    """

    epochs: int
    batch: int
    train: int
    selection: int
    candidates: int
    budget: float

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * math.ceil(self.train / self.batch)

    @property
    def ranked(self) -> int:
        """Images that the race evaluates."""
        return math.ceil(self.candidates * self.selection * self.budget)


@dataclass(frozen=True)
class Assumptions:
    """What no measurement here says.

    Args:
        efficiency: GPUs -> speed over that of so many single ones.
        overhead: an epoch of `pgnas train` over the time of its steps.
        forward: a forward pass over a training step without gates.
        evaluated: images of an evaluation batch.
    """

    efficiency: dict[int, Range]
    overhead: Range
    forward: float
    evaluated: int


@dataclass(frozen=True)
class Step:
    """A measured step: of how many images, of which network, in how many seconds."""

    network: Network
    img_size: int
    batch: int
    seconds: Range

    @property
    def rate(self) -> Range:
        """MACs a second."""
        return Range.exactly(self.batch * self.network.macs) / self.seconds


@dataclass(frozen=True)
class Speed:
    """`step` of the module's docstring.

    Args:
        floor: seconds a convolution.
        rate: MACs a second.
    """

    floor: Range
    rate: Range

    @staticmethod
    def of(steps: Sequence[Step], img_size: int) -> Speed:
        """The speed that measured steps leave open.

        Raises:
            ValueError: none of them has images of that size.
        """
        same = [step for step in steps if step.img_size == img_size]
        if not same:
            raise ValueError(f"no measured step has images of {img_size} pixels")
        floors = [step.seconds / step.network.convolutions for step in steps]
        shortest = min(floors, key=lambda floor: floor.low + floor.high)
        rate = Range(min(step.rate.low for step in same), max(step.rate.high for step in steps))
        return Speed(shortest, rate)

    def seconds(self, network: Network, images: int) -> Range:
        """Of a step of so many images."""
        waits, computes = self.floor * network.convolutions, Range.exactly(images * network.macs) / self.rate
        return Range(max(waits.low, computes.low), max(waits.high, computes.high))

    def times(self, factor: float) -> Speed:
        """The speed of something that takes `factor` of the time."""
        return Speed(self.floor * factor, self.rate / factor)


def training(speed: Speed, network: Network, task: Task, gpus: int, split: bool, assumed: Assumptions) -> Range:
    """Seconds of the training.

    Args:
        split: the recipe's batch is shared among the GPUs; else each has as many images, in fewer steps.
    """
    step = speed.seconds(network, math.ceil(task.batch / gpus) if split else task.batch)
    steps = task.steps if split else task.epochs * math.ceil(task.train / (task.batch * gpus))
    return step * assumed.overhead * steps / assumed.efficiency[gpus]


def ranking(speed: Speed, network: Network, task: Task, gpus: int, assumed: Assumptions) -> Range:
    """Seconds of the race; `speed` is that of a training step without gates."""
    batches = math.ceil(task.ranked / gpus / assumed.evaluated)
    batch = speed.times(assumed.forward).seconds(network, assumed.evaluated)
    return batch * batches / assumed.efficiency[gpus]
