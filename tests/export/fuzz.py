"""Damaged and hostile artifacts: seeded changes of one that is whole, and what loading each of them may do.

A change is made in memory to the bytes of config.json, model.safetensors or pgnas.safetensors. Half of the changed
tensor files are signed again: config.json then names their new digests, so that the digests alone catch nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_artifact import CONFIG, PROOF, WEIGHTS, Files
from torch import Tensor, nn

from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.errors import PgnasError
from pgnas_cli.export.loading import load

LONGEST = 400
"""Characters of a message, without the path of the artifact."""


# ---- changes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A changed artifact.

    Args:
        change: what was done.
        files: name -> bytes; a name that is absent was removed.
        same_weights: whether a network that loads has to have the logits of the original bit for bit: the weights, or
            the digest that they are held against, are the original's.
    """

    change: str
    files: Files
    same_weights: bool = True


VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 64, 2**24, 2**31, 2**63, 10**30, -(2**63), 0.5, 1e300, -0.0, "", "0",
    "gather", "dense", "tiny", "shakeshake", "timm_cnn", "tiny_7", "tiny_999999999", "tiny_-1", "tiny_x", "resnet18",
    "hf-hub:evil/x", "local-dir:../..", "../../etc/passwd", "/etc/passwd", "shakeshake26_2x999999999d", "enas15_9999f",
    "a" * 20_000, "{{ 7 * 7 }}", "\n---\nlicense: evil\n", "\x1b[31m", "\ud800", "\0", "\u202e", "<script>", [], {},
    [[]], [None], [1, 2, 3], [10**9] * 3, {"": 0}, {"a": {"a": {"a": 1}}}, [[[[[[[[[[1]]]]]]]]]], list(range(1000)),
)  # fmt: skip


NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900,
    "\ufeff", "01", "0x10", '"\\ud800"', "1, 1", "\x00", "// x\n1",
)  # fmt: skip
"""Texts in the place of a digit."""
SHAPES = (
    [-1], [2**62], [2**32, 2**32], [10**30], [], [0], [True], [1.0], "1", None, [1] * 100, [[1]],
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def changed_document(document: Any, rng: random.Random) -> str:
    """Change one value, key or item of a JSON document in place; says what was done."""
    container, key = rng.choice(list(places(document)))
    value = container[key]
    kind = rng.choice(("value", "number", "delete", "add", "rename", "copy", "text"))
    if kind == "number" and type(value) in (int, float):
        container[key] = rng.choice((value + 1, value - 1, -value, value * 2, value * 10**6, float(value), str(value)))
    elif kind == "delete":
        del container[key]
    elif kind == "add" and isinstance(container, dict):
        container[rng.choice(("extra", "", "../x", "fold_bn", "folded", "kept", "files", "a.b", "\x1b"))] = rng.choice(
            VALUES
        )
    elif kind == "add":
        container.append(rng.choice(VALUES))
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice((f"{key}_", key.upper(), f"../{key}", "\n", "fc", "stem"))] = container.pop(key)
    elif kind == "copy":
        container[key] = copy.deepcopy(rng.choice([parent[k] for parent, k in places(document)]))
    elif kind == "text" and isinstance(value, str) and value:
        place = rng.randrange(len(value))
        container[key] = value[:place] + rng.choice("a0/.:{\n\0") + value[place + 1 :]
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))
    return f"config {kind}"


def config_value(files: Files, other: Files, rng: random.Random) -> Mutant:
    document = json.loads(files[CONFIG])
    change = changed_document(document, rng)
    return Mutant(change, files | {CONFIG: json.dumps(document).encode()})


def config_values(files: Files, other: Files, rng: random.Random) -> Mutant:
    document = json.loads(files[CONFIG])
    for _ in range(rng.randint(2, 5)):
        changed_document(document, rng)
    return Mutant("config several", files | {CONFIG: json.dumps(document).encode()})


def config_text(files: Files, other: Files, rng: random.Random) -> Mutant:
    """What a JSON parser may stumble over, in the place of some number or at the end."""
    text = files[CONFIG].decode()
    numbers = [i for i, char in enumerate(text) if char.isdigit() and not text[i - 1].isalnum() and text[i - 1] != "."]
    place = rng.choice(numbers)
    hostile = rng.choice(NUMBERS)
    return Mutant("config text", files | {CONFIG: (text[:place] + hostile + text[place + 1 :]).encode()})


def config_twice(files: Files, other: Files, rng: random.Random) -> Mutant:
    key = rng.choice(('"format": 1', '"layout": "dense"', '"semantics": 1', '"weights_sha256": ""'))
    text = files[CONFIG].decode().replace('"format": 1', f'"format": 1, {key}', rng.randint(1, 2))
    return Mutant("config key twice", files | {CONFIG: text.encode()})


