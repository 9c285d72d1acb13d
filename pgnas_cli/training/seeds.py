"""Random numbers that depend on a text key only: not on what was drawn before, on the device or on the process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_from(key: str) -> int:
    """A seed in [0, 2^63) that depends on the text `key` only (first 8 bytes of its SHA-256)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator_from(key: str) -> torch.Generator:
    """A CPU generator of its own, seeded from `key`; the global one is not touched."""
    generator = torch.Generator()
    generator.manual_seed(seed_from(key))
    return generator


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seeds torch's CPU generator, numpy and random from `key`; gives all three their states back at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_from(key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerators' generators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_step(key: str, rank: int = 0) -> int:
    """Seed every global generator for one step, and give the seed of the gates' noise.

    Everything random in a step depends on its key alone, so that a training resumed at any step draws what the first
    would have drawn. The gates' noise has one seed for all processes (each takes the rows of its examples); dropout
    and the like differ between them.

    Args:
        key: names the step, by seed, epoch and batch.
        rank: of this process.
    """
    value = seed_from(f"{key}/rank/{rank}")
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)
    return seed_from(f"{key}/gates")
