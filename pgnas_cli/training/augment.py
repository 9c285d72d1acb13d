"""Augmentation besides crop and flip: AutoAugment, RandAugment, colour jitter and rotation of images in memory.

An operation takes uint8 images [B, C, H, W] (C is 1 or 3) with its own draws, one row per image, and returns uint8
images of that shape. Draws are made for a whole epoch on the CPU, and no image sees another: what becomes of an image
depends on its draws alone.

Shapes: n places of an epoch, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.seeds import generator_from, seeded

if TYPE_CHECKING:
    from torchvision.transforms import AutoAugment

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, what PIL's convert("L") uses

Operation = Callable[[Tensor, Tensor], Tensor]
"""(uint8 images [B, C, H, W], draws [B, ...]) -> uint8 images of the same shape."""


def operations(
    options: Augmentation, n: int, key: str, mean: Sequence[float] = (0.5,)
) -> list[tuple[Operation, Tensor]]:
    """What is done to the images of an epoch before they are cropped, in this order, each with its draws [n, ...].

    Args:
        options: which operations, and how strong.
        n: places of the epoch.
        key: what the draws are derived from.
        mean: of the pixels, for each channel, in [0, 1]: what RandAugment fills with.
    """
    found: list[tuple[Operation, Tensor]] = []
    if options.auto_augment:
        operation = functools.partial(auto_augment, policy=options.auto_augment)
        found.append((operation, draw_auto_augment(n, options.auto_augment, generator_from(f"{key}/auto_augment"))))
    if options.rand_augment:
        transform = file_rand_augment(options.rand_augment, mean)
        operation = functools.partial(rand_augment, transform=transform, key=f"{key}/rand_augment")
        found.append((operation, torch.arange(n)))
    if options.color_jitter:
        found.append((color_jitter, draw_color_jitter(n, options.color_jitter, generator_from(f"{key}/color_jitter"))))
    if options.rotation:
        angles = (2 * torch.rand(n, generator=generator_from(f"{key}/rotation")) - 1) * options.rotation
        found.append((rotate, angles))
    return found


# ---- AutoAugment ----


def policies(policy: str) -> list[tuple[tuple[str, float, int | None], ...]]:
    """The 25 pairs of (operation, probability, magnitude of 10) of a policy, as torchvision has them.

    Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019.
    """
    pairs: list[tuple[tuple[str, float, int | None], ...]] = file_auto_augment(policy).policies
    return pairs


def file_auto_augment(policy: str) -> AutoAugment:
    """torchvision's own AutoAugment, which draws from torch's default generator: for images that come one by one."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return AutoAugment(AutoAugmentPolicy(policy))


def draw_auto_augment(n: int, policy: str, generator: torch.Generator) -> Tensor:
    """int64 [n, 2]: for the first and the second operation of each image's pair 2 * pair + sign, or -1 for none.

    Every image draws one of the pairs, whether each of its two operations happens, and their signs.
    """
    pairs = policies(policy)
    pair = torch.randint(len(pairs), (n,), generator=generator)
    happens = torch.rand(n, 2, generator=generator) < torch.tensor([[p for _, p, _ in ops] for ops in pairs])[pair]
    sign = torch.randint(2, (n, 2), generator=generator)
    return torch.where(happens, 2 * pair[:, None] + sign, -1)


