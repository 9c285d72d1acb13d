"""Images read from files by timm's loader, with every random draw tied to its place in the epoch."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pgnas_cli.errors import DataError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.augment import file_auto_augment
from pgnas_cli.training.memory import Batch, Epoch, Normalisation, Store, cutout
from pgnas_cli.training.seeds import generator_from, seeded

TINY = 64  # up to this size images are not cropped to a small part nor jittered in colour


class ImageList(Dataset[tuple[Tensor, int]]):
    """The images of `dataset` (timm's or torchvision's) at `index`, in that order.

    Args:
        dataset: map-style, its own transform unset; item i is (PIL image, label).
        index: int64 [n].
        labels: int64 [N], of the whole data set.
        mode: PIL mode, "RGB" or "L".
        epoch: None, or the epoch whose share `index` is: everything random in an image's transform is derived
            from its key and the image's place in it, so that neither workers nor anybody else's use of the
            global generators changes it.
    """

    transform: Callable[[Image.Image], Tensor]

    def __init__(self, dataset: Any, index: Tensor, labels: Tensor, mode: str, epoch: Epoch | None) -> None:
        self.dataset = dataset
        self.index = index
        self.labels = labels
        self.mode = mode
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        position = int(self.index[place])
        image = self._read(position)
        label = int(self.labels[position])
        if self.epoch is None:
            return self.transform(image), label
        with seeded(f"{self.epoch.key}/image/{int(self.epoch.take[place])}"):
            return self.transform(image), label

    def _read(self, position: int) -> Image.Image:
        # Not timm's own __getitem__: it silently puts another image in the place of one that it cannot read.
        try:
            if hasattr(self.dataset, "reader"):
                with self.dataset.reader[position][0] as stream:
                    return Image.open(stream).convert(self.mode)
            return self.dataset[position][0].convert(self.mode)
        except (OSError, SyntaxError) as error:
            raise DataError(f"cannot read the image {self._name(position)}", "replace it or remove it") from error

    def _name(self, position: int) -> str:
        if hasattr(self.dataset, "reader"):
            return str(self.dataset.reader.filename(position, absolute=True))
        samples = getattr(self.dataset, "samples", None)
        return str(samples[position][0]) if samples else f"number {position}"


class FileStore(Store):
    """Image files, decoded and scaled by timm's loader.

    Args:
        dataset: timm's ImageDataset or a torchvision data set, without a transform.
        labels: int64 [N].
        img_size: height and width of what comes out.
        in_chans: 1 or 3.
        flip: whether a mirrored image is still of its class.
        workers: loader processes; 0 reads in this process. Batches do not depend on it.
        augmentation: of training images, besides crop and flip.
    """

    def __init__(
        self,
        dataset: Any,
        labels: Tensor,
        *,
        img_size: int,
        in_chans: int,
        flip: bool,
        workers: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.dataset = dataset
        self.labels = labels
        self.img_size = img_size
        self.in_chans = in_chans
        self.flip = flip
        self.workers = workers
        self.augmentation = augmentation or Augmentation()

    def train_batches(
        self, epoch: Epoch, batch_size: int, device: torch.device, norm: Normalisation
    ) -> Iterator[Batch]:
        """timm's random resized crops, flips and, above 64 pixels, colour jitter; what was asked for; see Store."""
        images = self._images(epoch.order[epoch.take], epoch)
        batches = self._load(images, batch_size, device, norm, self._transform())
        if not self.augmentation.cutout:
            yield from batches
            return
        generator = generator_from(epoch.key + "/cutout")
        centres = torch.randint(0, self.img_size, (len(epoch.order), 2), generator=generator)[epoch.take].to(device)
        for (x, y), (centre_y, centre_x) in zip(batches, (c.unbind(1) for c in centres.split(batch_size)), strict=True):
            yield cutout(x, centre_y, centre_x, self.augmentation.cutout), y

    def _transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's training transform of one image, with what the augmentation adds between its crop and its tensor."""
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms import Compose, InterpolationMode, RandomRotation

        asked = self.augmentation
        options: dict[str, Any] = {"scale": (0.8, 1.0), "color_jitter": None} if self.img_size <= TINY else {}
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
        policy = [file_auto_augment(asked.auto_augment)] if asked.auto_augment else []
        turn = [RandomRotation(asked.rotation, interpolation=InterpolationMode.BILINEAR)] if asked.rotation else []
        return Compose([crop, *policy, jitter, *turn, tensor])

    def eval_batches(
        self, index: Tensor, batch_size: int, device: torch.device, norm: Normalisation
    ) -> Iterator[Batch]:
        """Scaled and cropped at the centre as timm does (whole image up to 64 pixels); see Store."""
        return self._load(self._images(index, None), batch_size, device, norm, None)

    def fingerprint(self, index: Tensor) -> bytes:
        """Of the files' names below their class folder and sizes; of the number alone where there are no files."""
        digest = hashlib.sha256()
        for position in index.tolist():
            path = self._path(position)
            known = path is not None and path.is_file()
            digest.update(f"{'/'.join(path.parts[-2:])}:{path.stat().st_size}\n".encode() if path and known else b"?\n")
        return digest.digest()

    def _path(self, position: int) -> Path | None:
        reader = getattr(self.dataset, "reader", None)
        if reader is not None:
            return Path(reader.filename(position, absolute=True))
        samples = getattr(self.dataset, "samples", None)
        return None if samples is None else Path(samples[position][0])

    def _images(self, index: Tensor, epoch: Epoch | None) -> ImageList:
        return ImageList(self.dataset, index, self.labels, "RGB" if self.in_chans == 3 else "L", epoch)

    def _load(
        self, images: Any, batch_size: int, device: torch.device, norm: Normalisation, transform: Any
    ) -> Iterator[Batch]:
        from timm.data.loader import create_loader

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
        except DataError as error:
            # An error that a worker raised keeps the loader's iterator in a reference cycle (torch's reraise), and
            # collecting that stalls for 5 s a worker: let go of it here, where its workers end at once.
            traceback.clear_frames(error.__traceback__)
            # From a worker the message comes wrapped in its traceback; the last line is ours.
            line = str(error).strip().splitlines()[-1].removeprefix("pgnas_cli.errors.DataError: ")
            raise DataError(line, error.hint or "replace it or remove it") from error
