"""Where images come from: the embedded digits, torchvision sets, folders, Hugging Face datasets.

Every function here finds its set on this machine, checks it, and returns a Source. Nothing is downloaded.

The embedded set (digits.npz beside this file) is the test part of *Optical Recognition of Handwritten Digits*
by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed
CC BY 4.0, taken by way of scikit-learn's `load_digits`: 1797 images of 8 x 8 pixels with values 0-16. Its split
(1197 train, 200 selection, 400 test; stratified, numpy's default_rng(0)) is stored with it as index arrays.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgnas_cli.errors import DataError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.files import FileStore
from pgnas_cli.training.memory import ArrayStore, Normalisation, Store, resize, to_channels

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation")
LAYOUT = "one folder per class: DIR/train/CLASS/*.jpg, DIR/val/CLASS/*.jpg and, if you have one, DIR/test"


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
        return _open_torch_folders(name, root, reading)
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
    stores = [_file_store(d, d.targets, size, channels, reading, flip=described.flip) for d in (train, test)]
    return Source(stores[0], None, stores[1], names, channels, size, _imagenet_norm(channels), root)


def open_folder(root: Path, reading: Reading) -> Source:
    """Class folders under root/train and root/val and/or root/test.

    Raises:
        DataError: a folder is missing or empty, or the splits differ in their classes.
    """
    if not root.is_dir():
        raise DataError(f"folder:{root} does not exist (looked at {root.absolute()})", f"it needs {LAYOUT}")
    found = {
        part: next((root / n for n in names if (root / n).is_dir()), None)
        for part, names in (("train", TRAIN_FOLDERS), ("val", VAL_FOLDERS), ("test", ("test",)))
    }
    if found["train"] is None:
        raise DataError(f"{root} holds no folder train", f"it needs {LAYOUT}")
    if found["val"] is None and found["test"] is None:
        raise DataError(f"{root} holds train but neither val nor test", f"it needs {LAYOUT}")
    from timm.data.dataset_factory import create_dataset

    datasets = {}
    for part, folder in found.items():
        if folder is None:
            continue
        try:
            datasets[part] = create_dataset("", root=str(folder), search_split=False)
        except RuntimeError as error:
            raise DataError(f"no images in {folder}", f"it needs {LAYOUT}") from error
        samples = datasets[part].reader.samples
        _check_class_folders(folder, [Path(path) for path, _ in samples])
    classes = {part: list(dataset.reader.class_to_idx) for part, dataset in datasets.items()}
    for part, names in classes.items():
        _check_same_classes(root, part, classes["train"], names)
    labels = {part: [label for _, label in d.reader.samples] for part, d in datasets.items()}
    return _from_file_sets(datasets, labels, classes["train"], reading, root)


def open_hfds(spec: str, root: Path | None, reading: Reading) -> Source:
    """`hfds/NAME` as timm reads it, through the package `datasets` and its own cache (`root` if given).

    Raises:
        DataError: the package is missing, or the set or its splits cannot be read.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{spec} needs the package datasets", 'pip install "pgnas[data]"')
    from timm.data.dataset_factory import create_dataset

    found: dict[str, Any] = {}
    reason = ""
    for part, splits in (("train", ("train",)), ("val", ("validation", "valid", "val")), ("test", ("test",))):
        for split in splits:
            try:
                found[part] = create_dataset(spec, root=None if root is None else str(root), split=split)
                break
            except Exception as error:  # datasets raises its own kinds, and those of every backend
                reason = reason or " ".join(str(error).split())
    if "train" not in found or len(found) < 2:
        raise DataError(f"{spec}: needs the splits train and validation or test ({reason})", "check the set's page")
    labels = {part: list(dataset.reader.iter_targets()) for part, dataset in found.items()}
    classes = list(found["train"].reader.class_to_idx) or [str(c) for c in sorted(set(labels["train"]))]
    return _from_file_sets(found, labels, classes, reading, root)


