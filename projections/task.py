"""
Tasks: state, legal transitions, and the fold of their events. Pure.

A task is PENDING until a worker gets it, RUNNING under exactly one lease, and ends once.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from zlib import crc32

import msgspec

from events.after import After
from events.base import START, Position, type_of
from events.cancel_ladder import TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.errors import Corrupt
from events.prices import Price
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.spend import Reservation, Spend, Spent
from events.task import (
    Debounce,
    Gang,
    Occurrence,
    Payload,
    Prefer,
    Scalar,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
    TaskUsage,
)
from events.task_pause import TaskPaused, TaskResumed
from events.time_limits import HEARTBEAT, TIMEOUT, TimeLimits, exceeded_text
from projections.cancelling import Cancelling, asked
from projections.stamp import Stamp, check_legal, check_status, existing, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    StayingTaskEvent = TaskUnblocked | TaskProgressed | TaskCancelAsked | TaskCancelTold | TaskCancelForced
    MovingTaskEvent = TaskStarted | TaskCompleted | TaskAttemptFailed | TaskFailed | TaskCancelled | TaskTimedOut
    PausingTaskEvent = TaskPaused | TaskResumed
    AnyTaskEvent = (
        TaskSubmitted | MovingTaskEvent | StayingTaskEvent | TaskExtended | TaskReportRefused | PausingTaskEvent
    )

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT})

LEGAL: dict[TaskStatus, frozenset[TaskStatus]] = {
    PENDING: frozenset({RUNNING, TaskStatus.CANCELLED, TaskStatus.TIMEOUT}),
    RUNNING: ENDED | {PENDING},
    **{status: frozenset() for status in ENDED},
}


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    An attempt that failed: its number, its worker, commit times in seconds, and why, as in its last event.

    `ready_at` is from when on it waited for a worker, 0 if it did so as soon as it could.
    """

    attempt: int
    worker_id: str
    started_at: float
    ended_at: float
    reason: str
    error: str = ""
    error_type: str = ""
    ready_at: float = 0.0


