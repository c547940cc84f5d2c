"""Events of paused tasks: pending ones that no worker gets until they are resumed."""

from __future__ import annotations

from events.spend import Spent
from events.task import Payload, TaskEvent, TaskUsage


class TaskPaused(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task stays pending and is given to no worker until `task.resumed`.

    `reason` is the text of whoever paused it, or `retries_exhausted`: attempt number `attempt` under `lease` failed, no
    retry is left, and the task asked to be paused then. `cause` is why that attempt failed, as the reason of
    `task.attempt_failed` says it; the other fields are as there. Without a `lease` it was pending.
    """

    reason: str
    lease: str = ""
    cause: str = ""
    error: str = ""
    attempt: int = 0
    error_type: str = ""
    traceback: str = ""
    silent_for_s: float | None = None
    limit_s: float | None = None
    worker_ended: bool = False
    usage: TaskUsage | None = None
    spent: Spent | None = None


class TaskResumed(TaskEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A paused task goes on: with `payload` instead of its own, if there is one, and `more_retries` than before.

    With `move_to` it is pinned to this version of workers from here on, wherever it began; if that is '', to none.
    """

    reason: str = ""
    payload: Payload | None = None
    more_retries: int = 0
    move_to: str | None = None
