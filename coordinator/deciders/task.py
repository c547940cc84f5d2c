"""
Deciders of the task commands. Pure: the time comes in as `context.now`.

Each decider returns the events that follow, an empty tuple when nothing has to change, or raises. An error may carry
`facts`: events that are recorded although the command is refused.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec.structs import replace

from coordinator.commands.command import Command
from coordinator.commands.task import (
    CancelTask,
    CompleteTask,
    ExtendTask,
    FailTask,
    ProgressTask,
    ReleaseTask,
    SubmitTask,
)
from coordinator.commands.validation import check_number, check_text, shortened, shortened_begin
from coordinator.deciders import cancel_ladder, dependencies, limit, pool_owners
from coordinator.deciders.first_start import too_early
from coordinator.deciders.gang import joined
from coordinator.deciders.housing import is_frozen
from coordinator.deciders.queue import check_queue
from coordinator.deciders.retries import backoff_s, is_final
from coordinator.deciders.rules import Decider, Teller, not_found
from coordinator.deciders.spend import billed, check_affordable, check_usage, price_of, stops, usage_of
from coordinator.deciders.submission import check_payload, same_content, same_key, same_task, submission
from coordinator.deciders.submit_rules import permitted
from coordinator.deciders.time_limits import LEAST_S, MOST_S, timed_out
from events.base import START
from events.errors import Forbidden, Refused, StaleLease, Unavailable
from events.idempotency import IdempotencyForgotten
from events.ids import checked
from events.retry import ERROR_TYPE_CHARS_MAX, PAUSE, PAUSE_MAX_S, TRACEBACK_CHARS_MAX
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
)
from events.task_pause import TaskPaused
from projections.prices import cost_of
from projections.stamp import Stamp
from projections.task import ENDED, SMALL_CHARS, bytes_of, checksum, digest_of, submitted_as
from projections.time_limits import end_of_attempt
from projections.worker import WorkerStatus
from projections.world import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from events.task import Payload, TaskSubmitted
    from projections.task import EndedTask, Task
    from projections.world import World

_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING

DIRECT = "direct"
"""Worker and claim of an attempt that was reported without a claim."""

ROOM = 0.95
"""Share of `remembered_max` up to which idempotency keys older than `HARD_S` may stay."""

CHECKPOINT_BYTES_MAX = 16 * 1024
LEASE_CHARS_MAX = 80
"""No granted lease is longer: the id of a claim and two numbers."""


def submit(world: World, command: SubmitTask, context: DecisionContext) -> Events:
    """Submit a task; a repeat is recognized by its id or its idempotency key."""
    checked(command.task_id, "task_id")
    known = world.tasks.get(command.task_id)
    submitted = submission(world, command, context)
    if known is not None:
        same_task(known, command, submitted, f"task_id {command.task_id!r}")
        return ()
    ended = world.ended_task(command.task_id)
    if ended is not None:
        same_content(ended, command, submitted)
        return ()
    if command.idempotency_key:
        keyed = world.keyed_task(context.tenant, command.idempotency_key)
        if keyed is not None:
            same_key(world, keyed, command, submitted)
            return ()
    event = _accepted(world, submitted, command, context)
    if not world.limits and not command.request and command.after is None:
        return (event,)
    made, end = _admitted(world, event, command, context)
    if made.existing:
        return ()
    if command.request:
        made = made._replace(first=(*made.first, pool_owners.bound(world, command.request, command.task_id)))
    return (*made.first, made.event) if end is None else (*made.first, made.event, end)


def _accepted(world: World, event: TaskSubmitted, command: SubmitTask, context: DecisionContext) -> TaskSubmitted:
    """
    Return the event of a new task as the rules make it.

    Raises:
        Refused: there is no room for it, or something that it names does not fit. Forbidden: no rule permits it.
    """
    if context.rules.task_rules:
        event = permitted(event, context.actor, context.tenant, context.rules.task_rules)
    if event.queue:
        check_queue(world, event.queue)
    if event.gang is not None:
        event = joined(world, event, event.gang, context.tenant, context.now)
    check_room(world, context.rules)
    if command.payload is not None:
        check_new_payload(world, command.payload, context)
    if event.spend is not None and world.budgets:
        check_affordable(world, event, context.tenant, context)
    return event


def _admitted(
    world: World, event: TaskSubmitted, command: SubmitTask, context: DecisionContext
) -> tuple[limit.Admitted, TaskCancelled | None]:
    """
    Return what becomes of a new task by limits, and its end if what it waits for can no longer come about.

    Raises:
        Refused: the limits do not let it wait.
    """
    made = limit.admitted(world, event, context.tenant, context) if world.limits else limit.Admitted(event)
    if command.after is None or made.existing:
        return made, None
    event, end = dependencies.submitted(world, made.event, command.after)
    return made._replace(event=event), end


def planned(world: World, command: SubmitTask, context: DecisionContext) -> Task:
    """
    Return the task that there would be after a submit, which may be one that is there.

    Raises:
        Refused: it would be refused. NotFound: a task that it names does not exist, or is not known any more.
    """
    event = submission(world, command, context)
    known = world.tasks.get(checked(command.task_id, "task_id"))
    if known is not None:
        same_task(known, command, event, f"task_id {command.task_id!r}")
        return known
    if command.request:
        pool_owners.bound(world, command.request, command.task_id)
    made, end = _admitted(world, _accepted(world, event, command, context), command, context)
    if made.existing:
        return _known(world, made.existing)
    task = submitted_as(made.event, Stamp(START, context.now, context.tenant, context.actor, "", ""))
    if end is None:
        return task
    return replace(task, status=TaskStatus.CANCELLED, ended_at=context.now, error=end.reason)


def _known(world: World, task_id: str) -> Task:
    found = world.tasks.get(task_id)
    if found is None:
        raise not_found(task_id, "task")
    return found


def check_room(world: World, rules: Rules, count: int = 1) -> None:
    """
    Accept *count* more tasks.

    Raises:
        Refused: too many are pending. Unavailable: too many that have ended are remembered.
    """
    if world.memory.count >= rules.remembered_max:
        msg = (
            f"{world.memory.count} ended tasks, commands and idempotency keys are remembered, the limit of "
            "engine.remembered_max: a task is accepted again when the oldest are forgotten, 10 minutes after their end"
        )
        raise Unavailable(msg, reason="memory_full", retry_after_s=5.0)
    if len(world.indexes.tasks[_PENDING]) + count > rules.max_pending_tasks:
        most = rules.max_pending_tasks
        msg = f"{most} tasks are pending, the limit of scheduler.max_pending_tasks: submit later or raise the limit"
        raise Refused(msg, reason="queue_full", retry_after_s=5.0)


def check_new_payload(world: World, payload: Payload, context: DecisionContext) -> None:
    """
    Accept the payload of something new.

    Raises:
        Refused: what has not ended has too many bytes.
    """
    if len(payload.data) > SMALL_CHARS:
        check_bytes(world, bytes_of(payload), context)


def check_bytes(world: World, size: int, context: DecisionContext) -> None:
    """
    Accept *size* more bytes of payloads of the sender.

    Raises:
        Refused: what has not ended has too many.
    """
    _check_bytes(world, size, context.actor, context.rules)


def _check_bytes(world: World, size: int, source: str, rules: Rules) -> None:
    """
    Accept *size* more bytes of payloads or checkpoints of a source, which may have half of what the others leave.

    Raises:
        Refused: the tasks that have not ended have too many.
    """
    most, indexes = rules.max_pending_bytes, world.indexes
    mine = indexes.owned_payload_bytes.by_source.get(source, 0)
    others = indexes.payload_bytes - mine
    if 2 * (mine + size) > most - others:
        msg = (
            f"this payload has {size} bytes; those of {source}'s tasks that have not ended have {mine}, those "
            f"of others {others}: a source may have half of what the others leave of {most}, the limit of "
            "scheduler.max_pending_bytes: submit later or raise the limit"
        )
        raise Refused(msg, reason="queue_full", retry_after_s=5.0)


def complete(world: World, command: CompleteTask, context: DecisionContext) -> Events:
    """Complete a task for the holder of its lease."""
    check_payload("result", command.result, context.rules)
    if command.execution_time_s is not None:
        check_number("execution_time", command.execution_time_s, 0.0, 1e9)
    if command.usage is not None:
        check_usage(command.usage)
    task = world.tasks.get(command.task_id)
    if task is None or task.status is not _RUNNING or task.lease != command.lease:  # else the usual: its holder reports
        with billed(world, command, "completed", context.now):
            if _has_ended_as(world, command, TaskStatus.COMPLETED, "completed"):
                return ()
            task = world.tasks[command.task_id]
            started, lease = _reported(task, command.lease, command.worker_id, "completed", context.now)
    else:
        started, lease = (), command.lease
    completed = TaskCompleted(
        task_id=task.task_id,
        lease=lease,
        execution_time_s=command.execution_time_s,
        result=command.result,
        usage=command.usage,
    )
    return (*started, completed)


def _has_ended_as(world: World, command: CompleteTask | FailTask, status: TaskStatus, outcome: str) -> bool:
    """
    Return whether this is a repeat of the report that ended the task, which may have been evicted since.

    Raises:
        NotFound: there is no such task, or it ended longer ago than is remembered.
        Refused: the task has ended in another way.
        StaleLease: it was evicted, and another attempt ended it.
    """
    task = world.tasks.get(checked(command.task_id, "task_id"))
    if task is not None:
        if not task.is_ended or command.lease not in ("", task.lease):
            return False
        found = task.status
    else:
        ended = _evicted(world, command.task_id)
        if command.lease and checksum(command.lease) != ended.lease:
            raise _evicted_since(ended, command.task_id, command.lease)
        found = ended.status
    if found is not status:
        already_ended(command.task_id, found, outcome)
    return True


def _evicted(world: World, task_id: str) -> EndedTask:
    """Return what is remembered of a task that is not in the world; raises `NotFound` if nothing is."""
    ended = world.ended_task(task_id)
    if ended is None:
        raise not_found(task_id, "task")
    return ended


def _evicted_since(ended: EndedTask, task_id: str, lease: str) -> StaleLease:
    what = f"the task has ended as {ended.status.value}"
    return StaleLease(f"lease {lease!r} of task {task_id!r} is not held, {what}: drop this attempt")


def fail(world: World, command: FailTask, context: DecisionContext) -> Events:
    """Fail an attempt: the task goes back to the queue while retries are left, else it fails."""
    error = shortened(command.error, context.rules.text_chars_max)
    if command.usage is not None:
        check_usage(command.usage)
    if command.error_type:
        check_text("error_type", command.error_type, ERROR_TYPE_CHARS_MAX)
    if command.retry_after_s is not None:
        check_number("retry_after_s", command.retry_after_s, 0, PAUSE_MAX_S)
    with billed(world, command, "failed", context.now):
        if _has_ended_as(world, command, TaskStatus.FAILED, "failed"):
            return ()
        task = world.tasks[command.task_id]
        started, lease = _reported(task, command.lease, command.worker_id, "failed", context.now)
    if started:
        task = replace(task, attempt=task.attempt + 1)
    ended = failed_attempt(
        task,
        lease,
        error,
        "failed",
        context.now,
        context.rules,
        retry=command.retry,
        error_type=command.error_type,
        retry_after_s=command.retry_after_s,
        traceback=shortened_begin(command.traceback, TRACEBACK_CHARS_MAX),
    )
    return (*started, ended if command.usage is None else replace(ended, usage=command.usage))


def failed_attempt(
    task: Task,
    lease: str,
    error: str,
    reason: str,
    now: float,
    rules: Rules,
    *,
    retry: bool = True,
    silent_for_s: float | None = None,
    limit_s: float | None = None,
    error_type: str = "",
    retry_after_s: float | None = None,
    traceback: str = "",
) -> TaskAttemptFailed | TaskFailed | TaskPaused | TaskCancelled:
    """
    Return what follows a failed attempt: a retry after a pause, or the failure of the task, or that it is paused.

    A task that is to be cancelled has ended with it.

    A task that has ended `poison_after` processes fails whatever retries are left: the next ones would end as well. So
    does one whose retry policy names the type of the error.
    """
    worker_ended = reason in ("lease_expired", "container_failed")
    if task.cancelling is not None:
        return cancel_ladder.ended(task, task.cancelling, "lost" if worker_ended else "failed", error)
    if worker_ended and (ended := task.lapses + 1) >= rules.poison_after:
        error = f"{ended} workers ended while they ran it; the last: {error}"
        reason, retry = "poison", False
    elif retry and is_final(task, error_type):
        reason = "non_retryable"
        retry = False
    known: dict[str, Any] = {
        "task_id": task.task_id,
        "lease": lease,
        "error": error,
        "silent_for_s": silent_for_s,
        "limit_s": limit_s,
        "attempt": task.attempt,
        "error_type": error_type,
        "traceback": traceback,
    }
    if retry and task.failures < task.retries_most:
        return TaskAttemptFailed(
            **known,
            reason=reason,
            retry_at=now + max(backoff_s(task, rules), retry_after_s or 0.0),
            worker_ended=worker_ended,
            retry_after_s=retry_after_s,
        )
    if retry and task.retry is not None and task.retry.when_exhausted == PAUSE:
        return TaskPaused(**known, reason="retries_exhausted", cause=reason, worker_ended=worker_ended)
    return TaskFailed(**known, reason=reason)


def release(world: World, command: ReleaseTask, context: DecisionContext) -> Events:
    """Release an attempt that was not started: the task goes back to the queue."""
    task = _attempted(world, command.task_id, command.lease)
    _check_holds(task, command.lease, "", "released")
    return (released(task, shortened(command.reason, context.rules.text_chars_max), context),)


def progress(world: World, command: ProgressTask, context: DecisionContext) -> Events:
    """Record the progress of an attempt."""
    if command.progress is not None:
        check_number("progress", command.progress, 0.0, 1.0)
    check_text("message", command.message, context.rules.text_chars_max)
    task = _attempted(world, command.task_id, command.lease)
    if command.usage is not None:
        check_usage(command.usage)
    with billed(world, command, "progress", context.now):
        _check_holds(task, command.lease, "", "progress")
    if command.progress is None:
        done = task.progress, command.message or task.progress_message
    else:
        done = command.progress, command.message
    usage = None if task.spend is None or command.usage is None else usage_of(task, command.usage)
    if usage == task.usage:
        usage = None
    spent = None if usage is None else cost_of(usage, price_of(world, task))
    checkpoint = command.checkpoint
    if checkpoint is not None:
        _check_checkpoint(world, task, checkpoint, context.rules)
        if digest_of(checkpoint) == digest_of(task.checkpoint):
            checkpoint = None
    if checkpoint is None and usage is None and (task.progress, task.progress_message) == done:
        return ()
    reported = TaskProgressed(
        task_id=task.task_id,
        lease=command.lease,
        progress=done[0],
        message=done[1],
        checkpoint=checkpoint,
        usage=usage,
        spent=spent,
    )
    return (reported,) if spent is None else (reported, *stops(world, task, spent, context))


def _check_checkpoint(world: World, task: Task, checkpoint: Payload, rules: Rules) -> None:
    """
    Accept a checkpoint; its bytes count with those of the payloads, for the source of the task.

    Raises:
        Refused: it is too large, its encoding is unknown, or the tasks that have not ended have too many bytes.
    """
    check_payload("checkpoint", checkpoint, rules)
    size = bytes_of(checkpoint)
    if size > CHECKPOINT_BYTES_MAX:
        msg = f"checkpoint has {size} bytes: use at most {CHECKPOINT_BYTES_MAX}; store more elsewhere, and its address"
        raise Refused(msg, reason="payload_too_large")
    before = 0 if task.checkpoint is None else bytes_of(task.checkpoint)
    if size > max(before, SMALL_CHARS):
        _check_bytes(world, size - before, task.source, rules)


def extend(world: World, command: ExtendTask, context: DecisionContext) -> Events:
    """Give an attempt more time; that of a task without a limit has enough."""
    check_number("by_s", command.by_s, LEAST_S, MOST_S)
    task = _attempted(world, command.task_id, command.lease)
    _check_holds(task, command.lease, "", "extended")
    if task.timeout_s is None:
        return ()
    if task.timeout_s + task.extended_s + command.by_s > MOST_S:
        msg = (
            f"by_s {command.by_s:g} makes the time of an attempt at {task.task_id!r} longer than {MOST_S:g} s: it has "
            f"{task.timeout_s + task.extended_s:g} s now"
        )
        raise Refused(msg, reason="bad_number")
    return (TaskExtended(task_id=task.task_id, lease=command.lease, by_s=command.by_s),)


def cancel(world: World, command: CancelTask, context: DecisionContext) -> Events:
    """Cancel a pending task, and ask a running one to end."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    status = status_of(world, checked(command.task_id, "task_id"))
    if status is TaskStatus.CANCELLED:
        return ()
    if status in ENDED:
        already_ended(command.task_id, status, "cancelled")
    if status is _RUNNING:
        return cancel_ladder.asked(world.tasks[command.task_id], command, context)
    return (TaskCancelled(task_id=command.task_id, reason=command.reason),)