def damaged(data: bytes, rng: random.Random, *, start: int = 0, stop: int | None = None) -> bytes:
    """Some bytes of a range changed, cut out, doubled or put in; or the end cut off."""
    stop = len(data) if stop is None else stop
    changed = bytearray(data)
    kind = rng.choice(("flip", "flip", "flip", "random", "cut", "insert", "truncate", "append", "zero"))
    place = rng.randrange(start, stop)
    length = rng.choice((1, 2, 8, 64))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 1, 4))):
            changed[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    elif kind == "random":
        changed[place : place + length] = rng.randbytes(min(length, len(data) - place))
    elif kind == "cut":
        del changed[place : place + length]
    elif kind == "insert":
        changed[place:place] = rng.randbytes(length)
    elif kind == "truncate":
        del changed[place:]
    elif kind == "append":
        changed += rng.randbytes(length)
    else:
        changed[place : place + length] = bytes(min(length, len(data) - place))
    return bytes(changed)


def any_bytes(files: Files, other: Files, rng: random.Random) -> Mutant:
    name = rng.choice((CONFIG, WEIGHTS, PROOF))
    return Mutant(f"bytes of {name}", files | {name: damaged(files[name], rng)})


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def signed(files: Files) -> Files:
    """The same with the digests and sizes of the files as they are now in config.json."""
    document = json.loads(files[CONFIG])
    section = document["pgnas"]
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in (WEIGHTS, PROOF)}
    section["weights_sha256"] = digests[WEIGHTS]
    section["files"] |= {name: {"sha256": digests[name], "size": len(files[name])} for name in digests}
    return files | {CONFIG: json.dumps(document).encode()}


def tensor_file(change: str, files: Files, name: str, data: bytes, rng: random.Random) -> Mutant:
    mutant, again = files | {name: data}, rng.random() < 0.5
    return Mutant(f"{change} of {name}", signed(mutant) if again else mutant, not (again and name == WEIGHTS))


def header_bytes(files: Files, other: Files, rng: random.Random) -> Mutant:
    name = rng.choice((WEIGHTS, PROOF))
    (length,) = struct.unpack("<Q", files[name][:8])
    stop = rng.choice((8, 8 + length))
    return tensor_file("header bytes", files, name, damaged(files[name], rng, stop=stop), rng)


def header_length(files: Files, other: Files, rng: random.Random) -> Mutant:
    name = rng.choice((WEIGHTS, PROOF))
    header, data = header_of(files[name])
    length = rng.choice((0, 1, 7, 2**16, 2**24 + 1, 2**32, 2**63, 2**64 - 1, len(files[name]), len(files[name]) - 8))
    return tensor_file("header length", files, name, with_header(header, data, length), rng)


