"""Posterior-Guided Neural Architecture Search (AAAI 2020) for CNNs.

    import pgnas_cli as pgnas
    net = pgnas.inflate("resnet50", width=1.7, num_classes=10)
    small = net.compact(net.sample())

Importing this package imports nothing heavy; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgnas_cli import export as export
    from pgnas_cli.export.loading import load as load
    from pgnas_cli.export.verify import verify as verify
    from pgnas_cli.inflation import inflate as inflate
    from pgnas_cli.posterior.candidate import Candidate as Candidate
    from pgnas_cli.ranking.candidates import sample as sample
    from pgnas_cli.ranking.rank import rank as rank
    from pgnas_cli.restore import create_run as create_run
    from pgnas_cli.run import RunDirectory as RunDirectory
    from pgnas_cli.supernet.supernet import Supernet as Supernet
    from pgnas_cli.training.loop import train as train

_PUBLIC = {
    "Candidate": "pgnas_cli.posterior.candidate",
    "RunDirectory": "pgnas_cli.run",
    "Supernet": "pgnas_cli.supernet.supernet",
    "create_run": "pgnas_cli.restore",
    "inflate": "pgnas_cli.inflation",
    "load": "pgnas_cli.export.loading",
    "rank": "pgnas_cli.ranking.rank",
    "sample": "pgnas_cli.ranking.candidates",
    "train": "pgnas_cli.training.loop",
    "verify": "pgnas_cli.export.verify",
}

__all__ = ["Candidate", "RunDirectory", "Supernet", "create_run", "export", "inflate", "load", "open_run", "rank",
           "sample", "train", "verify"]  # fmt: skip


def open_run(path: str | None = None) -> Any:
    """The run at `path`, else at $PGNAS_RUN, else the newest under ./runs: a RunDirectory."""
    from pgnas_cli.run import RunDirectory

    return RunDirectory.open(path)


def __getattr__(name: str) -> Any:
    if name == "export":
        return importlib.import_module("pgnas_cli.export")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pgnas_cli' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
