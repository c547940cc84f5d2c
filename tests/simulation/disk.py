"""
The simulated disks of the coordinators, for their high-water marks.

What was written survives the end of a process. When the power fails, each sector has what was synced or anything that
was written since.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

SECTOR_BYTES = 4096


class Disk:
    """Replaces `os` in `coordinator.journal.high_water`; a file is open as its own number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._written: list[dict[int, bytes]] = []
        self._synced: list[dict[int, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)  # the flags of `open`

    def open(self, path: Path, *_: int) -> int:
        number = self._numbers.setdefault(str(path), len(self._written))
        if number == len(self._written):
            self._written.append({})
            self._synced.append({})
        return number

    def close(self, _: int) -> None:
        """Do nothing."""

    def pwrite(self, fd: int, data: bytes, at: int) -> int:
        assert at % SECTOR_BYTES == 0
        assert len(data) <= SECTOR_BYTES
        self._written[fd][at] = data
        return len(data)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        return self._written[fd].get(at, b"")[:size]

    def fsync(self, fd: int) -> None:
        self._synced[fd] = dict(self._written[fd])

    def lose_power(self, path: str, random: Random) -> None:
        """Forget some of what was not synced."""
        fd = self._numbers.get(path)
        if fd is None:
            return
        synced, written = self._synced[fd], self._written[fd]
        for at in sorted(written):
            if random.random() < 0.5 and synced.get(at) != written[at]:
                written[at] = synced.get(at, b"")
