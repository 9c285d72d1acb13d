"""Bars and curves made of characters."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from pgnas_cli.commands._bars import bar, curve, parts


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the encoding of stdout; UTF-8 before that."""

    def set_encoding(name: str) -> None:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=name))

    set_encoding("utf-8")
    return set_encoding


@pytest.mark.parametrize(
    ("share", "mark", "drawn"),
    [
        (0, None, "░░░░"),
        (-1, None, "░░░░"),
        (1e-6, None, "█░░░"),
        (0.5, None, "██░░"),
        (1 - 1e-6, None, "███░"),
        (1, None, "████"),
        (7.0, None, "████"),
        (0.5, 0.0, "│█░░"),
        (0.5, 0.5, "██│░"),
        (0.5, 1.0, "██░│"),
        (0.5, 3.0, "██░│"),
    ],
)
def test_a_bar(share: float, mark: float | None, drawn: str) -> None:
    assert bar(share, 4, mark=mark) == drawn


@pytest.mark.parametrize(
    ("first", "second", "drawn"),
    [(0.25, 0.5, "██▒▒▒▒░░"), (0, 0, "░" * 8), (1, 0, "█" * 8), (0, 1, "▒" * 8), (1 / 3, 1 / 3, "███▒▒░░░")],
)
def test_a_bar_of_three_parts(first: float, second: float, drawn: str) -> None:
    assert parts(first, second, 8) == drawn


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([0.9, 0.2, None, 0.9], 8, "█▁ █"),
        ([0.5, 0.5], 8, "▄▄"),
        ([0.5], 8, "▄"),
        ([None, None], 8, ""),
        ([], 8, ""),
        ([9, 0, 9, 7], 2, "▁█"),  # the last of each pair
        ([9, 9, 9, 9, 0], 2, "█▁"),  # and always the last of all
    ],
)
def test_a_curve(values: list[float | None], width: int, drawn: str) -> None:
    assert curve(values, width) == drawn


def test_without_block_characters(encoded: Callable[[str], None]) -> None:
    encoded("ascii")
    assert (bar(0.5, 4, mark=0.9), parts(0.25, 0.5, 4), curve([0, 1, 3.5, 7], 4)) == ("##.|", "#++.", "_.=#")
