"""Data sets by name: find one, split it, and read it in batches.

    data = open_data("torch/fashion_mnist", data_dir=Path("data"), seed=0)
    for x, y in data.train_batches(epoch=3, batch_size=128, device="cuda"): ...

What a training epoch yields depends on (seed, epoch) only: not on what was drawn before, on the device, on the
number of workers, or on the process. So a resumed run needs nothing of this restored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pgnas_cli.errors import DataError, UsageError, nearest
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training import folders, shards, sources
from pgnas_cli.training.augment import file_rand_augment
from pgnas_cli.training.memory import ArrayStore, Batch, Epoch, Normalisation, Store
from pgnas_cli.training.seeds import generator_from
from pgnas_cli.training.source import Reading, Source
from pgnas_cli.training.splits import SELECTION, split_source

Split = Literal["train", "selection", "test"]

TIMM_PREFIXES = ("hfds", "hfids", "wds", "tfds")
SCAN_BATCH = 256
DIGITS_NOTICE = "no data named: using the embedded digits (8x8, 1797 images); name your own with --data folder:DIR"


@dataclass(frozen=True, eq=False)
class Part:
    """One split: the positions `index` (int64, in a seeded order) in `store`."""

    store: Store
    index: Tensor

    @property
    def labels(self) -> Tensor:
        """int64 [n], in the order of `index`."""
        return self.store.labels[self.index]


@dataclass(frozen=True, eq=False)
class Data:
    """An opened data set; make one with open_data.

    Attributes:
        name: the data spec, such as "digits" or "folder:photos".
        class_names: in the order of the labels.
        in_chans, img_size: images are float32 [in_chans, img_size, img_size].
        norm: x = (pixel / 255 - mean) / std, per channel.
        seed: of splits, order and augmentation.
    """

    name: str
    class_names: list[str]
    in_chans: int
    img_size: int
    norm: Normalisation
    seed: int
    parts: Mapping[str, Part] = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        return self.norm.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.norm.std

    @property
    def num_train(self) -> int:
        return len(self.parts["train"].index)

    @property
    def num_selection(self) -> int:
        return len(self.parts["selection"].index)

    @property
    def num_test(self) -> int:
        return len(self.parts["test"].index)

    def num_train_batches(self, batch_size: int, world_size: int = 1) -> int:
        """How many batches train_batches yields from the start of an epoch: num_train // (batch_size * world_size).

        A last incomplete batch is dropped, unless it is the only one. `batch_size` is that of one process.

        Raises:
            UsageError: batch_size is below 1.
            DataError: no process would get more than one image in its only batch (BatchNorm needs two).
        """
        if batch_size < 1:
            raise UsageError(f"a batch size of {batch_size}; expected 1 or more", "set --batch-size")
        share = self.num_train // world_size
        if share < 2:
            raise DataError(
                f"{self.name}: {self.num_train} training images for {world_size} processes: the only batch would "
                f"hold {min(share, 1)} image, and BatchNorm needs two",
                "raise --limit-train or add images",
            )
        return max(1, share // batch_size)

    def train_batches(
        self,
        epoch: int,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """The training images once, shuffled and augmented.

        Batch b of all processes together holds the images order[b * B : (b + 1) * B] for B = batch_size * world_size,
        and this process has those whose number in the order is rank modulo world_size; how an image is augmented
        depends on (seed, epoch, its number) only. So the global batches are the same for every number of processes.

        Args:
            epoch: which one; order and augmentation depend on (seed, epoch) only.
            batch_size: images a batch, per process.
            rank, world_size: this process takes every world_size-th image, beginning with the rank-th; all get
                equally many.
            start: how many batches to leave out at the beginning. Their images are not read, and the others are bit
                for bit what the whole epoch yields there.

        Returns:
            An iterator of (x float32 [B, C, H, W], normalised; y int64 [B]), both on `device`. In the place of an image
            that cannot be read stands the next one in the order that can (see `corrupt`).

        Raises:
            UsageError, DataError: as num_train_batches does, at once; DataError while iterating if more than 1 % of
                the images, and more than 10, cannot be read.
        """
        batches = self.num_train_batches(batch_size, world_size)
        if start >= batches:
            return iter(())
        part, key = self.parts["train"], f"{self.seed}/epoch/{epoch}"
        order = part.index[torch.randperm(self.num_train, generator=generator_from(key + "/order"))]
        take = torch.arange(rank, self.num_train, world_size)[: min(batches * batch_size, self.num_train // world_size)]
        rest = Epoch(order, take[start * batch_size :], key)
        return part.store.train_batches(rest, batch_size, torch.device(device), self.norm)

    def eval_batches(
        self,
        split: Split,
        batch_size: int,
        device: torch.device | str = "cpu",
        limit: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        positions: Tensor | None = None,
    ) -> Iterator[Batch]:
        """The images of a split once, not augmented, always in the same order; the last batch may be smaller.

        This process takes every world_size-th image, beginning with the rank-th. With `positions`, int64, it is the
        images at those places of the order instead, in the order given.

        The order is shuffled once by the seed, so that the first `limit` images are a fair sample, and a larger
        limit adds to those of a smaller one. Images that cannot be read are left out (see `corrupt`).

        Returns:
            An iterator of (x float32 [B, C, H, W], normalised; y int64 [B]), both on `device`.

        Raises:
            DataError: while iterating, if more than 1 % of the images, and more than 10, cannot be read.
        """
        if batch_size < 1:
            raise UsageError(f"a batch size of {batch_size}; expected 1 or more", "set --batch-size")
        if limit is not None and limit < 1:
            raise UsageError(f"a limit of {limit} images; expected 1 or more", "leave the limit out for all images")
        part = self.parts[split]
        index = part.index[:limit][rank::world_size] if positions is None else part.index[positions]
        return part.store.eval_batches(index, batch_size, torch.device(device), self.norm, split=part.index)

    def readable(self, split: Split) -> Tensor:
        """Positions, int64, of a split's images that can be read; sets of files are read once for that.

        Raises:
            DataError: more than 1 % of the images, and more than 10, cannot be read.
        """
        part = self.parts[split]
        if part.store.unreadable is None:
            return torch.arange(len(part.index))
        for _ in self.eval_batches(split, SCAN_BATCH):
            pass
        return (~part.store.unreadable[part.index]).nonzero()[:, 0]

    @property
    def corrupt(self) -> dict[str, list[str]]:
        """Names of the images that this process, or its loader's workers, could not read so far, by split.

        With those of the other processes after `share_unreadable`.

        Splits without any are left out. Sets in memory know theirs from the beginning.
        """
        found: dict[str, list[str]] = {}
        for split, part in self.parts.items():
            known = {name for names in found.values() for name in names}  # splits may share a store
            if names := [name for name in part.store.corrupt(part.index) if name not in known]:
                found[split] = names
        return found

    def share_unreadable(self, over_all: Callable[[Tensor], Tensor]) -> None:
        """Let `corrupt` name what any process could not read; every process has to call this.

        Args:
            over_all: bool [N] of this process -> where it is set in any process.
        """
        masks = {id(part.store): part.store.unreadable for part in self.parts.values()}  # splits may share a store
        for mask in masks.values():
            if mask is not None:
                mask |= over_all(mask)

    def probe(self, n: int) -> Tensor:
        """The first `n` selection images (fewer if there are fewer), normalised float32 [n, C, H, W] on the CPU."""
        for limit in (n, None):  # the first n may all be unreadable
            for images, _ in self.eval_batches("selection", n, limit=limit):
                return images
        raise DataError(f"{self.name}: no selection image can be read", "replace them or remove them")

    def describe(self) -> dict[str, Any]:
        """What run.json keeps, JSON-ready.

        `sha256` holds a hash for each split, over its positions and labels in their order (little-endian int64) and the
        fingerprint of its images: it changes when the images, the seed or the share do. `corrupt` is there if an image
        could not be read so far.
        """
        digests = {}
        for name, part in self.parts.items():
            digest = hashlib.sha256()
            for values in (part.index, part.labels):
                digest.update(values.numpy().astype("<i8").tobytes())
            digest.update(part.store.fingerprint(part.index))
            digests[name] = digest.hexdigest()
        return {
            "spec": self.name,
            **self.about,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "in_chans": self.in_chans,
            "img_size": self.img_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "num_train": self.num_train,
            "num_selection": self.num_selection,
            "num_test": self.num_test,
            "seed": self.seed,
            "sha256": digests,
            **({"corrupt": self.corrupt} if self.corrupt else {}),
        }


def open_data(
    spec: str,
    *,
    data_dir: Path | None = None,
    selection: float = SELECTION,
    limit_train: int | None = None,
    seed: int = 0,
    img_size: int | None = None,
    in_chans: int | None = None,
    augmentation: Augmentation | None = None,
    workers: int | None = None,
    memory_limit: int = 2**30,
) -> Data:
    """Finds, checks and splits a data set; downloads nothing but what hfds/NAME asks the Hub for.

    Args:
        spec: digits, folder:DIR (or an existing folder), wds/DIR (tar shards), torch/NAME, or hfds/NAME.
        data_dir: where torchvision sets lie (default ./data), where the DIR of wds lies, or the cache of hfds.
        selection: share (below 1) or count (1 and more) of training images for the selection split, for sets
            that do not bring one.
        limit_train: train on this many images only, stratified, taken after the cut.
        seed: of splits, order and augmentation.
        img_size: height and width to scale to; None for the set's own (224 for files).
        in_chans: 1 or 3; None for the set's own (3 for files).
        augmentation: of training images, besides crop and flip; the `data` of a recipe is one.
        workers: loader processes for files; None for min(4, CPUs).
        memory_limit: bytes; larger sets are read through a loader.

    Raises:
        UsageError: an unknown spec or an impossible option.
        DataError: the set is missing, damaged, or does not fit the options.
    """
    _check_options(selection, limit_train, img_size, in_chans, workers)
    if workers is None:
        workers = min(4, os.cpu_count() or 1)
    augmentation = augmentation or Augmentation()
    if augmentation.rand_augment:
        file_rand_augment(augmentation.rand_augment, (0.5,))
    source = _open_source(spec, data_dir, Reading(img_size, in_chans, augmentation, workers, memory_limit))
    if len(source.class_names) < 2:
        raise DataError(f"{spec}: only one class, {source.class_names[0]!r}", "classification needs two or more")
    if augmentation.cutout > source.img_size:
        raise UsageError(
            f"data.cutout is {augmentation.cutout}, and the images of {spec} have {source.img_size} pixels a side",
            f"--set data.cutout={source.img_size // 2}",
        )
    members = split_source(source, spec, selection=selection, limit_train=limit_train, seed=seed)
    parts = {
        name: Part(store, index[torch.randperm(len(index), generator=generator_from(f"{seed}/split/{name}"))])
        for name, (store, index) in members.items()
    }
    norm = source.norm
    if norm is None:
        assert isinstance(source.train, ArrayStore)
        norm = source.train.statistics(members["train"][1])
    cut = source.selection is None
    about = {
        "location": None if source.location is None else str(source.location.absolute()),
        "split_rule": "selection cut from train, stratified, by the seed" if cut else "the set's own splits",
        "selection": selection if cut else None,
        "limit_train": limit_train,
        "in_memory": isinstance(source.train, ArrayStore),
    }
    return Data(spec, source.class_names, source.in_chans, source.img_size, norm, seed, parts, about)


def find_data(option: str | None, recipe: str | None, environ: Mapping[str, str], cwd: Path) -> tuple[str, str | None]:
    """Which data set is meant: --data, else the recipe's, else $PGNAS_DATA, else ./data, else digits.

    Returns:
        (spec, notice): the spec, and a line to show if nobody named it.
    """
    named = option or recipe or environ.get("PGNAS_DATA")
    if named:
        is_folder = not _is_known(named) and (cwd / named).is_dir()
        return (f"folder:{named}" if is_folder else named), None
    local = cwd / "data"
    if (local / "train").is_dir() and (local / "val").is_dir():
        return "folder:./data", "no data named: using the folder ./data; name another with --data"
    return "digits", DIGITS_NOTICE


def _is_known(spec: str) -> bool:
    return spec == "digits" or spec.startswith("folder:") or spec.partition("/")[0].lower() in ("torch", *TIMM_PREFIXES)


def _open_source(spec: str, data_dir: Path | None, reading: Reading) -> Source:
    prefix, _, rest = spec.partition("/")
    if spec == "digits":
        return sources.open_digits(reading)
    if spec.startswith("folder:") and len(spec) > len("folder:"):
        return folders.open_folder(Path(spec.removeprefix("folder:")).expanduser(), reading)
    if prefix.lower() == "torch" and rest.lower() in sources.TORCH_SETS:
        return sources.open_torch(rest.lower(), data_dir or Path("data"), reading)
    if prefix.lower() == "wds" and rest:
        return shards.open_shards(spec, data_dir, reading)
    if prefix.lower() == "hfds" and rest:
        return folders.open_hfds(spec, data_dir, reading)
    if prefix.lower() in TIMM_PREFIXES and rest:
        folders.refuse_stream(spec)
    if not _is_known(spec) and Path(spec).is_dir():
        return folders.open_folder(Path(spec), reading)
    known = ["digits", "folder:DIR", "wds/DIR", *(f"torch/{name}" for name in sources.TORCH_SETS)]
    bare = spec.lower().replace("-", "_")
    near = f"torch/{bare}" if bare in sources.TORCH_SETS else nearest(spec, known)
    raise UsageError(
        f"unknown data set {spec!r}" + (f"; did you mean {near}?" if near else ""),
        f"use one of {', '.join(known)}, hfds/NAME",
    )


def _check_options(
    selection: float,
    limit_train: int | None,
    img_size: int | None,
    in_chans: int | None,
    workers: int | None,
) -> None:
    if not selection > 0 or (selection >= 1 and selection != int(selection)):
        raise UsageError(f"a selection of {selection:g}", "give a share such as 0.1, or a whole number of images")
    if limit_train is not None and limit_train < 1:
        raise UsageError(f"--limit-train {limit_train}; expected 1 or more", "leave it out to train on all images")
    if img_size is not None and img_size < 1:
        raise UsageError(f"--img-size {img_size}; expected 1 or more", "leave it out for the set's own size")
    if in_chans not in (None, 1, 3):
        raise UsageError(f"{in_chans} input channels; expected 1 or 3", "leave it out for the set's own")
    if workers is not None and workers < 0:
        raise UsageError(f"{workers} workers; expected 0 or more", "use 0 to read images in this process")