class UnreportedAttempt(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The last attempt that ended without a report of its holder, which may still come.

    It began at `began_at`, has used `usage` as far as is known, and its tokens cost `price`.
    """

    lease: str
    began_at: float
    usage: TaskUsage | None = None
    price: Price | None = None


_ONE_WORKER = 'worker_id == "'
ATTEMPTS_KEPT = 10
ATTEMPT_ERROR_CHARS = 1024


class Task(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One task; times are commit times in seconds.

    `attempt` counts starts, `failures` failed ones, `lapses` those whose worker ended or was cut off. `latest` is the
    last event that changed the task since, if that event names its cause: the next event names this one. `attempts` are
    the last ones that failed, at most 10, without those that older releases recorded. A task is paused from `paused_at`
    on; it was resumed `resumes` times, with `more_retries` in addition to `max_retries`. `requeued_from` is the ended
    task that it does again. `cancelling` is how far a task is that shall be cancelled. Until a task is unblocked,
    `waiting_for` has the tasks that it waits for; in an answer, those of them that have not ended. `extended_s` is what
    the running attempt got besides `timeout_s`, `exceeded` the limit that ended the task or its last attempt, '' for
    `timeout_s`. `preference` is the filter over workers that follows from `prefer`, '' for none. `build_id` is the
    version of workers that it is pinned to because it began, or was resumed, there; '' for none.
    `rule` is the rule of the settings that permitted its submit, `rule_filter` which workers may run it by that.
    `spend` is the most that one attempt may use, `reserved` what budgets keep for the one that runs; it has used
    `usage`, which costs `spent`, as far as it was reported. `total_spent` is what the attempts that have ended were
    charged, `unreported` the last one of them whose holder may still report what it used.
    `request` is the request for a share of the pool `tasks` that it named. `gang` is what it first begins with,
    `gang_until` the time by which that has to be.
    """

    task_id: str
    task_name: str
    status: TaskStatus
    submitted: Position
    submitted_at: float
    latest: Position = START
    task_type: str = ""
    tenant: str = ""
    traceparent: str = ""
    source: str = ""
    program: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int = 0
    resources: Resources = NONE
    payload: Payload | None = None
    payload_digest: str = ""
    idempotency_key: str = ""
    attempt: int = 0
    failures: int = 0
    lapses: int = 0
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
    queue: str = ""
    fairness_key: str = ""
    not_before: float | None = None
    delay_s: float | None = None
    time_limits: TimeLimits | None = None
    extended_s: float = 0.0
    exceeded: str = ""
    checkpoint: Payload | None = None
    occurrence: Occurrence | None = None
    retry: RetryPolicy | None = None
    error_type: str = ""
    attempts: tuple[FailedAttempt, ...] = ()
    paused_at: float | None = None
    pause_reason: str = ""
    more_retries: int = 0
    resumes: int = 0
    requeued_from: str = ""
    attributes: dict[str, Scalar] = {}
    debounce: Debounce | None = None
    worker_filter: str = ""
    prefer: Prefer | None = None
    preference: str = ""
    build_id: str = ""
    pin_version: bool = True
    rule: str = ""
    rule_filter: str = ""

    @property
    def sticks_to(self) -> str | None:
        """The worker that it prefers because that ran another task; None if it prefers none, or others."""
        if self.prefer is None or not self.prefer.sticky_to or not self.preference:
            return None
        return self.preference.removeprefix(_ONE_WORKER)[:-1]

    @property
    def is_paused(self) -> bool:
        """Whether it is pending, and no worker gets it until it is resumed."""
        return self.paused_at is not None

    @property
    def retries_most(self) -> int:
        """How many failures are followed by a retry."""
        return self.max_retries + self.more_retries

    cancelling: Cancelling | None = None
    after: After | None = None
    waiting_for: tuple[str, ...] = ()
    spend: Spend | None = None
    reserved: Reservation | None = None
    usage: TaskUsage | None = None
    spent: Spent | None = None
    total_spent: Spent | None = None
    unreported: UnreportedAttempt | None = None
    request: str = ""
    gang: Gang | None = None
    gang_until: float = 0.0

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can happen to the task."""
        return self.status in ENDED


SMALL_CHARS = 256
"""A payload of so many characters takes no more memory than its task, whose number is bounded: it is not counted."""


def bytes_of(payload: Payload) -> int:
    """Return the size of a payload's data in bytes of UTF-8."""
    data = payload.data
    return len(data) if data.isascii() else len(data.encode(errors="replace"))


def large_bytes_of(payload: Payload) -> int:
    """Return the size of a payload's data in bytes, 0 for one that is not counted."""
    return bytes_of(payload) if len(payload.data) > SMALL_CHARS else 0


def digest_of(payload: Payload | None) -> str:
    """Return what identifies the content of a payload; "" for no payload."""
    return "" if payload is None else f"{payload.encoding}:{payload.digest}"


class EndedTask(NamedTuple):
    """What is remembered of a task that ended and was evicted: enough to give a repeated command its first answer."""

    status: TaskStatus
    content: int
    """See `content_of`."""
    lease: int
    """See `checksum`."""
    max_retries: int

    @staticmethod
    def packed(task: Task) -> bytes:
        """Return what is remembered of *task*, as 11 bytes."""
        content = content_of(task, task.payload_digest)
        return _pack_ended(content, crc32(task.lease.encode()), _CODES[task.status], task.max_retries)

    @classmethod
    def unpacked(cls, packed: bytes) -> EndedTask:
        """Read what `packed` returned."""
        content, lease, code, max_retries = _ended_task.unpack(packed)
        return cls(_STATUSES[code], content, lease, max_retries)


class KeyedTask(NamedTuple):
    """The task that an idempotency key created, and a check sum of its payload's digest."""

    task_id: str
    payload: int

    def packed(self) -> bytes:
        """Return it as bytes."""
        return self.payload.to_bytes(4, "little") + self.task_id.encode()

    @classmethod
    def of(cls, task: Task) -> KeyedTask:
        """Return what is remembered of the key of *task*."""
        return cls(task.task_id, checksum(task.payload_digest))

    @classmethod
    def unpacked(cls, packed: bytes) -> KeyedTask:
        """Read what `packed` returned."""
        return cls(packed[4:].decode(), int.from_bytes(packed[:4], "little"))


_ended_task = Struct("<IIBH")
_pack_ended = _ended_task.pack
_STATUSES = tuple(TaskStatus)
_CODES = {status: code for code, status in enumerate(_STATUSES)}


def content_of(task: Task | TaskSubmitted, payload_digest: str) -> int:
    """Return a check sum of what a task was submitted with, but for `max_retries`; it only detects another content."""
    asked = task.resources
    text = f"{task.task_name}\0{task.task_type}\0{task.idempotency_key}\0{payload_digest}"
    if task.priority or task.timeout_s is not None or (asked is not NONE and asked != NONE):
        text += f"\0{task.priority}\0{task.timeout_s}\0{(asked.cpu_millis, asked.memory_bytes, asked.gpus)}"
        if asked.named:
            text += f"\0{sorted(asked.named.items())}"
    if task.queue or task.fairness_key:
        text += f"\0{task.queue}\0{task.fairness_key}"
    if task.retry is not None:
        text += f"\0retry{msgspec.structs.astuple(task.retry)}"
    if task.requeued_from:
        text += f"\0requeued{task.requeued_from}"
    if task.after is not None:
        text += f"\0after {msgspec.json.encode(task.after).decode()}"
    if task.not_before is not None:
        # Of a delay, the time that it led to depends on when the command came.
        text += f"\0delay {task.delay_s}" if task.delay_s is not None else f"\0not before {task.not_before}"
    if task.time_limits is not None:
        text += f"\0limits {msgspec.structs.astuple(task.time_limits)}"
    if task.attributes:
        text += f"\0attributes {sorted(task.attributes.items())}"
    if task.worker_filter:
        text += f"\0worker_filter {task.worker_filter}"
    if task.prefer is not None:
        text += f"\0prefer {msgspec.structs.astuple(task.prefer)}"
    if not task.pin_version:
        text += "\0not pinned"
    if task.spend is not None:
        text += f"\0spend {msgspec.structs.astuple(task.spend)}"
    if task.request:
        text += f"\0request {task.request}"
    if task.gang is not None:
        text += f"\0gang {msgspec.structs.astuple(task.gang)}"
    return crc32(text.encode())


def of_worker(worker_id: str) -> str:
    """Return the filter that only this worker meets; '' for none."""
    return f'{_ONE_WORKER}{worker_id}"' if worker_id else ""


def checksum(text: str) -> int:
    """Return 32 bits that tell other texts from this one, but for one in four billion."""
    return crc32(text.encode(errors="replace"))


def evolve(task: Task | None, event: AnyTaskEvent, stamp: Stamp) -> Task:
    """Fold one event into the task it is about."""
    kind = type(event)
    if task is None:
        if kind is TaskSubmitted:
            return submitted_as(event, stamp)  # type: ignore[arg-type]  # its exact type was checked above
        missing(event, stamp)
    if kind is TaskSubmitted:
        existing(event, stamp)
    if kind is TaskReportRefused:
        return _report_refused(task, event)  # type: ignore[arg-type]
    status, step = _STEPS[kind]
    if status is not None:
        check_legal(LEGAL, task.status, status, event, stamp)
    if task.spend is None:
        return step(task, event, stamp)
    return _with_spent(task, step(task, event, stamp), event)


def submitted_as(event: TaskSubmitted, stamp: Stamp) -> Task:
    """Return the task that is submitted with *event*."""
    task = Task(
        task_id=event.task_id,
        task_name=event.task_name,
        status=PENDING,
        submitted=stamp.position,
        submitted_at=stamp.time,
        task_type=event.task_type,
        tenant=stamp.tenant,
        traceparent=stamp.traceparent if event.traced else "",
        source=intern(stamp.actor),
        program=intern(event.program) if event.program else "",
        priority=event.priority,
        timeout_s=event.timeout_s,
        max_retries=event.max_retries,
        resources=event.resources,
        payload=event.payload,
        payload_digest=digest_of(event.payload),
        idempotency_key=event.idempotency_key,
    )
    # Most tasks have nothing rare; a look at each field would take as long as all the rest.
    return task if stamp.dataversion in _WITHOUT_RARE else _with_rare(task, event)


def _with_rare(task: Task, event: TaskSubmitted) -> Task:
    first = task.retry_at
    if event.not_before is not None or event.debounce is not None:
        first = max(event.not_before or 0.0, 0.0 if event.debounce is None else event.debounce.until)
    return msgspec.structs.replace(
        task,
        source=task.source if event.occurrence is None else intern(event.occurrence.source),
        retry_at=first,
        queue=intern(event.queue),
        fairness_key=intern(event.fairness_key),
        retry=None if event.retry is None else _shared(event.retry),
        requeued_from=event.requeued_from,
        after=event.after,
        waiting_for=event.waits_for,
        not_before=event.not_before,
        delay_s=event.delay_s,
        time_limits=event.time_limits,
        occurrence=event.occurrence,
        attributes=event.attributes,
        debounce=event.debounce,
        worker_filter=intern(event.worker_filter),
        prefer=event.prefer,
        preference="" if event.prefer is None else intern(event.prefer.filter or of_worker(event.prefers_worker)),
        pin_version=event.pin_version,
        rule=intern(event.rule),
        rule_filter=intern(event.rule_filter),
        spend=event.spend,
        request=event.request,
        gang=event.gang,
        gang_until=task.gang_until if event.gang is None else event.gang_until,  # its own default is left out
    )


_WITHOUT_RARE = frozenset(range(1, TaskSubmitted.SINCE["queue"]))
"""The versions of events that have none of the fields from there on."""


@lru_cache(maxsize=1024)
def _shared(policy: RetryPolicy) -> RetryPolicy:
    """Return a policy equal to *policy*: the same object for all tasks that have it, as far as possible."""
    return policy


def _with_spent(before: Task, after: Task, event: AnyTaskEvent) -> Task:
    """Note what is kept for an attempt that began, what it has used, and what one that ended has spent."""
    if isinstance(event, TaskStarted):
        return msgspec.structs.replace(after, reserved=event.reserved)
    if isinstance(event, TaskProgressed):
        if event.usage is None:
            return after
        return msgspec.structs.replace(after, usage=event.usage, spent=event.spent)
    if before.status is not RUNNING or after.status is RUNNING:
        return after
    spent: Spent = getattr(event, "spent", None) or _NOTHING
    return msgspec.structs.replace(
        after,
        reserved=None,
        usage=None,
        spent=None,
        total_spent=_summed(before.total_spent, spent),
        unreported=_unreported(before, event),
    )


_NOTHING = Spent()
_NOBODY_REPORTED = frozenset({"lease_expired", "container_failed", "heartbeat", "poison"})


def _summed(total: Spent | None, spent: Spent) -> Spent:
    total = total or _NOTHING
    return Spent(tokens=total.tokens + spent.tokens, money_micros=total.money_micros + spent.money_micros)


def _unreported(ran: Task, event: AnyTaskEvent) -> UnreportedAttempt | None:
    """Return the attempt that *event* ended, if it was not its holder who ended it; else the one before."""
    why = getattr(event, "cause", "") or getattr(event, "reason", "")
    if not isinstance(event, TaskTimedOut | TaskCancelled) and why not in _NOBODY_REPORTED:
        return ran.unreported
    return UnreportedAttempt(
        lease=ran.lease,
        began_at=ran.started_at or 0.0,
        usage=getattr(event, "usage", None),
        price=None if ran.reserved is None else ran.reserved.price,
    )


def _report_refused(task: Task, event: TaskReportRefused) -> Task:
    """Note a report that came too late, and what it says that its attempt used."""
    if event.spent is not None and task.unreported is not None:
        late = msgspec.structs.replace(task.unreported, usage=event.usage)
        task = msgspec.structs.replace(task, unreported=late, total_spent=_summed(task.total_spent, event.spent))
    return msgspec.structs.replace(task, refused_lease=event.lease)


def _unblocked(task: Task, event: TaskUnblocked, stamp: Stamp) -> Task:
    check_status({PENDING}, task.status, event, stamp)
    if event.prefers_worker:
        task = msgspec.structs.replace(task, preference=intern(of_worker(event.prefers_worker)))
    # The time that it may wait for a worker begins.
    return _followed(task, stamp, waiting_for=(), retry_at=max(task.retry_at, stamp.time))


def _started(task: Task, event: TaskStarted, stamp: Stamp) -> Task:
    if event.attempt != task.attempt + 1:
        msg = f"event {stamp.position} starts attempt {event.attempt} of {task.task_id!r} after attempt {task.attempt}"
        raise Corrupt(msg)
    if task.paused_at is not None:
        _wrongly(task, event, stamp)
    if task.waiting_for:
        msg = f"event {stamp.position} starts {task.task_id!r}, which waits for {', '.join(task.waiting_for)}"
        raise Corrupt(msg)
    if task.progress or task.progress_message:
        task = msgspec.structs.replace(task, progress=0.0, progress_message="")
    if task.extended_s:
        task = msgspec.structs.replace(task, extended_s=0.0)
    if event.build_id and event.attempt == 1 and task.pin_version:
        task = msgspec.structs.replace(task, build_id=intern(event.build_id))
    return msgspec.structs.replace(
        task,
        status=RUNNING,
        latest=stamp.position if stamp.causationid else START,
        worker_id=event.worker_id,
        claim_id=event.claim_id,
        attempt=event.attempt,
        lease=event.lease,
        started_at=stamp.time,
    )


def _progressed(task: Task, event: TaskProgressed, stamp: Stamp) -> Task:
    check_status({RUNNING}, task.status, event, stamp)
    if event.checkpoint is not None:
        task = msgspec.structs.replace(task, checkpoint=event.checkpoint)
    return msgspec.structs.replace(task, progress=event.progress, progress_message=event.message)


def _extended(task: Task, event: TaskExtended, stamp: Stamp) -> Task:
    check_status({RUNNING}, task.status, event, stamp)
    return msgspec.structs.replace(task, extended_s=task.extended_s + event.by_s)


def _completed(task: Task, event: TaskCompleted, stamp: Stamp) -> Task:
    if task.error or task.exceeded or task.error_type:
        task = msgspec.structs.replace(task, error="", exceeded="", error_type="")
    return _ended(
        task, stamp, status=TaskStatus.COMPLETED, execution_time_s=event.execution_time_s, result=event.result
    )


def _attempt_failed(task: Task, event: TaskAttemptFailed, stamp: Stamp) -> Task:
    return msgspec.structs.replace(
        task,
        status=PENDING,
        latest=stamp.position if stamp.causationid else START,
        failures=task.failures + (event.reason != "released"),
        lapses=task.lapses + event.worker_ended,
        worker_id="",
        claim_id="",
        retry_at=event.retry_at,
        error=event.error,
        exceeded=HEARTBEAT if event.reason == "heartbeat" else "",
        error_type=event.error_type,
        attempts=task.attempts
        if event.reason == "released"
        else _with_attempt(task, event.attempt, event.reason, event.error, event.error_type, stamp),
    )


def _paused(task: Task, event: TaskPaused, stamp: Stamp) -> Task:
    """Pause a task that waits, or one whose attempt failed with this event."""
    check_status({RUNNING} if event.lease else {PENDING}, task.status, event, stamp)
    if task.is_paused:
        _wrongly(task, event, stamp)
    latest = stamp.position if stamp.causationid else START
    paused = msgspec.structs.replace(task, latest=latest, paused_at=stamp.time, pause_reason=event.reason)
    if not event.lease:
        return paused
    return msgspec.structs.replace(
        paused,
        status=PENDING,
        failures=task.failures + 1,
        lapses=task.lapses + event.worker_ended,
        worker_id="",
        claim_id="",
        retry_at=0.0,
        error=event.error,
        error_type=event.error_type,
        attempts=_with_attempt(task, event.attempt, event.cause, event.error, event.error_type, stamp),
    )


def _resumed(task: Task, event: TaskResumed, stamp: Stamp) -> Task:
    """Resume a task; the digest of its payload stays that of its submission, by which a repeat of that is known."""
    check_status({PENDING}, task.status, event, stamp)
    if not task.is_paused:
        _wrongly(task, event, stamp)
    return msgspec.structs.replace(
        task,
        retry_at=max(task.retry_at, stamp.time),  # the time that it may wait for a worker begins again
        latest=stamp.position if stamp.causationid else START,
        paused_at=None,
        pause_reason="",
        payload=task.payload if event.payload is None else event.payload,
        more_retries=task.more_retries + event.more_retries,
        resumes=task.resumes + 1,
        build_id=task.build_id if event.move_to is None else intern(event.move_to),
    )


def _wrongly(task: Task, event: TaskEvent, stamp: Stamp) -> NoReturn:
    """
    Stop at an event that does not fit whether the task is paused.

    Raises:
        Corrupt: always.
    """
    how = "paused" if task.is_paused else "not paused"
    msg = f"event {stamp.position} ({type_of(type(event))}) is not allowed for {task.task_id!r}, which is {how} then"
    raise Corrupt(msg)


def _with_attempt(
    task: Task, attempt: int, reason: str, error: str, error_type: str, stamp: Stamp
) -> tuple[FailedAttempt, ...]:
    """Return the attempts of *task* with the one that failed now; older releases did not record its number."""
    if not attempt:
        return task.attempts
    failed = FailedAttempt(
        attempt=attempt,
        worker_id=task.worker_id,
        started_at=stamp.time if task.started_at is None else task.started_at,
        ended_at=stamp.time,
        reason=reason,
        error=error[:ATTEMPT_ERROR_CHARS],
        error_type=error_type,
        ready_at=task.retry_at,
    )
    return (*task.attempts, failed)[-ATTEMPTS_KEPT:]


def _failed(task: Task, event: TaskFailed, stamp: Stamp) -> Task:
    return _ended(
        task,
        stamp,
        status=TaskStatus.FAILED,
        failures=task.failures + 1,
        lapses=task.lapses + (event.reason == "poison"),
        error=event.error,
        exceeded=HEARTBEAT if event.reason == "heartbeat" else "",
        error_type=event.error_type,
        attempts=_with_attempt(task, event.attempt, event.reason, event.error, event.error_type, stamp),
    )


def _cancelled(task: Task, event: TaskCancelled, stamp: Stamp) -> Task:
    ended = _ended(task, stamp, status=TaskStatus.CANCELLED, error=event.reason, waiting_for=())
    if task.cancelling is None:
        return ended
    return msgspec.structs.replace(ended, ended_by=task.cancelling.by)


def _cancel_asked(task: Task, event: TaskCancelAsked, stamp: Stamp) -> Task:
    check_status({RUNNING}, task.status, event, stamp)
    return _followed(task, stamp, cancelling=asked(task.cancelling, event, stamp))


def _cancel_told(task: Task, event: TaskCancelTold, stamp: Stamp) -> Task:
    return _followed(task, stamp, cancelling=msgspec.structs.replace(_step_of(task, event, stamp), told_at=stamp.time))


def _cancel_forced(task: Task, event: TaskCancelForced, stamp: Stamp) -> Task:
    return _followed(task, stamp, cancelling=msgspec.structs.replace(_step_of(task, event, stamp), forced=event.how))


def _step_of(task: Task, event: TaskCancelTold | TaskCancelForced, stamp: Stamp) -> Cancelling:
    """Return the cancellation that *event* is a step of."""
    check_status({RUNNING}, task.status, event, stamp)
    if task.cancelling is None or event.lease != task.lease:
        msg = f"event {stamp.position} is a step to cancel {event.lease!r} of {task.task_id!r}, which was not asked for"
        raise Corrupt(msg)
    return task.cancelling


def _followed(task: Task, stamp: Stamp, **changes: Any) -> Task:
    """Change a task by an event that the next one names as its cause."""
    return msgspec.structs.replace(task, latest=stamp.position if stamp.causationid else START, **changes)


def _timed_out(task: Task, event: TaskTimedOut, stamp: Stamp) -> Task:
    exceeded = "" if event.exceeded == TIMEOUT else event.exceeded
    error = exceeded_text(event.exceeded, event.ran_for_s, event.limit_s)
    attempts = _with_attempt(task, event.attempt, "timeout", error, "", stamp) if event.lease else task.attempts
    # A task that waited is not held under the lease of its last attempt, which was refused then and is refused later.
    return _ended(
        task,
        stamp,
        status=TaskStatus.TIMEOUT,
        lease=event.lease,
        error=error,
        error_type="",
        exceeded=exceeded,
        attempts=attempts,
    )


def _ended(task: Task, stamp: Stamp, **changes: Any) -> Task:
    """End the task; its payload is not needed any more and leaves the world (the store keeps it)."""
    if task.checkpoint is not None:
        task = msgspec.structs.replace(task, checkpoint=None)
    return msgspec.structs.replace(
        task, ended_at=stamp.time, ended=stamp.position, ended_by=stamp.actor, payload=None, **changes
    )


_STEPS: dict[type[TaskEvent], tuple[TaskStatus | None, Callable[[Task, Any, Stamp], Task]]] = {
    TaskStarted: (RUNNING, _started),
    TaskExtended: (None, _extended),
    TaskProgressed: (None, _progressed),
    TaskPaused: (None, _paused),
    TaskResumed: (None, _resumed),
    TaskCompleted: (TaskStatus.COMPLETED, _completed),
    TaskAttemptFailed: (PENDING, _attempt_failed),
    TaskFailed: (TaskStatus.FAILED, _failed),
    TaskCancelled: (TaskStatus.CANCELLED, _cancelled),
    TaskTimedOut: (TaskStatus.TIMEOUT, _timed_out),
    TaskUnblocked: (None, _unblocked),
    TaskCancelAsked: (None, _cancel_asked),
    TaskCancelTold: (None, _cancel_told),
    TaskCancelForced: (None, _cancel_forced),
}
"""
The status after each event, and the function that makes the new state: a table, as the fold dominates a replay.

Without a status, the function checks the one before.
"""
