"""
Deciders of the schedule commands, and what is due for schedules. Pure.

A slot is fired once: the id of its task is that of the schedule and the slot, the task is submitted first, and the
event that the slot was fired moves the schedule on. Where these two come apart, as when a turn is full or the writer is
killed, the next look finds the task and only moves the schedule on.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.schedule import (
    BackfillSchedule,
    DefineSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
)
from coordinator.commands.task import SubmitTask
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders import limit
from coordinator.deciders.queue import check_queue
from coordinator.deciders.rules import Decider, Teller, check_churn, standing
from coordinator.deciders.slots import check_timing, newest_first, next_after
from coordinator.deciders.submission import submission
from coordinator.deciders.submit_rules import permitted
from coordinator.deciders.task import check_new_payload, check_room
from events.errors import CoordinationError, Forbidden, Refused
from events.ids import checked
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
from events.task import Occurrence, TaskCancelled, TaskSubmitted
from projections.queue import name_of
from projections.schedule import fires_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from events.base import Event
    from projections.schedule import Schedule
    from projections.world import World

MOST_SCHEDULES = 100_000
ID_CHARS_MAX = 47
"""The id of a schedule leaves room for the slot in the ids of its tasks."""
CATCHUP_MOST = 1000
BACKFILL_MOST = 100
QUEUED_MOST = 100
MISSED_AFTER_S = 60.0
"""A slot that could not be fired for so long was missed; one that is a little late is fired whatever `catchup` says."""


def task_id_of(schedule_id: str, slot: int) -> str:
    """Return the id of the task of a slot, such as `nightly-20261129T013000Z`."""
    return f"{schedule_id}-{datetime.fromtimestamp(slot, UTC):%Y%m%dT%H%M%SZ}"


# --- commands ---------------------------------------------------------------------------------------------------------


def define(world: World, command: DefineSchedule, context: DecisionContext) -> Events:
    """Create a schedule or change it; it goes on where it was if its slots stay the same."""
    schedule_id = checked(command.schedule_id, "schedule_id")
    if len(schedule_id) > ID_CHARS_MAX:
        msg = f"schedule_id {schedule_id!r} has {len(schedule_id)} characters: use at most {ID_CHARS_MAX}"
        raise Refused(msg, reason="bad_id")
    timing = _timing(command)
    check_timing(timing, context.now)
    check_number("catchup_most", command.catchup_most, 1, CATCHUP_MOST)
    task = _content(world, command, context)
    known = world.schedules.get(schedule_id)
    if known is not None and known.is_ended:
        known = None
    is_same_time = known is not None and known.timing == timing
    event = ScheduleDefined(
        schedule_id=schedule_id,
        timing=timing,
        task=task,
        next_slot=known.next_slot if known is not None and is_same_time else next_after(timing, context.now),
        catchup=command.catchup,
        catchup_most=command.catchup_most,
        overlap=command.overlap,
    )
    if known is not None and _is_so(known, event):
        return ()
    _check_room(world, known, task, context)
    return (event,)


def _timing(command: DefineSchedule) -> Timing:
    timing = Timing(
        cron=" ".join(command.cron.split()), every_s=command.every_s, time_zone=command.time_zone, end=command.end
    )
    # What is at its default is not written, if it is the default itself.
    if command.jitter_s:
        timing = msgspec.structs.replace(timing, jitter_s=command.jitter_s)
    return msgspec.structs.replace(timing, start=command.start) if command.start else timing


def _content(world: World, command: DefineSchedule, context: DecisionContext) -> TaskContent:
    """Return the content of the tasks, checked as that of any task."""
    given = command.task
    asked = {name: getattr(given, name) for name in given.__struct_fields__}
    as_submitted = submission(world, SubmitTask(task_id="of_a_slot", **asked), context)
    if as_submitted.queue:
        check_queue(world, as_submitted.queue)
    if context.rules.task_rules:
        permitted(as_submitted, context.actor, context.tenant, context.rules.task_rules)
    return msgspec.structs.replace(given, max_retries=as_submitted.max_retries, time_limits=as_submitted.time_limits)


def _is_so(known: Schedule, event: ScheduleDefined) -> bool:
    names = ("timing", "task", "catchup", "catchup_most", "overlap")
    return all(getattr(known, name) == getattr(event, name) for name in names)


def _check_room(world: World, known: Schedule | None, task: TaskContent, context: DecisionContext) -> None:
    living = len(world.schedules) - world.indexes.owned_schedules.ended
    if known is None:
        if living >= MOST_SCHEDULES:
            raise Refused(f"there are {living} schedules, the maximum: delete some", reason="too_many")
        check_churn(world, world.indexes.owned_schedules, "schedules", context)
    if task.payload is not None and (known is None or known.task is None or known.task.payload != task.payload):
        check_new_payload(world, task.payload, context)


def pause(world: World, command: PauseSchedule, context: DecisionContext) -> Events:
    """Pause a schedule."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    schedule = _living(world, command.schedule_id)
    if schedule.status is ScheduleStatus.PAUSED:
        return ()
    return (SchedulePaused(schedule_id=schedule.schedule_id, reason=command.reason),)


