"""Commands and questions about tasks."""

from __future__ import annotations

from enum import Enum

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import PAYLOAD, RESULT, TASK_CANCELLED, TASK_COMPLETED, TASK_OFFERED, TASK_RUNNING
from events.after import After
from events.cancel_ladder import Escalation
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.spend import Spend
from events.task import Gang, Payload, Prefer, Scalar, TaskStatus, TaskUsage
from events.time_limits import TimeLimits
from projections.task import Task

LATEST_S = 3653 * 86_400.0
"""How far ahead the first start of a task may be: ten years."""


class SubmitTask(Command[str], frozen=True, kw_only=True, gc=False):
    """
    Submit a task to the queue; the caller makes the id, so that a repeat creates no second task.

    `program` names the program that submits it, for claims that ask only for tasks of certain programs. `priority` is a
    number, or a name that the policy of its queue knows: `high`, `medium` and `low` by default. Where keys share a
    queue, the task takes of the share of its `fairness_key`. `retry` says how it is retried; without it, as the
    settings say. `requeued_from` names the ended task that it does again. With `after` it waits until up to 64 other
    tasks have ended: all or any of them (`join`), with `success` or in any way (`on`). When that cannot be any more, it
    is cancelled, or runs (`otherwise`). No attempt starts before
    `not_before`, in seconds since 1970, or before `delay_s` seconds have passed since the submit. `timeout_s` limits
    one attempt; `time_limits` are the other limits. `attributes` are what filters and limits may know of its content:
    at most 16 texts, numbers and truth values, 1 KiB together. Only workers that meet `worker_filter` get it, such as
    `labels.zone == "eu"`; its fields are `worker_id`, `labels.…`, `container_id`, `agent_type`, `node_id` and
    `build_id`. With `prefer`, for so many seconds after it became ready (`for_s`), it goes only to a worker that meets
    `filter`, or that ran the task `sticky_to` last, as long as such a worker is registered and not draining; then to
    any that may run it.
    A task goes on where it began: once an attempt ran at a worker with a build id, further ones go only to workers with
    the same, unless `pin_version` is false.
    `spend` is the most that one attempt may use of tokens and money; budgets reserve it when the attempt begins.
    With `request`, a request for a share of the pool `tasks`, it waits until that has its share, which ends with it.
    With `gang` it begins in the same moment as the other tasks of its gang, when `size` tasks have named this `gang_id`
    in the tenant, all of them are ready, and workers have room for all at once; if that has not been so `deadline_s`
    seconds after the first of them was submitted, all end with the status `timeout`.
    """

    KIND, VERB = "task", "submit"
    REFUSALS = frozenset({
        "bad_after", "bad_attributes", "bad_filter", "bad_number", "bad_payload", "bad_priority", "bad_resources",
        "bad_retry", "bad_text", "bad_time", "busy", "gang_begun", "gang_differs", "gang_full", "id_taken",
        "memory_full", "no_price", "over_budget", "payload_too_large", "queue_full", "quota", "rate_limited",
        "request_bound", "too_many", "unknown_predecessor", "unknown_queue", "unknown_request",
    })  # fmt: skip
    EXAMPLE = Example({"task_id": "task_1", "task_name": "add", "priority": 5, "payload": PAYLOAD}, "task_1")

    task_id: str
    task_name: str
    task_type: str = ""
    priority: int | str = 0
    timeout_s: float | None = None
    max_retries: int | None = None
    resources: Resources = NONE
    payload: Payload | None = None
    idempotency_key: str = ""
    program: str = ""
    queue: str = ""
    fairness_key: str = ""
    retry: RetryPolicy | None = None
    requeued_from: str = ""
    after: After | None = None
    not_before: float | None = None
    delay_s: float | None = None
    time_limits: TimeLimits | None = None
    attributes: dict[str, Scalar] = {}
    worker_filter: str = ""
    prefer: Prefer | None = None
    pin_version: bool = True
    spend: Spend | None = None
    request: str = ""
    gang: Gang | None = None


