"""
Deciders of the cancel ladder: a running task is asked to end, told, forced, and has ended at most a second after.

A task that is to be cancelled keeps its lease: a result that comes before its end counts. Whatever else would end its
attempt ends the task as cancelled. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.command import Command
from coordinator.commands.task import CancelTask
from coordinator.commands.validation import check_number
from coordinator.deciders.rules import not_found
from coordinator.deciders.spend import check_usage
from events.cancel_ladder import Escalation, TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import ContainerStatus, ContainerStopping
from events.errors import Refused, StaleLease
from events.ids import checked
from events.task import TaskCancelled, TaskStatus
from projections.cancelling import CONTAINER
from projections.task import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import Decider, DecisionContext, Events
    from events.base import Event
    from projections.cancelling import Cancelling
    from projections.task import Task
    from projections.world import World

GRACE_MOST_S = 86_400.0
CANCEL_ESCALATED = "cancel_escalated"
"""The reason of the stop of a container because an attempt in it did not end in time."""
_FORCES = frozenset({CancelStep.RAISED, CancelStep.KILLED, CancelStep.LEFT_BEHIND})
_ENDS = frozenset({CancelStep.ENDED, CancelStep.LEFT_BEHIND})
_STOPPABLE = frozenset({ContainerStatus.STARTING, ContainerStatus.RUNNING, ContainerStatus.PAUSED})


def asked(task: Task, command: CancelTask, context: DecisionContext) -> Events:
    """Return what follows from the wish to cancel a running task; a further one may only shorten the time."""
    if command.grace_s is not None:
        check_number("grace_s", command.grace_s, 0.0, GRACE_MOST_S)
    before, given_s = task.cancelling, command.grace_s
    if given_s == 0.0:
        return (TaskCancelled(task_id=task.task_id, reason=command.reason if before is None else before.reason),)
    grace_s = context.rules.cancel_grace_s if given_s is None else given_s
    escalate = command.escalate
    if before is not None:
        if given_s is None or context.now + given_s >= before.until:
            return ()
        escalate = Escalation.CONTAINER if Escalation.CONTAINER in (escalate, before.escalate) else escalate
    elif grace_s == 0.0:
        return (TaskCancelled(task_id=task.task_id, reason=command.reason),)
    return (TaskCancelAsked(task_id=task.task_id, grace_s=grace_s, reason=command.reason, escalate=escalate),)


def ended(task: Task, cancelling: Cancelling, how: str, error: str = "") -> TaskCancelled:
    """Return the end of a task that was to be cancelled."""
    return TaskCancelled(task_id=task.task_id, reason=cancelling.reason, how=how, lease=task.lease, error=error)


def report(world: World, command: ReportCancel, context: DecisionContext) -> Events:
    """Record the steps that a worker took, each once."""
    task = world.tasks.get(checked(command.task_id, "task_id"))
    if task is None:
        remembered = world.ended_task(command.task_id)
        if remembered is None:
            raise not_found(command.task_id, "task")
        if remembered.lease == checksum(command.lease):
            return ()
        raise _stale(command, remembered.status)
    if command.lease != task.lease or not (task.is_ended or task.status is TaskStatus.RUNNING):
        raise _stale(command, task.status)
    if task.is_ended:
        return ()
    if task.cancelling is None:
        msg = f"nobody asked to cancel task {task.task_id!r}: report its result, or a failure"
        raise Refused(msg, reason="not_asked")
    if command.usage is not None:
        check_usage(command.usage)
    return tuple(_steps(world, task, task.cancelling, command))


def _stale(command: ReportCancel, status: TaskStatus) -> StaleLease:
    msg = f"lease {command.lease[:80]!r} of task {command.task_id!r} is not held, the task is {status.value}"
    return StaleLease(f"{msg}: drop this attempt")


def _steps(world: World, task: Task, cancelling: Cancelling, command: ReportCancel) -> Iterator[Event]:
    step = command.step
    if cancelling.told_at is None:
        yield TaskCancelTold(task_id=task.task_id, lease=task.lease)
    if step in _FORCES and cancelling.forced != step.value:
        yield TaskCancelForced(task_id=task.task_id, lease=task.lease, how=step.value)
    if step is CancelStep.LEFT_BEHIND and _escalates(cancelling):  # the handler goes on in there
        yield from _escalated(world, task)
    if step in _ENDS:
        end = ended(task, cancelling, step.value)
        yield end if command.usage is None else replace(end, usage=command.usage)


def due(world: World, context: DecisionContext) -> Iterator[Event]:
    """Yield the steps whose time has come: the stop of a container, and the end of what nobody has ended."""
    for task_id in tuple(world.indexes.cancels.due(context.now)):
        task = world.tasks[task_id]
        cancelling = task.cancelling
        assert cancelling is not None
        if _escalates(cancelling):
            yield from _escalated(world, task)
        else:
            yield ended(task, cancelling, "grace_over")


def _escalates(cancelling: Cancelling) -> bool:
    return cancelling.escalate is Escalation.CONTAINER and cancelling.forced != CONTAINER


def _escalated(world: World, task: Task) -> Iterator[Event]:
    """Yield the last step, and the stop of the container that the worker of a task runs in, if it runs in one."""
    yield TaskCancelForced(task_id=task.task_id, lease=task.lease, how=CONTAINER)
    worker = world.workers.get(task.worker_id)
    container = None if worker is None else world.containers.get(worker.container_id)
    if container is None:
        return
    if container.status in _STOPPABLE or (container.status is ContainerStatus.STOPPING and not container.force):
        yield ContainerStopping(
            container_id=container.container_id, force=True, reason=CANCEL_ESCALATED, move=container.is_moving
        )


DECIDERS: dict[type[Command], Decider] = {ReportCancel: report}
