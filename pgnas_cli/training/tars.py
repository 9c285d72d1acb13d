"""Where the members of a plain tar file lie, found from its headers alone (POSIX.1-2001 ustar and pax, and GNU names).

The standard library's tarfile would do, at a quarter of the speed: for a set of a million images that is minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from pgnas_cli.errors import DataError

BLOCK = 512
REGULAR, PAX, GNU_NAME, SPARSE = (b"0", b"\0", b"7"), b"x", b"L", b"S"


class Member(NamedTuple):
    """A regular file in a tar file: its name, and the place of its first byte and its length in bytes."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """The regular files of a plain tar file, in their order.

    Raises:
        DataError: it is compressed, damaged, cut short, or holds sparse files.
    """
    with path.open("rb", buffering=0) as file:
        try:
            yield from _walk(path, file)
        except ValueError as error:
            raise _damaged(path, file.tell()) from error


def read_at(file: FileIO, offset: int, size: int) -> bytes:
    """`size` bytes (fewer at the end) of an unbuffered file."""
    file.seek(offset)
    return file.read(size)


def _walk(path: Path, file: FileIO) -> Iterator[Member]:
    length = path.stat().st_size
    place, long_name = 0, ""
    extended: dict[str, str] = {}
    while place < length:
        head = read_at(file, place, BLOCK)
        if head[:1] == b"\0" and not head.strip(b"\0"):
            return
        if len(head) < BLOCK or not _is_sound(head):
            raise _damaged(path, place)
        kind = head[156:157]
        size = _digits(extended["size"].encode(), 10) if "size" in extended else _number(head[124:136])
        place += BLOCK
        if place + size > length:
            raise DataError(f"{path} is cut short, {length} bytes long", "copy the shard again")
        if kind == PAX:
            extended = _records(read_at(file, place, size))
        elif kind == GNU_NAME:
            long_name = read_at(file, place, size).rstrip(b"\0").decode()
        else:
            if kind == SPARSE or any(key.startswith("GNU.sparse") for key in extended):
                raise DataError(f"{path} holds sparse files", "pack it again without them")
            if kind in REGULAR:
                yield Member(extended.get("path") or long_name or _name(head), place, size)
            extended, long_name = {}, ""
        place += -(-size // BLOCK) * BLOCK


def _damaged(path: Path, place: int) -> DataError:
    return DataError(
        f"{path} is damaged, or compressed, at byte {place}", "plain tar files are needed; copy the shard again"
    )


def _is_sound(head: bytes) -> bool:
    """Whether the header's checksum, over itself with blanks in the checksum's place, is right."""
    try:
        return int(head[148:156].strip(b" \0"), 8) == sum(head) - sum(head[148:156]) + 8 * ord(" ")
    except ValueError:
        return False


def _number(field: bytes) -> int:
    """Octal digits, or a big-endian number behind a byte of 128 (GNU, above 8 GiB)."""
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _digits(field.strip(b" \0") or b"0", 8)


def _digits(text: bytes, base: int) -> int:
    """Raises ValueError for what int() allows besides: signs, blanks and underscores."""
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text, base)


def _name(head: bytes) -> str:
    name, prefix = [part.split(b"\0", 1)[0].decode() for part in (head[:100], head[345:500])]
    return f"{prefix}/{name}" if prefix and head[257:263] == b"ustar\0" else name


def _records(content: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header; raises ValueError if it holds something else."""
    found = {}
    while content:
        digits, _, _ = content.partition(b" ")
        length = _digits(digits, 10)
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or content[length - 1 : length] != b"\n":
            raise ValueError(f"{content[:length]!r} is not a record")
        found[key.decode()] = value.decode()
        content = content[length:]
    return found
