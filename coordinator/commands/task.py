"""Commands and questions about tasks."""

from __future__ import annotations

from enum import Enum

from coordinator.commands.command import PAGES, Command, Question
from events.resources import NONE, Resources
from events.task import Payload, TaskStatus
from projections.task import Task


class SubmitTask(Command, frozen=True, kw_only=True, gc=False):
    """
    Submit a task to the queue; the caller makes the id, so that a repeat creates no second task.

    `program` names the program that submits it, for claims that ask only for tasks of certain programs.
    """

    KIND, VERB, Answer = "task", "submit", str

    task_id: str
    task_name: str
    task_type: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int | None = None
    resources: Resources = NONE
    payload: Payload | None = None
    idempotency_key: str = ""
    program: str = ""


class ClaimTasks(Command, frozen=True, kw_only=True, gc=False):
    """
    Claim up to `slots` tasks for a worker; wait up to `wait_s` for the first.

    With `programs` it takes only tasks that one of these programs submitted, with `task_names` only tasks of these
    names. Refused if it names a registration of the worker that is not the current one.
    """

    KIND, VERB, Answer = "task", "claim", list[Task]
    FOR = frozenset({"domain", "worker", "agents"})

    claim_id: str
    worker_id: str
    slots: int = 1
    wait_s: float = 0.0
    strategy: str = ""
    registration: str = ""
    programs: tuple[str, ...] = ()
    task_names: tuple[str, ...] = ()


class WithdrawClaim(Command, frozen=True, kw_only=True, gc=False):
    """Withdraw a claim whose answer is no longer awaited; tasks given to it return to the queue."""

    KIND, VERB = "task", "withdraw"
    FOR = frozenset({"domain", "worker", "agents"})

    claim_id: str
    worker_id: str


class CompleteTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` succeeded; no lease is needed if no worker holds one."""

    KIND, VERB = "task", "complete"
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str = ""
    worker_id: str = ""
    execution_time_s: float | None = None
    result: Payload | None = None


class FailTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` failed; the task is retried while retries are left and `retry` is true."""

    KIND, VERB, Answer, REMEMBERED = "task", "fail", TaskStatus, True
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    error: str
    lease: str = ""
    worker_id: str = ""
    retry: bool = True


class ReleaseTask(Command, frozen=True, kw_only=True, gc=False):
    """Return a task without executing it; the attempt does not count against the retries."""

    KIND, VERB, REMEMBERED = "task", "release", True
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str
    reason: str = ""


class ProgressTask(Command, frozen=True, kw_only=True, gc=False):
    """Report the progress of the attempt under `lease`, 0 to 1."""

    KIND, VERB = "task", "progress"
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str
    progress: float
    message: str = ""


class CancelTask(Command, frozen=True, kw_only=True, gc=False):
    """Cancel a pending or running task."""

    KIND, VERB, Answer = "task", "cancel", TaskStatus

    task_id: str
    reason: str = ""


class GetTask(Question, frozen=True, kw_only=True, gc=False):
    """Get one task; with `wait_s`, wait that long at most until it has ended."""

    KIND, VERB, Answer = "task", "get", Task

    task_id: str
    wait_s: float = 0.0


class ListTasks(Question, frozen=True, kw_only=True, gc=False):
    """
    List tasks, newest first, without their payloads and results.

    With `status`, those that came to it last are first. With `after`, the id of a task, the list begins after that one.
    """

    KIND, VERB, Answer = "task", "list", list[Task]
    INSTEAD = PAGES

    status: TaskStatus | None = None
    limit: int = 100
    after: str = ""


class SchedulingStrategy(Enum):
    """The order in which tasks are taken, and which waiting worker is served first."""

    FIFO = "fifo"
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
