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


class CommitClock:
    """
    Commit time: the wall clock's, but it never runs back and never stands still.

    A writer whose wall clock is behind that of the writer before it, or is set back, goes on from the last commit at the
    pace of its monotonic clock; deadlines in the journal would otherwise wait until its wall clock has caught up.

    Args:
        clock: the machine's clocks.
        last: time of the last commit, seconds since 1970.
    """

    def __init__(self, clock: Clock, last: float) -> None:
        self._clock = clock
        self._last = last
        self._heard = clock.heard()

    def now(self) -> float:
        """Give seconds since 1970."""
        heard = self._clock.heard()
        self._last = max(self._clock.wall(), self._last + heard - self._heard)
        self._heard = heard
        return self._last
