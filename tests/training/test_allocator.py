"""The C library's allocator keeps freed memory: in a process of its own, since the setting stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from pgnas_cli.training import allocator
from pgnas_cli.training.allocator import SETTINGS, keep_freed_memory

PROGRAM = """
import resource
import torch
from pgnas_cli.training.allocator import keep_freed_memory

def faults(megabytes):
    "Page faults of a block that is filled and freed."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(megabytes * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# the second block is smaller: torch's aligned request for just as much does not always fit into what it has freed
print(faults(80), faults(64), int(keep_freed_memory()), faults(80), faults(64))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


@glibc
def test_the_pages_of_a_freed_block_are_there_for_the_next() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    _, before, keeps, _, after = map(int, done.stdout.split())
    assert keeps
    assert before > 0
    assert after < before / 10


@glibc
@pytest.mark.parametrize("name", [*SETTINGS, "LD_PRELOAD"])
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in (*SETTINGS, "LD_PRELOAD"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the allocator was set"))
    monkeypatch.setenv(name, "131072")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the allocator was set"))
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
