"""
What an order about tasks and workers makes of the world. Pure: the time comes in as `now`.

Each decider gives the events that follow, an empty tuple when it is already so, or raises. An error may carry `facts`:
events that are on record although the order is refused.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NoReturn
from zlib import crc32

from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders.rules import check_payload, doubled
from events.errors import NotFound, Refused, StaleLease
from events.ids import checked
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
)
from events.worker import WorkerRegistered
from projections.task import digest_of
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from coordinator.commands.task import (
        CancelTask,
        ClaimTasks,
        CompleteTask,
        FailTask,
        ProgressTask,
        ReleaseTask,
        SubmitTask,
        WithdrawClaim,
    )
    from coordinator.deciders.rules import Context, Rules
    from events.base import Event
    from projections.snapshot import KeyedTask
    from projections.task import Task
    from projections.worker import Worker
    from projections.world import World

    Events = tuple[Event, ...]

DIRECT = "direct"
"""Worker and claim of an attempt that was reported without ever having been claimed."""

LEASE_CHARS_MAX = 80
"""No lease that was ever given is longer: a claim's id and two numbers."""

RELEASED_AT_ONCE = 500
MOST_WORKERS = 100_000

STRATEGIES = ("fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin")


def submit(world: World, command: SubmitTask, context: Context) -> Events:
    """Accept a task, know a repeat by its id or its idempotency key."""
    checked(command.task_id, "task_id")
    known = world.tasks.get(command.task_id)
    submitted = _submitted(command, context.rules)
    if known is not None:
        _same_task(known, command, submitted, f"task_id {command.task_id!r}")
        return ()
    if command.idempotency_key:
        keyed = world.keyed.get(f"{context.tenant}/{command.idempotency_key}")
        if keyed is not None:
            _same_key(world, keyed, command, submitted)
            return ()
    if world.indexes.task_counts[TaskStatus.PENDING] >= context.rules.max_pending_tasks:
        most = context.rules.max_pending_tasks
        msg = f"{most} tasks are pending, as many as scheduler.max_pending_tasks allows: submit later"
        raise Refused(msg, reason="queue_full", retry_after_s=5.0)
    return (submitted,)


def _submitted(command: SubmitTask, rules: Rules) -> TaskSubmitted:
    check_text("task_name", command.task_name, 128, least=1)
    check_text("task_type", command.task_type, 128)
    check_text("idempotency_key", command.idempotency_key, 256)
    check_number("priority", command.priority, -1_000_000, 1_000_000)
    check_resources("resources", command.resources)
    check_payload("payload", command.payload, rules)
    if command.timeout_s is not None:
        check_number("timeout_s", command.timeout_s, 0.001, 366 * 86_400)
    if command.max_retries is not None:
        check_number("max_retries", command.max_retries, 0, 1000)
    return TaskSubmitted(
        task_id=command.task_id,
        task_name=command.task_name,
        task_type=command.task_type,
        priority=command.priority,
        timeout_s=command.timeout_s,
        max_retries=rules.max_retries if command.max_retries is None else command.max_retries,
        resources=command.resources,
        payload=command.payload,
        idempotency_key=command.idempotency_key,
    )


def _same_key(world: World, keyed: KeyedTask, command: SubmitTask, event: TaskSubmitted) -> None:
    """Accept a repeat of the submit that its idempotency key was first used for, however long ago."""
    taken = f"idempotency_key {command.idempotency_key!r}"
    if keyed.task_id in world.tasks:
        _same_task(world.tasks[keyed.task_id], command, event, taken)
    elif keyed.payload_digest != digest_of(event.payload):
        msg = f"{taken} is taken by a task with another payload: use a new one"
        raise Refused(msg, reason="id_taken")


def _same_task(task: Task, command: SubmitTask, event: TaskSubmitted, taken: str) -> None:
    """Accept a repeat of the submit that made *task*; its payload may have left the world, its digest has not."""
    differs = [
        name
        for name in ("task_name", "task_type", "priority", "timeout_s", "max_retries", "resources", "idempotency_key")
        if getattr(task, name) != getattr(event, name)
    ]
    if command.max_retries is None and "max_retries" in differs:
        differs.remove("max_retries")  # whoever left it to the settings does not ask for another number
    if task.payload_digest != digest_of(event.payload):
        differs.append("payload")
    if differs:
        msg = f"{taken} is taken by a task with another {', '.join(differs)}: use a new one"
        raise Refused(msg, reason="id_taken")


