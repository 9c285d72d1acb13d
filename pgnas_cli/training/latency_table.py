"""The latency table of a run, train/latency.json: measured once by each training, kept when it is resumed.

A training that is resumed on another machine keeps the table too: its target was set in the time of the first.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from pgnas_cli.errors import RunError
from pgnas_cli.run import expect, read_json, write_json
from pgnas_cli.supernet.latency import AXES, Entry, LatencyTable
from pgnas_cli.supernet.supernet import Supernet

__all__ = ["TABLE", "LatencyTable", "read_table", "write_table"]

FORMAT = 1
TABLE = "latency.json"
HINT = "pgnas train --force measures it anew"
_ENVIRONMENT = {"device": str, "machine": str, "threads": int, "torch": str, "batch": int, "channels_last": bool}


def write_table(path: Path, table: LatencyTable) -> None:
    """Write a table atomically; times in seconds."""
    entries = {
        key: {**dict(zip(AXES, map(list, entry.axes), strict=True)), "seconds": list(entry.seconds)}
        for key, entry in table.entries.items()
    }
    document = {
        "format": FORMAT,
        "environment": dict(table.environment),
        "constant": table.constant,
        "whole": {"sum": table.whole[0], "seconds": table.whole[1]},
        "calibration": [{"sum": total, "seconds": seconds} for total, seconds in table.calibration],
        "operations": dict(table.operations),
        "gathers": dict(table.gathers),
        "entries": entries,
    }
    write_json(path, document)


def read_table(path: Path, net: Supernet) -> LatencyTable:
    """Read a table and check it against the supernet.

    Raises:
        RunError: the file is missing or damaged, naming the key, or describes another network.
    """
    document = read_json(path, hint=HINT)
    if expect(document, "format", int, path, hint=HINT) != FORMAT:
        raise RunError(f"{path} has format {document['format']}, this version reads {FORMAT}", HINT)
    environment = expect(document, "environment", dict, path, hint=HINT)
    for key, kind in _ENVIRONMENT.items():
        expect(environment, key, kind, path, hint=HINT)
    entries = {
        key: _entry(key, value, path) for key, value in expect(document, "entries", dict, path, hint=HINT).items()
    }
    operations = _described(document, "operations", entries, net, path)
    gathers = _described(document, "gathers", entries, net, path)
    if missing := sorted({node.fx_node.name for node in net.graph.operations.values()} - {*operations}):
        raise RunError(f"{path}: operations lacks {missing[0]!r} of this supernet", HINT)
    constant = float(expect(document, "constant", float, path, hint=HINT))
    (whole,) = _pairs([expect(document, "whole", dict, path, hint=HINT)], "whole", path)
    calibration = _pairs(expect(document, "calibration", list, path, hint=HINT), "calibration", path)
    return LatencyTable(environment, constant, whole, calibration, entries, operations, gathers)


def _described(
    document: dict[str, Any], kind: str, entries: dict[str, Entry], net: Supernet, path: Path
) -> dict[str, str]:
    names = {node.fx_node.name for node in net.graph.nodes}
    found: dict[str, str] = expect(document, kind, dict, path, hint=HINT)
    for name, key in found.items():
        if name not in names:
            raise RunError(f"{path}: {kind}.{name} is no operation of this supernet", HINT)
        if key not in entries:
            raise RunError(f"{path}: {kind}.{name} names {key!r}, which entries lacks", HINT)
    return found


def _pairs(rows: list[Any], key: str, path: Path) -> tuple[tuple[float, float], ...]:
    try:
        pairs = tuple((float(row["sum"]), float(row["seconds"])) for row in rows)
    except (TypeError, KeyError, ValueError):
        pairs = ()
    below = ((0.0, 0.0), *pairs)
    rising = all(a[0] < b[0] < math.inf and a[1] < b[1] < math.inf for a, b in pairwise(below))
    if not pairs or not rising:
        raise RunError(f"{path}: key {key!r} should hold sum and seconds that rise from zero", HINT)
    return pairs


def _entry(key: str, document: Any, path: Path) -> Entry:
    where = f"{path}: entries[{key!r}]"
    if not isinstance(document, dict):
        raise RunError(f"{where} should be an object", HINT)
    axes = []
    for name in AXES:
        axis = document.get(name)
        if not (isinstance(axis, list) and axis and all(type(size) is int and size > 0 for size in axis)):
            raise RunError(f"{where}: {name!r} should be a list of whole numbers above zero, not {axis!r}", HINT)
        if axis != sorted(set(axis)):
            raise RunError(f"{where}: {name!r} should ascend, not {axis!r}", HINT)
        axes.append(tuple(axis))
    seconds, points = document.get("seconds"), math.prod(map(len, axes))
    good = isinstance(seconds, list) and all(type(s) in (int, float) and 0 <= s < math.inf for s in seconds)
    if not good or len(seconds or ()) != points:
        raise RunError(f"{where}: 'seconds' should be {points} times, at least zero", HINT)
    return Entry((axes[0], axes[1], axes[2]), tuple(map(float, seconds or ())))
