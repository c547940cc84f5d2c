"""
Submit tasks, hand them out, and report on them.

Whoever gets a task gets a lease on it, which this process renews until the task is reported on; a process that dies
lets its leases lapse, and its tasks go back to the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.app.facade import Facade, flag, member, new_id, number, text, whole
from coordinator.commands.cluster import GetStats
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import (
    CancelTask,
    ClaimTasks,
    CompleteTask,
    FailTask,
    GetTask,
    ListTasks,
    ProgressTask,
    SchedulingStrategy,
    SubmitTask,
)
from events.errors import NotFound, Refused
from events.resources import Resources
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.cluster import ClusterStats
    from events.task import Payload
    from projections.task import Task

WAIT_S = 20.0
"""One question waits so long at the coordinator; longer waits are asked again."""
ALREADY_ENDED = "already_ended"
"""The reason why a report on a task is refused that has ended otherwise."""


@dataclass(kw_only=True)
class TaskInfo:
    """A task as its caller sees it; times are seconds since 1970."""

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
    sent_payload: Payload | None = field(default=None, repr=False)
    sent_result: Payload | None = field(default=None, repr=False)

    # Read when asked for: one that somebody sent damaged must not hide the task, nor the others in a list.
    @property
    def payload(self) -> Any:
        """What the task was submitted with; raises `Refused` or `Corrupt` when it cannot be read."""
        return value_of(self.sent_payload)

    @property
    def result(self) -> Any:
        """What it was completed with; raises `Refused` or `Corrupt` when it cannot be read."""
        return value_of(self.sent_result)

    def can_retry(self) -> bool:
        """Whether one more failure would leave another try."""
        return self.retry_count < self.max_retries

    def increment_retry(self) -> None:
        """Count one more failure on this object; the queue's own count changes by `fail_task` alone."""
        self.retry_count += 1


def task_info(task: Task) -> TaskInfo:
    """Show a folded task to its caller."""
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
        retry_count=task.failures,
        max_retries=task.max_retries,
        submitted_at=task.submitted_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        execution_time=task.execution_time_s,
        progress=task.progress,
        error=task.error,
        sent_payload=task.payload,
        sent_result=task.result,
    )


