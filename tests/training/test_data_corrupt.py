"""Images that cannot be read: replaced in training, left out of evaluation, named, and too many of them refused."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgnas_cli.errors import DataError
from pgnas_cli.training.data import Data, open_data

IN_MEMORY, BY_LOADER = 16, 24  # the files have 16 pixels a side


def write_folder(root: Path, n: int = 12) -> Path:
    for part in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.random.default_rng([k, i]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:03}.png")
    return root


def spoil(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


def opened(root: Path, size: int = BY_LOADER, workers: int = 0, **options) -> Data:
    return open_data(f"folder:{root}", img_size=size, workers=workers, **{"selection": 4, **options})


def whole(batches) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


def in_train(data: Data, n: int) -> list[Path]:
    """Files of the first n training images of the set's order."""
    part = data.parts["train"]
    return [Path(part.store.images.name(int(position))) for position in part.index[:n]]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_with_the_next_image_that_can_be_read(folder: Path, workers: int) -> None:
    x, y = whole(opened(folder).train_batches(1, 20))
    broken = in_train(opened(folder), 2)
    spoil(*broken)
    data = opened(folder, workers=workers)
    assert data.corrupt == {}
    x_found, y_found = whole(data.train_batches(1, 5))
    assert data.corrupt == {"train": sorted(map(str, broken))}
    assert json.loads(json.dumps(data.describe()))["corrupt"] == data.corrupt
    same = (x == x_found).flatten(1).all(1)
    assert sorted((~same).nonzero().flatten().tolist()) == sorted(changed(data, broken))
    for place in (~same).nonzero().flatten().tolist():
        after = next(p % 20 for p in range(place + 1, place + 20) if same[p % 20])
        assert y_found[place] == y[after]
    x_again, _ = whole(data.train_batches(1, 4, start=2))  # entered later, in other batches: the same
    assert torch.equal(x_again, x_found[8:])
    shares = [whole(data.train_batches(1, 5, rank=rank, world_size=2))[0] for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), x_found)


def changed(data: Data, broken: list[Path]) -> list[int]:
    """The places of epoch 1 where the broken images stand."""
    from pgnas_cli.training.seeds import generator_from

    part = data.parts["train"]
    order = part.index[torch.randperm(len(part.index), generator=generator_from(f"{data.seed}/epoch/1/order"))]
    names = [part.store.images.name(int(position)) for position in order]
    return [names.index(str(path)) for path in broken]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_them_out_and_the_count_says_so(folder: Path, workers: int) -> None:
    broken = [folder / "val" / "dog" / "003.png", folder / "val" / "cat" / "007.png"]
    x, _ = whole(opened(folder).eval_batches("test", 5))
    spoil(broken[0])
    broken[1].unlink()
    broken[1].touch()
    data = opened(folder, workers=workers)
    for size in (1, 5):
        x_found, y_found = whole(data.eval_batches("test", size))
        assert len(x_found) == len(y_found) == 22
        assert int((x_found[:, None] == x[None]).flatten(2).all(2).sum()) == 22
    assert data.corrupt == {"test": sorted(map(str, broken))}


def test_an_image_that_has_gone_is_one_that_cannot_be_read(folder: Path) -> None:
    data = opened(folder)
    (folder / "val" / "dog" / "003.png").unlink()
    assert len(whole(data.eval_batches("test", 8))[0]) == 23
    assert data.corrupt == {"test": [str(folder / "val" / "dog" / "003.png")]}


def test_sets_in_memory_know_theirs_from_the_beginning(folder: Path) -> None:
    broken = [folder / "train" / "dog" / "003.png", folder / "val" / "cat" / "007.png"]
    before = opened(folder, IN_MEMORY).describe()
    spoil(*broken)
    data = opened(folder, IN_MEMORY)
    assert before["in_memory"]
    assert data.describe()["in_memory"]
    assert data.corrupt == {"train": [str(broken[0])], "test": [str(broken[1])]}
    assert data.num_train + data.num_selection == 23
    assert data.num_test == 23
    assert "corrupt" not in before


@pytest.mark.parametrize(("size", "workers"), [(IN_MEMORY, 0), (BY_LOADER, 0), (BY_LOADER, 2)])
def test_too_many_are_an_error_of_one_line(folder: Path, size: int, workers: int) -> None:
    spoil(*sorted((folder / "val" / "dog").iterdir())[:11])
    start = time.monotonic()
    with pytest.raises(
        DataError, match=rf"11 of 24 images cannot be read, such as {folder}/val/dog/0..\.png"
    ) as caught:
        list(opened(folder, size, workers).eval_batches("test", 4))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    del caught
    gc.collect()
    assert time.monotonic() - start < 5  # a loader caught in a reference cycle stalls for 5 s a worker


@pytest.mark.parametrize("workers", [0, 1])
def test_all_of_a_share_may_be_unreadable_but_not_all_of_the_split(folder: Path, workers: int) -> None:
    part = opened(folder, selection=8).parts["selection"]
    paths = [Path(part.store.images.name(int(position))) for position in part.index]
    spoil(*paths[:2])
    data = opened(folder, workers=workers, selection=8)
    assert list(data.eval_batches("selection", 4, limit=2)) == []
    assert list(data.eval_batches("selection", 4, rank=1, world_size=8)) == []
    assert len(data.probe(2)) == 2
    assert len(data.probe(3)) == 1  # two of the first three are left out
    spoil(*paths[2:])
    with pytest.raises(DataError, match="8 of 8 images cannot be read"):
        opened(folder, workers=workers, selection=8).probe(2)


def test_ten_are_not_too_many(folder: Path) -> None:
    spoil(*sorted((folder / "val" / "dog").iterdir())[:10])
    assert len(whole(opened(folder).eval_batches("test", 4))[0]) == 14


def test_a_training_split_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, n=3)
    data = opened(tmp_path, selection=2)
    spoil(*in_train(data, 4))
    with pytest.raises(DataError, match="4 of 4 images cannot be read"):
        list(data.train_batches(0, 2))
