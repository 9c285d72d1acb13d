"""A section of RESULTS.md that is no table of runs and claims; it has what results.py uses of a `table.Table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from table import Claim


@dataclass(frozen=True)
class Section:
    """A section of RESULTS.md.

    Args:
        title: its heading.
        render: the folder of results -> the section, from its files alone.
        claims: none.
    """

    title: str
    render: Callable[[Path], str]
    claims: tuple[Claim, ...] = ()

    def judged(self, folder: Path) -> list[tuple[str, Claim]]:
        """(verdict, claim) of every claim: there is none."""
        return []