def claim(world: World, command: ClaimTasks, context: Context) -> Events:
    """Admit a claim; a worker nobody registered is registered without limits. Placing is the scheduler's."""
    checked(command.claim_id, "claim_id")
    checked(command.worker_id, "worker_id")
    check_number("slots", command.slots, 1, context.rules.claim_slots_max)
    check_number("wait_s", command.wait_s, 0.0, context.rules.claim_wait_max_s)
    if command.strategy and command.strategy not in STRATEGIES:
        msg = f"strategy {command.strategy[:40]!r} is not known: use {', '.join(STRATEGIES)}"
        raise Refused(msg, reason="bad_strategy")
    if claimed := world.indexes.claims.get(command.claim_id):
        if world.tasks[claimed[0]].worker_id == command.worker_id:
            return ()
        msg = f"claim_id {command.claim_id!r} is taken by a claim of another worker: use a new id"
        raise Refused(msg, reason="id_taken")
    worker = world.workers.get(command.worker_id)
    if worker is None:
        check_room_for_worker(world)
        return (WorkerRegistered(worker_id=command.worker_id),)
    if worker.status is WorkerStatus.ACTIVE:
        return ()
    if worker.status is WorkerStatus.DRAINING:
        msg = f"worker {worker.worker_id!r} is draining and gets no new tasks: register it again to undo that"
        raise Refused(msg, reason="worker_draining")
    return (again(worker),)


def again(worker: Worker) -> WorkerRegistered:
    """Offer a known worker as it was."""
    return WorkerRegistered(
        worker_id=worker.worker_id,
        slots=worker.slots,
        resources=worker.resources,
        handles=worker.handles,
        container_id=worker.container_id,
    )


def complete(world: World, command: CompleteTask, context: Context) -> Events:
    """End a task well, for the holder of its lease."""
    check_payload("result", command.result, context.rules)
    if command.execution_time_s is not None:
        check_number("execution_time", command.execution_time_s, 0.0, 1e9)
    task = _task(world, command.task_id)
    if task.is_ended and command.lease in ("", task.lease):
        if task.status is TaskStatus.COMPLETED:
            return ()
        _ended_otherwise(task, "completed")
    started, lease = _reported(task, command.lease, command.worker_id, "completed")
    completed = TaskCompleted(
        task_id=task.task_id, lease=lease, execution_time_s=command.execution_time_s, result=command.result
    )
    return (*started, completed)


def fail(world: World, command: FailTask, context: Context) -> Events:
    """End an attempt badly: back to the queue while retries are left, else the task has failed."""
    error = command.error[: context.rules.text_chars_max]
    task = _task(world, command.task_id)
    if task.is_ended and command.lease in ("", task.lease):
        if task.status is TaskStatus.FAILED:
            return ()
        _ended_otherwise(task, "failed")
    started, lease = _reported(task, command.lease, command.worker_id, "failed")
    return (*started, failed_attempt(task, lease, error, "failed", context.now, context.rules, retry=command.retry))


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
) -> TaskAttemptFailed | TaskFailed:
    """Say what one more failed attempt makes of a task: another try after a pause, or its end."""
    if retry and task.failures < task.max_retries:
        return TaskAttemptFailed(
            task_id=task.task_id,
            lease=lease,
            error=error,
            reason=reason,
            retry_at=now + backoff_s(task, rules),
            silent_for_s=silent_for_s,
            limit_s=limit_s,
        )
    return TaskFailed(
        task_id=task.task_id, lease=lease, error=error, reason=reason, silent_for_s=silent_for_s, limit_s=limit_s
    )


def backoff_s(task: Task, rules: Rules) -> float:
    """
    Say how long a failed task waits: doubling from `retry_backoff_s`, less up to half of it.

    The jitter keeps tasks that failed together from coming back together; it is drawn from the id, so that replaying
    the decision gives the same pause.
    """
    most = doubled(rules.retry_backoff_s, task.failures, rules.retry_backoff_max_s)
    drawn = crc32(f"{task.task_id}/{task.attempt}".encode()) / 2**32
    return float(most * (1.0 - drawn / 2))


def release(world: World, command: ReleaseTask, context: Context) -> Events:
    """Give an attempt back unstarted."""
    task = _task(world, command.task_id)
    _check_holds(task, command.lease, "", "released")
    error = command.reason[: context.rules.text_chars_max]
    return (
        TaskAttemptFailed(
            task_id=task.task_id, lease=command.lease, error=error, reason="released", retry_at=context.now
        ),
    )


