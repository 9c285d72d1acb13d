"""Keep freed memory: the C library's allocator told not to give large blocks back to the kernel.

Activations are blocks of megabytes. glibc takes each from the kernel with mmap and returns it when it is freed, so that
every step touches all its memory for the first time again: the kernel zeroes it, page by page. A training step needs
much the same blocks as the one before. Kept ones fragment, so that the peak grows, by a fifth to a half where it was
measured: memory for time.
"""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h, see mallopt(3)."""
SETTINGS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
"""Environment variables by which users set the allocator themselves."""


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed, for the rest of the process; whether it does now.

    No block has a mapping of its own any more (M_MMAP_MAX = 0), and the heap is never trimmed (M_TRIM_THRESHOLD = -1).
    Another C library, an allocator loaded in its place (LD_PRELOAD) and settings that the user made are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD") or any(map(os.environ.get, SETTINGS)):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