def refuse_stream(spec: str) -> None:
    """Raises the DataError for wds/, hfids/ and tfds/, which can only be read as streams."""
    package = {"wds": "webdataset", "hfids": "datasets", "tfds": "tensorflow_datasets"}[spec.partition("/")[0].lower()]
    if importlib.util.find_spec(package) is None:
        extra = "tensorflow-datasets" if package == "tensorflow_datasets" else '"pgnas[data]"'
        raise DataError(f"{spec} needs the package {package}", f"pip install {extra}; or unpack it for folder:DIR")
    raise DataError(
        f"{spec} is a stream without image numbers: a selection split cannot be cut from it",
        f"unpack it into folders and use --data folder:DIR, with {LAYOUT}",
    )


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


def _open_torch_folders(name: str, root: Path, reading: Reading) -> Source:
    if not all((root / part).is_dir() for part in ("train", "val")):
        raise DataError(
            f"torch/{name}: {root.absolute()} does not hold train and val", f"name --data-dir DIR, with {LAYOUT}"
        )
    datasets = {part: _create_torch(name, root, root, split) for part, split in (("train", "train"), ("val", "val"))}
    names = {p: [c if isinstance(c, str) else ", ".join(c) for c in d.classes] for p, d in datasets.items()}
    _check_same_classes(root, "val", names["train"], names["val"])
    labels = {part: dataset.targets for part, dataset in datasets.items()}
    return _from_file_sets(datasets, labels, names["train"], reading, root)


def _from_file_sets(
    datasets: dict[str, Any], labels: dict[str, list[int]], names: list[str], reading: Reading, root: Path | None
) -> Source:
    """A Source of file stores; val is the selection split if there is a test split, else the test split."""
    size, channels = reading.img_size or 224, reading.in_chans or 3
    for part, values in labels.items():
        if not values or min(values) < 0 or max(values) >= len(names):
            said = f"labels from {min(values)} to {max(values)}" if values else "no images"
            raise DataError(f"{part} of {root}: {said}, where there are {len(names)} classes", "leave that split out")
    stores = {p: _file_store(d, labels[p], size, channels, reading, flip=True) for p, d in datasets.items()}
    return Source(
        train=stores["train"],
        selection=stores.get("val") if "test" in stores else None,
        test=stores["test"] if "test" in stores else stores["val"],
        class_names=names,
        in_chans=channels,
        img_size=size,
        norm=_imagenet_norm(channels),
        location=root,
    )


def _file_store(
    dataset: Any, labels: Sequence[int], size: int, channels: int, reading: Reading, *, flip: bool
) -> FileStore:
    return FileStore(
        dataset,
        torch.as_tensor(labels, dtype=torch.int64),
        img_size=size,
        in_chans=channels,
        flip=flip,
        workers=reading.workers,
        augmentation=reading.augmentation,
    )


def _imagenet_norm(channels: int) -> Normalisation:
    """timm's default statistics; for one channel their averages."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if channels == 3:
        return Normalisation(mean, std)
    return Normalisation((round(sum(mean) / 3, 6),), (round(sum(std) / 3, 6),))


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


def _check_class_folders(folder: Path, images: list[Path]) -> None:
    """Raises unless every image lies below a class folder, and every class folder holds an image."""
    filled = {path.relative_to(folder).parts[0] for path in images if path.parent != folder}
    loose = next((path for path in images if path.parent == folder), None)
    if loose is not None:
        raise DataError(f"{loose} lies outside a class folder", f"it needs {LAYOUT}")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in filled:
            raise DataError(f"the class folder {path} holds no images", "fill it or remove it")


def _check_same_classes(root: Path, part: str, train: list[str], other: list[str]) -> None:
    if train == other:
        return
    extra, lacking = sorted(set(other) - set(train)), sorted(set(train) - set(other))
    say = [f"{part} has {extra[0]!r}, which train lacks"] if extra else []
    say += [f"{part} lacks {lacking[0]!r}"] if lacking else []
    raise DataError(
        f"{root}: train has {len(train)} classes and {part} has {len(other)}: {'; '.join(say) or 'other order'}",
        "every split needs the same class folders",
    )