def withdraw(world: World, command: WithdrawClaim, context: Context) -> Events:
    """Give back all that a claim was given: whoever made it did not wait for the answer."""
    checked(command.claim_id, "claim_id")
    checked(command.worker_id, "worker_id")
    tasks = (world.tasks[task_id] for task_id in world.indexes.claims.get(command.claim_id, ()))
    mine = (task for task in tasks if task.worker_id == command.worker_id)
    return tuple(released(task, "the claim was withdrawn", context) for task in islice(mine, RELEASED_AT_ONCE))


def progress(world: World, command: ProgressTask, context: Context) -> Events:
    """Note how far an attempt is."""
    check_number("progress", command.progress, 0.0, 1.0)
    check_text("message", command.message, context.rules.text_chars_max)
    task = _task(world, command.task_id)
    _check_holds(task, command.lease, "", "progress")
    if (task.progress, task.progress_message) == (command.progress, command.message):
        return ()
    return (
        TaskProgressed(task_id=task.task_id, lease=command.lease, progress=command.progress, message=command.message),
    )


def cancel(world: World, command: CancelTask, context: Context) -> Events:
    """Call a task off."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    task = _task(world, command.task_id)
    if task.status is TaskStatus.CANCELLED:
        return ()
    if task.is_ended:
        _ended_otherwise(task, "cancelled")
    return (TaskCancelled(task_id=task.task_id, reason=command.reason),)


def _task(world: World, task_id: str) -> Task:
    task = world.tasks.get(checked(task_id, "task_id"))
    if task is None:
        msg = f"there is no task {task_id!r} among the living and the recently ended"
        raise NotFound(msg)
    return task


def _ended_otherwise(task: Task, outcome: str) -> NoReturn:
    msg = f"task {task.task_id!r} has already ended as {task.status.value}; it cannot be {outcome} any more"
    raise Refused(msg, reason="already_ended")


def _reported(task: Task, lease: str, worker_id: str, outcome: str) -> tuple[Events, str]:
    """
    Check that whoever reports an outcome may, and give the lease it is of.

    A task nobody holds may be reported on without a lease: that is an attempt of its own, begun and ended at once.
    """
    if task.status is TaskStatus.PENDING and not lease:
        attempt = task.attempt + 1
        made = f"{DIRECT}.{attempt}"
        worker = checked(worker_id, "worker_id") if worker_id else DIRECT
        started = TaskStarted(task_id=task.task_id, worker_id=worker, claim_id=DIRECT, attempt=attempt, lease=made)
        return (started,), made
    _check_holds(task, lease, worker_id, outcome)
    return (), lease


def _check_holds(task: Task, lease: str, worker_id: str, outcome: str) -> None:
    """
    Accept whoever holds the lease: a worker given up for lost must not overwrite the attempt that replaced it.

    Raises:
        StaleLease: the lease is not, or no longer, held; that it was named is on record, once.
    """
    if task.status is TaskStatus.RUNNING and lease == task.lease:
        return
    check_text("lease", lease, LEASE_CHARS_MAX)
    if worker_id:
        checked(worker_id, "worker_id")
    if not lease and task.status is TaskStatus.RUNNING:
        msg = f"task {task.task_id!r} is held by worker {task.worker_id!r}: give its lease to report on it"
    else:
        msg = f"lease {lease!r} of task {task.task_id!r} is not held; the task is {task.status.value}"
    error = StaleLease(msg)
    if lease and task.refused_lease != lease:
        error.facts = (TaskReportRefused(task_id=task.task_id, lease=lease, outcome=outcome, worker_id=worker_id),)
    raise error


def check_room_for_worker(world: World) -> None:
    """
    Accept one more worker.

    Raises:
        Refused: there are too many, the lately ended among them.
    """
    if len(world.workers) >= MOST_WORKERS:
        msg = f"{len(world.workers)} workers are known, the most there may be: let some leave, or use their ids again"
        raise Refused(msg, reason="too_many")


def released(task: Task, why: str, context: Context) -> TaskAttemptFailed:
    """Give an attempt back to the queue; it does not count as a try."""
    return TaskAttemptFailed(task_id=task.task_id, lease=task.lease, error=why, reason="released", retry_at=context.now)