def _attempted(world: World, task_id: str, lease: str) -> Task:
    """Return the task of an attempt; an evicted one has no attempt any more."""
    task = world.tasks.get(checked(task_id, "task_id"))
    if task is None:
        raise _evicted_since(_evicted(world, task_id), task_id, lease)
    return task


def status_of(world: World, task_id: str) -> TaskStatus:
    """Return the status of a task, also of one that was evicted a short time ago."""
    task = world.tasks.get(task_id)
    return _evicted(world, task_id).status if task is None else task.status


def already_ended(task_id: str, status: TaskStatus, outcome: str) -> NoReturn:
    """Refuse to change a task that has ended as *status*; *outcome* is what it cannot be any more."""
    msg = f"task {task_id!r} has already ended as {status.value}: it cannot be {outcome} any more"
    raise Refused(msg, reason="already_ended")


def _reported(task: Task, lease: str, worker_id: str, outcome: str, now: float) -> tuple[Events, str]:
    """
    Check that the reporter holds the lease, and return the events to record first and the lease.

    The outcome of a pending task may be reported without a lease: this is an attempt that starts and ends at once.
    """
    if task.status is TaskStatus.PENDING and not lease:
        if task.is_paused:
            msg = f"task {task.task_id!r} is paused: resume it before it is {outcome}, or cancel it"
            raise Refused(msg, reason="paused")
        if task.waiting_for:
            msg = f"task {task.task_id!r} waits for {', '.join(task.waiting_for)}: report on it when it has begun"
            raise Refused(msg, reason="not_ready")
        if task.gang is not None and not task.attempt:
            msg = f"task {task.task_id!r} begins with gang {task.gang.gang_id!r}: report on it when that has begun"
            raise Refused(msg, reason="not_ready")
        if task.not_before is not None and task.not_before > now:
            raise too_early(task, task.not_before, outcome, now)
        if task.rule_filter:
            msg = f"rule {task.rule} lets task {task.task_id!r} run only where {task.rule_filter}: claim it there"
            raise Forbidden(msg)
        attempt = task.attempt + 1
        made = f"{DIRECT}.{attempt}"
        worker = checked(worker_id, "worker_id") if worker_id else DIRECT
        started = TaskStarted(task_id=task.task_id, worker_id=worker, claim_id=DIRECT, attempt=attempt, lease=made)
        return (started,), made
    _check_holds(task, lease, worker_id, outcome)
    return (), lease


