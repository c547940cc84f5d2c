"""The time limits of a task: when it reaches the first of them, by commit time. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from events.task import TaskStatus
from events.time_limits import FINISH_WITHIN, GANG_DEADLINE, START_WITHIN, TIMEOUT

if TYPE_CHECKING:
    from projections.task import Task

_RUNNING = TaskStatus.RUNNING


def end_of_attempt(task: Task) -> float | None:
    """Return when the running attempt reaches its `timeout_s`; None if it has none, or no attempt runs."""
    if task.timeout_s is None or task.started_at is None or task.status is not _RUNNING:
        return None
    return task.started_at + task.timeout_s + task.extended_s


def deadline_of(task: Task) -> tuple[float, str]:
    """Return the commit time at which a task that has not ended reaches its first limit, and which; `inf` for never."""
    at, exceeded = end_of_attempt(task), TIMEOUT
    first = inf if at is None else at
    limits = task.time_limits
    if task.gang is not None and not task.attempt:
        first, exceeded = task.gang_until, GANG_DEADLINE
    if limits is None:
        return first, exceeded
    waits_for_a_worker = task.status is not _RUNNING and task.paused_at is None and not task.waiting_for
    if limits.start_within_s is not None and waits_for_a_worker:
        by = waits_since(task) + limits.start_within_s
        first, exceeded = (by, START_WITHIN) if by < first else (first, exceeded)
    if limits.finish_within_s is not None and (by := counts_since(task) + limits.finish_within_s) < first:
        first, exceeded = by, FINISH_WITHIN
    return first, exceeded


def waits_since(task: Task) -> float:
    """Return since when a pending task is ready, or from when it will be."""
    return max(task.submitted_at, task.retry_at)


def counts_since(task: Task) -> float:
    """Return from when the time counts that a task may take with all attempts."""
    return task.submitted_at if task.not_before is None else max(task.submitted_at, task.not_before)


def heartbeat_of(task: Task) -> float | None:
    """Return for how long the running attempt may report nothing; None if for ever, or no attempt runs."""
    limits = task.time_limits
    return None if limits is None or task.status is not _RUNNING else limits.heartbeat_s
