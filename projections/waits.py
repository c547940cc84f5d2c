"""
What a task has waited for, in seconds by cause: the time in which no attempt of it ran, all of it. Pure.

While a task was ready, its shape says why it waited (see `blockage`), unless a hold or a pause of its queue kept it.
Before, its own state says why: the tasks that it waits for, its pause, its time, the pause before a retry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.pool import TASKS
from events.queue import DEFAULT
from projections.blockage import UNCLAIMED, name_in, parts, shape_id
from projections.keyed import all_keys_of
from projections.ready import shape_of
from projections.task import ATTEMPTS_KEPT
from projections.time_limits import waits_since

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.blockage import CauseSpan
    from projections.task import Task
    from projections.world import World

HELD, QUEUE_PAUSED, REQUEST_WAITS, GATHERS = "held", "queue_paused", "request_waits", "gang_gathers"
DEPENDENT, PAUSED, BACK_OFF, LATER = "waits_for", "task_paused", "back_off", "not_before"
"""The causes that are no shape's, as `task.explain` names them."""


def waited(world: World, task: Task) -> dict[str, float]:
    """
    Return how long a task waited for what, until now or until it ended, the longest first.

    The parts add up to all time in which none of its attempts ran. Of its attempts the last ten that failed are known;
    one that was given back counts as waiting.
    """
    found: dict[str, float] = {}
    kept_back = list(_kept_back(world, task))
    first = _spans(world, not_begun(task))
    later = _spans(world, task) if task.build_id or task.gang is not None else first

    def note(cause: str, begin: float, end: float) -> None:
        if end > begin:
            found[cause or UNCLAIMED] = found.get(cause or UNCLAIMED, 0.0) + end - begin

    for begin, ready, end, cause in _intervals(world, task):
        at, spans = min(max(begin, ready), end), first if begin == task.submitted_at else later
        note(cause, begin, at)
        for since, until, kept_by in kept_back:
            cut = min(max(since, at), end)
            for why, seconds in parts(spans, at, cut).items():
                note(why, 0.0, seconds)
            at = max(at, min(until, end))
            note(kept_by, cut, at)
        for why, seconds in parts(spans, at, end).items():
            note(why, 0.0, seconds)
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _intervals(world: World, task: Task) -> Iterator[tuple[float, float, float, str]]:
    """Yield when no attempt ran: from when, when it was ready for one, until when, and why it was not ready before."""
    begin, last, now = task.submitted_at, task.started_at, world.indexes.now
    attempts = task.attempts
    if len(attempts) == ATTEMPTS_KEPT and attempts[0].attempt > 1:
        begin = attempts[0].started_at  # what was before is not known any more
    for one in attempts:
        yield begin, one.ready_at, one.started_at, _why(task, is_first=begin == task.submitted_at)
        begin = one.ended_at
    is_first = not attempts
    if task.worker_id and last is not None and (is_first or attempts[-1].started_at != last):
        yield begin, task.retry_at, last, _why(task, is_first=is_first)
        return
    end = now if task.ended_at is None else task.ended_at
    if task.waiting_for:
        yield begin, end, end, DEPENDENT
    elif task.paused_at is not None:
        yield begin, task.retry_at, task.paused_at, _why(task, is_first=is_first)
        yield max(begin, task.paused_at), end, end, PAUSED
    else:
        yield begin, waits_since(task), end, _why(task, is_first=is_first)


def _why(task: Task, *, is_first: bool) -> str:
    """Return why a task was not ready at once for its first attempt, or for another one."""
    if task.resumes:
        return PAUSED
    if not is_first:
        return BACK_OFF
    return LATER if task.after is None else DEPENDENT


def not_begun(task: Task) -> Task:
    """Return a task as it was before its first attempt, which decided where it goes on, and began its gang."""
    if task.gang is not None and task.attempt:
        return msgspec.structs.replace(task, build_id="", attempt=0)
    return task if not task.build_id else msgspec.structs.replace(task, build_id="")


def _spans(world: World, task: Task) -> tuple[CauseSpan, ...]:
    shape = shape_of(task, all_keys_of(task, world.limits, world.budgets), world.indexes.builds.of(task))
    name = name_in(task.queue or DEFAULT, shape_id(shape))
    known = world.blockages.get(name)
    return () if known is None else known.spans


def _kept_back(world: World, task: Task) -> Iterator[tuple[float, float, str]]:
    """
    Yield from when to when holds, a pause of its queue, or a request without its share, kept a task from the workers.

    In order and apart. A request is known as long as it waits or has its share.
    """
    now, queue_id = world.indexes.now, task.queue or DEFAULT
    on_hold = world.indexes.on_hold
    past = (one for name, one in world.past_holds.items() if on_hold.past[name](task))
    times = [(one.hold.placed_at, one.until, HELD) for one in past]
    times += [(world.holds[hold_id].placed_at, now, HELD) for hold_id in on_hold.met_by(task)]
    pauses = (one for one in world.past_pauses.values() if one.queue_id == queue_id)
    times += [(one.since, one.until, QUEUE_PAUSED) for one in pauses]
    queue = world.queues.get(queue_id)
    if queue is not None and queue.paused_at is not None:
        times.append((queue.paused_at, now, QUEUE_PAUSED))
    pool = world.pools.get(TASKS) if task.request else None
    if pool is not None and task.request in pool.waiting:
        times.append((task.submitted_at, now, REQUEST_WAITS))
    elif pool is not None and (share := pool.allocations.get(task.request)) is not None:
        times.append((task.submitted_at, share.allocated_at, REQUEST_WAITS))
    last = 0.0
    for since, until, cause in sorted(times):
        if until > last:
            yield max(since, last), until, cause
            last = until
