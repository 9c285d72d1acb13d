"""The embedded digits and torchvision's sets. (Folders and the Hub: folders.py; tar shards: shards.py.)

Every function here finds its set on this machine, checks it, and returns a Source. Nothing is downloaded.

The embedded set (digits.npz beside this file) is the test part of *Optical Recognition of Handwritten Digits*
by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed
CC BY 4.0, taken by way of scikit-learn's `load_digits`: 1797 images of 8 x 8 pixels with values 0-16. Its split
(1197 train, 200 selection, 400 test; stratified, numpy's default_rng(0)) is stored with it as index arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgnas_cli.errors import DataError
from pgnas_cli.training.folders import open_torch_folders
from pgnas_cli.training.images import TorchImages
from pgnas_cli.training.memory import ArrayStore, Store, resize, to_channels
from pgnas_cli.training.source import Reading, Source, file_store, imagenet_norm


class TorchSet(NamedTuple):
    """A torchvision set: the folder and files it needs under --data-dir, and whether mirroring keeps the class."""

    folder: str
    files: tuple[str, ...]
    flip: bool


_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_QMNIST = tuple(f"qmnist-{p}-{k}" for p in ("train", "test") for k in ("images-idx3-ubyte", "labels-idx2-int"))
_CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

TORCH_SETS = {
    "cifar10": TorchSet("cifar-10-batches-py", _CIFAR10, True),
    "cifar100": TorchSet("cifar-100-python", ("train", "test", "meta"), True),
    "fashion_mnist": TorchSet("FashionMNIST/raw", _IDX, True),
    "mnist": TorchSet("MNIST/raw", _IDX, False),
    "kmnist": TorchSet("KMNIST/raw", _IDX, False),
    "qmnist": TorchSet("QMNIST/raw", _QMNIST, False),
    "imagenet": TorchSet(".", ("train", "val"), True),
    "image_folder": TorchSet(".", ("train", "val"), True),
}


def open_digits(reading: Reading) -> Source:
    """The embedded digits, 8 x 8, values scaled from 0-16 to 0-255; fixed split."""
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        arrays = {name: stored[name] for name in ("images", "labels", "train", "selection", "test")}
    pixels = np.rint(arrays["images"] * (255 / 16)).astype(np.uint8)[:, None]
    images = _as_wanted(torch.from_numpy(pixels), reading)
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    parts = {}
    for name in ("train", "selection", "test"):
        index = torch.from_numpy(arrays[name].astype(np.int64))
        parts[name] = ArrayStore(images[index], labels[index], flip=False, augmentation=reading.augmentation)
    return Source(
        **parts,
        class_names=[str(digit) for digit in range(10)],
        in_chans=images.shape[1],
        img_size=images.shape[-1],
        norm=None,
        location=None,
    )


def open_torch(name: str, root: Path, reading: Reading) -> Source:
    """A torchvision set under `root`, in memory if it is small enough, else through a loader.

    Raises:
        DataError: it is missing, damaged, or not square (with no img_size).
    """
    if name in ("imagenet", "image_folder"):
        return open_torch_folders(name, root, lambda split: _create_torch(name, root, root, split), reading)
    described = TORCH_SETS[name]
    folder = root / described.folder
    check_files(f"torch/{name}", folder, described.files)
    train, test = [_create_torch(name, root, folder, split) for split in ("train", "validation")]
    for part, dataset in (("train", train), ("test", test)):
        _check_labels(f"torch/{name}: {part} in {folder}", dataset)
    native = tuple(int(n) for n in train.data.shape[1:3])
    if native[0] != native[1] and reading.img_size is None:
        raise DataError(
            f"torch/{name}: images in {folder} are {native[0]} x {native[1]}, not square",
            f"scale them with --img-size {max(native)}",
        )
    size = reading.img_size or native[0]
    channels = reading.in_chans or (train.data.shape[3] if train.data.ndim == 4 else 1)
    names = [str(c) for c in train.classes]
    if (len(train) + len(test)) * channels * size * size <= reading.memory_limit:
        stores: list[Store] = [
            ArrayStore(
                _as_wanted(_images_of(dataset), reading),
                torch.as_tensor(dataset.targets, dtype=torch.int64),
                flip=described.flip,
                augmentation=reading.augmentation,
            )
            for dataset in (train, test)
        ]
        return Source(stores[0], None, stores[1], names, channels, size, None, root)
    stores = [
        file_store(TorchImages(d), d.targets, size, channels, reading, flip=described.flip) for d in (train, test)
    ]
    return Source(stores[0], None, stores[1], names, channels, size, imagenet_norm(channels), root)


def check_files(spec: str, folder: Path, files: Sequence[str]) -> None:
    """Raises a DataError unless `folder` holds all `files` and every idx file among them is whole."""
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        packed = [name for name in missing if (folder / f"{name}.gz").exists()]
        hint = f"gunzip {folder}/*.gz" if packed else f"put {', '.join(files)} there (unpacked), or name --data-dir"
        if not packed and spec == "torch/fashion_mnist":
            hint += "; Debian: package dataset-fashion-mnist"
        raise DataError(f"{spec}: no {missing[0]} in {folder.absolute()}", hint)
    for name in files:
        if "-idx" in name:
            _check_idx(folder / name)


def _check_idx(path: Path) -> None:
    """idx: two zero bytes, the type, the number of dimensions, each dimension as big-endian uint32, the values."""
    bytes_per_value = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}
    with path.open("rb") as file:
        head = file.read(4)
        ndim = head[3] if len(head) == 4 else 0
        shape = file.read(4 * ndim)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in bytes_per_value or len(shape) < 4 * ndim:
        raise DataError(f"{path} is not an idx file", "unpack it again from its archive (gunzip)")
    expected = 4 + 4 * ndim + bytes_per_value[head[2]] * int(np.prod(struct.unpack(f">{ndim}I", shape), dtype=np.int64))
    if path.stat().st_size != expected:
        raise DataError(
            f"{path} is damaged: {path.stat().st_size} bytes where its header says {expected}",
            "unpack it again from its archive (gunzip)",
        )


def _create_torch(name: str, root: Path, folder: Path, split: str) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(f"torch/{name}", root=str(root), split=split, download=False)
    except (RuntimeError, AssertionError, ValueError, KeyError, EOFError, OSError, ImportError) as error:
        reason = str(error).split("You can")[0].strip().rstrip(".").splitlines() or [type(error).__name__]
        raise DataError(
            f"torch/{name}: {reason[0]} ({folder.absolute()})", "unpack its archive there again; nothing is downloaded"
        ) from error


def _as_wanted(images: Tensor, reading: Reading) -> Tensor:
    images = to_channels(images, reading.in_chans or images.shape[1])
    return resize(images, reading.img_size or images.shape[-1])


def _images_of(dataset: Any) -> Tensor:
    """A torchvision set's `data` (uint8 [N, H, W] tensor or [N, H, W, C] array) as uint8 [N, C, H, W]."""
    data = torch.as_tensor(dataset.data)
    return data[:, None] if data.ndim == 3 else data.permute(0, 3, 1, 2).contiguous()


def _check_labels(what: str, dataset: Any) -> None:
    labels = torch.as_tensor(dataset.targets)
    if len(labels) != len(dataset.data):
        raise DataError(f"{what}: {len(dataset.data)} images but {len(labels)} labels", "unpack the set again")
    if len(labels) == 0:
        raise DataError(f"{what}: no images", "unpack the set again")
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise DataError(
            f"{what}: labels from {int(labels.min())} to {int(labels.max())} but {len(dataset.classes)} classes",
            "unpack the set again",
        )
