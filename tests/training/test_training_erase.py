"""Random erasing and RandAugment, for images in memory and image files: timm's, drawn for each image by itself."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_transform
from timm.data.random_erasing import RandomErasing

from pgnas_cli.errors import DataError, UsageError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.augment import file_rand_augment, operations
from pgnas_cli.training.data import Data, open_data
from pgnas_cli.training.erase import draw_erasing, random_erasing
from pgnas_cli.training.seeds import seeded

ERASING = Augmentation(random_erasing=0.6)
RAND = Augmentation(rand_augment="rand-m9-mstd0.5")
EACH = (ERASING, RAND, Augmentation(random_erasing=1.0, rand_augment="rand-m5-n3-inc1", cutout=3, rotation=9.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(batches) -> torch.Tensor:
    return torch.cat([x for x, _ in batches])


# ---- random erasing ----


def test_rectangles_are_drawn_as_timm_draws_them() -> None:
    n, size = 4000, 32
    drawn = draw_erasing(n, 0.25, size, generator())
    top, left, height, width, seeds = drawn.unbind(1)
    there = height > 0
    assert abs(there.float().mean() - 0.25) < 0.03
    assert torch.equal(there, width > 0)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size).all()
    assert (left + width <= size).all()
    assert len(seeds.unique()) == n
    random.seed(0)
    theirs = RandomErasing(1.0, mode="const", device="cpu")
    holes = [theirs(torch.ones(1, size, size))[0] == 0 for _ in range(2000)]
    ours = height[there] * width[there]
    assert abs(ours.float().mean() - torch.stack([h.sum() for h in holes]).float().mean()) < 0.03 * size**2 / 3
    their_sides = torch.stack([h.any(1).sum() for h in holes]).float()
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    assert (height[there].float().quantile(quantiles) - their_sides.quantile(quantiles)).abs().max() <= 2


def test_only_the_rectangle_becomes_noise() -> None:
    x = torch.full((300, 3, 24, 24), 7.0)
    drawn = draw_erasing(300, 0.5, 24, generator())
    found = random_erasing(x, drawn)
    noise = []
    for image, (top, left, height, width, _) in zip(found, drawn.tolist(), strict=True):
        hole = torch.zeros(24, 24, dtype=torch.bool)
        hole[top : top + height, left : left + width] = bool(height)
        assert torch.equal((image != 7).any(0), hole)
        noise.append(image[:, hole].flatten())
    pixels = torch.cat(noise)
    assert abs(pixels.mean()) < 0.02
    assert abs(pixels.std() - 1) < 0.02
    assert (x == 7).all()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_tiny_images_are_erased_within_their_border(size: int) -> None:
    drawn = draw_erasing(200, 1.0, size, generator())
    assert (drawn[:, 2:4] < size).all() or not drawn[:, 2:4].any()
    assert random_erasing(torch.ones(200, 1, size, size), drawn).isfinite().all()


# ---- RandAugment ----


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_does_to_each_image_what_timm_does(channels: int) -> None:
    x = torch.randint(0, 256, (30, channels, 16, 16), generator=generator(), dtype=torch.uint8)
    mean = (0.2, 0.4, 0.6)[:channels]
    ((operation, draws),) = operations(RAND, 30, "key", mean)
    found = operation(x[10:], draws[10:])
    theirs = rand_augment_transform(RAND.rand_augment, {"img_mean": (51, 102, 153)[:channels]})
    for place in range(10, 30):
        with seeded(f"key/rand_augment/{place}"):
            image = theirs(Image.fromarray(x[place].permute(1, 2, 0).numpy().squeeze()))
        assert np.array_equal(found[place - 10].permute(1, 2, 0).numpy().squeeze(), np.array(image))
    assert found.shape == (20, channels, 16, 16)
    assert 3 < (found != x[10:]).flatten(1).any(1).sum() < 20


def test_a_spec_that_timm_does_not_know_is_refused_when_the_set_is_opened() -> None:
    with pytest.raises(UsageError, match=r"data\.rand_augment is 'rand-q9'") as caught:
        open_data("digits", augmentation=Augmentation(rand_augment="rand-q9"))
    assert "rand-m9-mstd0.5" in caught.value.hint


@pytest.mark.parametrize("spec", ["rand-m10-inc1", "rand-m2", "rand-m9-mstd0.5-inc1"])
def test_posterize_keeps_a_bit_at_every_level(spec: str) -> None:
    """Pillow 13 raises where timm asks for none."""
    before = dict(LEVEL_TO_ARG)
    [ours] = [op for op in file_rand_augment(spec, (0.5,)).ops if op.name.startswith("Posterize")]
    [theirs] = [op for op in rand_augment_transform(spec).ops if op.name.startswith("Posterize")]
    bits = [(ours.level_fn(level, {})[0], theirs.level_fn(level, {})[0]) for level in range(11)]
    assert all(found == max(1, wanted) for found, wanted in bits)
    assert min(wanted for _, wanted in bits) == 0
    assert before == LEVEL_TO_ARG


# ---- epochs ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    for part in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(7):
                pixels = np.random.default_rng([k, i]).integers(0, 256, (30, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def in_memory(options: Augmentation, in_chans: int) -> Data:
    return open_data("digits", limit_train=12, img_size=16, in_chans=in_chans, augmentation=options)


def files(root: Path, options: Augmentation, in_chans: int, workers: int = 0) -> Data:
    sizes = {"img_size": 24, "in_chans": in_chans, "selection": 2}
    return open_data(f"folder:{root}", augmentation=options, workers=workers, **sizes)


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("options", EACH)
def test_epochs_depend_on_seed_epoch_and_place_only(folder: Path, options: Augmentation, in_chans: int) -> None:
    from_files = functools.partial(files, folder)
    for opened in (in_memory, from_files):
        data = opened(options, in_chans)
        x = whole(data.train_batches(5, 12))
        assert x.shape[:2] == (12, in_chans)
        before = torch.get_rng_state(), random.getstate()
        assert torch.equal(whole(opened(options, in_chans).train_batches(5, 3)), x)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        for rank in range(2):
            assert torch.equal(whole(data.train_batches(5, 3, rank=rank, world_size=2)), x[rank::2])
        assert not torch.equal(whole(data.train_batches(4, 12)), x)
        assert not torch.equal(whole(opened(Augmentation(), in_chans).train_batches(5, 12)), x)
    if in_chans == 3:
        assert torch.equal(
            whole(from_files(options, 3, workers=2).train_batches(5, 4)),
            whole(from_files(options, 3).train_batches(5, 4)),
        )


def test_erasing_leaves_the_rest_of_the_image_as_it_was(folder: Path) -> None:
    for opened in (
        lambda options: in_memory(options, 3),
        lambda options: files(folder, options, 3),
    ):
        plain, erased = [whole(opened(options).train_batches(0, 6)) for options in (Augmentation(), ERASING)]
        holes = (plain != erased).any(1)
        count = holes.flatten(1).any(1).sum()
        assert 2 <= count <= 11
        sides = torch.stack([holes.any(2).sum(1), holes.any(1).sum(1)])
        assert (holes.flatten(1).sum(1) == sides.prod(0)).all()  # rectangles


@pytest.mark.parametrize(("options", "jitter"), [({}, False), ({"color_jitter": 0.2}, True)])
def test_rand_augment_replaces_the_usual_jitter_of_files_but_not_one_that_was_asked_for(
    folder: Path, options: dict, jitter: bool
) -> None:
    asked = Augmentation(rand_augment="rand-m9", **options)
    data = open_data(f"folder:{folder}", img_size=72, augmentation=asked)
    steps = str(data.parts["train"].store._transform(data.norm))
    assert "RandAugment" in steps
    assert ("ColorJitter" in steps) == jitter


@pytest.mark.parametrize("spec", ["rand-m10-inc1", "rand-m2", "rand-m9-mstd0.5-inc1"])
def test_every_image_of_some_epochs_can_be_augmented(folder: Path, spec: str) -> None:
    options = Augmentation(rand_augment=spec)
    for data, epochs in (
        (open_data("digits", augmentation=options, limit_train=100), 1),
        (files(folder, options, 3), 10),
    ):
        x = torch.cat([whole(data.train_batches(epoch, 10)) for epoch in range(epochs)])
        assert len(x) >= 100
        assert x.isfinite().all()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_in_a_loader_process_is_one_line(folder: Path, workers: int, monkeypatch) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise ValueError("no such thing")

    monkeypatch.setattr("pgnas_cli.training.files.file_rand_augment", lambda *given: fail)
    with pytest.raises(DataError if workers else ValueError, match="no such thing") as caught:
        whole(files(folder, RAND, 3, workers).train_batches(0, 5))
    assert "\n" not in str(caught.value)
    assert not workers or str(caught.value) == "a loader process failed: ValueError: no such thing"
