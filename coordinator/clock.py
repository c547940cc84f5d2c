"""The only place that reads a clock. Everything else gets a `Clock`, so that tests can set the time."""

from __future__ import annotations

import time
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

JUMP_S = 60.0
"""A wall clock this far ahead of the elapsed time was set by someone; it is ignored until the next reign."""

FAR_S = 180 * 86_400.0
"""A first commit this long after the last one was made by a wrong clock, or after a very long time."""
EARLIEST = 1_767_225_600.0
"""The first day of 2026, before this program was written: a wall clock that shows an earlier time is wrong."""

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Wall-clock time for recorded times, monotonic time for durations."""

    def wall(self) -> float:
        """Return seconds since 1970."""
        ...

    def heard(self) -> float:
        """Return monotonic seconds; they include the time the machine sleeps if the system supports that."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> float:
        return time.time()

    def heard(self) -> float:
        # CLOCK_MONOTONIC stops while a laptop sleeps; a lease must not.
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class CommitClock:
    """
    Commit time: the time of the wall clock, but it never goes back and never stops.

    If the wall clock of a writer is behind that of the writer before it, or is set back, commit time continues from the
    last commit at the pace of the monotonic clock; deadlines in the journal would otherwise wait until the wall clock
    has caught up. A wall clock that jumps ahead during this reign is ignored too, because what has expired by mistake
    cannot be restored.

    Args:
        clock: the machine's clocks.
        last: time of the last commit, seconds since 1970.
    """

    def __init__(self, clock: Clock, last: float) -> None:
        self._clock = clock
        self._last = last
        self._heard = clock.heard()
        self._reigns = False
        self._jumped = False
        self._is_behind = False

    def now(self) -> float:
        """Return seconds since 1970."""
        heard = self._clock.heard()
        paced = self._last + heard - self._heard
        wall = self._clock.wall()
        if not self._reigns:
            self._log_first(wall)
        behind_s = paced - wall
        if behind_s > JUMP_S and not self._is_behind:
            log.warning("wall_clock_behind", behind_s=round(behind_s, 1), goes_on_at=_shown(paced))
        self._is_behind = behind_s > JUMP_S
        jumps = self._reigns and wall > paced + JUMP_S
        if jumps and not self._jumped:
            log.warning("wall_clock_jumped", ahead_s=round(wall - paced, 1))
        self._jumped = jumps
        self._last = paced if jumps else max(wall, paced)
        self._heard = heard
        self._reigns = True
        return self._last

    def _log_first(self, wall: float) -> None:
        """Log what is certainly or probably wrong with the time that a reign begins with."""
        if wall < EARLIEST:
            log.warning("wall_clock_wrong", shows=_shown(wall), why="it is before this program was written")
        if self._last > 0 and wall > self._last + FAR_S:
            log.warning("wall_clock_far_ahead", shows=_shown(wall), last_commit=_shown(self._last))


def _shown(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