def header_value(files: Files, other: Files, rng: random.Random) -> Mutant:
    """Names, dtypes, shapes and offsets: of one tensor, or two of them exchanged."""
    name = rng.choice((WEIGHTS, PROOF))
    header, data = header_of(files[name])
    first, second = rng.sample([key for key in header if key != "__metadata__"], 2)
    entry = header[first]
    kind = rng.randrange(10)
    if kind == 0:
        entry["dtype"] = rng.choice(
            ("F16", "BF16", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", None, 1)
        )
    elif kind == 1:
        entry["shape"] = rng.choice((entry["shape"][::-1], [*entry["shape"], 1], *SHAPES))
    elif kind == 2:
        entry["data_offsets"][rng.randrange(2)] += rng.choice((-4, -1, 1, 4, 2**40, 2**64, -(2**63)))
    elif kind == 3:
        header[first], header[second] = header[second], header[first]
    elif kind == 4:
        entry["data_offsets"] = header[second]["data_offsets"]
    elif kind == 5:
        header[rng.choice(("../x", "extra", "", "gather.x", "\n", "a" * 5000))] = header.pop(first)
    elif kind == 6:
        del header[first]
    elif kind == 7:
        header["extra"] = rng.choice((entry, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, None, 1, []))
    elif kind == 8:
        header["__metadata__"] = rng.choice((None, 1, [], {"a": 1}, {"a": {}}, {"a": "b" * 1000}))
    else:
        changed_document(header, rng)
    return tensor_file("header value", files, name, with_header(header, data), rng)


def header_text(files: Files, other: Files, rng: random.Random) -> Mutant:
    name = rng.choice((WEIGHTS, PROOF))
    header, data = header_of(files[name])
    text = json.dumps(header)
    texts = ("[" * 100_000, text[:-1] + "," + text[1:], text + " ", text + "{}", "{}", "[]", "null", "")
    hostile = rng.choice((*texts, text.replace("F32", "f32"), text.replace("[", "[" * 500), text.replace("0", "00")))
    return tensor_file("header text", files, name, with_header(hostile.encode(), data), rng)


def data_bytes(files: Files, other: Files, rng: random.Random) -> Mutant:
    """Numbers: masks, gather indices, probes, weights; NaN and infinite ones as well."""
    name = rng.choice((WEIGHTS, PROOF))
    header, _ = header_of(files[name])
    entries = [entry for key, entry in header.items() if key != "__metadata__" and entry["data_offsets"][1]]
    begin, stop = rng.choice(entries)["data_offsets"]
    front = len(files[name]) - max(entry["data_offsets"][1] for entry in entries)
    changed = bytearray(files[name])
    kind = rng.randrange(4)
    if kind == 0:
        place = front + rng.randrange(begin, stop)
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        place = front + begin + 4 * rng.randrange(max(1, (stop - begin) // 4))
        changed[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e30, 0.0, 1e-40)))
    elif kind == 2:
        changed[front + begin : front + stop] = rng.randbytes(stop - begin)
    else:
        changed[front + begin : front + stop] = bytes(stop - begin)
    return tensor_file("data", files, name, bytes(changed), rng)


def exchanged(files: Files, other: Files, rng: random.Random) -> Mutant:
    """One or two files of another artifact; the third file decides which network it has to be, if any."""
    name = rng.choice((CONFIG, WEIGHTS, PROOF))
    mutant = files | {name: other[name]}
    again = name != CONFIG and rng.random() < 0.5
    return Mutant(f"{name} of another", signed(mutant) if again else mutant)


def removed(files: Files, other: Files, rng: random.Random) -> Mutant:
    name = rng.choice((CONFIG, WEIGHTS, PROOF))
    left = {key: data for key, data in files.items() if key != name}
    return Mutant(f"{name} removed", left | ({} if rng.random() < 0.5 else {name: b""}))


CHANGES: tuple[tuple[Callable[[Files, Files, random.Random], Mutant], int], ...] = (
    (config_value, 30), (config_values, 8), (config_text, 6), (config_twice, 2), (any_bytes, 8), (header_bytes, 8),
    (header_length, 3), (header_value, 14), (header_text, 4), (data_bytes, 14), (exchanged, 2), (removed, 1),
)  # fmt: skip
"""How often each is drawn."""


def mutants(files: Files, other: Files, seed: int) -> Iterator[Mutant]:
    """Endless changes of an artifact, the same for a seed.

    Args:
        files: of the artifact.
        other: of another with the same structure, other masks and other weights.
        seed: of the changes.
    """
    rng = random.Random(seed)
    functions, weights = zip(*CHANGES, strict=True)
    while True:
        mutant = rng.choices(functions, weights)[0](files, other, rng)
        if mutant.files != files:
            yield mutant


# ---- what loading one does ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What loading a mutant did.

    Args:
        refusal: the message without the folder; empty if it loaded.
        fault: what is wrong with that; empty if nothing is.
        seconds: processor time.
        megabytes: by how much memory grew at most.
    """

    refusal: str
    fault: str
    seconds: float
    megabytes: float


def put(folder: Path, files: Files) -> None:
    """The files of a mutant, and nothing else, in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(images)


def attempt(folder: Path, mutant: Mutant, images: Tensor, expected: Tensor) -> Outcome:
    """Load a mutant, and judge what came of it.

    Args:
        folder: where to put it.
        mutant: the changed artifact.
        images: probe images of the original.
        expected: its logits for them.
    """
    put(folder, mutant.files)
    refusal, fault = "", ""
    before, start = reset_peak(), time.process_time()
    try:
        network = load(folder)
    except PgnasError as error:
        refusal = str(error).replace(str(folder), "")
        if "\n" in str(error) or not str(error).isprintable() or len(refusal) > LONGEST:
            fault = f"a message that is not one short line: {refusal!r}"
        elif not error.hint or "\n" in error.hint:
            fault = f"no hint of one line: {refusal}"
        elif error.exit_code != 3:
            fault = f"exit code {error.exit_code}: {refusal}"
    except Exception as error:  # whatever it is, it is a crash
        fault = f"{type(error).__name__}: {error}"
    seconds, megabytes = time.process_time() - start, peak() - before
    if not refusal and not fault:
        fault = _misloaded(network, mutant, images, expected)
    return Outcome(refusal, fault, seconds, megabytes)


def _misloaded(network: nn.Module, mutant: Mutant, images: Tensor, expected: Tensor) -> str:
    try:
        found = logits(network, images)
    except Exception as error:  # the network does not even take the original's images
        return f"loaded, but {type(error).__name__}: {error}"
    if mutant.same_weights:
        return "" if torch.equal(found, expected) else "loaded with other logits"
    return "" if relative_difference(found, expected) <= 1e-4 else "loaded with logits that the probe forbids"


def reset_peak() -> float:
    """Megabytes of memory now; the peak counts from here, where the system lets it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    """Largest amount of memory so far, in megabytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
