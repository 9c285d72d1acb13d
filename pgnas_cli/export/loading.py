"""`pgnas_cli.load`: the network of an artifact."""

from __future__ import annotations

from pathlib import Path

from pgnas_cli import compact as compaction
from pgnas_cli.export.reading import load_artifact


def load(path: str | Path) -> compaction.CompactNetwork:
    """The compact network of an exported folder, in evaluation mode.

    Args:
        path: a folder that `pgnas export` wrote.

    Raises:
        RunError: there is none, or it is damaged, or it was written by a newer version.
    """
    return load_artifact(Path(path))
