"""The time limits of tasks: which may be asked for, and who has exceeded one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.validation import check_number
from coordinator.deciders import cancel_ladder
from events.task import TaskStatus, TaskTimedOut
from events.time_limits import FINISH_WITHIN, GANG_DEADLINE, START_WITHIN, TimeLimits
from projections.time_limits import counts_since, deadline_of, waits_since

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.task import TaskCancelled
    from projections.task import Task
    from projections.world import World

LEAST_S, MOST_S = 0.001, 366 * 86_400.0
_NONE = TimeLimits()


def checked_limits(limits: TimeLimits) -> TimeLimits | None:
    """
    Return the limits of a task, None if there are none.

    Raises:
        Refused: one is out of range.
    """
    if limits == _NONE:
        return None
    for name, limit_s in msgspec.structs.asdict(limits).items():
        if limit_s is not None:
            check_number(f"time_limits.{name}", limit_s, LEAST_S, MOST_S)
    return limits


def timed_out(world: World, now: float) -> Iterator[TaskTimedOut | TaskCancelled]:
    """Yield the end of each task that has exceeded a limit."""
    for task_id in tuple(world.indexes.overdue(now)):
        task = world.tasks[task_id]
        at, exceeded = deadline_of(task)
        event = _timed_out(task, exceeded, now)
        # The limit itself decides where the sum of start and limit is rounded down.
        if at <= now and event.ran_for_s >= event.limit_s:
            yield event if task.cancelling is None else cancel_ladder.ended(task, task.cancelling, "timeout")


def _timed_out(task: Task, exceeded: str, now: float) -> TaskTimedOut:
    limits = task.time_limits
    lease = task.lease if task.status is TaskStatus.RUNNING else ""
    if task.gang is not None and exceeded == GANG_DEADLINE:
        limit_s: float | None = task.gang.deadline_s
        since = task.gang_until - task.gang.deadline_s
    elif limits is not None and exceeded == START_WITHIN:
        since, limit_s = waits_since(task), limits.start_within_s
    elif limits is not None and exceeded == FINISH_WITHIN:
        since, limit_s = counts_since(task), limits.finish_within_s
    else:
        since, limit_s = task.started_at or 0.0, (task.timeout_s or 0.0) + task.extended_s
    return TaskTimedOut(
        task_id=task.task_id,
        lease=lease,
        ran_for_s=now - since,
        limit_s=limit_s or 0.0,
        attempt=task.attempt if lease else 0,
        exceeded=exceeded,
    )
