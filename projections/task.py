"""
Tasks as the journal tells them: state, legal transitions, and the fold. Pure.

A task is PENDING until a worker is given it, RUNNING under exactly one lease, and ends once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.errors import Corrupt
from events.resources import NONE, Resources
from events.task import (
    Payload,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
)
from projections.stamp import Stamp, check_legal, check_status, existing, missing

if TYPE_CHECKING:
    MovingTaskEvent = TaskStarted | TaskCompleted | TaskAttemptFailed | TaskFailed | TaskCancelled | TaskTimedOut
    AnyTaskEvent = TaskSubmitted | MovingTaskEvent | TaskProgressed | TaskReportRefused

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT})

LEGAL: dict[TaskStatus, frozenset[TaskStatus]] = {
    PENDING: frozenset({RUNNING, TaskStatus.CANCELLED}),
    RUNNING: ENDED | {PENDING},
    **{status: frozenset() for status in ENDED},
}


class Task(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One task; times are commit times in seconds, `attempt` counts starts, `failures` those that count as tries."""

    task_id: str
    task_name: str
    status: TaskStatus
    submitted: Position
    submitted_at: float
    task_type: str = ""
    tenant: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int = 0
    resources: Resources = NONE
    payload: Payload | None = None
    payload_digest: str = ""
    idempotency_key: str = ""
    attempt: int = 0
    failures: int = 0
    lease: str = ""
    claim_id: str = ""
    worker_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    ended: Position = START
    ended_by: str = ""
    retry_at: float = 0.0
    error: str = ""
    execution_time_s: float | None = None
    result: Payload | None = None
    progress: float = 0.0
    progress_message: str = ""
    refused_lease: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can happen to the task."""
        return self.status in ENDED


def digest_of(payload: Payload | None) -> str:
    """Give what a payload is known by; empty for none."""
    return "" if payload is None else f"{payload.encoding}:{payload.digest}"


def evolve(task: Task | None, event: AnyTaskEvent, stamp: Stamp) -> Task:
    """Fold one event into the task it is about."""
    if isinstance(event, TaskSubmitted):
        if task is not None:
            existing(event, stamp)
        return _submitted(event, stamp)
    if task is None:
        missing(event, stamp)
    if isinstance(event, TaskReportRefused):
        return msgspec.structs.replace(task, refused_lease=event.lease)
    if isinstance(event, TaskProgressed):
        check_status({RUNNING}, task.status, event, stamp)
        return msgspec.structs.replace(task, progress=event.progress, progress_message=event.message)
    after = _evolve(task, event, stamp)
    check_legal(LEGAL, task.status, after.status, event, stamp)
    if isinstance(event, TaskStarted) and event.attempt != task.attempt + 1:
        msg = f"event {stamp.position} starts attempt {event.attempt} of {task.task_id!r} after {task.attempt}"
        raise Corrupt(msg)
    return after


def _submitted(event: TaskSubmitted, stamp: Stamp) -> Task:
    return Task(
        task_id=event.task_id,
        task_name=event.task_name,
        status=PENDING,
        submitted=stamp.position,
        submitted_at=stamp.time,
        task_type=event.task_type,
        tenant=stamp.tenant,
        priority=event.priority,
        timeout_s=event.timeout_s,
        max_retries=event.max_retries,
        resources=event.resources,
        payload=event.payload,
        payload_digest=digest_of(event.payload),
        idempotency_key=event.idempotency_key,
    )


def _evolve(task: Task, event: MovingTaskEvent, stamp: Stamp) -> Task:
    replace = msgspec.structs.replace
    match event:
        case TaskStarted():
            return replace(
                task,
                status=RUNNING,
                worker_id=event.worker_id,
                claim_id=event.claim_id,
                attempt=event.attempt,
                lease=event.lease,
                started_at=stamp.time,
                progress=0.0,
                progress_message="",
            )
        case TaskCompleted():
            return replace(
                _ended(task, TaskStatus.COMPLETED, stamp),
                execution_time_s=event.execution_time_s,
                result=event.result,
                error="",
            )
        case TaskAttemptFailed():
            return replace(
                task,
                status=PENDING,
                failures=task.failures + (event.reason != "released"),
                worker_id="",
                claim_id="",
                retry_at=event.retry_at,
                error=event.error,
            )
        case TaskFailed():
            return replace(_ended(task, TaskStatus.FAILED, stamp), failures=task.failures + 1, error=event.error)
        case TaskCancelled():
            return replace(_ended(task, TaskStatus.CANCELLED, stamp), error=event.reason)
        case TaskTimedOut():
            error = f"ran for {event.ran_for_s:.3f} s, limit {event.limit_s:g} s"
            return replace(_ended(task, TaskStatus.TIMEOUT, stamp), error=error)
    assert_never(event)


def _ended(task: Task, status: TaskStatus, stamp: Stamp) -> Task:
    """End the task; its payload has served and leaves the world (the store keeps it)."""
    return msgspec.structs.replace(
        task, status=status, ended_at=stamp.time, ended=stamp.position, ended_by=stamp.actor, payload=None
    )
