"""AutoAugment, colour jitter, rotation and cutout: against torchvision, and drawn for each image by itself."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.augment import (
    auto_augment,
    color_jitter,
    draw_auto_augment,
    draw_color_jitter,
    operations,
    policies,
    rotate,
)
from pgnas_cli.training.data import Data, open_data
from pgnas_cli.training.memory import ArrayStore, Epoch, Normalisation

POLICIES = ("cifar10", "imagenet", "svhn")
EVERYTHING = Augmentation(cutout=3, auto_augment="cifar10", color_jitter=0.5, rotation=10.0)
EACH = (
    Augmentation(auto_augment="imagenet"),
    Augmentation(color_jitter=0.4),
    Augmentation(rotation=30.0),
    Augmentation(cutout=3),
    EVERYTHING,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(channels: int, n: int = 40, size: int = 20) -> Tensor:
    """uint8 [n, C, S, S], smooth, so that an error of half a pixel is not noise."""
    noise = torch.rand(n, channels, size, size, generator=generator())
    return (255 * torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)).byte()


def whole(batches) -> tuple[Tensor, Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


# ---- against torchvision, image by image ----


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_auto_augment_does_to_each_image_what_torchvision_does(policy: str, channels: int) -> None:
    x = images(channels, 200)
    draws = draw_auto_augment(len(x), policy, generator())
    found = auto_augment(x, draws, policy=policy)
    theirs = AutoAugment(AutoAugmentPolicy(policy))
    for image, codes, got in zip(x, draws, found, strict=True):
        pair = int(codes.max()) // 2
        happens = torch.where(codes >= 0, -1.0, 2.0)  # torchvision: drawn at or below its probability
        theirs.get_params = lambda n, pair=pair, happens=happens, codes=codes: (max(pair, 0), happens, codes % 2)
        assert torch.equal(got, theirs(image))
    assert 0.2 < (found == x).flatten(1).all(1).float().mean() < 0.6 or policy != "cifar10"
    assert not torch.equal(found, x)


@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_probabilities_and_signs_are_drawn_as_the_policy_says(policy: str) -> None:
    n, pairs = 50_000, policies(policy)
    draws = draw_auto_augment(n, policy, generator())
    assert len(pairs) == 25
    for index, operation in enumerate(pairs):
        for slot, (_, probability, _) in enumerate(operation):
            count = int(((draws[:, slot] // 2 == index) & (draws[:, slot] >= 0)).sum())
            share = probability / 25
            assert abs(count - n * share) <= 5 * (n * share * (1 - share)) ** 0.5
    signs = draws[draws >= 0] % 2
    assert abs(signs.float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_color_jitter_changes_what_torchvision_changes(channels: int, which: int) -> None:
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)[which]
    x, factors = images(channels), torch.linspace(0.2, 1.9, 40)
    others = [k for k in range(3) if k != which]
    draws = torch.tensor([[[which, f], [others[0], 1.0], [others[1], 1.0]] for f in factors])
    found = color_jitter(x, draws)
    wanted = torch.stack([adjust(image, float(f)) for image, f in zip(x, factors, strict=True)])
    # one level for the rounding, and one for the grey image, which torchvision cuts off too
    assert (found.int() - wanted.int()).abs().max() <= (2 if which and channels == 3 else 1)
    assert torch.equal(found, x) == (which == 2 and channels == 1)


def test_color_jitter_applies_the_three_in_the_order_that_was_drawn() -> None:
    x, steps = images(3), [[2.0, 0.3], [0.0, 1.7], [1.0, 0.5]]
    found = color_jitter(x, torch.tensor([steps] * len(x)))
    one_by_one = x
    for step in steps:
        rest = [[k, 1.0] for k in range(3) if k != step[0]]
        one_by_one = color_jitter(one_by_one, torch.tensor([[step, *rest]] * len(x)))
    assert torch.equal(found, one_by_one)
    assert not torch.equal(found, color_jitter(x, torch.tensor([steps[::-1]] * len(x))))


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_jitter_factors_are_uniform_and_orders_equally_frequent(strength: float) -> None:
    draws = draw_color_jitter(12_000, strength, generator())
    low = max(0.0, 1.0 - strength)
    factors = draws[..., 1]
    assert factors.min() >= low
    assert factors.max() <= 1 + strength
    assert abs(factors.mean() - (low + 1 + strength) / 2) < 0.01 * (1 + strength)
    orders, counts = draws[..., 0].unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 1800


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [20, 21])
def test_rotation_turns_as_torchvision_does(channels: int, size: int) -> None:
    x = images(channels, size=size)
    degrees = torch.linspace(-180, 180, len(x))
    wanted = [TF.rotate(i, float(d), InterpolationMode.BILINEAR) for i, d in zip(x, degrees, strict=True)]
    assert (rotate(x, degrees).int() - torch.stack(wanted).int()).abs().max() <= 1
    assert torch.equal(rotate(x, torch.zeros(len(x))), x)
    assert (rotate(x, torch.full((len(x),), 90.0)).int() - x.rot90(1, (2, 3)).int()).abs().max() <= 1


# ---- draws depend on seed, epoch and place only ----


def test_an_image_does_not_see_its_batch() -> None:
    for channels in (1, 3):
        x = images(channels)
        for options in EACH:
            for operation, draws in operations(options, len(x), "key"):
                found = operation(x, draws)
                for size in (1, 7):
                    parts = [operation(a, b) for a, b in zip(x.split(size), draws.split(size), strict=True)]
                    assert torch.equal(torch.cat(parts), found)


def digits(options: Augmentation, seed: int = 0) -> Data:
    return open_data("digits", limit_train=90, img_size=16, in_chans=3, seed=seed, augmentation=options)


@pytest.mark.parametrize("options", EACH)
def test_epochs_in_memory_repeat_for_every_batch_size_and_number_of_processes(options: Augmentation) -> None:
    data = digits(options)
    x, y = whole(data.train_batches(5, 90))
    torch.rand(3)
    random.random()
    for size in (9, 30):
        x_again, y_again = whole(digits(options).train_batches(5, size))
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    for rank in range(3):
        assert torch.equal(whole(data.train_batches(5, 6, rank=rank, world_size=3))[0], x[rank::3])
    for other in (data.train_batches(4, 90), digits(options, seed=1).train_batches(5, 90)):
        assert not torch.equal(x, whole(other)[0])
    assert not torch.equal(x, whole(digits(Augmentation()).train_batches(5, 90))[0])


def test_what_is_new_leaves_crops_flips_and_cutout_as_they_were() -> None:
    """A run that is resumed with this version goes on with the images of the version that began it."""
    store = ArrayStore(images(3), torch.arange(40), flip=True, augmentation=Augmentation(cutout=4))
    with_jitter = ArrayStore(images(3), torch.arange(40), flip=True, augmentation=Augmentation(cutout=4, rotation=1e-6))
    norm, epoch = Normalisation((0.0,) * 3, (1.0,) * 3), Epoch(torch.arange(40), torch.arange(40), "k")
    plain, turned = [whole(s.train_batches(epoch, 8, torch.device("cpu"), norm))[0] for s in (store, with_jitter)]
    torch.testing.assert_close(plain, turned, atol=1.5 / 255, rtol=0)


def test_operations_leave_the_global_generators_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(digits(EVERYTHING).train_batches(0, 30))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_the_draws_of_one_operation_do_not_depend_on_another() -> None:
    for options in (Augmentation(rotation=10.0), EVERYTHING):
        assert torch.equal(operations(options, 20, "k")[-1][1], operations(Augmentation(rotation=10.0), 20, "k")[0][1])
    assert operations(Augmentation(cutout=3, color_jitter=0.0), 20, "k") == []
    assert [len(operations(options, 20, "k")) for options in EACH] == [1, 1, 1, 0, 3]


def test_grey_images_stay_grey() -> None:
    data = open_data("digits", limit_train=90, augmentation=EVERYTHING)
    assert whole(data.train_batches(0, 30))[0].shape == (90, 1, 8, 8)
    grey = images(1, 200).expand(-1, 3, -1, -1)
    for operation, draws in operations(EVERYTHING, 200, "k"):
        found = operation(grey, draws)
        assert (found.amax(1).int() - found.amin(1).int()).max() <= 1


# ---- image files ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(6):
                coarse = Image.fromarray(rng.integers(60, 200, (6, 6, 3), dtype=np.uint8))
                coarse.resize((30, 30), Image.Resampling.BICUBIC).save(root / part / name / f"{i}.png")
    return root


def files(root: Path, options: Augmentation, workers: int = 0, **sizes: int) -> Data:
    return open_data(f"folder:{root}", img_size=24, selection=2, workers=workers, augmentation=options, **sizes)


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("options", EACH)
def test_epochs_of_files_repeat_for_every_batch_size(folder: Path, options: Augmentation, in_chans: int) -> None:
    data = files(folder, options, in_chans=in_chans)
    x, y = whole(data.train_batches(5, 5))
    assert x.shape == (10, in_chans, 24, 24)
    random.random()
    torch.rand(3)
    x_again, y_again = whole(data.train_batches(5, 2))
    assert torch.equal(x, x_again)
    assert torch.equal(y, y_again)
    for rank in range(2):
        assert torch.equal(whole(data.train_batches(5, 5, rank=rank, world_size=2))[0], x[rank::2])
    assert not torch.equal(x, whole(data.train_batches(4, 5))[0])
    assert not torch.equal(x, whole(files(folder, Augmentation(), in_chans=in_chans).train_batches(5, 5))[0])


def test_epochs_of_files_do_not_depend_on_the_workers(folder: Path) -> None:
    x, _ = whole(files(folder, EVERYTHING).train_batches(1, 5))
    assert torch.equal(x, whole(files(folder, EVERYTHING, workers=2).train_batches(1, 5))[0])


def test_cutout_blanks_the_same_square_of_files_as_of_images_in_memory(folder: Path) -> None:
    plain, cut = [whole(files(folder, a).train_batches(0, 5))[0] for a in (Augmentation(), Augmentation(cutout=8))]
    holes = (cut != plain).any(1)
    assert (cut[holes[:, None].expand_as(cut)] == 0).all()
    sides = torch.stack([holes.any(2).sum(1), holes.any(1).sum(1)])
    assert (holes.flatten(1).sum(1) == sides.prod(0)).all()  # rectangles, clipped at the border
    assert sides.max() <= 8
    assert sides.min() >= 4


def test_jitter_of_files_can_be_switched_off_and_on(folder: Path) -> None:
    """Up to 64 pixels timm's jitter is off by itself; above, None leaves it on and 0 switches it off."""

    def steps(size: int, strength: float | None) -> str:
        data = open_data(f"folder:{folder}", img_size=size, augmentation=Augmentation(color_jitter=strength))
        return str(data.parts["train"].store._transform(data.norm))

    assert "ColorJitter" not in steps(64, None)
    assert "brightness=(0.5, 1.5)" in steps(64, 0.5)
    assert "brightness=(0.6, 1.4)" in steps(72, None)
    assert "ColorJitter" not in steps(72, 0.0)
    assert "brightness=(0.9, 1.1), contrast=(0.9, 1.1), saturation=(0.9, 1.1), hue=None" in steps(72, 0.1)


@pytest.mark.parametrize(
    "options", [{"auto_augment": "v0"}, {"rotation": -1.0}, {"color_jitter": -1.0}, {"cutout": -1}]
)
def test_augmentations_that_are_none_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match=f"data.{next(iter(options))}") as error:
        Augmentation(**options)
    assert error.value.hint
