"""
What follows from the events of a container for the services and workers in it, in the same commit. Pure.

A container that is to stop: its services leave the registry, its worker gets no more tasks and finishes those it has.
One that has ended: its worker has left and its attempts go back; they count as failed only if its process ended by
itself. One that is paused: its services are OFFLINE and its attempts wait. What does not fit into the commit follows
with the next turns, by `due`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from coordinator.deciders.housing import (
    CONTAINER_DESTROYED,
    CONTAINER_FAILED,
    CONTAINER_STOPPED,
    CONTAINER_STOPPING,
    PAUSED,
    paused,
    resumed,
)
from coordinator.deciders.task import failed_attempt, released
from events.container import (
    NO_FAULT,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStatus,
    ContainerStopped,
    ContainerStopping,
)
from events.service import ServiceDeregistered, ServiceStatus
from events.worker import WorkerDraining, WorkerLeft
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coordinator.deciders.rules import DecisionContext, Events
    from events.base import Event
    from projections.service import Service
    from projections.worker import WorkerState
    from projections.world import World

MOST_FOLLOWING = 200
"""A commit is limited in size, and one report of a node may be about all its containers."""
_REASON_CHARS = 200


def following(world: World, events: Iterable[Event], context: DecisionContext) -> Events:
    """Return what follows from *events*, for each container from the last one; they may be folded already or not."""
    last: dict[str, Any] = {event.subject: event for event in events if type(event) in _FOLLOWED}
    if not last:
        return ()
    first = (one for event in last.values() for one in _FOLLOWED[type(event)](world, event))
    found = list(islice(first, MOST_FOLLOWING))
    back = (one for event in last.values() if type(event) in _ENDS for one in _back(world, event, context))
    return (*found, *islice(back, MOST_FOLLOWING - len(found)))


def with_following(world: World, events: Iterator[Event], context: DecisionContext) -> Iterator[Event]:
    """Yield *events*, each with what follows from it; the caller folds each one before it takes the next."""
    for event in events:
        yield event
        yield from following(world, (event,), context)


def _services(world: World, container_id: str) -> Iterator[Service]:
    return (world.services[one] for one in world.indexes.services_in.get(container_id, ()))


def _workers(world: World, container_id: str) -> Iterator[WorkerState]:
    return (world.workers[one] for one in world.indexes.workers_in.get(container_id, ()))


def _stopping(world: World, event: ContainerStopping) -> Iterator[Event]:
    for worker in _workers(world, event.container_id):
        if worker.status is WorkerStatus.ACTIVE:
            yield WorkerDraining(worker_id=worker.worker_id, reason=CONTAINER_STOPPING)
    for service in _services(world, event.container_id):
        yield ServiceDeregistered(service_id=service.service_id, reason=CONTAINER_STOPPING)


def _ended(world: World, event: ContainerStopped | ContainerFailed | ContainerDestroyed) -> Iterator[Event]:
    if isinstance(event, ContainerFailed):
        reason = CONTAINER_FAILED
    else:
        reason = CONTAINER_STOPPED if isinstance(event, ContainerStopped) else CONTAINER_DESTROYED
    for worker in _workers(world, event.container_id):
        yield WorkerLeft(worker_id=worker.worker_id, reason=reason)
    for service in _services(world, event.container_id):
        yield ServiceDeregistered(service_id=service.service_id, reason=reason)


def _back(
    world: World, event: ContainerStopped | ContainerFailed | ContainerDestroyed, context: DecisionContext
) -> Iterator[Event]:
    """Yield the end of each attempt in a container that has ended."""
    why = _why(event)
    # A process that ended by itself may have been ended by its task, which must not end one after the other.
    counts = isinstance(event, ContainerFailed) and event.exit_code is not None and event.cause not in NO_FAULT
    for worker in _workers(world, event.container_id):
        for task_id in world.indexes.held.get(worker.worker_id, ()):
            task = world.tasks[task_id]
            if counts:
                yield failed_attempt(task, task.lease, why, CONTAINER_FAILED, context.now, context.rules)
            else:
                yield released(task, why, context)


def _why(event: ContainerStopped | ContainerFailed | ContainerDestroyed) -> str:
    if isinstance(event, ContainerFailed):
        return f"its container failed: {event.reason[:_REASON_CHARS]}"
    return "its container stopped" if isinstance(event, ContainerStopped) else "its container was destroyed"


def _paused(world: World, event: ContainerPausing | ContainerPaused) -> Iterator[Event]:
    for service in _services(world, event.container_id):
        if service.status is not ServiceStatus.OFFLINE:
            yield paused(service)


def _resumed(world: World, event: ContainerResumed | ContainerResuming) -> Iterator[Event]:
    # The node will report that a paused container runs; there is no report about one that it had not paused yet.
    if isinstance(event, ContainerResuming) and world.containers[event.container_id].status is ContainerStatus.PAUSED:
        return
    for service in _services(world, event.container_id):
        if service.status is ServiceStatus.OFFLINE and service.health_rule == PAUSED:
            yield resumed(service)


_ENDS: frozenset[type[Event]] = frozenset({ContainerStopped, ContainerFailed, ContainerDestroyed})
_FOLLOWED: dict[type[Event], Callable[[World, Any], Iterator[Event]]] = {
    ContainerStopping: _stopping,
    ContainerPausing: _paused,
    ContainerPaused: _paused,
    ContainerResuming: _resumed,
    ContainerResumed: _resumed,
    **dict.fromkeys(_ENDS, _ended),
}
