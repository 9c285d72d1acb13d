"""Images kept in memory as uint8: augmentation and batches without a loader.

Shapes: B images of a batch, C channels, H height, W width, N images of a store.

Every example of a batch gets its own shift and flip. (One shift for the whole batch is cheaper to write, but it
spoils the batch statistics BatchNorm averages, and costs several points of accuracy.)
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.augment import LUMA, operations
from pgnas_cli.training.erase import cutout, draw_erasing, random_erasing
from pgnas_cli.training.seeds import generator_from

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Normalisation:
    """Per-channel `mean` and `std` in units of the full pixel range: x = (pixel / 255 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Epoch:
    """One process's share of a training epoch.

    Attributes:
        order: int64 [n], positions in the store, in the order of the whole epoch (all processes).
        take: int64 [m], which places of `order` this process trains on, in its order.
        key: what all random draws of this epoch are derived from.
    """

    order: Tensor
    take: Tensor
    key: str


class Store(ABC):
    """Images with their labels (int64 [N]), read by position."""

    labels: Tensor
    unreadable: Tensor | None = None
    """bool [N], set at the positions that could not be read so far; None where all images were read at once."""

    @abstractmethod
    def train_batches(
        self, epoch: Epoch, batch_size: int, device: torch.device, norm: Normalisation
    ) -> Iterator[Batch]:
        """Augmented batches (x float32 [B, C, H, W], y int64 [B]) of epoch.order[epoch.take]."""

    @abstractmethod
    def eval_batches(
        self, index: Tensor, batch_size: int, device: torch.device, norm: Normalisation, *, split: Tensor
    ) -> Iterator[Batch]:
        """Batches of the images at `index` (int64 [n]), not augmented, in that order.

        `split` (int64 [m]) are the positions of the whole split that `index` is taken from: among how many images too
        many cannot be read.
        """

    @abstractmethod
    def fingerprint(self, index: Tensor) -> bytes:
        """SHA-256 that changes when the images at `index` (int64 [n]) do, or their order."""

    @abstractmethod
    def corrupt(self, index: Tensor) -> list[str]:
        """Names of the images that could not be read, as far as known: those at `index`, or left out of the store."""


def crop_flip(x_BCHW: Tensor, shift_y: Tensor, shift_x: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Pads with black, then crops every image at its own place and mirrors it if its own `flip` says so.

    out[b, c, i, j] = padded[b, c, i + shift_y[b], j' + shift_x[b]], j' = W - 1 - j where flip[b], else j.

    Args:
        x_BCHW: images, any dtype.
        shift_y, shift_x: int64 [B] in [0, 2 pad]; `pad` keeps the image where it is.
        flip: bool [B].
        pad: pixels of border on each side.

    Returns:
        Images of the same shape and dtype.
    """
    B, C, H, W = x_BCHW.shape
    padded = F.pad(x_BCHW, (pad, pad, pad, pad))
    column = torch.arange(W, device=x_BCHW.device)
    rows_BH = shift_y[:, None] + torch.arange(H, device=x_BCHW.device)
    columns_BW = shift_x[:, None] + torch.where(flip[:, None], W - 1 - column, column)
    place = rows_BH[:, :, None] * (W + 2 * pad) + columns_BW[:, None, :]
    return padded.flatten(2).gather(2, place.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W)


def resize(images: Tensor, size: int, chunk: int = 2048) -> Tensor:
    """uint8 images [N, C, H, W] scaled to [N, C, size, size] (bilinear, antialiased), `chunk` at a time."""
    if images.shape[-2:] == (size, size):
        return images
    parts = [
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        for part in images.split(chunk)
    ]
    return torch.cat(parts)


def to_channels(images: Tensor, in_chans: int, chunk: int = 2048) -> Tensor:
    """uint8 images [N, 1 or 3, H, W] with `in_chans` (1 or 3) channels: grey is repeated, colour becomes luma."""
    channels = images.shape[1]
    if channels == in_chans:
        return images
    if channels == 1:
        return images.repeat(1, in_chans, 1, 1)
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    return torch.cat([(part.float() * luma).sum(1, keepdim=True).round().byte() for part in images.split(chunk)])


class ArrayStore(Store):
    """uint8 images in memory, copied once to every device that asks.

    Args:
        images: uint8 [N, C, S, S].
        labels: int64 [N].
        flip: whether a mirrored image is still of its class.
        augmentation: of training images, besides crop and flip.
        left_out: names of images that could not be read, and so are not among `images`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        flip: bool,
        augmentation: Augmentation | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        assert images.dtype == torch.uint8
        assert len(images) == len(labels)
        self.images = images
        self.labels = labels
        self.flip = flip
        self.augmentation = augmentation or Augmentation()
        self.left_out = list(left_out)
        self.pad = max(1, round(images.shape[-1] / 8))  # 1 for 8 x 8, 4 for 28 x 28 and 32 x 32
        self._resident: dict[torch.device, Batch] = {}

    def statistics(self, index: Tensor, chunk: int = 2048) -> Normalisation:
        """Mean and standard deviation per channel of the images at `index`, rounded to 6 decimals.

        The sums are integers, so the result depends on neither order nor chunk size. A standard deviation
        below 1/255 (a constant channel) becomes 1/255.
        """
        channels = self.images.shape[1]
        total, squares = [torch.zeros(channels, dtype=torch.int64) for _ in range(2)]
        for part in index.split(chunk):
            pixels = self.images[part].int()
            total += pixels.sum((0, 2, 3), dtype=torch.int64)
            squares += pixels.square().sum((0, 2, 3), dtype=torch.int64)
        count = len(index) * self.images[0, 0].numel()
        mean = total.double() / count / 255
        variance = squares.double() / count / 255**2 - mean.square()
        std = variance.clamp_min(0).sqrt().clamp_min(1 / 255)
        return Normalisation(_rounded(mean.tolist()), _rounded(std.tolist()))

    def train_batches(
        self, epoch: Epoch, batch_size: int, device: torch.device, norm: Normalisation
    ) -> Iterator[Batch]:
        """What the augmentation asks for, shifts by up to S / 8 pixels each way, flips where sensible; see Store."""
        # Everything random is drawn here, on the CPU and for the whole epoch: the same on every device, for every
        # batch size, and however many processes share the epoch.
        generator = generator_from(epoch.key + "/augmentation")
        n, size = len(epoch.order), self.images.shape[-1]
        shift_y, shift_x = [torch.randint(0, 2 * self.pad + 1, (n,), generator=generator) for _ in range(2)]
        flip = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        centre_y, centre_x = [torch.randint(0, size, (n,), generator=generator) for _ in range(2)]
        steps = operations(self.augmentation, n, epoch.key, norm.mean)
        erasing = self.augmentation.random_erasing
        holes = draw_erasing(n, erasing, size, generator_from(epoch.key + "/erasing")) if erasing else None
        draws = [t[epoch.take].to(device) for t in (epoch.order, shift_y, shift_x, flip, centre_y, centre_x)]
        images, labels = self._on(device)
        places = epoch.take.split(batch_size)
        for place, index, dy, dx, mirrored, cy, cx in zip(places, *(t.split(batch_size) for t in draws), strict=True):
            pixels = images[index]
            for operation, drawn in steps:
                pixels = operation(pixels, drawn[place])
            x = _normalise(crop_flip(pixels, dy, dx, mirrored, self.pad), norm)
            if self.augmentation.cutout:
                x = cutout(x, cy, cx, self.augmentation.cutout)
            yield (x if holes is None else random_erasing(x, holes[place])), labels[index]

    def eval_batches(
        self, index: Tensor, batch_size: int, device: torch.device, norm: Normalisation, *, split: Tensor
    ) -> Iterator[Batch]:
        """See Store."""
        images, labels = self._on(device)
        for part in index.to(device).split(batch_size):
            yield _normalise(images[part], norm), labels[part]

    def fingerprint(self, index: Tensor) -> bytes:
        """Of the pixels."""
        digest = hashlib.sha256()
        for part in index.split(2048):  # not one copy of all images
            digest.update(self.images[part].flatten().numpy().data)
        return digest.digest()

    def corrupt(self, index: Tensor) -> list[str]:
        """See Store."""
        return self.left_out

    def _on(self, device: torch.device) -> Batch:
        if device not in self._resident:
            self._resident[device] = (self.images.to(device), self.labels.to(device))
        return self._resident[device]


def _normalise(images: Tensor, norm: Normalisation) -> Tensor:
    mean, std = [torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (norm.mean, norm.std)]
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
