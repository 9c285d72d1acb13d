"""The header of a safetensors file, read by itself: what the file holds is known before any tensor is.

8 bytes   length of the header, little endian
header    JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}; "__metadata__": text -> text
data      the tensors one after the other, without gaps
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from pgnas_cli.errors import RunError
from pgnas_cli.export.artifact import DAMAGED
from pgnas_cli.strict_json import parse_json, shown

MOST_HEADER = 2**22
"""Bytes of a header, 4 MiB: a tensor takes some hundred, the largest networks of timm have two thousand."""
MOST_AXES = 8
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""dtype -> bytes of one number. Those of less than a byte, or of eight bits a float, no artifact holds."""


class Stored(NamedTuple):
    """What the header says of one tensor: a safetensors dtype such as "F32", and the shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Stored]:
    """Name -> dtype and shape of every tensor of a file; no tensor is read.

    Raises:
        RunError: the file is no safetensors file, is truncated, or its tensors overlap or leave gaps.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise RunError(f"{path} is damaged or truncated: {size} bytes cannot hold its header", DAMAGED)
        if length > MOST_HEADER:
            raise RunError(f"{path} has a header of {length} bytes, at most {MOST_HEADER} are read", DAMAGED)
        document = parse_json(file.read(length), f"the header of {path}", hint=DAMAGED)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise RunError(f"{path}: its metadata should be text, not {shown(metadata)}", DAMAGED)
    entries = {name: _entry(path, name, entry) for name, entry in document.items()}
    end = 0
    for begin, stop, name in sorted((begin, stop, name) for name, (_, begin, stop) in entries.items()):
        if begin != end:
            raise RunError(f"{path}: {shown(name)} begins at byte {begin}, where {end} was expected", DAMAGED)
        end = stop
    if end != size - 8 - length:
        raise RunError(
            f"{path} is damaged or truncated: its tensors take {end} bytes, it holds {size - 8 - length}", DAMAGED
        )
    return {name: stored for name, (stored, _, _) in entries.items()}


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, int, int]:
    """One tensor of a header, and where its data begin and end."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise RunError(f"{path}: {shown(name)} is described by {shown(entry)}", DAMAGED)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise RunError(f"{path}: {shown(name)} is of dtype {shown(dtype)}, which no artifact holds", DAMAGED)
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise RunError(f"{path}: {shown(name)} is of shape {shown(shape)}", DAMAGED)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * BYTES[dtype]:
        raise RunError(f"{path}: {shown(name)} of shape {shown(shape)} lies at bytes {shown(offsets)}", DAMAGED)
    return Stored(dtype, tuple(shape)), offsets[0], offsets[1]


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
