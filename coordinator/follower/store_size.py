"""The size of the read model's file, how fast it grows, and the room on its disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from coordinator.clock import SystemClock
from coordinator.commands.reads import StoreSize

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0
LEAST_S = 60.0
"""A growth over less than this is not told: it says nothing about a day."""


class Measured(NamedTuple):
    """How large a read model was, and when (seconds of a clock that never jumps)."""

    bytes: int
    at: float


def measure(path: Path) -> Measured:
    """Return the size of the read model at *path* now; 0 if there is none."""
    return Measured(sum(_size(path.with_name(path.name + suffix)) for suffix in ("", "-wal")), SystemClock().heard())


def size_of(path: Path, before: Measured) -> StoreSize | None:
    """Return the size of the read model at *path* and its growth since *before*; None if it cannot be measured."""
    now = measure(path)
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return None
    took_s = now.at - before.at
    growth = (now.bytes - before.bytes) / took_s * DAY_S if took_s >= LEAST_S else None
    return StoreSize(bytes=now.bytes, bytes_a_day=growth, free_bytes=free)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
