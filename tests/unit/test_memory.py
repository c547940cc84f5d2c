"""What a process keeps of freed memory; what is said of one that has ended, and what counts as memory running out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from coordinator.own_process.memory import KEPT_BYTES, kills_for_memory, why_ended

BLOCKS, BLOCK_BYTES, PAGE_BYTES = 200, 512 * 1024, 4096
_PROGRAM = f"""
import os, resource, sys
from coordinator.bench.measure import resident_bytes
from coordinator.own_process.memory import keep_freed

if sys.argv[1] == "keeps":
    keep_freed()
before = resident_bytes(os.getpid())
kept = [bytearray({BLOCK_BYTES}) for _ in range({BLOCKS})]
del kept
grown, faults = resident_bytes(os.getpid()) - before, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({BLOCKS}):
    bytes(bytearray({BLOCK_BYTES}))
print(grown, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def figures(how: str, **environment: str) -> tuple[int, int]:
    """Return by how many bytes a program has grown after it freed its blocks, and the page faults of making more."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    grown, faults = map(int, run.stdout.split())
    return grown, faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc")
def test_freed_memory_is_kept_up_to_a_bound() -> None:
    """Large blocks that are made again and again cost no page faults; all but a little is given back."""
    pages = 2 * BLOCKS * BLOCK_BYTES // PAGE_BYTES
    assert figures("gives back")[1] > pages // 2
    grown, faults = figures("keeps")
    assert faults < pages // 20
    assert grown < 2 * KEPT_BYTES
    assert figures("keeps", MALLOC_TRIM_THRESHOLD_="0")[1] > pages // 2


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (0, "exit code 0"),
        (5, "exit code 5"),
        (-11, "killed by signal 11"),
        (None, "it could not be started"),
        (-9, "killed by SIGKILL, and not for want of memory"),
        (137, "killed by SIGKILL, and not for want of memory"),
    ],
)
def test_why_a_process_ended(code: int | None, why: str) -> None:
    """A signal is told by its number, and SIGKILL with whether the kernel ended anything for want of memory."""
    assert why_ended(code, kills_for_memory()) == why


def test_a_kill_for_memory_is_only_perhaps_the_reason() -> None:
    """The kernel counts the kills of the whole machine, so they need not be of this process."""
    assert "perhaps because memory ran out: the kernel ended 2" in why_ended(-9, kills_for_memory() - 2)