def resume(world: World, command: ResumeSchedule, context: DecisionContext) -> Events:
    """Resume a schedule with the first slot from now on."""
    schedule = _living(world, command.schedule_id)
    if schedule.status is not ScheduleStatus.PAUSED:
        return ()
    return (ScheduleResumed(schedule_id=schedule.schedule_id, next_slot=next_after(schedule.timing, context.now)),)


def delete(world: World, command: DeleteSchedule, context: DecisionContext) -> Events:
    """Delete a schedule."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    schedule = standing(world.schedules, checked(command.schedule_id, "schedule_id"), "schedule")
    if schedule.is_ended:
        return ()
    return (ScheduleDeleted(schedule_id=schedule.schedule_id, reason=command.reason),)


def backfill(world: World, command: BackfillSchedule, context: DecisionContext) -> Events:
    """Submit the tasks of slots that have passed, without those that are known."""
    schedule = _living(world, command.schedule_id)
    slots = _slots_between(schedule, command, context)
    new = [event for slot in slots if (event := _submitted(world, schedule, slot, context)) is not None]
    if new:
        check_room(world, context.rules, len(new))
    events: list[Event] = []
    for event in new:
        assert event.occurrence is not None
        events.append(event)
        events.append(
            ScheduleFired(
                schedule_id=schedule.schedule_id,
                slot=event.occurrence.slot,
                task_id=event.task_id,
                next_slot=schedule.next_slot,
                is_backfill=True,
            )
        )
    return tuple(events)


def _slots_between(schedule: Schedule, command: BackfillSchedule, context: DecisionContext) -> list[int]:
    """
    Return the slots of a backfill, oldest first.

    Raises:
        Refused: the times are none that have passed, or there are too many slots.
    """
    if not 0.0 <= command.since <= command.until <= context.now:
        msg = (
            f"since {command.since} and until {command.until} are not two times, one after the other, up to now "
            f"({context.now:.0f}), in seconds since 1970"
        )
        raise Refused(msg, reason="bad_time")
    slots = newest_first(schedule.timing, math.ceil(command.since), command.until)
    found = list(islice(slots, BACKFILL_MOST + 1))
    if len(found) > BACKFILL_MOST:
        msg = f"more than {BACKFILL_MOST} slots are between since and until: ask for fewer, and again for the rest"
        raise Refused(msg, reason="too_many")
    return found[::-1]


def _living(world: World, schedule_id: str) -> Schedule:
    """Return a schedule that is not deleted."""
    schedule = standing(world.schedules, checked(schedule_id, "schedule_id"), "schedule")
    if schedule.is_ended:
        return standing({}, schedule_id, "schedule")
    return schedule


# --- time -------------------------------------------------------------------------------------------------------------


def due(world: World, context: DecisionContext) -> Iterator[Event]:
    """Yield what is due for schedules: tasks of slots whose time has come, and of slots that waited for a task."""
    for schedule_id in tuple(world.indexes.due_schedules(context.now)):
        if not _has_room(world, context.rules):
            return  # all of them wait: the queue is as full as it may be
        yield from _due_for(world, schedule_id, context)


def _has_room(world: World, rules: Rules) -> bool:
    try:
        check_room(world, rules)
    except CoordinationError:
        return False
    return True


def _due_for(world: World, schedule_id: str, context: DecisionContext) -> Iterator[Event]:
    now = context.now
    schedule = world.schedules[schedule_id]
    if schedule.queued and not _runs(world, schedule):
        yield from _fire(world, schedule, schedule.queued[0], schedule.next_slot, context)
        schedule = world.schedules[schedule_id]
    first = schedule.next_slot
    if first is None or fires_at(schedule, first) > now:
        return
    slots, missed, following = _slots_due(schedule, first, now)
    if missed is not None:
        yield ScheduleSkipped(
            schedule_id=schedule_id,
            slot=first,
            through=missed,
            reason="missed",
            next_slot=slots[0] if slots else following,
        )
    for slot, then in zip(slots, (*slots[1:], following), strict=False):
        yield from _occur(world, world.schedules[schedule_id], slot, then, context)


def _slots_due(schedule: Schedule, first: int, now: float) -> tuple[list[int], int | None, int | None]:
    """
    Return the slots to fire, the last one before them that was missed, and the first one that is not due yet.

    Slots that are a little late are all fired; of those that were missed, as many more as `catchup` wants in all.
    """
    following = next_after(schedule.timing, first)
    if following is None or fires_at(schedule, following) > now:  # usual: only one is due
        if schedule.catchup is not Catchup.NONE or now - fires_at(schedule, first) <= MISSED_AFTER_S:
            return [first], None, following
        return [], first, following
    wanted = {Catchup.NONE: 0, Catchup.LAST: 1, Catchup.ALL: schedule.catchup_most}[schedule.catchup]
    slots: list[int] = []
    missed = ahead = None
    for slot in newest_first(schedule.timing, first, now):
        at = fires_at(schedule, slot)
        if at > now:  # they are fired in their order
            ahead = slot
            slots.clear()
        elif now - at <= MISSED_AFTER_S or len(slots) < wanted:
            slots.append(slot)
        else:
            missed = slot
            break
    if missed is None and slots[-1:] != [first]:  # by the zone data of today the recorded one is no slot: it counts
        slots.append(first)
    newest = slots[0] if slots else missed or first
    return slots[::-1], missed, next_after(schedule.timing, newest) if ahead is None else ahead


def _occur(world: World, schedule: Schedule, slot: int, then: int | None, context: DecisionContext) -> Iterator[Event]:
    """Yield what a slot leads to while the task before it may not have ended."""
    schedule_id = schedule.schedule_id
    try:
        event = _submitted(world, schedule, slot, context)
    except Forbidden:
        yield _forbidden(schedule, slot, then)
        return
    runs = _runs(world, schedule)
    if schedule.overlap is Overlap.CANCEL:
        if runs:
            yield TaskCancelled(task_id=schedule.last_task_id, reason=f"schedule {schedule_id} replaced it")
    elif runs or schedule.queued:
        is_full = len(schedule.queued) >= QUEUED_MOST
        if schedule.overlap is Overlap.QUEUE and not is_full:
            yield ScheduleQueued(schedule_id=schedule_id, slot=slot, next_slot=then)
            return
        reason = "overlap" if schedule.overlap is Overlap.SKIP else "queue_full"
        yield ScheduleSkipped(schedule_id=schedule_id, slot=slot, through=slot, reason=reason, next_slot=then)
        return
    if event is not None and world.limits:
        try:
            event, first, existing = limit.admitted(world, event, schedule.tenant, context)
        except Refused:
            first, existing = (), "another"
        if existing:
            yield ScheduleSkipped(schedule_id=schedule_id, slot=slot, through=slot, reason="busy", next_slot=then)
            return
        yield from first
    yield from _fired(schedule, slot, then, event)


def _fire(world: World, schedule: Schedule, slot: int, then: int | None, context: DecisionContext) -> Iterator[Event]:
    """Yield what a slot leads to that waited for the task before it."""
    try:
        event = _submitted(world, schedule, slot, context)
    except Forbidden:
        yield _forbidden(schedule, slot, then)
        return
    yield from _fired(schedule, slot, then, event)


def _forbidden(schedule: Schedule, slot: int, then: int | None) -> ScheduleSkipped:
    """Return that who made a schedule may not submit its task any more."""
    return ScheduleSkipped(
        schedule_id=schedule.schedule_id, slot=slot, through=slot, reason="forbidden", next_slot=then
    )


def _fired(schedule: Schedule, slot: int, then: int | None, event: TaskSubmitted | None) -> Iterator[Event]:
    """Yield the task of a slot, unless it is there already, and then that the slot was fired."""
    if event is not None:
        yield event
    yield ScheduleFired(
        schedule_id=schedule.schedule_id,
        slot=slot,
        task_id=task_id_of(schedule.schedule_id, slot),
        next_slot=then,
    )


def _submitted(world: World, schedule: Schedule, slot: int, context: DecisionContext) -> TaskSubmitted | None:
    """
    Return the task of a slot, None if it is there already.

    Raises:
        Forbidden: who made the schedule may not submit it by the rules of now.
    """
    if _is_known(world, schedule, slot):
        return None
    event, rules = _task_of(schedule, slot), context.rules.task_rules
    return permitted(event, schedule.source, schedule.tenant, rules) if rules else event


def _task_of(schedule: Schedule, slot: int) -> TaskSubmitted:
    """Return the task of a slot; its content was checked when the schedule was defined."""
    task = schedule.task
    assert task is not None, "a deleted schedule fires nothing"
    return TaskSubmitted(
        task_id=task_id_of(schedule.schedule_id, slot),
        task_name=task.task_name,
        task_type=task.task_type,
        priority=task.priority,
        timeout_s=task.timeout_s,
        max_retries=task.max_retries or 0,
        resources=task.resources,
        payload=task.payload,
        program=task.program,
        time_limits=task.time_limits,
        queue=name_of(task.queue),
        fairness_key=task.fairness_key,
        retry=task.retry,
        attributes=task.attributes,
        worker_filter=task.worker_filter,
        pin_version=task.pin_version,
        spend=task.spend,
        occurrence=Occurrence(schedule_id=schedule.schedule_id, slot=slot, source=schedule.source),
    )


def _is_known(world: World, schedule: Schedule, slot: int) -> bool:
    return world.knows_task(task_id_of(schedule.schedule_id, slot))


def _runs(world: World, schedule: Schedule) -> bool:
    """Return whether the task that was fired last has not ended."""
    task = world.tasks.get(schedule.last_task_id)
    return task is not None and not task.is_ended


def _backfilled(world: World, command: BackfillSchedule, context: DecisionContext, done: bool) -> list[str]:
    schedule = world.schedules[command.schedule_id]  # a deleted one stays for as long as the command is remembered
    return [task_id_of(schedule.schedule_id, slot) for slot in _slots_between(schedule, command, context)]


DECIDERS: dict[type[Command], Decider] = {
    DefineSchedule: define,
    PauseSchedule: pause,
    ResumeSchedule: resume,
    DeleteSchedule: delete,
    BackfillSchedule: backfill,
}
TELLERS: dict[type[Command], Teller] = {
    DefineSchedule: lambda world, command, context, done: world.schedules[command.schedule_id],
    BackfillSchedule: _backfilled,
}
