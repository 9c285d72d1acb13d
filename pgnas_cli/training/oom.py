"""Running out of memory: what would have fitted."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import torch

from pgnas_cli.errors import PgnasError

_CPU_ALLOCATOR = "DefaultCPUAllocator: "  # its errors are plain RuntimeErrors


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


def largest_that_fits(attempt: Callable[[int], None], count: int) -> int:
    """The largest of count / 2, count / 4, ... for which `attempt` finds the memory; 0 if there is none above 1."""
    while count > 2:
        count = math.ceil(count / 2)
        free_memory()
        try:
            attempt(count)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return count
    return 0


def free_memory() -> None:
    """Give back what nobody holds any more, so that the next attempt finds it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(attempt: Callable[[int], None], *, share: int, procs: int, parts: int, device: object) -> PgnasError:
    """The error of a step that did not fit, after looking for what does.

    Args:
        attempt: computes the gradients of the first n images of this process's share.
        share: images of a step that this process has.
        procs: processes.
        parts: into which each cut its share (compute.accumulate).
        device: named in the message.
    """
    at_once = math.ceil(share / parts)
    fits = largest_that_fits(attempt, at_once)
    what = f"out of memory on {device} with {at_once} images at a time"
    if not fits:
        return PgnasError(f"{what}: not even 2 fit", "a smaller --width or --img-size at inflate, or another device")
    return PgnasError(
        f"{what}: {fits} fit",
        f"--accumulate {math.ceil(share / fits)} takes the same steps in parts, or --batch-size {fits * parts * procs}",
    )
