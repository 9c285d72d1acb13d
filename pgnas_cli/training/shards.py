"""Tar shards as webdataset and timm write them, read by position: `wds/DIR`.

A sample is what shares a name up to its first dot inside one shard: `KEY.jpg` (or jpeg, png, webp) and `KEY.cls`, whose
text is the number of the class. A plain tar file keeps its members whole and in one piece, so that the place of every
image can be noted once, when the set is opened; after that, images are read in any order, as from a folder.

Which split a shard belongs to stands in DIR/_info.json (or info.json), written by timm's tools, or else in its name or
its folder's: DIR/train-0000.tar, DIR/NAME-train-0000.tar, DIR/train/0000.tar. Names of the classes are taken from
DIR/classes.txt or classnames.txt, one a line in the order of the numbers, or from "class_names" in the info file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from pgnas_cli.errors import DataError
from pgnas_cli.training.images import Images
from pgnas_cli.training.source import Reading, Source, from_file_sets
from pgnas_cli.training.tars import Member, members, read_at

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
INFO_FILES = ("_info.json", "info.json")
CLASS_FILES = ("classes.txt", "classnames.txt")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
LAYOUT = "plain tar files of KEY.jpg and KEY.cls: DIR/train-*.tar, DIR/val-*.tar and, if you have them, DIR/test-*.tar"
INFO_LAYOUT = 'it should read {"splits": {"train": {"filenames": ["train-0000.tar"]}, "val": {"filenames": [...]}}}'


@dataclass(frozen=True)
class Info:
    """What an info file says: the shards of each split, the number of samples of some, and names of the classes."""

    shards: dict[str, list[Path]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)


class ShardImages(Images):
    """The images of some shards, in the order of the shards and of the members in each.

    Args:
        shards: each one's path and its images.
    """

    def __init__(self, shards: Sequence[tuple[Path, Sequence[Member]]]) -> None:
        self.paths = [path for path, _ in shards]
        # arrays, not lists of objects: loader processes share them without copying
        self._shard = np.repeat(np.arange(len(shards)), [len(images) for _, images in shards])
        flat = [image for _, images in shards for image in images]
        self._names = np.array([image.name.encode() for image in flat], dtype="S")
        self._places = np.array([(image.offset, image.size) for image in flat], dtype=np.int64).reshape(-1, 2)

    def read(self, position: int, mode: str) -> Image.Image:
        offset, size = self._places[position].tolist()
        with self.paths[self._shard[position]].open("rb") as file:
            file.seek(offset)
            return Image.open(BytesIO(file.read(size))).convert(mode)

    def name(self, position: int) -> str:
        return f"{self.paths[self._shard[position]]}/{self._names[position].decode()}"

    def identity(self, position: int) -> str:
        return f"{self._names[position].decode()}:{self._places[position, 1]}"


def open_shards(spec: str, data_dir: Path | None, reading: Reading) -> Source:
    """`wds/DIR`: shards on this machine. With a data_dir, DIR lies there, or is a mere name for data_dir itself, as in
    timm.

    Raises:
        DataError: there are no shards, they lack a split, or one is compressed, damaged or not of samples.
    """
    root = _find_root(spec, data_dir)
    info = _read_info(root)
    parts = _shards_of(spec, root, info)
    images, labels = {}, {}
    for part, paths in parts.items():
        samples = [_index(path) for path in paths]
        labels[part] = [label for shard in samples for _, label in shard]
        images[part] = ShardImages([(p, [m for m, _ in shard]) for p, shard in zip(paths, samples, strict=True)])
    _check_counts(root, info, labels)
    names = _class_names(root, info) or _numbered_classes(images["train"], labels["train"])
    return from_file_sets(images, labels, names, reading, root)


def _find_root(spec: str, data_dir: Path | None) -> Path:
    rest = spec.partition("/")[2]
    if re.match(r"(pipe:|[a-z][a-z0-9+.-]*://)", rest):
        raise DataError(
            f"{spec} is a stream: images can be drawn, split and resumed only from tar files on this machine",
            "copy the shards here and use --data wds/DIR",
        )
    named = Path(rest).expanduser()
    tried = [named] if data_dir is None else [data_dir / named, data_dir]
    root = next((folder for folder in tried if folder.is_dir()), None)
    if root is None:
        raise DataError(f"{spec}: {tried[0].absolute()} is not a folder", f"name the folder of {LAYOUT}")
    return root


def _read_info(root: Path) -> Info:
    path = next((root / name for name in INFO_FILES if (root / name).is_file()), None)
    if path is None:
        return Info()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})", "mend it or remove it") from error
    splits = read.get("splits", {}) if isinstance(read, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(split, dict) for split in splits.values()):
        raise DataError(f"{path} does not describe splits", INFO_LAYOUT)
    class_names = read.get("class_names", [])
    if not _are_texts(class_names):
        raise DataError(f"{path}: class_names is not a list of names", 'it should read {"class_names": ["cat", "dog"]}')
    shards: dict[str, list[Path]] = {}
    counts: dict[str, int] = {}
    for split, described in splits.items():
        part = _split_of(split)
        if part is None:
            continue
        if part in shards:
            raise DataError(f"{path} describes the {part} split twice, the second time as {split!r}", INFO_LAYOUT)
        shards[part] = _named_shards(path, split, described.get("filenames"))
        count = described.get("num_samples")
        if count is not None and type(count) is not int:
            raise DataError(f"{path}: num_samples of {split} is {count!r}, not a whole number", INFO_LAYOUT)
        if count is not None:
            counts[part] = count
    return Info(shards, counts, class_names)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _named_shards(path: Path, split: str, names: Any) -> list[Path]:
    """The shards that an info file at `path` names for a split: below its folder, each once."""
    if not _are_texts(names):
        raise DataError(f"{path}: the filenames of {split} are not a list of names", INFO_LAYOUT)
    for number, name in enumerate(names):
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name:
            raise DataError(f"{path}: {name!r}, a shard of {split}, is not a name below that folder", INFO_LAYOUT)
        if name in names[:number]:
            raise DataError(f"{path} names the shard {name!r} of {split} twice", INFO_LAYOUT)
    return [path.parent / name for name in names]


def _shards_of(spec: str, root: Path, info: Info) -> dict[str, list[Path]]:
    """The shards of each split, by name."""
    found = dict(info.shards)
    if found:
        missing = [path for paths in found.values() for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{spec}: no {missing[0]}, which the info file names", "copy all shards there")
    else:
        for path in sorted([*root.glob("*.tar"), *root.glob("*/*.tar")]):
            part = _split_of(str(path.relative_to(root).with_suffix("")))
            if part is not None:
                found.setdefault(part, []).append(path)
    if not found:
        packed = next(root.glob("**/*.tar.*"), None)
        if packed is not None:
            raise DataError(f"{spec}: {packed} is compressed", "unpack it to a plain tar file (gunzip)")
        raise DataError(f"{spec}: no shards of a train, val or test split in {root.absolute()}", f"it needs {LAYOUT}")
    if "train" not in found or len(found) < 2:
        lacking = "train" if "train" not in found else "val or test"
        raise DataError(f"{spec}: {root.absolute()} holds no shards of {lacking}", f"it needs {LAYOUT}")
    return found


def _split_of(name: str) -> str | None:
    """The split whose word stands in a name, the last one if there are several."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for word in reversed(words) for part, known in SPLIT_WORDS.items() if word in known), None)