def auto_augment(images_BCHW: Tensor, draws_B2: Tensor, *, policy: str) -> Tensor:
    """Both operations of each image's pair. Grey images stay grey: "Color" leaves them as they are.

    Images that drew the same operation are computed together, which changes none of them.

    Args:
        images_BCHW: uint8.
        draws_B2: rows of `draw_auto_augment`, on the CPU.
        policy: "cifar10", "imagenet" or "svhn".
    """
    result = images_BCHW.clone()
    for slot in (0, 1):
        drawn = draws_B2[:, slot]
        for code in drawn.unique().tolist():
            if code >= 0:
                where = (drawn == code).nonzero()[:, 0].to(result.device)
                result[where] = _operation(policy, code // 2, slot, code % 2)(result[where])
    return result


@functools.cache
def _operation(policy: str, pair: int, slot: int, sign: int) -> Callable[[Tensor], Tensor]:
    """One operation of a policy at a given sign: torchvision's AutoAugment with nothing left to draw."""
    module = file_auto_augment(policy)
    name, _, magnitude = module.policies[pair][slot]
    module.policies = [((name, 1.0, magnitude),)]
    drawn = 0, torch.zeros(1), torch.tensor([sign])
    module.get_params = lambda transform_num: drawn
    return module


# ---- RandAugment ----


def file_rand_augment(spec: str, mean: Sequence[float]) -> Callable[[Image.Image], Image.Image]:
    """timm's own RandAugment, which draws from numpy and random: for images that come one by one.

    Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, CVPR Workshops 2020.

    Args:
        spec: such as "rand-m9-mstd0.5".
        mean: of the pixels, for each channel, in [0, 1]: what an image that was moved is filled with.

    Raises:
        UsageError: timm does not understand the spec.
    """
    from timm.data.auto_augment import rand_augment_transform

    fill = tuple(min(255, round(255 * value)) for value in mean)
    try:
        transform = rand_augment_transform(spec, {"img_mean": fill})
    except (AssertionError, ValueError) as error:
        raise UsageError(
            f"data.rand_augment is {spec!r}, which timm does not understand", "--set data.rand_augment=rand-m9-mstd0.5"
        ) from error
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = functools.partial(_bits_to_keep, operation.level_fn)
    found: Callable[[Image.Image], Image.Image] = transform
    return found


def _bits_to_keep(level_fn: Callable[[float, Any], tuple[int]], level: float, hparams: Any) -> tuple[int]:
    """What timm's `level_fn` asks for, but 1 or more: Pillow 13 refuses none, which made a black image before."""
    return (max(1, *level_fn(level, hparams)),)


def rand_augment(images_BCHW: Tensor, place_B: Tensor, *, transform: Callable[[Any], Any], key: str) -> Tensor:
    """timm's RandAugment of each image, through PIL, every draw derived from `key` and the image's place.

    Args:
        images_BCHW: uint8, C is 1 or 3.
        place_B: int64, place of each image in the epoch.
        transform: of file_rand_augment.
    """
    pixels = images_BCHW.cpu().permute(0, 2, 3, 1).numpy()
    found = []
    for image_HWC, place in zip(pixels, place_B.tolist(), strict=True):
        with seeded(f"{key}/{place}"):
            image = transform(Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC))
        found.append(np.asarray(image).reshape(image_HWC.shape))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous().to(images_BCHW.device)


# ---- colour ----


def draw_color_jitter(n: int, strength: float, generator: torch.Generator) -> Tensor:
    """float32 [n, 3, 2]: in the order of their use, (which, factor); which is 0 brightness, 1 contrast, 2 saturation.

    Factors are uniform in [max(0, 1 - strength), 1 + strength], orders uniform among the six.
    """
    low = max(0.0, 1.0 - strength)
    factors = low + (1.0 + strength - low) * torch.rand(n, 3, generator=generator)
    which = torch.rand(n, 3, generator=generator).argsort(1)
    return torch.stack((which.float(), factors), 2)


def color_jitter(images_BCHW: Tensor, draws_B32: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in each image's own order: three times

        x <- factor * x + (1 - factor) * y, rounded and clipped to 0..255

    where y is 0 for brightness, the mean of the grey image for contrast, and the grey image for saturation (so that a
    grey image stays as it is). torchvision's ColorJitter without hue, except that this rounds where that cuts off.

    Args:
        images_BCHW: uint8.
        draws_B32: rows of `draw_color_jitter`.
    """
    x = images_BCHW.float()
    for drawn_B2 in draws_B32.to(x.device).unbind(1):
        which, factor = drawn_B2[:, :, None, None, None].unbind(1)
        grey = _grey(x)
        # a sum of whole numbers: the same in every order of addition, thus on every device and in every batch
        mean = (grey.long().sum((1, 2, 3), keepdim=True) / grey[0].numel()).float()
        other = torch.where(which == 0, torch.zeros_like(grey), torch.where(which == 1, mean, grey))
        x = (factor * x + (1 - factor) * other).round_().clamp_(0, 255)
    return x.byte()


def _grey(x_BCHW: Tensor) -> Tensor:
    """[B, 1, H, W], whole numbers."""
    if x_BCHW.shape[1] == 1:
        return x_BCHW
    luma = torch.tensor(LUMA, device=x_BCHW.device).view(1, 3, 1, 1)
    return (x_BCHW * luma).sum(1, keepdim=True).round_()


# ---- rotation ----


def rotate(images_BCHW: Tensor, degrees_B: Tensor) -> Tensor:
    """Every image turned counter-clockwise by its own angle about its centre: bilinear, black outside.

    Args:
        images_BCHW: uint8.
        degrees_B: float32.
    """
    B, _, H, W = images_BCHW.shape
    angle = torch.deg2rad(degrees_B.to(images_BCHW.device)).view(B, 1, 1)
    y = (torch.arange(H, device=angle.device) - (H - 1) / 2).view(1, H, 1)
    x = (torch.arange(W, device=angle.device) - (W - 1) / 2).view(1, 1, W)
    # where each pixel comes from, elementwise: a matrix product could depend on the size of the batch
    source_x = angle.cos() * x - angle.sin() * y
    source_y = angle.sin() * x + angle.cos() * y
    grid_BHW2 = torch.stack((source_x * (2 / W), source_y * (2 / H)), 3)
    turned = F.grid_sample(images_BCHW.float(), grid_BHW2, mode="bilinear", align_corners=False)
    return turned.round_().clamp_(0, 255).byte()
