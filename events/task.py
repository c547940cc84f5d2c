"""Events about tasks. Each start is an attempt under a lease; exactly one event ends a task."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

import msgspec

from events.after import After
from events.base import Event
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.spend import Reservation, Spend, Spent
from events.time_limits import TIMEOUT, TimeLimits


class TaskStatus(Enum):
    """The status of a task."""

    # By identity, in C: tables with the status as key are read several times for each event.
    __hash__ = object.__hash__

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


Scalar = str | int | float | bool


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The input or the result of a task; opaque to the coordinator.

    `encoding` is `json` (data is JSON text), `text` or `base64`; `digest` is the SHA-256 of the data, hexadecimal;
    `ref` is for an object in an object store. There is none yet, and commands with a `ref` are refused.
    """

    encoding: str
    digest: str
    data: str = ""
    ref: str = ""


class Occurrence(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The slot of a schedule (whole seconds since 1970) that a task is for; it belongs to `source`, as the schedule."""

    schedule_id: str
    slot: int
    source: str = ""


class Debounce(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Until when a task waits for one to take its place, and since when one of its key has: commit times in seconds."""

    since: float
    until: float


class Prefer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    A worker that meets `filter`, or that ran the task `sticky_to` last: a task goes only there for `for_s` seconds.

    They begin when it is ready. Then it goes to any worker that may run it, and at once if no such one is registered.
    """

    filter: str = ""
    sticky_to: str = ""
    for_s: float = 5.0


class TaskUsage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What an attempt used, as its worker reports: tokens, and money in micro-units of its currency.

    No token is counted twice: those read from a cache are no `input_tokens`, those of reasoning no `output_tokens`.
    Where the model of the task has a price, `money_micros` is what was spent besides its tokens.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    money_micros: int = 0

    @property
    def tokens(self) -> int:
        """All tokens: those read, from a cache or not, and those written, as reasoning or not."""
        return self.input_tokens + self.cached_tokens + self.output_tokens + self.reasoning_tokens

    def __add__(self, other: TaskUsage) -> TaskUsage:
        """Return both together."""
        return TaskUsage(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class Gang(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Tasks that begin together or not at all: `size` of them name the same `gang_id` in a tenant.

    If they have not begun `deadline_s` seconds after the first of them was submitted, all of them end.
    """

    gang_id: str
    size: int
    deadline_s: float = 600.0


class TaskEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one task."""

    SUBJECT = "task_id"

    task_id: str


class TaskSubmitted(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A task was accepted and waits for a worker; `timeout_s` limits one attempt from its start.

    `program` names the program that submitted it, for claims that ask only for tasks of certain programs. `traced` says
    that the `traceparent` of this event belongs to the task, and goes into all events that follow about it. `queue` is
    '' for the default one; where keys share a queue, the task takes of the share of its `fairness_key`. `retry` says
    how it is retried; without it, as the settings of the time say. `requeued_from` is the ended task that it does
    again. `after` names the tasks that it begins after, and `waits_for` those of them that had not ended yet; it is not
    ready before `task.unblocked`. No attempt starts before `not_before` (commit time, seconds
    since 1970). It is `delay_s` after the submit if that was asked for. With `occurrence` a schedule submitted it.
    `attributes` are what filters and limits know of its content. With `debounce` a limit lets it wait. Only workers
    that meet `worker_filter` get it. `prefers_worker` is the worker that ran the task that it sticks to, by `prefer`,
    if that had run then. It stays on the version of workers that it begins on, unless `pin_version` is false.
    `rule` names the rule of the settings that permitted it, if there were any; then only workers that meet
    `rule_filter`, too, get it. `spend` is the most that one attempt may use.
    `request` is the request for a share of the pool `tasks` that it uses: it is not ready before it has that share.
    With `gang` its first attempt begins in the same commit as those of all others of its gang; if they have not begun
    at `gang_until` (commit time, seconds since 1970), it ends.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {
        "program": 2,
        "traced": 2,
        "queue": 3,
        "fairness_key": 3,
        "retry": 3,
        "requeued_from": 3,
        **dict.fromkeys(("after", "waits_for", "not_before", "delay_s", "time_limits", "occurrence", "attributes"), 3),
        **dict.fromkeys(("debounce", "worker_filter", "named_amounts", "prefer", "prefers_worker", "spend"), 3),
        **dict.fromkeys(("pin_version", "rule", "rule_filter", "request", "gang", "gang_until"), 3),
    }

    task_name: str
    task_type: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int = 0
    resources: Resources = NONE
    payload: Payload | None = None
    idempotency_key: str = ""
    program: str = ""
    traced: bool = False
    queue: str = ""
    fairness_key: str = ""
    retry: RetryPolicy | None = None
    requeued_from: str = ""
    after: After | None = None
    waits_for: tuple[str, ...] = ()
    not_before: float | None = None
    delay_s: float | None = None
    time_limits: TimeLimits | None = None
    occurrence: Occurrence | None = None
    attributes: dict[str, Scalar] = {}
    debounce: Debounce | None = None
    worker_filter: str = ""
    prefer: Prefer | None = None
    prefers_worker: str = ""
    pin_version: bool = True
    rule: str = ""
    rule_filter: str = ""
    spend: Spend | None = None
    request: str = ""
    gang: Gang | None = None
    gang_until: float = 0.0

    @property
    def named_amounts(self) -> dict[str, int]:
        """What it needs besides CPU, memory and GPUs."""
        return self.resources.named


class TaskUnblocked(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A task waits for no other task any more: the end of `predecessor` decided it.

    `otherwise` says that the predecessors can no longer end as it waited for, and that it runs all the same.
    `prefers_worker` is the worker that ran the task that it sticks to, if that has run since it was submitted.
    """

    predecessor: str
    otherwise: bool = False
    prefers_worker: str = ""


class TaskStarted(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A worker got the task: attempt number `attempt`, under `lease`.

    `build_id` is that of the worker; with that of its first attempt, further ones go only to workers with the same.
    `reserved` is what budgets keep for the attempt; null if the task does not say what it may spend.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"build_id": 2, "reserved": 2}

    worker_id: str
    claim_id: str
    attempt: int
    lease: str
    build_id: str = ""
    reserved: Reservation | None = None


class TaskProgressed(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The holder of the lease reported its progress, 0 to 1.

    `checkpoint` is for the next attempt, which goes on from there; the last one counts. `usage` is what the attempt has
    used so far, and `spent` what that costs.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"checkpoint": 2, "usage": 2, "spent": 2}

    lease: str
    progress: float
    message: str = ""
    checkpoint: Payload | None = None
    usage: TaskUsage | None = None
    spent: Spent | None = None


class TaskExtended(TaskEvent, frozen=True, kw_only=True, gc=False):
    """The holder of the lease got `by_s` seconds more for this attempt than the task's `timeout_s`."""

    lease: str
    by_s: float


class TaskCompleted(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task succeeded; `usage` is what its worker says that the attempt used.

    `spent` is what the budgets are charged for the attempt, instead of what was reserved for it; null if the task does
    not say what it may spend.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"usage": 2, "spent": 2}

    lease: str
    execution_time_s: float | None = None
    result: Payload | None = None
    usage: TaskUsage | None = None
    spent: Spent | None = None


class TaskAttemptFailed(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    An attempt ended without a result; the task is pending again, from `retry_at` (commit time, seconds) on.

    `reason` is `failed`, `lease_expired`, `container_failed` (the process of its container ended by itself),
    `heartbeat` (it reported nothing for longer than its `heartbeat_s`) or `released`; a released attempt does not count
    against `max_retries`.
    `worker_ended` says that its worker ended while it ran it, or was cut off for longer than the lease. `attempt` is
    the number of the attempt, `error_type` the type of the error (`package.module.Name`), `retry_after_s` how long the
    handler asked to wait before the retry. `spent` is as in `task.completed`.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {
        "worker_ended": 2, "usage": 3, "attempt": 3, "error_type": 3, "retry_after_s": 3, "traceback": 3, "spent": 3,
    }  # fmt: skip

    lease: str
    error: str
    reason: str
    retry_at: float
    silent_for_s: float | None = None
    limit_s: float | None = None
    worker_ended: bool = False
    usage: TaskUsage | None = None
    attempt: int = 0
    error_type: str = ""
    retry_after_s: float | None = None
    traceback: str = ""
    spent: Spent | None = None


class TaskFailed(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task failed: its retries are used up, or it must not be retried.

    `reason` is `failed`, `lease_expired`, `container_failed`, `heartbeat`, `non_retryable` (the task says that errors
    of this type end it), or `poison`: too many workers ended while they ran it. `attempt` and `error_type` are as in
    `task.attempt_failed`, `spent` is as in `task.completed`.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"usage": 2, "attempt": 2, "error_type": 2, "traceback": 2, "spent": 2}

    lease: str
    error: str
    reason: str
    silent_for_s: float | None = None
    limit_s: float | None = None
    usage: TaskUsage | None = None
    attempt: int = 0
    error_type: str = ""
    traceback: str = ""
    spent: Spent | None = None


class TaskCancelled(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task was cancelled; the lease of a running attempt is no longer valid.

    `how` says how the attempt under `lease` ended that had been asked to: `ended` (its handler did), `left_behind`,
    `failed` (with `error`), `timeout`, `lost` (its lease or its worker ended) or `grace_over` (nobody said anything in
    time). It is `predecessor` for a task that waited for the task `predecessor` to end otherwise, `replaced` for one
    in whose place another one came by a limit, and "" for others that did not run or were not given any time. `spent`
    is as in `task.completed`.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"spent": 2}

    reason: str = ""
    how: str = ""
    lease: str = ""
    error: str = ""
    predecessor: str = ""
    usage: TaskUsage | None = None
    spent: Spent | None = None


class TaskTimedOut(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task took longer than one of its limits, the one that `exceeded` names, and has ended.

    With `timeout_s` attempt number `attempt` ran for `ran_for_s`. With `start_within_s` it waited so long for a worker,
    with `finish_within_s` it had so long for all attempts, with `gang_deadline_s` so much time passed before its gang
    could begin; `lease` is '' and `attempt` 0 if none was running. `usage`
    and `spent` are as in `task.completed`.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"attempt": 2, "exceeded": 2, "spent": 2}

    lease: str
    ran_for_s: float
    limit_s: float
    attempt: int = 0
    exceeded: str = TIMEOUT
    usage: TaskUsage | None = None
    spent: Spent | None = None


class TaskReportRefused(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A report of `outcome` without the lease was refused; the task did not change, and the report is recorded.

    `usage` is what it says that the attempt under `lease` used, if that is more than was known, and `spent` how much
    more that costs; `budget.corrected` follows.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"usage": 2, "spent": 2}

    lease: str
    outcome: str
    worker_id: str
    usage: TaskUsage | None = None
    spent: Spent | None = None
