"""When a task may start first: at a time, or after a delay. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.task import LATEST_S
from coordinator.commands.validation import check_number
from events.codec import rfc3339
from events.errors import Refused, shown

if TYPE_CHECKING:
    from coordinator.commands.task import SubmitTask
    from projections.task import Task


def first_start(command: SubmitTask, now: float) -> float | None:
    """
    Return the commit time before which the task of *command* must not start, None if it may at once.

    A time that has passed means at once.

    Raises:
        Refused: it is more than ten years ahead, no number, or both a time and a delay are given.
    """
    if command.delay_s is not None:
        if command.not_before is not None:
            msg = f"not_before {command.not_before} and delay_s {command.delay_s} are both given: use one of them"
            raise Refused(msg, reason="bad_time")
        check_number("delay_s", command.delay_s, 0.0, LATEST_S)
        return now + command.delay_s
    if command.not_before is not None and not 0.0 <= command.not_before <= now + LATEST_S:
        msg = (
            f"not_before {shown(command.not_before)} is not between 0 and {now + LATEST_S:.0f}, ten years from now: "
            "it is in seconds since 1970"
        )
        raise Refused(msg, reason="bad_time")
    return command.not_before


def too_early(task: Task, not_before: float, outcome: str, now: float) -> Refused:
    """Return the error that a task that must not start yet was reported as *outcome* without a lease."""
    msg = (
        f"task {task.task_id!r} must not start before {rfc3339(not_before)}: it cannot be {outcome} yet; "
        "cancel it, or report then"
    )
    return Refused(msg, reason="too_early", retry_after_s=not_before - now)
