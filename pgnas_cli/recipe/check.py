"""How a value of a recipe is refused: what it is, what it should be, what to type."""

from __future__ import annotations

from pgnas_cli.errors import UsageError


def check(condition: bool, what: str, fix: str) -> None:
    """Raises a UsageError of `what`, with the hint `fix`, unless `condition` holds."""
    if not condition:
        raise UsageError(what, fix)
