"""Encoded images by their position in a set, whatever holds them, and what is done about those that cannot be read."""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from PIL import Image

from pgnas_cli.errors import DataError

UNREADABLE = (
    OSError,
    SyntaxError,  # PIL's for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What reading a missing, truncated or damaged image raises."""

TOLERATED, TOLERATED_SHARE = 10, 0.01


class Images(ABC):
    """Images that are decoded when they are asked for."""

    @abstractmethod
    def read(self, position: int, mode: str) -> Image.Image:
        """The image in PIL's mode "RGB" or "L".

        Raises:
            one of UNREADABLE: it is damaged or not there.
        """

    @abstractmethod
    def name(self, position: int) -> str:
        """What a user finds the image by."""

    @abstractmethod
    def identity(self, position: int) -> str:
        """A text that changes when the image does, without reading it; "?" where nothing is known."""


class TimmImages(Images):
    """The images of a timm data set with random access (a folder, a set of the Hub).

    timm's own __getitem__ is not used: it puts another image in the place of one that it cannot read.
    """

    def __init__(self, dataset: Any) -> None:
        self.reader = dataset.reader

    def read(self, position: int, mode: str) -> Image.Image:
        with self.reader[position][0] as stream:
            return Image.open(stream).convert(mode)

    def name(self, position: int) -> str:
        return str(self.reader.filename(position, absolute=True) or f"number {position}")

    def identity(self, position: int) -> str:
        return _identity(Path(self.reader.filename(position, absolute=True)))


class HubImages(TimmImages):
    """The images of timm's reader of the package `datasets`; identity is the size of the encoded image.

    Only the table's offsets are read for it, not the images. A row may hold no image: it cannot be read, and its
    identity is "?".
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._sizes: list[int | None] | None = None

    def read(self, position: int, mode: str) -> Image.Image:
        try:
            return super().read(position, mode)
        except (TypeError, AssertionError) as error:  # timm's reader at a row without an image
            raise ValueError(f"row {position} holds no image") from error

    def name(self, position: int) -> str:
        try:
            return super().name(position)
        except TypeError:  # no image, so no path
            return f"number {position}"

    def identity(self, position: int) -> str:
        if self._sizes is None:
            import pyarrow.compute as pc

            table = self.reader.dataset.with_format("arrow")
            chunks = (part[self.reader.image_key] for part in table.iter(batch_size=1000))
            self._sizes = [n for chunk in chunks for n in pc.binary_length(pc.struct_field(chunk, "bytes")).to_pylist()]
        size = self._sizes[position]
        return _identity(Path(self.name(position))) if size is None else str(size)


class TorchImages(Images):
    """The images of a torchvision data set without a transform."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def read(self, position: int, mode: str) -> Image.Image:
        image: Image.Image = self.dataset[position][0].convert(mode)
        return image

    def name(self, position: int) -> str:
        samples = getattr(self.dataset, "samples", None)
        return str(samples[position][0]) if samples else f"number {position}"

    def identity(self, position: int) -> str:
        samples = getattr(self.dataset, "samples", None)
        return _identity(Path(samples[position][0])) if samples else "?"


def _identity(path: Path) -> str:
    """Name below the class folder, and size."""
    return f"{'/'.join(path.parts[-2:])}:{path.stat().st_size}" if path.is_file() else "?"


def check_unreadable(unreadable: int, total: int, last: str) -> None:
    """Raises a DataError if too many images of a split are unreadable: more than 1 % and more than 10, or all of them.

    Args:
        unreadable, total: images of the split.
        last: name of one that is unreadable.
    """
    if unreadable > max(TOLERATED, TOLERATED_SHARE * total) or unreadable == total:
        raise DataError(f"{unreadable} of {total} images cannot be read, such as {last}", "replace them or remove them")
