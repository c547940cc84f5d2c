"""
How a process keeps and gives back memory; which one the kernel ends first when it runs out, and how that is told.

All of it on Linux only.

The order is chosen: containers, then workers, then followers and node agents, then coordinators; `coordinator up` and
nats-server last. What goes first is started again, and nothing acknowledged depends on it. A process may only make
itself more expendable than the one that started it, never less.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

COORDINATOR, FOLLOWER, NODE, WORKER = 100, 200, 200, 400
"""How much is added to the inherited score (`oom_score_adj`, up to 1000). A container has 500; see its shim."""
KEPT_BYTES, MAPPED_BYTES = 8 * 1024 * 1024, 2 * 1024 * 1024
_MALLOC_SETTINGS = (
    (-1, KEPT_BYTES, "MALLOC_TRIM_THRESHOLD_"),
    (-3, MAPPED_BYTES, "MALLOC_MMAP_THRESHOLD_"),
)
"""Numbers of `mallopt` in glibc, and the variables that set the same."""
_MOST = 1000
_SCORE = Path("/proc/self/oom_score_adj")
_COUNTS = Path("/proc/vmstat")


def keep_freed() -> None:
    """
    Keep up to `KEPT_BYTES` of freed memory, with glibc, unless the environment says how much.

    By default glibc gives each block of more than 128 KiB back when it is freed, as it does with the end of the heap.
    To get it again the kernel clears every page: most of the time it takes to read messages of such sizes.
    """
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):
        return
    for number, size, variable in _MALLOC_SETTINGS:
        if variable not in os.environ:
            mallopt(number, size)


def be_expendable(by: int) -> None:
    """Make the kernel end this process, and those it starts, before the one that started it."""
    with suppress(OSError, ValueError):
        _SCORE.write_text(str(min(int(_SCORE.read_text()) + by, _MOST)))


def kills_for_memory() -> int:
    """Return how many processes of this machine were ended for want of memory since it started; 0 where unknown."""
    with suppress(OSError, ValueError):
        for line in _COUNTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def why_ended(code: int | None, kills_before: int) -> str:
    """
    Say why a process ended with *code*, which for a signal is its negative number, or 128 + it.

    *kills_before* is what `kills_for_memory` returned when the process was started.
    """
    if code is None:
        return "it could not be started"
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
    killed = kills_for_memory() - kills_before
    if killed <= 0:
        return "killed by SIGKILL, and not for want of memory"
    return f"killed by SIGKILL, perhaps because memory ran out: the kernel ended {killed} for that meanwhile"