def _check_holds(task: Task, lease: str, worker_id: str, outcome: str) -> None:
    """
    Accept the holder of the lease: a worker that lost its lease must not overwrite the attempt that replaced its own.

    Raises:
        StaleLease: the lease is not held, or not any more; the refused report is recorded, once per lease.
    """
    if task.status is TaskStatus.RUNNING and lease == task.lease:
        return
    check_text("lease", lease, LEASE_CHARS_MAX)
    if worker_id:
        checked(worker_id, "worker_id")
    if not lease and task.status is TaskStatus.RUNNING:
        msg = (
            f"task {task.task_id!r} is held by worker {task.worker_id!r}: pass the lease of the attempt to report on it"
        )
    else:
        msg = (
            f"lease {lease!r} of task {task.task_id!r} is not held, the task is {task.status.value}: drop this attempt"
        )
    error = StaleLease(msg)
    if lease and task.refused_lease != lease:
        error.facts = (TaskReportRefused(task_id=task.task_id, lease=lease, outcome=outcome, worker_id=worker_id),)
    raise error


def released(task: Task, why: str, context: DecisionContext) -> TaskAttemptFailed | TaskCancelled:
    """
    Return the event that puts a task back into the queue; the attempt does not count against its retries.

    One that is to be cancelled ends instead.
    """
    if task.cancelling is not None:
        return cancel_ladder.ended(task, task.cancelling, "lost", why)
    return TaskAttemptFailed(task_id=task.task_id, lease=task.lease, error=why, reason="released", retry_at=context.now)


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, holders: Due) -> Iterator[Event]:
    """Yield what is due for tasks: expired leases, tasks that exceeded a time limit, keys to forget."""
    short = world.memory.count - int(ROOM * context.rules.remembered_max)
    for tenant, through in world.memory.to_forget(short, context.now) if short > 0 else ():
        yield IdempotencyForgotten(tenant=tenant, through=through)
    yield from timed_out(world, context.now)
    yield from _due_for_leases(world, signs, context, heard_now, holders)


