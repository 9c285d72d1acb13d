"""Stages and blocks from the names of the operations and who reads whom."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pgnas_cli.report.blocks import stages


def chain(names: Sequence[str], reads: dict[str, list[str]] | None = None) -> list[tuple[str, list[str]]]:
    """Stages of operations that each read the one before, or what `reads` says."""
    bits: dict[int, int] = {}
    for place, name in enumerate(names):
        sources = [place - 1] if place else []
        if reads is not None and name in reads:
            sources = [names.index(source) for source in reads[name]]
        bits[place] = 0
        for source in sources:
            bits[place] |= bits[source] | 1 << source
    return stages(names, bits)


RESNET = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "fc"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (RESNET, [("conv1", ["conv1"]), ("layer1", ["layer1.0", "layer1.1"]), ("fc", ["fc"])]),
        ([f"features.{name}" for name in RESNET], [  # what holds everything is no stage
            ("features.conv1", ["features.conv1"]),
            ("features.layer1", ["features.layer1.0", "features.layer1.1"]),
            ("features.fc", ["features.fc"]),
        ]),
        # names that differ in more than a number: parts of one block
        (["a.conv1", "a.conv2", "b.conv1", "b.conv2"], [("a", ["a"]), ("b", ["b"])]),
        # wrappers of one operation each are no blocks
        (["s.b.conv1.conv", "s.b.conv2.conv", "s.b.conv3.conv"], [("s", ["s"])]),
        # a sequence of sequences is as many stages
        (
            [f"blocks.{i}.{j}.{k}" for i in range(2) for j in range(2) for k in ("pw", "dw")],
            [(f"blocks.{i}", [f"blocks.{i}.0", f"blocks.{i}.1"]) for i in range(2)],
        ),
        ([f"features.{i}" for i in range(5)], [("features", ["features"])]),
        (["conv"], [("conv", ["conv"])]),
    ],
)  # fmt: skip
def test_stages(names: list[str], expected: list[tuple[str, list[str]]]) -> None:
    assert chain(names) == expected


def test_parallel_branches_named_alike_are_one_block() -> None:
    names = ["stem", "cell.branches.0.a", "cell.branches.0.b", "cell.branches.1.a", "cell.branches.1.b"]
    parallel = {"cell.branches.1.a": ["stem"]}
    assert chain(names, parallel) == [("stem", ["stem"]), ("cell", ["cell"])]
    assert chain(names)[1] == ("cell.branches", ["cell.branches.0", "cell.branches.1"])  # the same names, in sequence


def test_cells_are_blocks_although_their_parts_are_in_turn_containers() -> None:
    parts = ["calibrate.conv", "base.conv", "branches.0.dw", "branches.0.pw", "branches.1.dw", "branches.1.pw"]
    names = [f"cells.{cell}.{part}" for cell in range(3) for part in parts]
    reads = {f"cells.{cell}.branches.1.dw": [f"cells.{cell}.base.conv"] for cell in range(3)}
    assert chain(names, reads) == [("cells", ["cells.0", "cells.1", "cells.2"])]
