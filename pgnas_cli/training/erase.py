"""What blanks a part of a training image after it is normalised: cutout and random erasing.

Shapes: n places of an epoch, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10


def cutout(x_BCHW: Tensor, centre_y: Tensor, centre_x: Tensor, size: int) -> Tensor:
    """Sets a square of `size` x `size` pixels of every image to 0 (DeVries and Taylor, 2017, arXiv:1708.04552).

    The square of image b is centred at (centre_y[b], centre_x[b]), int64 [B], and clipped at the border.
    """
    H, W = x_BCHW.shape[-2:]
    rows = torch.arange(H, device=x_BCHW.device)[None, :] - centre_y[:, None] + size // 2
    columns = torch.arange(W, device=x_BCHW.device)[None, :] - centre_x[:, None] + size // 2
    hole = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    return x_BCHW.masked_fill(hole[:, None], 0.0)


def draw_erasing(n: int, probability: float, size: int, generator: torch.Generator) -> Tensor:
    """int64 [n, 5]: top, left, height and width of each image's rectangle, and the seed of its noise.

    With the given probability a rectangle has an area uniform in 2 % to 33 % of the image and a log-uniform aspect
    ratio in 0.3 to 3.3, rounded to pixels and drawn again (up to ten times in all) while it does not lie strictly
    inside; it stands anywhere with equal probability. Otherwise height and width are 0. As in timm.

    Args:
        size: height and width of the images.
    """
    wanted = torch.rand(n, generator=generator) < probability
    sides = torch.zeros(2, n, dtype=torch.int64)
    for _ in range(ATTEMPTS):
        area = torch.empty(n).uniform_(*AREA, generator=generator) * size**2
        aspect = torch.empty(n).uniform_(math.log(ASPECT[0]), math.log(ASPECT[1]), generator=generator).exp()
        drawn = torch.stack(((area * aspect).sqrt(), (area / aspect).sqrt())).round().long()
        fits = wanted & (drawn < size).all(0)
        sides[:, fits] = drawn[:, fits]
        wanted &= ~fits
    corner = (torch.rand(2, n, generator=generator, dtype=torch.float64) * (size - sides + 1)).long()
    seeds = torch.randint(2**62, (n,), generator=generator)
    return torch.stack((*corner, *sides, seeds), 1)


def random_erasing(x_BCHW: Tensor, draws_B5: Tensor) -> Tensor:
    """Fills each image's rectangle with standard normal noise, one value for every pixel and channel.

    Zhong et al., Random Erasing Data Augmentation, AAAI 2020, with timm's mode "pixel".

    Args:
        x_BCHW: normalised images.
        draws_B5: rows of `draw_erasing`, on the CPU, where the noise is drawn too: it depends on nothing else.
    """
    x, generator = x_BCHW.clone(), torch.Generator()
    for image, (top, left, height, width, seed) in zip(x, draws_B5.tolist(), strict=True):
        if height and width:
            noise = torch.randn(x.shape[1], height, width, generator=generator.manual_seed(seed))
            image[:, top : top + height, left : left + width] = noise.to(x.device, x.dtype)
    return x
