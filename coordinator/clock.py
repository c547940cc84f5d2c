"""The only place that reads a clock. Everything else is given a `Clock`, so that tests can turn the hands."""

from __future__ import annotations

import time
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

LEAP_S = 60.0
"""A wall clock this far ahead of the time that has passed was set; until the next reign that must not matter."""

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

    A writer whose wall clock is behind that of the writer before it, or is set back, goes on from the last commit at
    the pace of its monotonic clock; deadlines in the journal would otherwise wait until its wall clock has caught up.
    A wall clock that leaps ahead while this writer reigns is not believed either, for what it lets lapse never comes
    back.

    Args:
        clock: the machine's clocks.
        last: time of the last commit, seconds since 1970.
    """

    def __init__(self, clock: Clock, last: float) -> None:
        self._clock = clock
        self._last = last
        self._heard = clock.heard()
        self._reigns = False
        self._leapt = False

    def now(self) -> float:
        """Give seconds since 1970."""
        heard = self._clock.heard()
        paced = self._last + heard - self._heard
        wall = self._clock.wall()
        leaps = self._reigns and wall > paced + LEAP_S
        if leaps and not self._leapt:
            log.warning("wall_clock_leapt", ahead_s=round(wall - paced, 1))
        self._leapt = leaps
        self._last = paced if leaps else max(wall, paced)
        self._heard = heard
        self._reigns = True
        return self._last
