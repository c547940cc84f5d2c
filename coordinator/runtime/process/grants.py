"""
The grant of a node: until when its containers may run, in the file that the watcher in each shim reads.

Each cluster has its own, `.grant-<cluster>`: a node that serves another one now keeps nothing of the last one alive.

One line: the boot id, and the time in hundredths of a second. The clock is that of `/proc/uptime`: the kernel's
CLOCK_BOOTTIME, which a shell can read without starting a process. Where there is no `/proc` it is the wall clock.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from coordinator.atomic_files import private_file
from coordinator.clock import Clock
from coordinator.runtime.process.table import boot_id

_UPTIME = Path("/proc/uptime")
_LINE_BYTES = 64


class Grants:
    """Writes the grants of a cluster's containers under *root*; *kind* is the process table's, *clock* the caller's."""

    def __init__(self, root: Path, *, cluster: str, kind: Literal["proc", "ps"], clock: Clock) -> None:
        self.name = f".grant-{cluster}"
        self._file = root / self.name
        self._kind = kind
        self._clock = clock
        self._last = -math.inf

    def write(self, until: float) -> None:
        """
        Let containers run until this time of the clock's `heard`; does nothing if an earlier grant is as long.

        Not synced to the disk: no container outlives its machine.

        Raises:
            OSError: it cannot be written; the last grant stands.
        """
        if until <= self._last:
            return
        line = f"{self._boot()} {self.shown(until)}".ljust(_LINE_BYTES - 1) + "\n"
        new = self._file.with_name(f"{self.name}.new")
        try:
            with private_file(new) as file:
                file.write(line.encode())
            new.rename(self._file)
        except OSError:
            # A full disk must not end every container of the node. All lines have the same length, so this needs no
            # space; a reader that sees half of it takes it for no grant, as it would have without this.
            with suppress(OSError):
                new.unlink(missing_ok=True)
            _overwrite(self._file, line.encode())
        self._last = until

    def shown(self, until: float) -> str:
        """Return a time of the clock's `heard` as the shim reads it: hundredths of a second of its own clock."""
        # Read the shim's clock first: if this process is stopped in between, the result is too early, never too late.
        now = self._now()
        return str(max(0, int((now + until - self._clock.heard()) * 100)))

    def _now(self) -> float:
        return float(_UPTIME.read_text().split()[0]) if self._kind == "proc" else self._clock.wall()

    def _boot(self) -> str:
        return boot_id() if self._kind == "proc" else "-"


def _overwrite(file: Path, line: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, line, 0)
    finally:
        os.close(descriptor)