def _index(path: Path) -> list[tuple[Member, int]]:
    """The image and the class of each sample of a shard, in the order of the images."""
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    with path.open("rb", buffering=0) as file:
        for member in members(path):
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
            if key in (images if suffix in IMAGE_KEYS else labels if suffix == "cls" else ()):
                raise DataError(f"{path} holds two samples {key}", "give every sample of a shard its own key")
            if suffix in IMAGE_KEYS:
                images[key] = member
            elif suffix == "cls":
                labels[key] = _label(path, member.name, read_at(file, member.offset, member.size))
    if lone := set(images) ^ set(labels):
        key = min(lone)
        lacking = f"{key}.cls" if key in images else f"an image ({key}.jpg, png or webp)"
        raise DataError(f"{path}: sample {key} lacks {lacking}", f"it needs {LAYOUT}")
    return [(member, labels[key]) for key, member in images.items()]


def _label(path: Path, name: str, text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{path}: {name} holds {text[:20]!r}, not the number of a class", "write the number of the class as text"
        ) from None


def _check_counts(root: Path, info: Info, labels: dict[str, list[int]]) -> None:
    for part, said in info.counts.items():
        if len(labels[part]) != said:
            raise DataError(
                f"{root}: {len(labels[part])} images in {part}, its info file says {said}", "copy the shards again"
            )


def _class_names(root: Path, info: Info) -> list[str]:
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        return info.class_names
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error})", "save it as UTF-8, one name a line") from error
    return [line.strip() for line in lines if line.strip()]


def _numbered_classes(images: ShardImages, labels: list[int]) -> list[str]:
    """Names of training classes without names: 0 to the largest label, which one wrong .cls would put anywhere."""
    largest = max(labels, default=-1)
    if largest >= len(labels) > 0:
        name = images.name(labels.index(largest))
        raise DataError(
            f"the .cls of {name} says class {largest}, where there are {len(labels)} training images",
            "write the number of its class there, or name the classes in DIR/classes.txt, one a line",
        )
    return [str(label) for label in range(largest + 1)]
