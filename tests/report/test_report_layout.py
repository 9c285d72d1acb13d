"""Places of a small graph's nodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgnas_cli.report.layout import layered, spaced


def boxes(*names: str) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(names, (20.0, 10.0))


def test_a_chain_is_a_straight_line() -> None:
    found = layered(boxes("a", "b", "c"), [("a", "b"), ("b", "c")], gap_x=5, gap_y=6)
    assert [found.centres[name] for name in "abc"] == [(10, 5), (10, 21), (10, 37)]
    assert found.routes["a", "b"] == ((10, 10), (10, 16))
    assert (found.width, found.height) == (20, 42)


def test_what_passes_a_layer_keeps_clear_of_its_nodes() -> None:
    """A residual block: the skip runs beside the two convolutions."""
    sizes = boxes("in", "conv1", "conv2", "add")
    edges = [("in", "conv1"), ("conv1", "conv2"), ("conv2", "add"), ("in", "add")]
    found = layered(sizes, edges, gap_x=5, gap_y=6)
    skip = found.routes["in", "add"]
    assert len(skip) == 2 + 2 * 2  # it passes two layers, straight in each
    for x, y in skip[1:-1]:
        for name in ("conv1", "conv2"):
            cx, cy = found.centres[name]
            assert abs(x - cx) > 10 or abs(y - cy) > 5 + 6
    assert found.width > 20


def test_parallel_branches_do_not_cross() -> None:
    sizes = boxes("in", "a1", "b1", "c1", "c2", "b2", "a2", "out")
    edges = [("in", f"{n}1") for n in "abc"] + [(f"{n}1", f"{n}2") for n in "abc"] + [(f"{n}2", "out") for n in "abc"]
    found = layered(sizes, edges, gap_x=5, gap_y=6)
    upper = sorted("abc", key=lambda n: found.centres[f"{n}1"][0])
    assert upper == sorted("abc", key=lambda n: found.centres[f"{n}2"][0])
    assert found.centres["in"][0] == pytest.approx(found.centres["out"][0], abs=0.5)


def test_an_empty_graph_and_a_repeated_edge() -> None:
    empty = layered({}, [], gap_x=1, gap_y=1)
    assert (empty.width, empty.height, empty.routes) == (0, 0, {})
    assert len(layered(boxes("a", "b"), [("a", "b"), ("a", "b")], gap_x=1, gap_y=1).routes) == 1


@given(st.integers(0, 2**31), st.integers(1, 14))
def test_no_two_nodes_overlap_and_every_edge_falls(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {i: (float(rng.uniform(1, 40)), float(rng.uniform(1, 20))) for i in range(n)}
    edges = [(i, j) for j in range(n) for i in range(j) if rng.random() < 0.3]
    found = layered(sizes, edges, gap_x=3, gap_y=4)
    for i in range(n):
        (x, y), (w, h) = found.centres[i], sizes[i]
        assert x - w / 2 >= -1e-6
        assert x + w / 2 <= found.width + 1e-6
        assert y + h / 2 <= found.height + 1e-6
        for j in range(i):
            (a, b), (v, g) = found.centres[j], sizes[j]
            assert abs(x - a) >= (w + v) / 2 + 3 - 1e-6 or abs(y - b) >= (h + g) / 2 + 4 - 1e-6
    for (source, target), route in found.routes.items():
        assert found.centres[source][1] < found.centres[target][1]
        assert all(lower[1] > upper[1] - 1e-6 for upper, lower in pairwise(route))


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(1, 30)), min_size=1, max_size=12))
def test_spacing_is_the_nearest_that_keeps_the_gaps(items: list[tuple[float, float]]) -> None:
    """Against the optimality conditions: pooled places have a mean displacement of 0, and moves apart cannot help."""
    wanted, widths = [w for w, _ in items], [s for _, s in items]
    found = spaced(wanted, widths, 2.0)
    least = [(a + b) / 2 + 2 for a, b in pairwise(widths)]
    assert all(right - left >= gap - 1e-6 for (left, right), gap in zip(pairwise(found), least, strict=True))
    start = 0
    for end in range(1, len(found) + 1):
        if end == len(found) or found[end] - found[end - 1] > least[end - 1] + 1e-6:  # the end of a pool
            displacement = np.array(found[start:end]) - np.array(wanted[start:end])
            assert abs(displacement.mean()) < 1e-6
            assert (np.cumsum(displacement)[:-1] <= 1e-6).all()  # the left part of a pool is pressed to the left
            start = end
