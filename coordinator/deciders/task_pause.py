"""Deciders of the commands that pause and resume tasks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.submission import check_payload
from coordinator.deciders.task import already_ended, check_bytes, status_of
from coordinator.deciders.version import check_target
from events.errors import Refused
from events.ids import checked
from events.task import TaskStatus
from events.task_pause import TaskPaused, TaskResumed
from projections.task import ENDED, SMALL_CHARS, bytes_of

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from coordinator.deciders.rules import Decider, DecisionContext, Events
    from projections.task import Task
    from projections.world import World

MORE_RETRIES_MAX = 1000


def pause(world: World, command: PauseTask, context: DecisionContext) -> Events:
    """Pause a task that waits."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    task = _living(world, command.task_id, "paused")
    if task.status is not TaskStatus.PENDING:
        msg = f"task {task.task_id!r} is {task.status.value}: only a pending task can be paused; cancel it, or wait"
        raise Refused(msg, reason="not_pending")
    if task.is_paused:
        return ()
    return (TaskPaused(task_id=task.task_id, reason=command.reason),)


def resume(world: World, command: ResumeTask, context: DecisionContext) -> Events:
    """Resume a paused task."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    check_number("more_retries", command.more_retries, 0, MORE_RETRIES_MAX)
    check_payload("payload", command.payload, context.rules)
    task = _living(world, command.task_id, "resumed")
    if not task.is_paused:
        msg = f"task {task.task_id!r} is {task.status.value} and not paused: there is nothing to resume"
        raise Refused(msg, reason="not_paused")
    if command.payload is not None and len(command.payload.data) > SMALL_CHARS:
        check_bytes(world, bytes_of(command.payload), context)
    if command.move_to:
        check_target(world, "move_to", checked(command.move_to, "move_to"))
    return (
        TaskResumed(
            task_id=task.task_id,
            reason=command.reason,
            payload=command.payload,
            more_retries=command.more_retries,
            move_to=command.move_to,
        ),
    )


def _living(world: World, task_id: str, outcome: str) -> Task:
    """Return a task that has not ended; raises `NotFound` or `Refused`."""
    status = status_of(world, checked(task_id, "task_id"))
    if status in ENDED:
        already_ended(task_id, status, outcome)
    return world.tasks[task_id]


DECIDERS: dict[type[Command], Decider] = {PauseTask: pause, ResumeTask: resume}
