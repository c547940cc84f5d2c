"""How a worker reports the steps of a cancellation; it is asked for with `CancelTask`."""

from __future__ import annotations

from enum import Enum

from coordinator.commands.command import Command, Example
from events.task import TaskUsage


class CancelStep(Enum):
    """What a worker did with an attempt that is to be cancelled."""

    TOLD = "told"
    """The handler was told."""
    RAISED = "raised"
    """The grace is over: an exception was raised in the thread of the handler."""
    KILLED = "killed"
    """The grace is over: the process of the handler was killed."""
    LEFT_BEHIND = "left_behind"
    """The grace is over: the handler goes on, and the worker waits for it no longer."""
    ENDED = "ended"
    """The handler has ended without a result."""


class ReportCancel(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report a step of the cancellation of the attempt under `lease`; `ended` and `left_behind` end the task.

    A step that was reported, and any step of an attempt that has ended since, changes nothing. `usage` is all that the
    attempt has used.
    """

    KIND, VERB = "task", "report_cancel"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_number", "not_asked", "not_found", "stale_lease"})
    EXAMPLE = Example({"task_id": "task_9", "lease": "claim_9.1.1", "step": "told"})

    task_id: str
    lease: str
    step: CancelStep
    usage: TaskUsage | None = None
