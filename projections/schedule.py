"""
Schedules: state, and the fold of their events. Pure.

The fold never computes a slot: which one is next is in every event that changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never
from zlib import crc32

import msgspec

from events.base import START, Position
from events.errors import Corrupt
from events.schedule import (
    Catchup,
    Overlap,
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleStatus,
    TaskContent,
    Timing,
)
from projections.stamp import Stamp, check_legal, missing

if TYPE_CHECKING:
    ChangingScheduleEvent = (
        ScheduleFired | ScheduleQueued | ScheduleSkipped | SchedulePaused | ScheduleResumed | ScheduleDeleted
    )
    AnyScheduleEvent = ScheduleDefined | ChangingScheduleEvent

ACTIVE, PAUSED, DELETED = ScheduleStatus.ACTIVE, ScheduleStatus.PAUSED, ScheduleStatus.DELETED

LEGAL: dict[ScheduleStatus, frozenset[ScheduleStatus]] = {
    ACTIVE: frozenset({ACTIVE, PAUSED, DELETED}),
    PAUSED: frozenset({PAUSED, ACTIVE, DELETED}),
    DELETED: frozenset({ACTIVE}),
}


class Schedule(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One schedule; times are commit times, slots whole seconds since 1970.

    `next_slot` is the first slot that was not looked at yet, null if there is none; `queued` are slots that wait for
    the end of the task before them; `last_slot` and `last_task_id` are those that were fired last, without backfills.
    `task` is null once the schedule is deleted. `source` is who defined it last: its tasks are that one's.
    """

    schedule_id: str
    status: ScheduleStatus
    defined: Position
    defined_at: float
    timing: Timing
    latest: Position
    task: TaskContent | None = None
    catchup: Catchup = Catchup.LAST
    catchup_most: int = 100
    overlap: Overlap = Overlap.SKIP
    next_slot: int | None = None
    last_slot: int | None = None
    last_task_id: str = ""
    fired: int = 0
    queued: tuple[int, ...] = ()
    reason: str = ""
    source: str = ""
    tenant: str = ""
    ended_at: float | None = None
    ended: Position = START

    @property
    def is_ended(self) -> bool:
        """Whether the schedule is deleted."""
        return self.ended_at is not None


def fires_at(schedule: Schedule, slot: int) -> float:
    """Return when a slot is fired: its jitter follows from the schedule's id and the slot, and is always the same."""
    if not schedule.timing.jitter_s:
        return float(slot)
    return slot + schedule.timing.jitter_s * (crc32(f"{schedule.schedule_id}/{slot}".encode()) / 2**32)


def evolve(schedule: Schedule | None, event: AnyScheduleEvent, stamp: Stamp) -> Schedule:
    """Fold one event into the schedule it is about."""
    if isinstance(event, ScheduleDefined):
        return _defined(schedule, event, stamp)
    if schedule is None or schedule.is_ended:
        missing(event, stamp)
    return msgspec.structs.replace(_changed(schedule, event, stamp), latest=stamp.position)


def _defined(schedule: Schedule | None, event: ScheduleDefined, stamp: Stamp) -> Schedule:
    if schedule is None or schedule.is_ended:
        schedule = Schedule(
            schedule_id=event.schedule_id,
            status=ACTIVE,
            defined=stamp.position,
            defined_at=stamp.time,
            timing=event.timing,
            latest=stamp.position,
        )
    return msgspec.structs.replace(
        schedule,
        timing=event.timing,
        task=event.task,
        catchup=event.catchup,
        catchup_most=event.catchup_most,
        overlap=event.overlap,
        next_slot=event.next_slot,
        latest=stamp.position,
        source=stamp.owner,
        tenant=stamp.tenant,
    )


def _changed(schedule: Schedule, event: ChangingScheduleEvent, stamp: Stamp) -> Schedule:
    change = msgspec.structs.replace
    match event:
        case ScheduleFired(is_backfill=True):
            return change(schedule, fired=schedule.fired + 1)
        case ScheduleFired():
            _check_order(schedule, event.slot, stamp)
            return change(
                schedule,
                next_slot=event.next_slot,
                last_slot=event.slot,
                last_task_id=event.task_id,
                fired=schedule.fired + 1,
                queued=tuple(slot for slot in schedule.queued if slot > event.slot),
            )
        case ScheduleQueued():
            return change(schedule, next_slot=event.next_slot, queued=(*schedule.queued, event.slot))
        case ScheduleSkipped():
            queued = tuple(slot for slot in schedule.queued if not event.slot <= slot <= event.through)
            return change(schedule, next_slot=event.next_slot, queued=queued)
        case SchedulePaused():
            check_legal(LEGAL, schedule.status, PAUSED, event, stamp)
            return change(schedule, status=PAUSED, reason=event.reason)
        case ScheduleResumed():
            check_legal(LEGAL, schedule.status, ACTIVE, event, stamp)
            return change(schedule, status=ACTIVE, reason="", next_slot=event.next_slot)
        case ScheduleDeleted():
            return change(
                schedule,
                status=DELETED,
                reason=event.reason,
                task=None,
                next_slot=None,
                queued=(),
                ended_at=stamp.time,
                ended=stamp.position,
            )
    assert_never(event)


def _check_order(schedule: Schedule, slot: int, stamp: Stamp) -> None:
    """
    Stop at a slot that was fired before: slots are fired once, in order.

    Raises:
        Corrupt: it is not after the last one.
    """
    if schedule.last_slot is not None and slot <= schedule.last_slot:
        msg = f"event {stamp.position} fires slot {slot} of {schedule.schedule_id!r} after slot {schedule.last_slot}"
        raise Corrupt(msg)
