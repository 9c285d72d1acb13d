"""Wall-clock time of several calls, taken in turns: A B C A B C ..."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch


def wait(device: torch.device) -> None:
    """Return when everything that was asked of `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def interleaved(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    runs: int,
    warmup: int = 3,
    repeats: int = 1,
    limit: float = float("inf"),
) -> list[list[float]]:
    """Seconds of each call in each turn; a drift of the machine's speed meets all of them alike.

    Args:
        calls: what to time.
        device: where they compute; it is waited for after each.
        runs: measured turns, at least 1.
        warmup: turns before that.
        repeats: calls in a row that share one wait, whose mean counts as one time; for short calls on a device that
            computes asynchronously, where the wait would be most of it.
        limit: seconds after which no further turn starts, though three are always measured (fewer if `runs` is).

    Returns:
        For each call one time per measured turn.
    """
    times: list[list[float]] = [[] for _ in calls]
    begun = time.perf_counter()
    for turn in range(warmup + runs):
        if turn >= warmup + 3 and time.perf_counter() - begun > limit:
            break
        for call, seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            wait(device)
            if turn >= warmup:
                seconds.append((time.perf_counter() - started) / repeats)
    return times
