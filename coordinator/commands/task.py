"""What may be asked of tasks."""

from __future__ import annotations

from enum import Enum

from coordinator.commands.command import Command, Question
from events.resources import NONE, Resources
from events.task import Payload, TaskStatus
from projections.task import Task


class SubmitTask(Command, frozen=True, kw_only=True, gc=False):
    """Put a task into the queue; the caller makes the id, so that sending twice makes one task."""

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


class ClaimTasks(Command, frozen=True, kw_only=True, gc=False):
    """Ask for up to `slots` tasks for a worker and wait up to `wait_s` for the first."""

    KIND, VERB, Answer = "task", "claim", list[Task]
    FOR = frozenset({"domain", "worker", "agents"})

    claim_id: str
    worker_id: str
    slots: int = 1
    wait_s: float = 0.0
    strategy: str = ""


class WithdrawClaim(Command, frozen=True, kw_only=True, gc=False):
    """Take a claim back whose answer nobody waits for any more; what it was given goes back to the queue."""

    KIND, VERB = "task", "withdraw"
    FOR = frozenset({"domain", "worker", "agents"})

    claim_id: str
    worker_id: str


class CompleteTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` ended well; without a lease only where nobody holds one."""

    KIND, VERB = "task", "complete"
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str = ""
    worker_id: str = ""
    execution_time_s: float | None = None
    result: Payload | None = None


class FailTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` failed; it is tried again while retries are left, unless not `retry`."""

    KIND, VERB, Answer, REMEMBERED = "task", "fail", TaskStatus, True
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    error: str
    lease: str = ""
    worker_id: str = ""
    retry: bool = True


class ReleaseTask(Command, frozen=True, kw_only=True, gc=False):
    """Give an attempt back unstarted; it does not count as a try."""

    KIND, VERB, REMEMBERED = "task", "release", True
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str
    reason: str = ""


class ProgressTask(Command, frozen=True, kw_only=True, gc=False):
    """Report how far the attempt under `lease` is, 0 to 1."""

    KIND, VERB = "task", "progress"
    FOR = frozenset({"domain", "worker", "agents"})

    task_id: str
    lease: str
    progress: float
    message: str = ""


class CancelTask(Command, frozen=True, kw_only=True, gc=False):
    """Call a task off, waiting or running."""

    KIND, VERB, Answer = "task", "cancel", TaskStatus

    task_id: str
    reason: str = ""


class GetTask(Question, frozen=True, kw_only=True, gc=False):
    """Ask for one task; with `wait_s` until it has ended."""

    KIND, VERB, Answer = "task", "get", Task

    task_id: str
    wait_s: float = 0.0


class ListTasks(Question, frozen=True, kw_only=True, gc=False):
    """Ask for tasks, newest first, without their payloads and results."""

    KIND, VERB, Answer = "task", "list", list[Task]

    status: TaskStatus | None = None
    limit: int = 100


class SchedulingStrategy(Enum):
    """In which order tasks are taken, and which waiting worker is served first."""

    FIFO = "fifo"
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
