"""What all tests share."""

from __future__ import annotations

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several on the same cores: their threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Keep what is imported by now, torch above all, out of garbage collection: a third of the zoo tests' time."""
    gc.collect()
    gc.freeze()