class ClaimTasks(Command[list[Task]], frozen=True, kw_only=True, gc=False):
    """
    Claim up to `slots` tasks for a worker; wait up to `wait_s` for the first.

    With `programs` it takes only tasks that one of these programs submitted, with `task_names` only tasks of these
    names, with `queues` only those of these queues, with `task_ids` only these, in this order. Without a `strategy`,
    the policies of the queues say which task is next. Refused if it names a registration of the worker that is not the
    current one. A worker that is not known is registered by it, with these `resources`.
    """

    KIND, VERB = "task", "claim"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({
        "bad_number", "bad_resources", "bad_strategy", "bad_text", "container_not_running", "id_taken", "memory_full",
        "quota", "replaced", "too_many", "unknown_queue", "worker_draining",
    })  # fmt: skip
    EXAMPLE = Example({"claim_id": "claim_1", "worker_id": "worker_1", "wait_s": 5.0}, [TASK_RUNNING])

    claim_id: str
    worker_id: str
    slots: int = 1
    wait_s: float = 0.0
    strategy: str = ""
    registration: str = ""
    programs: tuple[str, ...] = ()
    task_names: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    resources: Resources | None = None


class WithdrawClaim(Command[None], frozen=True, kw_only=True, gc=False):
    """Withdraw a claim whose answer is no longer awaited; tasks given to it return to the queue."""

    KIND, VERB = "task", "withdraw"
    FOR = frozenset({"domain", "worker", "agents"})
    EXAMPLE = Example({"claim_id": "claim_2", "worker_id": "worker_1"})

    claim_id: str
    worker_id: str


class CompleteTask(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report that the attempt under `lease` succeeded; no lease is needed if no worker holds one.

    `usage` is what the attempt used of tokens and money.
    """

    KIND, VERB = "task", "complete"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({
        "already_ended", "bad_number", "bad_payload", "bad_text", "not_found", "not_ready", "paused",
        "payload_too_large", "stale_lease", "too_early",
    })  # fmt: skip
    EXAMPLE = Example({"task_id": "task_1", "lease": "claim_1.1.1", "execution_time_s": 0.2, "result": RESULT})

    task_id: str
    lease: str = ""
    worker_id: str = ""
    execution_time_s: float | None = None
    result: Payload | None = None
    usage: TaskUsage | None = None


class FailTask(Command[TaskStatus], frozen=True, kw_only=True, gc=False):
    """
    Report that the attempt under `lease` failed; the task is retried while retries are left and `retry` is true.

    `error_type` is the type of the error, `package.module.Name`: the task's retry policy may name types that are not
    retried. The retry begins `retry_after_s` from now at the earliest. A longer `traceback` keeps its last 4,096
    characters. `usage` is what the attempt used of
    tokens and money.
    """

    KIND, VERB, REMEMBERED = "task", "fail", True
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({
        "already_ended", "bad_number", "bad_text", "not_found", "not_ready", "paused", "stale_lease", "too_early",
    })  # fmt: skip
    EXAMPLE = Example({"task_id": "task_2", "lease": "claim_3.1.1", "error": "the page was not found"}, "pending")

    task_id: str
    error: str
    lease: str = ""
    worker_id: str = ""
    retry: bool = True
    usage: TaskUsage | None = None
    error_type: str = ""
    retry_after_s: float | None = None
    traceback: str = ""


class ReleaseTask(Command[None], frozen=True, kw_only=True, gc=False):
    """Return a task without executing it; the attempt does not count against the retries."""

    KIND, VERB, REMEMBERED = "task", "release", True
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_text", "not_found", "stale_lease"})
    EXAMPLE = Example({"task_id": "task_3", "lease": "claim_4.1.1", "reason": "the worker stops"})

    task_id: str
    lease: str
    reason: str = ""


class ProgressTask(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report the progress of the attempt under `lease`, 0 to 1.

    Without `progress` the attempt only shows that it goes on, for tasks with a limit `heartbeat_s`. `checkpoint` is
    kept until the task ends, and given to the next attempt with the task; the last one counts. `usage` is all that the
    attempt has used so far, of a task that says what it may spend.
    """

    KIND, VERB = "task", "progress"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({
        "bad_number", "bad_payload", "bad_text", "not_found", "payload_too_large", "queue_full", "stale_lease",
    })  # fmt: skip
    EXAMPLE = Example({"task_id": "task_1", "lease": "claim_1.1.1", "progress": 0.5, "message": "5 of 10 pages"})

    task_id: str
    lease: str
    progress: float | None = None
    message: str = ""
    checkpoint: Payload | None = None
    usage: TaskUsage | None = None


class ExtendTask(Command[float | None], frozen=True, kw_only=True, gc=False):
    """
    Give the attempt under `lease` more time than the `timeout_s` of its task.

    The answer is when it ends now, in seconds since 1970; null if the task has no `timeout_s`.
    """

    KIND, VERB, REMEMBERED = "task", "extend", True
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_number", "bad_text", "not_found", "stale_lease"})
    EXAMPLE = Example({"task_id": "task_2", "lease": "claim_3.1.1", "by_s": 60.0}, 1795968191.64)

    task_id: str
    lease: str
    by_s: float


class CancelTask(Command[TaskStatus], frozen=True, kw_only=True, gc=False):
    """
    Cancel a task: a pending one at once, a running one at most `grace_s` + 1 s later. The answer is its status.

    The handler of a running task is told, has `grace_s` seconds (null: `scheduler.cancel_grace_s`) to end, and is then
    forced to. With `escalate` as `container`, the container of its worker is stopped after that time. Asking again can
    only shorten the time. Without `grace_s`, as earlier releases ask, the task ends at once.
    """

    KIND, VERB = "task", "cancel"
    REFUSALS = frozenset({"already_ended", "bad_number", "bad_text", "not_found"})
    EXAMPLE = Example({"task_id": "task_4", "reason": "not needed any more"}, "cancelled")

    task_id: str
    reason: str = ""
    grace_s: float | None = 0.0
    escalate: Escalation = Escalation.ATTEMPT


class GetTask(Question[Task], frozen=True, kw_only=True, gc=False):
    """Get one task; with `wait_s`, wait that long at most until it has ended."""

    KIND, VERB = "task", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"task_id": "task_1", "wait_s": 5.0}, TASK_COMPLETED)

    task_id: str
    wait_s: float = 0.0


