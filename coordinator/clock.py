"""The only place that reads a clock. Everything else is given a `Clock`, so that tests can turn the hands."""

from __future__ import annotations

import time
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Wall-clock time for what is written down, monotonic time for how long something takes."""

    def wall(self) -> float:
        """Give seconds since 1970."""
        ...

    def heard(self) -> float:
        """Give monotonic seconds that go on while the machine sleeps, where the system can tell."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> float:
        return time.time()

    def heard(self) -> float:
        # CLOCK_MONOTONIC stands still while a laptop sleeps; a lease must not.
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
