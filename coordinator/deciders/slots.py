"""
The slots of a schedule: which comes next, and which have passed.

The same timing and the same zone data always give the same slots; no clock is read. Zones come from the system's zone
data or from the package `tzdata`, and another release of these may say otherwise: so what was computed here is recorded
in events, and only deciders and questions compute it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from coordinator.commands.task import LATEST_S
from coordinator.commands.validation import check_number, check_text
from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.schedule import Timing

CRON_FIELDS = 5
CRON_CHARS_MAX, ZONE_CHARS_MAX = 256, 64
EVERY_MOST_S = 366 * 86_400
JITTER_MOST_S = 3600.0
WINDOW_S = 3600
GAPS_LOOKED_AT = 50


def check_timing(timing: Timing, now: float) -> None:
    """
    Accept when the slots of a schedule shall be.

    Raises:
        Refused: not exactly one of `cron` and `every_s` is given, one of them or the zone is invalid, or a number is.
    """
    if bool(timing.cron) is (timing.every_s is not None):
        msg = f"cron {shown(timing.cron)} and every_s {timing.every_s} are given: use exactly one of them"
        raise Refused(msg, reason="bad_schedule")
    check_text("cron", timing.cron, CRON_CHARS_MAX)
    if timing.every_s is not None:
        check_number("every_s", timing.every_s, 1, EVERY_MOST_S)
    most_s = JITTER_MOST_S if timing.every_s is None else min(JITTER_MOST_S, float(timing.every_s))
    check_number("jitter_s", timing.jitter_s, 0.0, most_s)
    for name, at in (("start", timing.start), ("end", timing.end)):
        if at is not None and not 0.0 <= at <= now + LATEST_S:
            msg = f"{name} {shown(at)} is not between 0 and {now + LATEST_S:.0f}, ten years from now, in seconds"
            raise Refused(msg, reason="bad_time")
    _checked_zone(timing.time_zone)
    if timing.cron:
        _check_cron(timing)
        _check_jitter(timing, now)


def _check_jitter(timing: Timing, now: float) -> None:
    """Slots are fired in their order: none may wait for longer than until the next one."""
    slot = next_after(timing, now) if timing.jitter_s else None
    for _ in range(GAPS_LOOKED_AT):
        then = None if slot is None else next_after(timing, slot)
        if slot is None or then is None:
            return
        check_number("jitter_s", timing.jitter_s, 0.0, float(then - slot))
        slot = then


def _checked_zone(name: str) -> ZoneInfo:
    check_text("time_zone", name, ZONE_CHARS_MAX, least=1)
    try:
        return zone_of(name)
    except (OSError, LookupError, ValueError) as error:
        msg = f"time_zone {shown(name)} is not known: use a name such as 'UTC' or 'Europe/Berlin'"
        raise Refused(msg, reason="bad_schedule") from error


def _check_cron(timing: Timing) -> None:
    if len(timing.cron.split()) != CRON_FIELDS:
        msg = (
            f"cron {shown(timing.cron)} has not 5 fields: use minute, hour, day, month, weekday, such as '0 9 * * MON'"
        )
        raise Refused(msg, reason="bad_schedule")
    try:
        found = next(CronSim(timing.cron, datetime(2000, 1, 1, tzinfo=UTC)), None)
    except (CronSimError, AssertionError, ValueError, LookupError) as error:
        msg = f"cron {shown(timing.cron)} cannot be read ({error}): use five fields, such as '0 9 * * MON'"
        raise Refused(msg, reason="bad_schedule") from error
    if found is None:
        raise Refused(f"cron {shown(timing.cron)} names no day that ever comes", reason="bad_schedule")


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its name."""
    return ZoneInfo(name)


def next_after(timing: Timing, after: float) -> int | None:
    """Return the first slot after a time, in whole seconds since 1970; None if there is none."""
    first = math.ceil(timing.start)
    least = max(math.floor(after) + 1, first)
    if timing.every_s is not None:
        slot = first - (first - least) // timing.every_s * timing.every_s
    else:
        found = next(_cron_from(timing, least - 1), None)
        if found is None:
            return None
        slot = found
    return slot if (timing.end is None or slot <= timing.end) else None


def newest_first(timing: Timing, first: int, through: float) -> Iterator[int]:
    """Yield the slots from *first* to *through*, the newest first."""
    until = math.floor(through if timing.end is None else min(through, timing.end))
    begin = max(first, math.ceil(timing.start))
    if timing.every_s is not None:
        base = math.ceil(timing.start)
        slot = base + (until - base) // timing.every_s * timing.every_s
        while slot >= begin:
            yield slot
            slot -= timing.every_s
        return
    # Only forwards does the library give the same slots from wherever it begins: so in windows, each twice the last.
    end, window_s = until, WINDOW_S
    while end >= begin:
        start = max(begin, end - window_s)
        yield from reversed(list(takewhile(end.__ge__, _cron_from(timing, start - 1))))
        end, window_s = start - 1, 2 * window_s


def _cron_from(timing: Timing, after: int) -> Iterator[int]:
    """Yield the times of a cron expression after *after*."""
    at = datetime.fromtimestamp(after, zone_of(timing.time_zone))
    for found in CronSim(timing.cron, at):
        slot = int(found.timestamp())
        if slot > after:  # in the second pass of an hour that the clocks repeat, it gives those of the first pass again
            yield slot


def local_time(timing: Timing, slot: int) -> datetime:
    """Return a slot in the time zone of its schedule."""
    return datetime.fromtimestamp(slot, zone_of(timing.time_zone))
