"""
Submit tasks, claim them, and report their outcome.

A claimed task comes with a lease, which this process renews until the task's outcome is reported. When the process
dies, its leases expire, and its tasks return to the queue.
"""

from __future__ import annotations

import asyncio
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from inspect import signature
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import structlog

from coordinator.app.facade import Facade, new_id
from coordinator.client.cancel_tasks import CANCELLED_MAX, cancel_each
from coordinator.client.cancel_tasks import RATE_PER_S as CANCEL_RATE_PER_S
from coordinator.client.dead_letters import RATE_PER_S, REQUEUED_MAX, list_dead, requeue, requeue_each
from coordinator.client.machine import machine
from coordinator.client.paging import found, listed
from coordinator.commands.arguments import (
    flag,
    member,
    moment,
    number,
    retry_policy,
    scalars,
    spending,
    text,
    texts,
    wanted,
    whole,
)
from coordinator.commands.cluster import GetStats
from coordinator.commands.explain import ExplainTask, PlanTask
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.reads import ListDead
from coordinator.commands.task import (
    CancelTask,
    ClaimTasks,
    CompleteTask,
    ExtendTask,
    FailTask,
    FindTasks,
    GetTask,
    ListTasks,
    OfferTasks,
    ProgressTask,
    SchedulingStrategy,
    SubmitTask,
)
from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.commands.validation import check_number
from coordinator.scheduler.attribute_paths import attribute_paths as parts_of
from coordinator.scheduler.attribute_paths import with_attributes
from coordinator.scheduler.waiting_tasks import tell_what_waits
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.cancel_ladder import Escalation
from events.errors import CoordinationError, NotFound, Refused, StaleLease, Unavailable, shown
from events.resources import NONE, Resources
from events.task import Gang, Prefer, Scalar, TaskStatus, TaskUsage
from events.time_limits import TIMEOUT, TimeLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from coordinator.app.app import App
    from coordinator.commands.cluster import ClusterStats
    from coordinator.commands.explain import Explanation
    from coordinator.scheduler.scheduling_policy import SchedulingPolicy
    from events.retry import RetryPolicy
    from events.spend import Spend, Spent
    from events.task import Payload
    from projections.task import FailedAttempt, Task

log = structlog.get_logger(__name__)

WAIT_S = 20.0
"""How long one question waits at the coordinator; a longer wait repeats the question."""
SELECTIONS = 5
"""How often a policy may select a task that somebody else gets first; then the coordinator's policies decide."""
WINDOW_MOST = 500
RETRY_ASKED_FOR = "the program that held it asked for a retry"
PAUSE_S = 0.5
"""The pause before the next question where one may hardly wait."""
_DONE = (TaskStatus.COMPLETED, TaskStatus.CANCELLED)
ENDED_WITHIN_S = 2.0
"""How long after its grace to wait for the end of a task that is cancelled; it comes within 1 s."""
NO_LIMITS = TimeLimits()
ALREADY_ENDED = "already_ended"
"""The reason code when a report is refused because the task has already ended with another outcome."""