class OfferTasks(Question[list[Task]], frozen=True, kw_only=True, gc=False):
    """
    List the ready tasks that a claim of this worker would get now, the first ones first, without their payloads.

    The fields are those of a claim. To get one of these tasks, claim it by its id: it may be gone by then.
    """

    KIND, VERB = "task", "offer"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_number", "bad_strategy", "bad_text", "too_many", "unknown_queue"})
    EXAMPLE = Example({"worker_id": "worker_1", "slots": 5}, [TASK_OFFERED])

    worker_id: str
    slots: int = 100
    strategy: str = ""
    programs: tuple[str, ...] = ()
    task_names: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()


class ListTasks(Question[list[Task]], frozen=True, kw_only=True, gc=False):
    """
    List tasks, newest first, without their payloads, results and failed attempts.

    With `status`, those that came to it last are first. With `after`, the id of a task, the list begins after that one.
    With `paused`, only those that are paused, which are pending too.
    """

    KIND, VERB = "task", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"status": "cancelled", "limit": 10}, [TASK_CANCELLED])

    status: TaskStatus | None = None
    limit: int = 100
    after: str = ""
    paused: bool = False


class TasksFound(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Tasks that were found, and the `after` to go on with; '' when there are no more."""

    tasks: list[Task]
    next: str = ""


class FindTasks(Question[TasksFound], frozen=True, kw_only=True, gc=False):
    """
    Find the tasks that meet the filter `where`, newest first, without their payloads, results and failed attempts.

    It looks at 2,000 tasks at most, fewer with a long filter, so there may be more although fewer than `limit` were
    found: the answer says where to go on.
    """

    KIND, VERB = "task", "find"
    REFUSALS = frozenset({"bad_cursor", "bad_filter", "bad_number"})
    EXAMPLE = Example({"where": 'task_name == "add" && status == "cancelled"'}, {"tasks": [TASK_CANCELLED]})

    where: str
    status: TaskStatus | None = None
    limit: int = 100
    after: str = ""
    paused: bool = False


class SchedulingStrategy(Enum):
    """The order in which tasks are taken, and which waiting worker is served first."""

    FIFO = "fifo"
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
