"""Stratified splits: how many examples of each class go where, and which.

Labels are int64 [N]; classes are 0..K-1. What is drawn depends on the labels and the seed only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pgnas_cli.errors import DataError, UsageError
from pgnas_cli.training.memory import Store
from pgnas_cli.training.seeds import generator_from
from pgnas_cli.training.source import Source

SELECTION = 0.1
"""Share of the training images that becomes the selection split where nobody says."""


def split_source(
    source: Source, spec: str, *, selection: float, limit_train: int | None, seed: int
) -> dict[str, tuple[Store, Tensor]]:
    """Which images of which store each split has.

    Args:
        source: a set with or without a selection split of its own.
        spec: its name, for messages.
        selection: share (below 1) or count of training images to cut off where it has none.
        limit_train: train on this many images only, taken after the cut.
        seed: of the draws.

    Returns:
        "train", "selection", "test" -> store, int64 positions in it, ascending.

    Raises:
        UsageError: a selection is asked for where the set has its own.
        DataError: see `cut_selection` and `limit_examples`.
    """
    labels = source.train.labels
    if source.selection is None:
        train, chosen = cut_selection(labels, selection, seed, spec)
        held_out = source.train
    elif selection != SELECTION:
        raise UsageError(
            f"{spec} brings its own selection split, so a selection of {selection:g} cannot be cut",
            "leave --selection out",
        )
    else:
        train, held_out = torch.arange(len(labels)), source.selection
        chosen = torch.arange(len(held_out.labels))
    if limit_train is not None:
        train = limit_examples(labels, train, limit_train, seed, spec)
    return {
        "train": (source.train, train),
        "selection": (held_out, chosen),
        "test": (source.test, torch.arange(len(source.test.labels))),
    }


def cut_selection(labels: Tensor, selection: float, seed: int, spec: str) -> tuple[Tensor, Tensor]:
    """Cuts a stratified selection split from training images.

    Args:
        labels: int64 [N].
        selection: a share if below 1, else a count.

    Returns:
        (train, selection): int64 positions, ascending, disjoint, together all of 0..N-1.

    Raises:
        DataError: the cut would be empty, or leave a class (or everything) without training images.
    """
    total = round(selection * len(labels)) if selection < 1 else int(selection)
    counts = np.bincount(labels.numpy())
    if not 0 < total < len(labels):
        raise DataError(
            f"{spec}: a selection split of {total} images cannot be cut from {len(labels)} training images",
            "change --selection",
        )
    taken = apportion(counts, total)
    emptied = np.flatnonzero((taken == counts) & (counts > 0))
    if len(emptied):
        raise DataError(
            f"{spec}: a selection split of {total} images leaves class {emptied[0]} "
            f"({counts[emptied[0]]} images) without training images",
            "lower --selection or add images",
        )
    chosen = _draw(labels, torch.arange(len(labels)), taken, f"{seed}/selection")
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    return rest.nonzero().flatten(), chosen


def limit_examples(labels: Tensor, index: Tensor, limit: int, seed: int, spec: str) -> Tensor:
    """At most `limit` of the positions `index`, stratified, at least one of every class; ascending."""
    counts = np.bincount(labels[index].numpy())
    present = int((counts > 0).sum())
    if limit < present:
        raise DataError(f"{spec}: --limit-train {limit} is fewer than its {present} classes", f"use {present} or more")
    if limit >= len(index):
        return index
    return _draw(labels, index, apportion(counts, limit, least=1), f"{seed}/limit")


def apportion(counts: np.ndarray, total: int, least: int = 0) -> np.ndarray:
    """Shares `total` among classes in proportion to `counts` (largest remainder; ties to the lower class).

    Args:
        counts: int [K]; total <= sum(counts).
        least: every class that has an example gets at least this many (0 or 1); needs total >= classes.

    Returns:
        int [K], elementwise <= counts, with sum `total`.
    """
    quota = counts * total / counts.sum()
    given = np.floor(quota).astype(np.int64)
    given[(counts > 0) & (given < least)] = least
    while given.sum() != total:
        gap = quota - given
        if given.sum() < total:
            given[np.argmax(np.where(given < counts, gap, -np.inf))] += 1
        else:
            given[np.argmin(np.where(given > least, gap, np.inf))] -= 1
    return given


def _draw(labels: Tensor, index: Tensor, counts: np.ndarray, key: str) -> Tensor:
    """`counts[k]` positions of each class k out of `index`, at random from `key`; ascending."""
    shuffled = index[torch.randperm(len(index), generator=generator_from(key))]
    drawn = [shuffled[labels[shuffled] == k][: int(count)] for k, count in enumerate(counts)]
    return torch.cat(drawn).sort().values