@dataclass(kw_only=True)
class TaskInfo:
    """
    A task as callers see it.

    `submitted_at`, `started_at` and `ended_at` are in seconds since 1970, `timeout` and `execution_time` in seconds,
    `progress` is 0 to 1, and `lease` is '' unless the task is running. `cancelling`
    says that it still runs, and was asked to end; `waiting_for` are the tasks that must end before it can begin. A
    paused task is PENDING too. `error` and
    `error_type` are those of the last attempt that failed, `attempts` the last 10 of these; a list of tasks is without
    them. `retry_count` says how often the task was retried because an attempt failed, of at most `max_retries`.
    """

    task_id: str
    task_name: str
    task_type: str
    priority: int
    status: TaskStatus
    resources: Resources
    timeout: float | None
    worker_id: str
    lease: str
    attempt: int
    retry_count: int
    max_retries: int
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    execution_time: float | None
    progress: float
    error: str
    cancelling: bool = False
    waiting_for: tuple[str, ...] = ()
    not_before: datetime | None = None
    """When the first attempt may start, in UTC; None for at once."""
    start_within: float | None = None
    finish_within: float | None = None
    heartbeat: float | None = None
    exceeded: str = ""
    """The time limit that ended the task, or its last attempt: `timeout_s`, `start_within_s`, `finish_within_s`,
    `heartbeat_s` or `gang_deadline_s`; '' for none."""
    sent_checkpoint: Payload | None = field(default=None, repr=False)
    sent_payload: Payload | None = field(default=None, repr=False)
    sent_result: Payload | None = field(default=None, repr=False)
    error_type: str = ""
    attempts: tuple[FailedAttempt, ...] = ()
    retry: RetryPolicy | None = None
    is_paused: bool = False
    pause_reason: str = ""
    requeued_from: str = ""
    requeued_as: str = ""
    """The task that does this one again; only in a list of dead tasks."""
    attributes: dict[str, Scalar] = field(default_factory=dict)
    spend: Spend | None = None
    """The most that one attempt may use."""
    spent: Spent | None = None
    """What the attempts that have ended were charged; None for a task that does not say what it may spend."""
    gang: Gang | None = None
    """With which others it begins, or began."""
    start_retry: InitVar[Callable[[TaskInfo], asyncio.Future[str]] | None] = None

    # Decoded on access: a damaged payload must not hide its task, nor the other tasks of a list.
    @property
    def payload(self) -> Any:
        """The payload of the task, decoded; raises `Refused` or `Corrupt` when it cannot be read."""
        return value_of(self.sent_payload)

    @property
    def result(self) -> Any:
        """The result of the task, decoded; raises `Refused` or `Corrupt` when it cannot be read."""
        return value_of(self.sent_result)

    @property
    def checkpoint(self) -> Any:
        """What an attempt saved last for the next one, decoded; None if nothing, or in a list of tasks."""
        return value_of(self.sent_checkpoint)

    def __post_init__(self, start_retry: Callable[[TaskInfo], asyncio.Future[str]] | None) -> None:
        self._start_retry = start_retry

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: it is of no scheduler."""
        return {name: value for name, value in vars(self).items() if name != "_start_retry"}

    def can_retry(self) -> bool:
        """Return whether the task has not completed, was not cancelled, and has a retry left."""
        return self.retry_count < self.max_retries and self.status not in _DONE

    def increment_retry(self) -> asyncio.Future[str]:
        """
        Put the task back into the queue, and count the retry in this object.

        A task that this program holds fails this attempt, and is retried after its pause. One that failed or timed out
        is requeued as a new task; see `TaskScheduler.requeue_task`. One that is in the queue already stays there.

        Returns at once, while the event loop sends the command; a failure is logged. To await what it returns gives the
        id of the task that is in the queue then, or that failure.

        Raises:
            Refused: `can_retry()` is False; no event loop runs here; or this is a copy, or that of another loop.
        """
        if not self.can_retry():
            told = f"is {self.status.value} and was retried {self.retry_count} times of at most {self.max_retries}"
            msg = f"task {self.task_id!r} {told}: requeue_task() submits one that failed again"
            raise Refused(msg, reason="retries_exhausted")
        start_retry = getattr(self, "_start_retry", None)
        if start_retry is None:
            msg = f"this TaskInfo of {self.task_id!r} is of no TaskScheduler: use one that get_task() returns"
            raise Refused(msg, reason="other_loop")
        made: asyncio.Future[str] = start_retry(self)
        self.retry_count += 1
        return made


def task_info(task: Task, start_retry: Callable[[TaskInfo], asyncio.Future[str]] | None = None) -> TaskInfo:
    """Convert a folded task to a `TaskInfo`; *start_retry* begins what `increment_retry` of it asks for."""
    limits = task.time_limits if task.time_limits is not None else NO_LIMITS
    # The last failure of a task that failed, or that is paused as no retry is left, led to no retry.
    is_over = task.status is TaskStatus.FAILED or (task.is_paused and task.failures > task.retries_most)
    return TaskInfo(
        task_id=task.task_id,
        task_name=task.task_name,
        task_type=task.task_type,
        priority=task.priority,
        status=task.status,
        resources=task.resources,
        timeout=task.timeout_s,
        worker_id=task.worker_id,
        lease=task.lease if task.status is TaskStatus.RUNNING else "",
        attempt=task.attempt,
        retry_count=task.failures - is_over,
        max_retries=task.retries_most,
        submitted_at=task.submitted_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        execution_time=task.execution_time_s,
        progress=task.progress,
        error=task.error,
        cancelling=task.cancelling is not None and not task.is_ended,
        waiting_for=task.waiting_for,
        gang=task.gang,
        not_before=None if task.not_before is None else datetime.fromtimestamp(task.not_before, UTC),
        start_within=limits.start_within_s,
        finish_within=limits.finish_within_s,
        heartbeat=limits.heartbeat_s,
        exceeded=TIMEOUT if task.status is TaskStatus.TIMEOUT and not task.exceeded else task.exceeded,
        sent_checkpoint=task.checkpoint,
        sent_payload=task.payload,
        sent_result=task.result,
        error_type=task.error_type,
        attempts=task.attempts,
        retry=task.retry,
        is_paused=task.is_paused,
        pause_reason=task.pause_reason,
        requeued_from=task.requeued_from,
        attributes=dict(task.attributes),
        spend=task.spend,
        spent=task.total_spent,
        start_retry=start_retry,
    )


def _which_dead(task_name: str | None, tenant: str | None, error_type: str | None, since: float | None) -> ListDead:
    return ListDead(
        name=None if task_name is None else text("task_name", task_name),
        tenant=None if tenant is None else text("tenant", tenant),
        error_type=None if error_type is None else text("error_type", error_type),
        since=None if since is None else number("since", since),
    )


def _after(given: Any) -> After | None:
    """Return what to wait for; members of enums may be given by their value."""
    if given is None:
        return None
    if not isinstance(given, After):
        return After(tasks=texts("after", given))
    return After(
        tasks=texts("after.tasks", given.tasks),
        on=member("after.on", given.on, AfterOn),
        join=member("after.join", given.join, AfterJoin),
        otherwise=member("after.otherwise", given.otherwise, Otherwise),
    )


def _work(
    task_id: Any,
    task_name: Any,
    task_type: Any,
    priority: Any,
    timeout: Any,
    max_retries: Any,
    resources: Any,
    payload: Any,
    spend: Any,
) -> dict[str, Any]:
    return {
        "task_id": text("task_id", new_id("task") if task_id is None else task_id),
        "task_name": text("task_name", task_name),
        "task_type": text("task_type", task_type),
        "priority": text("priority", priority) if isinstance(priority, str) else whole("priority", priority),
        "timeout_s": None if timeout is None else number("timeout", timeout),
        "max_retries": None if max_retries is None else whole("max_retries", max_retries),
        "resources": Resources.parse(resources),
        "payload": payload_of(payload),
        "spend": spending("spend", spend),
    }


def _again(idempotency_key: Any, retry: Any, after: Any) -> dict[str, Any]:
    return {
        "idempotency_key": text("idempotency_key", idempotency_key),
        "retry": None if retry is None else retry_policy("retry", retry),
        "after": _after(after),
    }


def _where(
    queue: Any,
    fairness_key: Any,
    attributes: Any,
    worker_filter: Any,
    prefer: Any,
    pin_version: Any,
    request: Any,
    gang: Any,
) -> dict[str, Any]:
    if isinstance(prefer, str):
        prefer = Prefer(filter=text("prefer", prefer))
    if prefer is not None:
        given: Prefer = wanted("prefer", prefer, Prefer, "a filter, or Prefer(…)")
        prefer = Prefer(
            filter=text("prefer.filter", given.filter),
            sticky_to=text("prefer.sticky_to", given.sticky_to),
            for_s=number("prefer.for_s", given.for_s),
        )
    return {
        "queue": text("queue", queue),
        "fairness_key": text("fairness_key", fairness_key),
        "attributes": {} if attributes is None else scalars("attributes", attributes),
        "worker_filter": text("worker_filter", worker_filter),
        "prefer": prefer,
        "pin_version": flag("pin_version", pin_version),
        "request": text("request", request),
        "gang": None if gang is None else _gang(gang),
    }


def _gang(gang: Any) -> Gang:
    given: Gang = wanted("gang", gang, Gang, "a Gang, such as Gang(gang_id=…, size=4, deadline_s=60)")
    return Gang(
        gang_id=text("gang.gang_id", given.gang_id),
        size=whole("gang.size", given.size),
        deadline_s=number("gang.deadline_s", given.deadline_s),
    )


def _times(not_before: Any, delay: Any, start_within: Any, finish_within: Any, heartbeat: Any) -> dict[str, Any]:
    return {
        "not_before": None if not_before is None else moment("not_before", not_before),
        "delay_s": None if delay is None else number("delay", delay),
        "time_limits": _time_limits(start_within, finish_within, heartbeat),
    }


def _time_limits(start_within: Any, finish_within: Any, heartbeat: Any) -> TimeLimits | None:
    if start_within is None and finish_within is None and heartbeat is None:
        return None
    return TimeLimits(
        start_within_s=None if start_within is None else number("start_within", start_within),
        finish_within_s=None if finish_within is None else number("finish_within", finish_within),
        heartbeat_s=None if heartbeat is None else number("heartbeat", heartbeat),
    )


class TaskParameters(TypedDict, total=False):
    """What `submit_task` takes besides the name of a task; see there."""

    task_type: str
    priority: int | str
    timeout: float | None
    resources: Mapping[str, Any] | None
    payload: Any
    max_retries: int | None
    idempotency_key: str
    task_id: str | None
    queue: str
    fairness_key: str
    retry: RetryPolicy | None
    after: After | Iterable[str] | None
    not_before: datetime | None
    delay: float | None
    start_within: float | None
    finish_within: float | None
    heartbeat: float | None
    attributes: Mapping[str, Scalar] | None
    worker_filter: str
    prefer: Prefer | str | None
    pin_version: bool
    spend: Spend | None
    request: str
    gang: Gang | None


def _content(task_name: str, **given: Unpack[TaskParameters]) -> dict[str, Any]:
    """Return the fields of the command that submits a task, at least those that are not left as they are."""
    of = given.get
    work = _work(
        of("task_id"),
        task_name,
        of("task_type", ""),
        of("priority", 0),
        of("timeout"),
        of("max_retries"),
        of("resources"),
        of("payload"),
        of("spend"),
    )
    if not [name for name, usual in _USUAL if of(name, usual) is not usual]:
        return work
    return {
        **work,
        **_where(
            of("queue", ""),
            of("fairness_key", ""),
            of("attributes"),
            of("worker_filter", ""),
            of("prefer"),
            of("pin_version", True),
            of("request", ""),
            of("gang"),
        ),
        **_times(of("not_before"), of("delay"), of("start_within"), of("finish_within"), of("heartbeat")),
        **_again(of("idempotency_key", ""), of("retry"), of("after")),
    }


def _usage(usage: TaskUsage | None) -> TaskUsage | None:
    """Return *usage* if it is a TaskUsage with whole numbers, or None."""
    if usage is None:
        return None
    given: TaskUsage = wanted("usage", usage, TaskUsage, "a TaskUsage, such as TaskUsage(input_tokens=900)")
    for name in given.__struct_fields__:
        whole(f"usage.{name}", getattr(given, name))
    return given


class TaskScheduler(Facade):
    """
    The tasks of the cluster.

    Args:
        app: the app to use; by default that of the event loop.
        policy: selects, in this program, the tasks that `get_next_task` claims; by default the coordinator does.
        policy_window: how many ready tasks the policy chooses from, 1 to 500.
        attribute_paths: attributes that tasks of a name get from their payload, by their path in it, such as
            `{"report": {"customer": "customer.id"}}`; what is not there is left out.

    Raises:
        Refused: an argument is invalid.
    """

    def __init__(
        self,
        app: App | None = None,
        *,
        policy: SchedulingPolicy | None = None,
        policy_window: int = 100,
        attribute_paths: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(app)
        self._paths = {} if attribute_paths is None else parts_of(attribute_paths)
        if policy is not None and not callable(getattr(policy, "select_task", None)):
            raise Refused(f"policy {shown(policy)} is not a SchedulingPolicy or None", reason="bad_type")
        if not 1 <= whole("policy_window", policy_window) <= WINDOW_MOST:
            msg = f"policy_window {policy_window} is out of range: use 1 to {WINDOW_MOST}"
            raise Refused(msg, reason="bad_number")
        self._policy = policy
        self._window = policy_window

    async def submit_task(
        self,
        task_name: str,
        task_type: str = "",
        priority: int | str = 0,
        timeout: float | None = None,  # noqa: ASYNC109  # the task's own limit, not this call's
        resources: Mapping[str, Any] | None = None,
        *,
        payload: Any = None,
        max_retries: int | None = None,
        idempotency_key: str = "",
        task_id: str | None = None,
        queue: str = "",
        fairness_key: str = "",
        retry: RetryPolicy | None = None,
        after: After | Iterable[str] | None = None,
        not_before: datetime | None = None,
        delay: float | None = None,
        start_within: float | None = None,
        finish_within: float | None = None,
        heartbeat: float | None = None,
        attributes: Mapping[str, Scalar] | None = None,
        worker_filter: str = "",
        prefer: Prefer | str | None = None,
        pin_version: bool = True,
        spend: Spend | None = None,
        request: str = "",
        gang: Gang | None = None,
    ) -> str:
        """
        Submit a task to the queue and return its id. It is durable then; after `Unavailable` it may be, too.

        Args:
            task_name: the name of the handler that executes it.
            task_type: a word to group tasks by.
            priority: a higher one starts sooner by PRIORITY and FAIR; or a name that its queue knows: `high` is 3.
            timeout: seconds that one attempt may take; after that the task ends with the status TIMEOUT.
            resources: what it needs of a worker, such as `{"cpu": 2, "memory": "4Gi", "licences": 1}`.
            payload: any JSON value, or bytes; at most 64 KiB.
            max_retries: how many failed attempts are retried; by default `scheduler.max_retries`.
            idempotency_key: submitting with the same key again creates no second task and returns the id of the first.
            task_id: an id chosen by the caller; submitting the same id and content again creates no second task.
            queue: the queue that it waits in; by default that named `default`.
            fairness_key: whose share of the queue it takes of, where keys share it.
            after: up to 64 tasks that must be COMPLETED first, else it is cancelled; or what `After(…)` says.
            retry: pauses before retries, errors that end it at once, what follows the last; by default of the settings.
            not_before: no attempt starts before this time; a datetime with a zone, at most ten years ahead.
            delay: no attempt starts for so many seconds; not together with *not_before*.
            start_within: seconds that it may wait for a worker once it is ready; then it ends with the status TIMEOUT.
            finish_within: seconds that it may take with all attempts; then it ends with the status TIMEOUT.
            heartbeat: seconds that a running attempt may report no progress; then the attempt fails.
            attributes: what filters and limits may know of its content, such as `{"customer": "acme"}`; at most 16.
            worker_filter: which workers may run it, such as `labels.zone == "eu" && labels.gpu_memory >= 16`.
            prefer: a filter as that, or `Prefer(…)`: for 5 s it waits for such a worker, if there is one; then for any.
            pin_version: whether it goes on only at workers with the build id of the worker that it began on, if any.
            spend: the most that one attempt may use, which budgets reserve: `Spend(model="…", input_tokens=8000, …)`.
            request: a request of `ResourceAllocator`: the task begins when that has its share, which ends with it.
            gang: begin together with `size - 1` other tasks of this gang, or end after its deadline: `Gang(…)`.

        Raises:
            Refused: an argument is invalid, the queue does not exist, or a limit or a budget does not allow it.
            NotFound: a task of *after* does not exist, or ended longer than 10 minutes ago.
        """
        content = _content(
            task_name,
            task_type=task_type,
            priority=priority,
            timeout=timeout,
            resources=resources,
            payload=payload,
            max_retries=max_retries,
            idempotency_key=idempotency_key,
            task_id=task_id,
            queue=queue,
            fairness_key=fairness_key,
            retry=retry,
            after=after,
            not_before=not_before,
            delay=delay,
            start_within=start_within,
            finish_within=finish_within,
            heartbeat=heartbeat,
            attributes=attributes,
            worker_filter=worker_filter,
            prefer=prefer,
            pin_version=pin_version,
            spend=spend,
            request=request,
            gang=gang,
        )
        app = await self.opened()
        command = self._command(app, content)
        if command.resources != NONE or command.worker_filter:
            app.looks_at = 0.0  # it may be for no worker of this program
        return str(await app.execute(command))

    async def plan_task(self, task_name: str, **content: Unpack[TaskParameters]) -> Explanation:
        """
        Tell where a task would go if it were submitted now; nothing is submitted.

        The answer is what `explain_task` would say right after: which workers could run it, what would be in its way,
        and when it might start.

        Args:
            task_name: the name of the handler that would execute it.
            content: whatever `submit_task` takes besides, by name.

        Raises:
            Refused: an argument is invalid, or the submit would be refused for another reason.
            NotFound: a task of *after* does not exist, or ended longer than 10 minutes ago.
        """
        for name in content:
            if name not in TaskParameters.__annotations__:
                msg = f"{shown(name)} is nothing that a task has: use the parameters of submit_task"
                raise Refused(msg, reason="bad_type")
        found: Explanation = await self.execute(
            PlanTask(task=self._command(await self.opened(), _content(task_name, **content)))
        )
        return found

    async def explain_task(self, task_id: str) -> Explanation:
        """
        Tell why a task waits, with who is in its way, what would change that, and when it may start.

        Of a running task it tells who runs it since when, of one that has ended who ended it and why.

        Raises:
            NotFound: there is no such task, or it ended too long ago; see `get_task`.
        """
        found: Explanation = await self.execute(ExplainTask(task_id=text("task_id", task_id)))
        return found

    def _command(self, app: App, content: Mapping[str, Any]) -> SubmitTask:
        return with_attributes(SubmitTask(program=app.program, **content), self._paths)

    async def get_next_task(
        self,
        worker_id: str,
        strategy: SchedulingStrategy | str | None = None,
        *,
        wait_s: float = 0.0,
        task_names: Iterable[str] | None = None,
        queues: Iterable[str] = (),
    ) -> TaskInfo | None:
        """
        Claim the next task for a worker and return it; None when there is none within *wait_s* seconds.

        Without *task_names* it is one that this program submitted, in this run or an earlier one: what a program is, is
        told by `client.program` of the settings. This process then holds the task's lease and renews it.

        Args:
            worker_id: the worker, which several programs may share; an unknown one is registered as this machine.
            strategy: how to choose the task, as a member or its value; by default the policies of the queues say it.
            wait_s: seconds to wait for a task.
            task_names: take tasks of these names, whoever submitted them; at most 32.
            queues: take tasks of these queues; by default of all.

        Raises:
            Refused: an argument is invalid, or the worker is draining.
        """
        app = await self.opened()
        wanted = self._wanted(app, task_names, queues)
        wanted["strategy"] = "" if strategy is None else member("strategy", strategy, SchedulingStrategy).value
        left_s = number("wait_s", wait_s)
        worker = text("worker_id", worker_id)
        # A claim is valid only while its worker sends signs of life. Each claim is one, so wait in portions shorter
        # than the lease.
        longest_s = min(app.settings.scheduler.lease_s / 2, app.settings.scheduler.claim_wait_max_s)
        task = None if self._policy is None else await self._selected(worker, wanted)
        while task is None:
            portion_s = min(left_s, longest_s)
            task = await self._claimed(worker, portion_s, wanted)
            left_s -= portion_s
            if task is None and left_s <= 0:
                if not wanted["task_names"]:
                    await tell_what_waits(app, worker)
                return None
            if task is None and portion_s < PAUSE_S:
                pause_s = min(PAUSE_S, left_s)
                await asyncio.sleep(pause_s)
                left_s -= pause_s
        app.held.take(task.task_id, worker, task.lease)
        return task_info(task, self._start_retry)

    def _wanted(self, app: App, task_names: Iterable[str] | None, queues: Iterable[str]) -> dict[str, Any]:
        """Return what a claim says of the tasks it takes."""
        names = () if task_names is None else texts("task_names", task_names)
        if task_names is not None and not names:
            msg = "task_names is empty: name the tasks to take, or leave it out for those of this program"
            raise Refused(msg, reason="bad_type")
        programs = () if names else (app.program,)
        return {"programs": programs, "task_names": names, "queues": texts("queues", queues)}

    async def _claimed(self, worker: str, wait_s: float, wanted: Mapping[str, Any]) -> Task | None:
        """Claim one task; None if there is none within *wait_s* seconds."""
        app = await self.opened()
        claim = ClaimTasks(
            claim_id=new_id("claim"),
            worker_id=worker,
            slots=1,
            wait_s=wait_s,
            resources=machine(app.settings.node.cpu_overcommit),
            **wanted,
        )
        tasks: list[Task] = await self.execute(claim)
        return tasks[0] if tasks else None

    async def _selected(self, worker: str, wanted: Mapping[str, Any]) -> Task | None:
        """
        Claim the task that the policy of this facade selects of those that are offered; None if there are none.

        A task that somebody else got first is not there any more when they are offered again.

        Raises:
            Refused: the policy selected something that was not offered.
        """
        assert self._policy is not None
        for _ in range(SELECTIONS):
            question = OfferTasks(worker_id=worker, slots=self._window, **wanted)
            found: list[Task] = await self.execute(question)
            offered = {task.task_id: task_info(task) for task in found}
            if not offered:
                return None
            chosen = self._policy.select_task(list(offered.values()), [worker])
            task_id = chosen if isinstance(chosen, str) else getattr(chosen, "task_id", None)
            if task_id not in offered:
                msg = f"the policy selected {shown(chosen)}, which is none of the {len(offered)} tasks it was offered"
                raise Refused(msg, reason="bad_policy")
            if (task := await self._claimed(worker, 0.0, {**wanted, "task_ids": (task_id,)})) is not None:
                return task
        return None

    async def complete_task(
        self,
        task_id: str,
        execution_time: float | None = None,
        *,
        result: Any = None,
        lease: str | None = None,
        usage: TaskUsage | None = None,
    ) -> None:
        """
        Report that a task completed. Repeating the report changes nothing.

        Args:
            task_id: the task.
            execution_time: how long it took, in seconds.
            result: any JSON value, or bytes.
            lease: the lease of the attempt; by default the one that this process claimed. A task that is not claimed
                needs none.
            usage: the tokens and the money that the attempt used.

        Raises:
            StaleLease: the lease is no longer held: another attempt holds the task.
            Refused: the task has ended with another outcome, or an argument is invalid.
            NotFound: the task does not exist.
        """
        command = CompleteTask(
            task_id=text("task_id", task_id),
            lease=await self._lease(task_id, lease),
            execution_time_s=None if execution_time is None else number("execution_time", execution_time),
            result=payload_of(result, "result"),
            usage=_usage(usage),
        )
        await self._report(task_id, command)

    async def fail_task(
        self,
        task_id: str,
        error: str,
        *,
        lease: str | None = None,
        retry: bool = True,
        usage: TaskUsage | None = None,
        retry_after: float | None = None,
        error_type: str = "",
        traceback: str = "",
    ) -> TaskStatus:
        """
        Report that an attempt failed; return the task's new status: PENDING if it will be retried, or FAILED.

        Args:
            task_id: the task.
            error: what went wrong; beyond `engine.text_chars_max` characters it is cut, and says how many it had.
            lease: the lease of the attempt; by default the one that this process claimed.
            retry: False ends the task as FAILED even if retries are left.
            usage: the tokens and the money that the attempt used.
            retry_after: seconds that the retry must wait at least.
            error_type: the type of the error, as `package.module.Name`; a task may name types that are not retried.
            traceback: where it went wrong; of a longer one the last 4,096 characters are kept.

        Raises:
            StaleLease: the lease is no longer held: another attempt holds the task.
            Refused: the task has ended with another outcome, or an argument is invalid.
            NotFound: the task does not exist.
        """
        command = FailTask(
            task_id=text("task_id", task_id),
            error=text("error", error),
            lease=await self._lease(task_id, lease),
            retry=flag("retry", retry),
            usage=_usage(usage),
            error_type=text("error_type", error_type),
            retry_after_s=None if retry_after is None else number("retry_after", retry_after),
            traceback=text("traceback", traceback),
        )
        status: TaskStatus = await self._report(task_id, command)
        return status

    async def report_progress(
        self,
        task_id: str,
        progress: float | None = None,
        message: str = "",
        *,
        lease: str | None = None,
        checkpoint: Any = None,
        usage: TaskUsage | None = None,
    ) -> None:
        """
        Report the progress of a running task.

        Args:
            task_id: the task.
            progress: the share that is done, 0 to 1; without it, the attempt only shows that it goes on.
            message: a short text for people.
            lease: the lease of the attempt; by default the one that this process claimed.
            checkpoint: any JSON value, or bytes, of at most 16 KiB; the next attempt gets it. None keeps the last one.
            usage: all the tokens and the money that the attempt has used so far.

        Raises:
            StaleLease: the lease is no longer held.
            Refused: *progress* is out of range, *message* is not short printable text, or *checkpoint* is too large.
        """
        command = ProgressTask(
            task_id=text("task_id", task_id),
            lease=await self._lease(task_id, lease),
            progress=None if progress is None else number("progress", progress),
            message=text("message", message),
            checkpoint=payload_of(checkpoint, "checkpoint"),
            usage=_usage(usage),
        )
        await self.execute(command)

    async def extend_task(self, task_id: str, by: float, *, lease: str | None = None) -> datetime | None:
        """
        Give the running attempt of a task more time than the task's `timeout`; return when it ends now, in UTC.

        Returns None if the task has no `timeout`.

        Args:
            task_id: the task.
            by: seconds more.
            lease: the lease of the attempt; by default the one that this process claimed.

        Raises:
            StaleLease: the lease is no longer held.
            Refused: *by* is out of range, or makes the attempt longer than 366 days.
        """
        command = ExtendTask(
            task_id=text("task_id", task_id), lease=await self._lease(task_id, lease), by_s=number("by", by)
        )
        ends: float | None = await self.execute(command)
        return None if ends is None else datetime.fromtimestamp(ends, UTC)

    async def cancel_task(
        self,
        task_id: str,
        reason: str = "",
        *,
        grace: float | None = None,
        wait: bool = True,
        escalate: Escalation | str = Escalation.ATTEMPT,
    ) -> TaskStatus:
        """
        Cancel a task and return its status; a running one is told, and ends at most *grace* + 1 s later.

        Args:
            task_id: the task.
            reason: why, for its handler and for people.
            grace: seconds that its handler has to end before it is forced to; by default `scheduler.cancel_grace_s`. 0
                ends the task at once, as do tasks that this program claimed itself.
            wait: wait until the task has ended; False returns when it was asked to.
            escalate: `container` stops the container of its worker by force if it has not ended in time.

        Raises:
            Refused: the task has already ended, also while this waited; or an argument is invalid.
            NotFound: the task does not exist.
            Unavailable: the coordinator did not answer, or has not ended the task within *grace* + 2 s.
        """
        app, task_id = await self.opened(), text("task_id", task_id)
        grace_s = None if grace is None else number("grace", grace)
        if grace_s is None and app.held.lease(task_id):
            grace_s = 0.0  # nobody has to be told
        is_waiting = flag("wait", wait)
        command = CancelTask(
            task_id=task_id,
            reason=text("reason", reason),
            grace_s=grace_s,
            escalate=member("escalate", escalate, Escalation),
        )
        status: TaskStatus = await self._report(task_id, command)
        if status is not TaskStatus.RUNNING or not is_waiting:
            return status
        most_s = app.settings.scheduler.cancel_grace_s if grace_s is None else grace_s
        ended = await self.wait_for_task(task_id, most_s + ENDED_WITHIN_S)
        if ended.status is TaskStatus.CANCELLED:
            return ended.status
        if ended.status is TaskStatus.RUNNING:
            msg = f"task {task_id!r} was asked to end and still runs {most_s + ENDED_WITHIN_S:g} s later: ask again"
            raise Unavailable(msg)
        msg = f"task {task_id!r} has ended as {ended.status.value} before it was cancelled"
        raise Refused(msg, reason=ALREADY_ENDED)

    async def cancel_tasks(
        self,
        where: str,
        reason: str = "",
        *,
        grace: float | None = None,
        most: int = CANCELLED_MAX,
        rate: float = CANCEL_RATE_PER_S,
    ) -> list[str]:
        """
        Cancel the tasks that meet a filter now and have not ended; return their ids, the pending ones first.

        Running ones are asked to end, as `cancel_task` does, and are not waited for.

        Args:
            where: the filter, such as `'task_name == "report" && attributes.customer == "acme"'`.
            reason: why, for the journal.
            grace: seconds that a running one has to end; by default `scheduler.cancel_grace_s`.
            most: how many of them, up to 100,000.
            rate: how many in a second at most.

        Raises:
            Refused: an argument is invalid.
            Unavailable: the coordinator did not answer; some of them may be cancelled.
        """
        limit, rate_per_s = whole("most", most), number("rate", rate)
        check_number("most", limit, 1, CANCELLED_MAX)
        check_number("rate", rate_per_s, 0.001, 1000)
        grace_s = None if grace is None else number("grace", grace)
        how = CancelTask(task_id="", reason=text("reason", reason), grace_s=grace_s)
        cancelled = cancel_each(self, text("where", where), how, most=limit, rate_per_s=rate_per_s)
        return [task_id async for task_id, _ in cancelled]

    async def pause_task(self, task_id: str, reason: str = "") -> None:
        """
        Pause a pending task: no worker gets it until it is resumed. Pausing it again changes nothing.

        Raises:
            Refused: the task is running or has ended.
            NotFound: the task does not exist.
        """
        await self.execute(PauseTask(task_id=text("task_id", task_id), reason=text("reason", reason)))

    async def resume_task(
        self,
        task_id: str,
        reason: str = "",
        *,
        payload: Any = None,
        more_retries: int = 0,
        move_to: str | None = None,
    ) -> None:
        """
        Resume a paused task.

        Args:
            task_id: the task.
            reason: why, kept in the journal.
            payload: any JSON value, or bytes, instead of the payload it had; None keeps that.
            more_retries: how many retries it gets in addition to those it had.
            move_to: the build id of the workers that it goes on at, wherever it began; '' for any.

        Raises:
            Refused: the task is not paused, or an argument is invalid.
            NotFound: the task does not exist.
        """
        await self.execute(
            ResumeTask(
                task_id=text("task_id", task_id),
                reason=text("reason", reason),
                payload=payload_of(payload),
                more_retries=whole("more_retries", more_retries),
                move_to=None if move_to is None else text("move_to", move_to),
            )
        )

    async def get_task(self, task_id: str) -> TaskInfo:
        """Return a task with all its fields; raise `NotFound` if it does not exist or was evicted."""
        return task_info(await self.execute(GetTask(task_id=text("task_id", task_id))), self._start_retry)

    async def wait_for_task(self, task_id: str, wait_s: float = 60.0) -> TaskInfo:
        """
        Wait until a task has ended, at most *wait_s* seconds, and return it, whether it has ended or not.

        Raises:
            NotFound: the task does not exist or was evicted.
        """
        left_s = number("wait_s", wait_s)
        while True:
            portion_s = min(left_s, WAIT_S)
            task: Task = await self.execute(GetTask(task_id=text("task_id", task_id), wait_s=portion_s))
            left_s -= portion_s
            if task.is_ended or left_s <= 0:
                return task_info(task, self._start_retry)

    async def list_tasks(
        self,
        status: TaskStatus | str | None = None,
        limit: int = 100,
        *,
        paused: bool = False,
        where: str | None = None,
    ) -> list[TaskInfo]:
        """
        Return at most *limit* tasks, newest first: pending, running and recently ended ones.

        Args:
            status: return only tasks with this status.
            limit: how many tasks.
            paused: return only tasks that are paused.
            where: return only tasks that meet this filter, such as `'attributes.customer == "acme"'`.

        Raises:
            Refused: an argument is invalid.
        """
        chosen = None if status is None else member("status", status, TaskStatus)
        most, only_paused = whole("limit", limit), flag("paused", paused)
        tasks: list[Task]
        if where is None:
            tasks = await listed(self, ListTasks(status=chosen, limit=most, paused=only_paused))
        else:
            wanted_by = text("where", where)
            tasks = await found(self, FindTasks(where=wanted_by, status=chosen, limit=most, paused=only_paused))
        return [task_info(task, self._start_retry) for task in tasks]

    async def list_dead_tasks(
        self,
        task_name: str | None = None,
        *,
        tenant: str | None = None,
        error_type: str | None = None,
        since: float | None = None,
        limit: int = 100,
    ) -> list[TaskInfo]:
        """
        Return at most *limit* tasks that failed or timed out, newest first, however long ago: from the read model.

        Args:
            task_name: return only tasks of this name.
            tenant: return only tasks of this tenant.
            error_type: return only tasks whose last error was of this type: `package.module.Name`, or its last parts.
            since: return only tasks that ended at this time or later, in seconds since 1970.
            limit: how many tasks, up to 10,000.

        Raises:
            Unavailable: no follower answers.
        """
        question = _which_dead(task_name, tenant, error_type, since)
        most = whole("limit", limit)
        check_number("limit", most, 1, REQUEUED_MAX)
        dead = await list_dead((await self.opened()).client, question, most)
        found = [task_info(one.task, self._start_retry) for one in dead]
        for info, one in zip(found, dead, strict=True):
            info.requeued_as = one.requeued_as
        return found

    async def requeue_task(self, task_id: str) -> str:
        """
        Submit a task that failed or timed out again, as a new task with the same content, and return the id of that.

        The new task is `<id>-r1`, and `<id>-r2` the one that does that again; `requeued_from` names the one before.
        Calling it again returns the same id and submits nothing.

        Raises:
            NotFound: the task does not exist.
            Refused: it has not failed, or the queue is full.
            Unavailable: no follower answers, or the coordinator does not.
        """
        return await requeue((await self.opened()).client, text("task_id", task_id))

    async def requeue_tasks(
        self,
        task_name: str | None = None,
        *,
        tenant: str | None = None,
        error_type: str | None = None,
        since: float | None = None,
        most: int = REQUEUED_MAX,
        rate: float = RATE_PER_S,
    ) -> list[str]:
        """
        Requeue the tasks that match, oldest first, and return the ids of the new ones; see `list_dead_tasks`.

        Those that were requeued before are left out.

        Args:
            task_name: as for `list_dead_tasks`.
            tenant: as for `list_dead_tasks`.
            error_type: as for `list_dead_tasks`.
            since: as for `list_dead_tasks`.
            most: how many of them, the newest, up to 10,000.
            rate: how many in a second at most.

        Raises:
            Refused, Unavailable: as `requeue_task`; the tasks before that one are requeued.
        """
        question = _which_dead(task_name, tenant, error_type, since)
        limit, rate_per_s = whole("most", most), number("rate", rate)
        check_number("most", limit, 1, REQUEUED_MAX)
        check_number("rate", rate_per_s, 0.001, 1000)
        client = (await self.opened()).client
        dead = await list_dead(client, question, limit)
        ids = [one.task.task_id for one in reversed(dead) if not one.requeued_as]
        return [made async for _, made in requeue_each(client, ids, rate_per_s=rate_per_s)]

    async def get_scheduler_stats(self) -> dict[str, Any]:
        """
        Return the numbers of tasks and workers.

        The keys are `pending_tasks` and `running_tasks`; since the cluster was created, `completed_tasks`,
        `failed_tasks`, `cancelled_tasks` and `timeout_tasks`; `workers`; and `success_rate`: the share of completed
        tasks among those that completed, failed or timed out, 0 to 1, or 1 if there are none.
        """
        stats: ClusterStats = await self.execute(GetStats())
        ended = {
            status: stats.totals.get(f"tasks_{status.value}", 0)
            for status in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT)
        }
        run = ended[TaskStatus.COMPLETED] + ended[TaskStatus.FAILED] + ended[TaskStatus.TIMEOUT]
        return {
            "pending_tasks": stats.tasks[TaskStatus.PENDING.value],
            "running_tasks": stats.tasks[TaskStatus.RUNNING.value],
            **{f"{status.value}_tasks": count for status, count in ended.items()},
            "workers": sum(stats.workers.values()),
            "success_rate": ended[TaskStatus.COMPLETED] / run if run else 1.0,
        }

    def _start_retry(self, info: TaskInfo) -> asyncio.Future[str]:
        """Begin to put a task back into the queue; see `TaskInfo.increment_retry`."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            msg = "increment_retry() sends a command: call it where an event loop runs, as in an async function"
            raise Refused(msg, reason="other_loop") from None
        app = self._app
        if app is None or not app.is_open or app.loop is not loop:
            msg = "the TaskScheduler of this TaskInfo is closed, or belongs to another event loop: get the task again"
            raise Refused(msg, reason="other_loop")
        made: asyncio.Future[str] = loop.create_future()
        working = app.start(self._retry_into(made, info))
        working.add_done_callback(lambda _: made.cancel())  # without effect unless the app closed meanwhile
        return made

    async def _retry_into(self, made: asyncio.Future[str], info: TaskInfo) -> None:
        try:
            task_id = await self._retry(info)
        except CoordinationError as error:
            log.warning("task_not_retried", task_id=info.task_id, code=error.reason, why=error.message)
            if not made.done():
                made.set_exception(error)
                made.exception()  # it is logged: nobody has to await it
            return
        if not made.done():
            made.set_result(task_id)

    async def _retry(self, info: TaskInfo) -> str:
        """Put a task back into the queue, and return the id of the task that is in it then."""
        task_id = info.task_id
        if info.lease and (await self.opened()).held.lease(task_id) == info.lease:
            try:
                status = await self.fail_task(task_id, RETRY_ASKED_FOR)
            except StaleLease:
                log.debug("lease_lost_before_retry", task_id=task_id)
            else:
                if status is TaskStatus.PENDING:
                    return task_id
        try:
            now = await self.get_task(task_id)
        except NotFound:  # it has left the writer, but not the read model
            return await self.requeue_task(task_id)
        if now.status is TaskStatus.RUNNING and now.attempt == info.attempt:
            msg = f"task {task_id!r} is held by worker {now.worker_id!r}: only the program that claimed it can fail it"
            raise StaleLease(msg)
        if now.ended_at is None:
            return task_id
        return await self.requeue_task(task_id)

    async def _lease(self, task_id: str, lease: str | None) -> str:
        if lease is not None:
            return text("lease", lease)
        return (await self.opened()).held.lease(task_id)

    async def _report(self, task_id: str, command: CompleteTask | FailTask | CancelTask) -> Any:
        """
        Execute a command that ends an attempt, and then drop the lease of the attempt.

        A stale lease is kept: without it, the next report would be taken for one on a task that is not claimed.
        """
        held = (await self.opened()).held
        lease = held.lease(task_id) if isinstance(command, CancelTask) else command.lease
        try:
            answer = await self.execute(command)
        except NotFound:
            held.drop(task_id, lease)
            raise
        except Refused as error:
            if error.reason == ALREADY_ENDED:
                held.drop(task_id, lease)
            raise
        held.drop(task_id, lease)
        return answer


_USUAL: tuple[tuple[str, Any], ...] = tuple(
    (name, parameter.default)
    for name, parameter in signature(TaskScheduler.submit_task).parameters.items()
    if name != "self" and name not in signature(_work).parameters
)
"""What most tasks leave as it is: all that `submit_task` takes besides what `_work` does, with its default."""
