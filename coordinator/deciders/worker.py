"""What an order about workers makes of the world. Pure: the time comes in with the context."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders.task import RELEASED_AT_ONCE, again, check_room_for_worker, released
from events.errors import NotFound, Refused
from events.ids import checked
from events.worker import WorkerDraining, WorkerLeft, WorkerRegistered
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
    from coordinator.deciders.rules import Context
    from events.base import Event
    from projections.worker import Worker
    from projections.world import World

    Events = tuple[Event, ...]


def register(world: World, command: RegisterWorker, context: Context) -> Events:
    """Offer a worker."""
    checked(command.worker_id, "worker_id")
    if command.container_id:
        checked(command.container_id, "container_id")
    if command.slots is not None:
        check_number("slots", command.slots, 1, 100_000)
    if command.resources is not None:
        check_resources("resources", command.resources)
    if len(command.handles) > 1000:  # noqa: PLR2004  # a bound against nonsense, not a rule of its own
        msg = f"handles names {len(command.handles)} tasks: at most 1000"
        raise Refused(msg, reason="too_many")
    for name in command.handles:
        check_text("handles", name, 128, least=1)
    offered = WorkerRegistered(
        worker_id=command.worker_id,
        slots=command.slots,
        resources=command.resources,
        handles=command.handles,
        container_id=command.container_id,
    )
    known = world.workers.get(command.worker_id)
    if known is not None and known.status is WorkerStatus.ACTIVE and again(known) == offered:
        return ()
    if known is None:
        check_room_for_worker(world)
    return (offered,)


def drain(world: World, command: DrainWorker, context: Context) -> Events:
    """Give a worker no new tasks."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    worker = _worker(world, command.worker_id)
    if worker.status is not WorkerStatus.ACTIVE:
        return ()
    return (WorkerDraining(worker_id=worker.worker_id, reason=command.reason),)


def leave(world: World, command: LeaveWorker, context: Context) -> Events:
    """Take a worker off and its attempts back; they do not count as tries."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    worker = _worker(world, command.worker_id)
    if worker.status is WorkerStatus.LEFT:
        return ()
    # A commit holds so many events: what is left over of very many attempts is due, now that the worker has left.
    held = islice(world.indexes.held.get(worker.worker_id, ()), RELEASED_AT_ONCE)
    back = (released(world.tasks[task_id], "the worker left", context) for task_id in held)
    return (*back, WorkerLeft(worker_id=worker.worker_id, reason=command.reason))


def _worker(world: World, worker_id: str) -> Worker:
    worker = world.workers.get(checked(worker_id, "worker_id"))
    if worker is None:
        msg = f"there is no worker {worker_id!r}: register it first"
        raise NotFound(msg)
    return worker
