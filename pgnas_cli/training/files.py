"""Images decoded on the way by timm's loader, with every random draw tied to its place in the epoch."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pgnas_cli.errors import DataError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.augment import file_auto_augment, file_rand_augment
from pgnas_cli.training.erase import cutout, draw_erasing, random_erasing
from pgnas_cli.training.images import UNREADABLE, Images, check_unreadable
from pgnas_cli.training.memory import Batch, Epoch, Normalisation, Store
from pgnas_cli.training.seeds import generator_from, seeded

TINY = 64  # up to this size images are not cropped to a small part nor jittered in colour
LEFT_OUT = -1
"""The label of an evaluation image that cannot be read."""


class ImageList(Dataset[tuple[Tensor, int]]):
    """Images of a set as timm's loader takes them.

    For training, item i is the image at order[take[i]], and everything random in its transform is derived from the
    epoch's key and take[i]: neither workers nor anybody else's use of the global generators changes it. In the place of
    an image that cannot be read comes the next one of the whole epoch's order that can, with its own label.

    For evaluation, item i is the image at shown[i]; one that cannot be read is black and has the label LEFT_OUT.

    Args:
        images: where they are read from.
        labels: int64 [N], of the whole set.
        mode: PIL mode, "RGB" or "L".
        shown: the epoch, or for evaluation int64 [n].
        split: int64 [m], positions of the whole split of which images are shown: what check_unreadable counts.
        unreadable: bool [N], set at the positions that cannot be read; in shared memory where there are workers.
        size: height and width of the black image.

    Raises:
        DataError: on reading, once more images than check_unreadable allows are unreadable.
    """

    transform: Callable[[Image.Image], Tensor]

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        mode: str,
        shown: Epoch | Tensor,
        split: Tensor,
        unreadable: Tensor,
        size: int,
    ) -> None:
        self.images = images
        self.labels = labels
        self.mode = mode
        self.shown = shown
        self.split = split
        self.unreadable = unreadable
        self.size = size

    def __len__(self) -> int:
        return len(self.shown.take if isinstance(self.shown, Epoch) else self.shown)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        if isinstance(self.shown, Tensor):
            position = int(self.shown[item])
            image = self._read(position)
            if image is None:
                return self.transform(Image.new(self.mode, (self.size, self.size))), LEFT_OUT
            return self.transform(image), int(self.labels[position])
        order, place = self.shown.order, int(self.shown.take[item])
        image, step = None, 0
        while image is None:  # ends: _read raises once none of the order can be read
            position = int(order[(place + step) % len(order)])
            image, step = self._read(position), step + 1
        with seeded(f"{self.shown.key}/image/{place}"):
            return self.transform(image), int(self.labels[position])

    def _read(self, position: int) -> Image.Image | None:
        try:
            return self.images.read(position, self.mode)
        except UNREADABLE as error:
            self.unreadable[position] = True
            try:
                found = int(self.unreadable[self.split].sum())
                check_unreadable(found, len(self.split), self.images.name(position))
            except DataError as too_many:
                raise too_many from error
            return None


class FileStore(Store):
    """Encoded images, decoded and scaled by timm's loader.

    Args:
        images: where they are read from.
        labels: int64 [N].
        img_size: height and width of what comes out.
        in_chans: 1 or 3.
        flip: whether a mirrored image is still of its class.
        workers: loader processes; 0 reads in this process. Batches do not depend on it.
        augmentation: of training images, besides crop and flip.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        *,
        img_size: int,
        in_chans: int,
        flip: bool,
        workers: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.img_size = img_size
        self.in_chans = in_chans
        self.flip = flip
        self.workers = workers
        self.augmentation = augmentation or Augmentation()
        self.unreadable: Tensor = torch.zeros(len(labels), dtype=torch.bool)
        if workers:
            self.unreadable.share_memory_()

    def train_batches(
        self, epoch: Epoch, batch_size: int, device: torch.device, norm: Normalisation
    ) -> Iterator[Batch]:
        """timm's random resized crops, flips and, above 64 pixels, colour jitter; what was asked for; see Store."""
        asked, n = self.augmentation, len(epoch.order)
        batches = self._load(self._list(epoch, epoch.order), batch_size, device, norm, self._transform(norm))
        if asked.cutout:
            generator = generator_from(epoch.key + "/cutout")
            centres = torch.randint(0, self.img_size, (n, 2), generator=generator)
        if asked.random_erasing:
            generator = generator_from(epoch.key + "/erasing")
            holes = draw_erasing(n, asked.random_erasing, self.img_size, generator)
        for place, (x, y) in zip(epoch.take.split(batch_size), batches, strict=True):
            if asked.cutout:
                centre_y, centre_x = centres[place].to(device).unbind(1)
                x = cutout(x, centre_y, centre_x, asked.cutout)
            if asked.random_erasing:
                x = random_erasing(x, holes[place])
            yield x, y

    def _transform(self, norm: Normalisation) -> Callable[[Image.Image], Tensor]:
        """timm's training transform of one image, with what the augmentation adds between its crop and its tensor."""
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms import Compose, InterpolationMode, RandomRotation

        asked = self.augmentation
        options: dict[str, Any] = {"scale": (0.8, 1.0), "color_jitter": None} if self.img_size <= TINY else {}
        if asked.rand_augment:  # timm too leaves its own jitter out then
            options["color_jitter"] = None
        if asked.color_jitter is not None:
            options["color_jitter"] = asked.color_jitter or None
        crop, jitter, tensor = create_transform(
            (self.in_chans, self.img_size, self.img_size),
            is_training=True,
            use_prefetcher=True,
            hflip=0.5 if self.flip else 0.0,
            separate=True,
            **options,
        )
        policy: list[Any] = [file_auto_augment(asked.auto_augment)] if asked.auto_augment else []
        if asked.rand_augment:
            policy.append(file_rand_augment(asked.rand_augment, norm.mean))
        turn = [RandomRotation(asked.rotation, interpolation=InterpolationMode.BILINEAR)] if asked.rotation else []
        return Compose([crop, *policy, jitter, *turn, tensor])

    def eval_batches(
        self, index: Tensor, batch_size: int, device: torch.device, norm: Normalisation, *, split: Tensor
    ) -> Iterator[Batch]:
        """Scaled and cropped at the centre as timm does (whole image up to 64 pixels); see Store."""
        for x, y in self._load(self._list(index, split), batch_size, device, norm, None):
            if not self.unreadable.any():
                yield x, y
            elif (there := y != LEFT_OUT).any():
                yield x[there], y[there]

    def fingerprint(self, index: Tensor) -> bytes:
        """Of the files' names below their class folder and sizes; of the number alone where there are no files."""
        digest = hashlib.sha256()
        for position in index.tolist():
            digest.update(f"{self.images.identity(position)}\n".encode())
        return digest.digest()

    def corrupt(self, index: Tensor) -> list[str]:
        """See Store."""
        found = index[self.unreadable[index]].sort().values
        return [self.images.name(position) for position in found.tolist()]

    def _list(self, shown: Epoch | Tensor, split: Tensor) -> ImageList:
        mode = "RGB" if self.in_chans == 3 else "L"
        return ImageList(self.images, self.labels, mode, shown, split, self.unreadable, self.img_size)

    def _load(
        self, images: Any, batch_size: int, device: torch.device, norm: Normalisation, transform: Any
    ) -> Iterator[Batch]:
        from timm.data.loader import create_loader

        if len(images) == 0:
            return
        # The order is already in `images`, so even training loads "for evaluation": no shuffling by the loader.
        loader = create_loader(
            images,
            input_size=(self.in_chans, self.img_size, self.img_size),
            batch_size=batch_size,
            is_training=False,
            mean=norm.mean,
            std=norm.std,
            num_workers=min(self.workers, -(-len(images) // batch_size)),
            crop_pct=1.0 if self.img_size <= TINY else None,
            pin_memory=device.type == "cuda",
            device=device,
            persistent_workers=False,
        )
        if transform is not None:
            images.transform = transform
        loader.loader.generator = generator_from("loader")  # else each pass draws from the global generator
        try:
            yield from loader
        except Exception as error:
            line, from_worker = _last_line(error)
            if not from_worker and not isinstance(error, DataError):
                raise
            # An error that a worker raised keeps the loader's iterator in a reference cycle (torch's reraise), and
            # collecting that stalls for 5 s a worker: let go of it here, where its workers end at once.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, DataError):
                raise DataError(line, error.hint or "replace them or remove them") from error
            raise DataError(f"a loader process failed: {line}", "--workers 0 shows where") from error


def _last_line(error: Exception) -> tuple[str, bool]:
    """The last line of an error's message, and whether a loader's worker raised it.

    Those come wrapped in the worker's traceback (torch's ExceptionWrapper), whose last line is the message itself.
    """
    lines = str(error).strip().splitlines() or [""]
    from_worker = lines[0].startswith("Caught ") and " in DataLoader worker process " in lines[0]
    return lines[-1].removeprefix("pgnas_cli.errors.DataError: "), from_worker
