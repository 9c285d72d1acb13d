"""Small image files that are held in memory, and batches that begin in the middle of an epoch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.data import Data, open_data
from pgnas_cli.training.memory import ArrayStore

EVERYTHING = Augmentation(cutout=3, rand_augment="rand-m9-mstd0.5", rotation=5.0, random_erasing=0.5)


def write_folder(root: Path, sides: tuple[int, ...] = (16,), n: int = 12, mode: str = "RGB") -> Path:
    for part in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (sides[i % len(sides)], sides[0], 3)[: 3 if mode == "RGB" else 2]
                pixels = np.random.default_rng([k, i]).integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:03}.png")
    return root


def opened(root: Path, size: int, **options) -> Data:
    return open_data(f"folder:{root}", img_size=size, workers=0, selection=4, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("set"))


@pytest.mark.parametrize(("mode", "in_chans"), [("RGB", 3), ("L", 1), ("RGB", 1), ("L", 3)])
def test_small_files_of_the_wanted_size_are_held_and_evaluate_as_through_the_loader(
    tmp_path: Path, mode: str, in_chans: int
) -> None:
    write_folder(tmp_path, mode=mode)
    held, read = [opened(tmp_path, 16, in_chans=in_chans, memory_limit=limit) for limit in (2**30, 1000)]
    assert isinstance(held.parts["train"].store, ArrayStore)
    assert not read.describe()["in_memory"]
    assert (held.in_chans, held.class_names, held.num_train) == (in_chans, ["cat", "dog"], 20)
    for split in ("train", "selection", "test"):
        pixels = []
        for data in (held, read):
            x, y = (torch.cat(part) for part in zip(*data.eval_batches(split, 5), strict=True))
            mean, std = [torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std)]
            pixels.append(((x * std + mean) * 255).round().int())
            assert len(y) == len(data.parts[split].index)
        assert torch.equal(*pixels)


@pytest.mark.parametrize(
    ("sides", "size", "options"),
    [((16,), 24, {}), ((16, 17), 16, {}), ((72,), 72, {}), ((16,), 16, {"memory_limit": 48 * 16 * 16 * 3 - 1})],
)
def test_other_files_are_read_through_the_loader(tmp_path: Path, sides, size: int, options: dict) -> None:
    assert not opened(write_folder(tmp_path, sides), size, **options).describe()["in_memory"]


def test_the_checksum_of_files_in_memory_is_that_of_their_pixels(tmp_path: Path) -> None:
    before = opened(write_folder(tmp_path), 16).describe()["sha256"]
    path = tmp_path / "val" / "dog" / "003.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    after = opened(tmp_path, 16).describe()["sha256"]
    assert {split for split in before if before[split] != after[split]} == {"test"}


# ---- beginning in the middle, and sharing out ----


def both(folder: Path) -> list[Data]:
    return [opened(folder, size, augmentation=EVERYTHING) for size in (16, 24)]  # in memory, through the loader


def test_an_epoch_entered_in_the_middle_is_the_rest_of_the_whole_one(folder: Path) -> None:
    for data in both(folder):
        batches = list(data.train_batches(3, 6))
        assert len(batches) == data.num_train_batches(6) == 3
        for start in range(5):
            rest = list(data.train_batches(3, 6, start=start))
            assert len(rest) == max(0, 3 - start)
            for (x, y), (x_rest, y_rest) in zip(batches[start:], rest, strict=True):
                assert torch.equal(x, x_rest)
                assert torch.equal(y, y_rest)


def test_the_images_before_the_start_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = opened(folder, 24), []
    images = data.parts["train"].store.images
    monkeypatch.setattr(images, "read", lambda p, m: read.append(p) or type(images).read(images, p, m))
    list(data.train_batches(0, 5, start=3))
    assert len(read) == 5


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_global_batches_are_the_same_for_every_number_of_processes(folder: Path, world_size: int) -> None:
    for data in both(folder):
        batches = list(data.train_batches(2, 10))
        size = 10 // world_size
        assert data.num_train_batches(size, world_size) == len(batches) == 2
        for start in (0, 1):
            for rank in range(world_size):
                share = list(data.train_batches(2, size, rank=rank, world_size=world_size, start=start))
                assert len(share) == 2 - start
                for (x, y), (x_share, y_share) in zip(batches[start:], share, strict=True):
                    assert torch.equal(x_share, x[rank::world_size])
                    assert torch.equal(y_share, y[rank::world_size])


def test_processes_evaluate_each_image_once(folder: Path) -> None:
    data = opened(folder, 16)
    x = torch.cat([x for x, _ in data.eval_batches("test", 24)])
    for rank in range(3):
        share = torch.cat([x for x, _ in data.eval_batches("test", 5, rank=rank, world_size=3)])
        assert torch.equal(share, x[rank::3])


def test_the_fingerprint_of_images_in_memory_is_that_of_their_bytes_in_the_order_of_the_index():
    """Also of images that do not lie in one piece, and of more of them than are hashed at once."""
    images = torch.randint(0, 256, (5000, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)
    store = ArrayStore(images, torch.zeros(5000, dtype=torch.int64), flip=False)
    for index in (torch.randperm(5000, generator=torch.Generator().manual_seed(1)), torch.arange(7)):
        assert store.fingerprint(index) == hashlib.sha256(images[index].numpy().tobytes()).digest()
