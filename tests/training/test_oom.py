"""Running out of memory: what counts as it, and what is suggested."""

from __future__ import annotations

import pytest
import torch

from pgnas_cli.training.oom import is_out_of_memory, largest_that_fits, out_of_memory

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)


class Memory:
    """Has room for `room` images."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error, self.asked = room, error or torch.OutOfMemoryError("CUDA out of memory"), list[int]()

    def __call__(self, count: int) -> None:
        self.asked.append(count)
        if count > self.room:
            raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (CPU, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator: "), False),
    ],
)
def test_only_failed_allocations_count(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("room", "found", "asked"), [(100, 64, [64]), (20, 16, [64, 32, 16]), (1, 0, [64, 32, 16, 8, 4, 2])]
)
def test_the_largest_half_that_fits(room: int, found: int, asked: list[int]) -> None:
    memory = Memory(room)
    assert largest_that_fits(memory, 128) == found
    assert memory.asked == asked


def test_another_error_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        largest_that_fits(Memory(1, RuntimeError("shapes")), 128)


def test_the_suggestion_fits_and_keeps_the_step() -> None:
    error = out_of_memory(Memory(40), share=128, procs=2, parts=1, device="cuda:1")
    assert str(error) == "out of memory on cuda:1 with 128 images at a time: 32 fit"
    assert error.hint == "--accumulate 4 takes the same steps in parts, or --batch-size 64"
    assert "not even 2 fit" in str(out_of_memory(Memory(1), share=8, procs=1, parts=1, device="cpu"))