class TaskScheduler(Facade):
    """The tasks of the cluster."""

    async def submit_task(
        self,
        task_name: str,
        task_type: str = "",
        priority: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109  # the task's own limit, not this call's
        resources: Mapping[str, Any] | None = None,
        *,
        payload: Any = None,
        max_retries: int | None = None,
        idempotency_key: str = "",
        task_id: str | None = None,
    ) -> str:
        """
        Put a task into the queue and give its id; when this returns it is durable.

        Args:
            task_name: which handler is to run it.
            task_type: a word to group tasks by.
            priority: higher is sooner, for workers that ask by PRIORITY.
            timeout: seconds one attempt may take; then the task ends as TIMEOUT.
            resources: what it needs of a worker, such as `{"cpu": 2, "memory": "4Gi"}`.
            payload: anything that is JSON, or bytes; at most 64 KiB.
            max_retries: tries after the first; `scheduler.max_retries` when not given.
            idempotency_key: the same key again makes no second task and gives the id of the first.
            task_id: an id of the caller's own; the same id and content again is the same task.

        Raises:
            Refused: something of it is wrong, or the queue is full; says what, and what would be right.
        """
        submitted: str = await self.execute(
            SubmitTask(
                task_id=new_id("task") if task_id is None else text("task_id", task_id),
                task_name=text("task_name", task_name),
                task_type=text("task_type", task_type),
                priority=whole("priority", priority),
                timeout_s=None if timeout is None else number("timeout", timeout),
                max_retries=None if max_retries is None else whole("max_retries", max_retries),
                resources=Resources.parse(resources),
                payload=payload_of(payload),
                idempotency_key=text("idempotency_key", idempotency_key),
            )
        )
        return submitted

    async def get_next_task(
        self, worker_id: str, strategy: SchedulingStrategy | str | None = None, *, wait_s: float = 0.0
    ) -> TaskInfo | None:
        """
        Give the worker its next task, None when there is none within *wait_s* seconds.

        An unknown *worker_id* is registered without limits. This process holds the task's lease from then on.

        Raises:
            Refused: the id or strategy is wrong, or the worker is draining.
        """
        chosen = "" if strategy is None else member("strategy", strategy, SchedulingStrategy).value
        left_s = number("wait_s", wait_s)
        app = await self.opened()
        # A claim counts only while its worker was heard lately; asking anew is being heard.
        longest_s = app.settings.scheduler.lease_s / 2
        while True:
            portion_s = min(left_s, longest_s)
            tasks: list[Task] = await self.execute(
                ClaimTasks(
                    claim_id=new_id("claim"),
                    worker_id=text("worker_id", worker_id),
                    slots=1,
                    wait_s=portion_s,
                    strategy=chosen,
                )
            )
            left_s -= portion_s
            if tasks:
                app.held.take(tasks[0].task_id, worker_id, tasks[0].lease)
                return task_info(tasks[0])
            if left_s <= 0:
                return None

    async def complete_task(
        self, task_id: str, execution_time: float | None = None, *, result: Any = None, lease: str | None = None
    ) -> None:
        """
        Report that a task ended well, after *execution_time* seconds; reported already is already so.

        Without *lease* the one this process claimed is used; a task that nobody has claimed needs none.

        Raises:
            StaleLease: the task is someone else's by now. Refused: it has ended otherwise. NotFound: there is none.
        """
        order = CompleteTask(
            task_id=text("task_id", task_id),
            lease=await self._lease(task_id, lease),
            execution_time_s=None if execution_time is None else number("execution_time", execution_time),
            result=payload_of(result),
        )
        await self._report(task_id, order)

    async def fail_task(self, task_id: str, error: str, *, lease: str | None = None, retry: bool = True) -> TaskStatus:
        """
        Report that an attempt failed, and give the task's status then: PENDING while retries are left, else FAILED.

        Raises:
            StaleLease: the task is someone else's by now. Refused: it has ended otherwise. NotFound: there is none.
        """
        order = FailTask(
            task_id=text("task_id", task_id),
            error=text("error", error),
            lease=await self._lease(task_id, lease),
            retry=flag("retry", retry),
        )
        status: TaskStatus = await self._report(task_id, order)
        return status

    async def report_progress(
        self, task_id: str, progress: float, message: str = "", *, lease: str | None = None
    ) -> None:
        """Tell how far a task is, 0 to 1; raises `StaleLease` when it is not this process's."""
        order = ProgressTask(
            task_id=text("task_id", task_id),
            lease=await self._lease(task_id, lease),
            progress=number("progress", progress),
            message=text("message", message),
        )
        await self.execute(order)

    async def cancel_task(self, task_id: str, reason: str = "") -> None:
        """
        Call a task off, waiting or running.

        Raises:
            Refused: it has ended already. NotFound: there is none.
        """
        await self._report(task_id, CancelTask(task_id=text("task_id", task_id), reason=text("reason", reason)))

    async def get_task(self, task_id: str) -> TaskInfo:
        """Give all that is known of a task; raises `NotFound`."""
        return task_info(await self.execute(GetTask(task_id=text("task_id", task_id))))

    async def wait_for_task(self, task_id: str, wait_s: float = 60.0) -> TaskInfo:
        """
        Wait until a task has ended, at most *wait_s* seconds, and give it as it then is.

        Raises:
            NotFound: there is no such task.
        """
        left_s = number("wait_s", wait_s)
        while True:
            portion_s = min(left_s, WAIT_S)
            task: Task = await self.execute(GetTask(task_id=text("task_id", task_id), wait_s=portion_s))
            left_s -= portion_s
            if task.is_ended or left_s <= 0:
                return task_info(task)

    async def list_tasks(self, status: TaskStatus | str | None = None, limit: int = 100) -> list[TaskInfo]:
        """Give tasks, newest first: all that live and the recently ended."""
        chosen = None if status is None else member("status", status, TaskStatus)
        tasks: list[Task] = await self.execute(ListTasks(status=chosen, limit=whole("limit", limit)))
        return [task_info(task) for task in tasks]

    async def get_scheduler_stats(self) -> dict[str, Any]:
        """
        Count tasks.

        `pending_tasks`, `running_tasks`; over the cluster's life `completed_tasks`, `failed_tasks`, `cancelled_tasks`,
        `timeout_tasks`; `success_rate`, the share of those run that completed, 0 to 1, 1 when none was.
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

    async def _lease(self, task_id: str, lease: str | None) -> str:
        if lease is not None:
            return text("lease", lease)
        return (await self.opened()).held.lease(task_id)

    async def _report(self, task_id: str, order: CompleteTask | FailTask | CancelTask) -> Any:
        """
        Execute what ends an attempt, and forget the lease held on it once it is over.

        One that turns out stale is kept: without it the next report would pass for one on a task that nobody holds.
        """
        held = (await self.opened()).held
        lease = held.lease(task_id) if isinstance(order, CancelTask) else order.lease
        try:
            answer = await self.execute(order)
        except NotFound:
            held.drop(task_id, lease)
            raise
        except Refused as error:
            if error.reason == ALREADY_ENDED:
                held.drop(task_id, lease)
            raise
        held.drop(task_id, lease)
        return answer
