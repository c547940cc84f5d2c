"""
Events of the cancel ladder: how a running task that shall be cancelled comes to its end, step by step.

Asked → told → forced → its container → its end, `task.cancelled`; see docs/guide/scheduler.md.
"""

from __future__ import annotations

from enum import Enum

from events.task import TaskEvent


class Escalation(Enum):
    """What may be ended by force when the time to end in order is over."""

    ATTEMPT = "attempt"
    """The handler of the task, by its worker."""
    CONTAINER = "container"
    """The container that the worker runs in, too, with everything in it."""


class TaskCancelAsked(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A running task is to be cancelled: its handler has `grace_s` seconds from now on to end in order.

    The task keeps its lease and slot until it ends. Asking again can only make the time shorter.
    """

    grace_s: float
    reason: str = ""
    escalate: Escalation = Escalation.ATTEMPT


class TaskCancelTold(TaskEvent, frozen=True, kw_only=True, gc=False):
    """The worker told the handler of the attempt that it is to end."""

    lease: str


class TaskCancelForced(TaskEvent, frozen=True, kw_only=True, gc=False):
    """
    The handler did not end in time, and its end is forced.

    `how` is `raised` (an exception was raised in its thread), `left_behind` (its worker waits for it no longer),
    `killed` (its process was killed) or `container` (its container is stopped by force).
    """

    lease: str
    how: str