def _due_for_leases(
    world: World, signs: Signs, context: DecisionContext, heard_now: float, holders: Due
) -> Iterator[Event]:
    limit_s = context.rules.lease_s
    for worker_id in holders.now(heard_now, context.now):
        worker = world.workers.get(worker_id)
        has_left = worker is not None and worker.status is WorkerStatus.LEFT
        waits = worker is not None and bool(worker.container_id) and is_frozen(world, worker.container_id)
        is_quiet, most_silent_s = True, -inf
        for task_id in tuple(world.indexes.held.get(worker_id, ())):
            task = world.tasks[task_id]
            # Commit time strictly increases, so no attempt of the current generation starts at exactly that time.
            is_restored = task.started_at is not None and task.started_at <= world.restored_at
            if has_left or is_restored:
                is_quiet = False
                yield released(
                    task, "the worker left" if has_left else "the journal was restored from a backup", context
                )
                continue
            if waits:  # a paused worker cannot renew its leases; nobody else gets its tasks
                continue
            silent_for_s = signs.silent_for(signs.leases, task.lease, heard_now)
            most_silent_s = max(most_silent_s, silent_for_s)
            if silent_for_s > limit_s:
                is_quiet = False
                yield failed_attempt(
                    task,
                    task.lease,
                    f"worker {task.worker_id} did not renew its lease",
                    "lease_expired",
                    context.now,
                    context.rules,
                    silent_for_s=silent_for_s,
                    limit_s=limit_s,
                )
        if is_quiet:
            holders.later(worker_id, (heard_now - most_silent_s + limit_s, inf))


