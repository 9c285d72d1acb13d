"""What cannot be done on this machine, or with this artifact, and is reported instead of failing."""

from __future__ import annotations


class SkippedError(Exception):
    """A link cannot be replayed, or a network not be run in some way; the message says why."""
