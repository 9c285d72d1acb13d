"""What every kind of set becomes once it was found and checked: a Source, and how sets of encoded images are held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pgnas_cli.errors import DataError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.files import TINY, FileStore
from pgnas_cli.training.images import UNREADABLE, Images, check_unreadable
from pgnas_cli.training.memory import ArrayStore, Normalisation, Store


@dataclass(frozen=True)
class Source:
    """A set that was found and checked.

    Attributes:
        train, test: its stores.
        selection: its own selection split; None where one has to be cut from train.
        class_names: as many as there are classes.
        norm: fixed normalisation; None where it is computed from the training part (train is an ArrayStore).
        location: where it lies; None for the embedded set.
    """

    train: Store
    selection: Store | None
    test: Store
    class_names: list[str]
    in_chans: int
    img_size: int
    norm: Normalisation | None
    location: Path | None


@dataclass(frozen=True)
class Reading:
    """How the user wants images to be read; None means as they are (files: 224 x 224, 3 channels)."""

    img_size: int | None
    in_chans: int | None
    augmentation: Augmentation
    workers: int
    memory_limit: int


def from_file_sets(
    sets: Mapping[str, Images],
    labels: Mapping[str, Sequence[int]],
    names: list[str],
    reading: Reading,
    root: Path | None,
) -> Source:
    """A Source of encoded images; val is the selection split if there is a test split, else the test split.

    Where all images are `img_size` x `img_size`, of at most 64 pixels, and fit into memory, they are decoded once and
    augmented as every set in memory is; else they are read by timm's loader.

    Args:
        sets, labels: by split: "train", and "val" or "test" or both.

    Raises:
        DataError: a split is empty, a label is out of range, or too many images cannot be read.
    """
    size, channels = reading.img_size or 224, reading.in_chans or 3
    for part, values in labels.items():
        if not values or min(values) < 0 or max(values) >= len(names):
            said = f"labels from {min(values)} to {max(values)}" if values else "no images"
            raise DataError(f"{part} of {root}: {said}, where there are {len(names)} classes", "leave that split out")
    stores: Mapping[str, Store] | None = _held(sets, labels, size, channels, reading)
    in_memory = stores is not None
    if stores is None:
        stores = {p: file_store(images, labels[p], size, channels, reading, flip=True) for p, images in sets.items()}
    return Source(
        train=stores["train"],
        selection=stores.get("val") if "test" in stores else None,
        test=stores["test"] if "test" in stores else stores["val"],
        class_names=names,
        in_chans=channels,
        img_size=size,
        norm=None if in_memory else imagenet_norm(channels),
        location=root,
    )


def file_store(
    images: Images, labels: Sequence[int], size: int, channels: int, reading: Reading, *, flip: bool
) -> FileStore:
    return FileStore(
        images,
        torch.as_tensor(labels, dtype=torch.int64),
        img_size=size,
        in_chans=channels,
        flip=flip,
        workers=reading.workers,
        augmentation=reading.augmentation,
    )


def imagenet_norm(channels: int) -> Normalisation:
    """timm's default statistics; for one channel their averages."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if channels == 3:
        return Normalisation(mean, std)
    return Normalisation((round(sum(mean) / 3, 6),), (round(sum(std) / 3, 6),))


def _held(
    sets: Mapping[str, Images], labels: Mapping[str, Sequence[int]], size: int, channels: int, reading: Reading
) -> dict[str, ArrayStore] | None:
    """The sets in memory, without the images that cannot be read; None if they are too large or not all of one size."""
    if size > TINY or sum(map(len, labels.values())) * channels * size * size > reading.memory_limit:
        return None
    stores = {}
    for part, images in sets.items():
        pixels = torch.empty(len(labels[part]), channels, size, size, dtype=torch.uint8)
        there, left_out = [], []
        for position in range(len(pixels)):
            try:
                image = images.read(position, "RGB" if channels == 3 else "L")
            except UNREADABLE:
                left_out.append(images.name(position))
                check_unreadable(len(left_out), len(pixels), left_out[-1])
                continue
            if image.size != (size, size):
                return None
            pixels[position] = torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1)
            there.append(position)
        kept = torch.as_tensor(labels[part], dtype=torch.int64)[there]
        stores[part] = ArrayStore(
            pixels if not left_out else pixels[there],
            kept,
            flip=True,
            augmentation=reading.augmentation,
            left_out=left_out,
        )
    return stores