def _submitted_id(world: World, command: SubmitTask, context: DecisionContext, done: bool) -> str:
    if command.idempotency_key and command.task_id not in world.tasks:
        keyed = world.keyed_task(context.tenant, command.idempotency_key)
        if keyed is not None:
            return keyed.task_id
    if world.limits and not world.knows_task(command.task_id):  # a limit says that another task is meant
        return limit.existing(world, submission(world, command, context), context)
    return command.task_id


def _status(world: World, command: FailTask | CancelTask, context: DecisionContext, done: bool) -> TaskStatus:
    first = _FIRST_STATUS.get(context.outcome)
    return first if first is not None else status_of(world, command.task_id)


def _end_of_attempt(world: World, command: ExtendTask, context: DecisionContext, done: bool) -> float | None:
    task = world.tasks.get(command.task_id)
    return None if task is None else end_of_attempt(task)


_FIRST_STATUS = {OUTCOMES[TaskAttemptFailed]: TaskStatus.PENDING, OUTCOMES[TaskFailed]: TaskStatus.FAILED}


DECIDERS: dict[type[Command], Decider] = {
    SubmitTask: submit,
    CompleteTask: complete,
    FailTask: fail,
    ReleaseTask: release,
    ProgressTask: progress,
    ExtendTask: extend,
    CancelTask: cancel,
}
TELLERS: dict[type[Command], Teller] = {
    SubmitTask: _submitted_id,
    FailTask: _status,
    ExtendTask: _end_of_attempt,
    CancelTask: _status,
}
