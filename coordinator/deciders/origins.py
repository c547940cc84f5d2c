"""
Where an event comes from: the tenant and the trace of the thing that it is about, and the event that caused it. Pure.

An event that creates a thing has the tenant and the trace of the command, as do events about nothing that has its own.
The cause of all others is the last event that changed the thing, unless that of another thing led to it: the end or the
pause of a container to what happens to its services, worker and sessions; the leave of a worker to the end of its
attempts; the loss of a node to the failure of its containers; the end of a task to what becomes of those that wait for
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events import codec
from events.base import START
from events.container import ContainerCreated, ContainerEvent, ContainerFailed
from events.coordinator import CoordinatorPlacementRefused
from events.node import NodeEvent, NodeRegistered
from events.pool import PoolAllocated, PoolBound, PoolMoved, PoolPreempted, PoolReleased, PoolWithdrawn
from events.schedule import ScheduleDefined, ScheduleEvent
from events.service import ServiceEvent, ServiceHealthChanged, ServiceRegistered
from events.session import SessionBound, SessionClosed
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskStatus,
    TaskSubmitted,
    TaskUnblocked,
)
from events.task_pause import TaskPaused
from events.worker import WorkerEvent, WorkerRegistered
from projections.latest import CONTAINER, NODE, SERVICE, TASK, WORKER
from projections.node import NodeStatus
from projections.pool import request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.base import Event
    from projections.container import Container
    from projections.worker import WorkerState
    from projections.world import World

    Origin = tuple[str, str, str]
    Said = Mapping[str, str]

BY_CONTAINER = "container_"
"""So begin the reasons and the rules of what happens to a service or a worker because of its container."""
_RUNNING = TaskStatus.RUNNING


NO_ORIGIN: Origin = ("", "", "")


def _of_task(world: World, event: Any, said: Said) -> Origin:
    task = world.tasks.get(event.task_id)
    if task is None:
        return NO_ORIGIN
    cause = said.get(TASK + event.task_id) if said else None
    if not cause:
        # In this order: of most tasks these two are all that is needed.
        latest = task.latest if task.ended_at is None else task.ended
        cause = "%d.%d" % (latest if latest != START else task.submitted)  # noqa: UP031  # as `Position` does
    return (task.tenant, task.traceparent, cause)


def _of_dependant(world: World, event: TaskCancelled | TaskUnblocked, said: Said) -> Origin:
    """The end of its predecessor is the cause of what becomes of a task that waited for it."""
    tenant, traceparent, cause = _of_task(world, event, said)
    before = world.tasks.get(event.predecessor) if event.predecessor else None
    if before is not None and before.ended_at is not None:
        cause = str(before.ended)
    return (tenant, traceparent, cause)


def _of_failed(world: World, event: TaskAttemptFailed | TaskFailed | TaskPaused, said: Said) -> Origin:
    task = world.tasks.get(event.task_id)
    if task is not None and task.status is _RUNNING and (cause := _end_of_worker(world, task.worker_id, said)):
        return (task.tenant, task.traceparent, cause)
    return _of_task(world, event, said)


def _end_of_worker(world: World, worker_id: str, said: Said) -> str:
    """Return the event that ended a worker, '' if it has not ended."""
    worker = world.workers.get(worker_id)
    if worker is None:
        return ""
    return str(worker.ended) if worker.is_ended else said.get(WORKER + worker_id, "")


def _of_container(world: World, event: Any, said: Said) -> Origin:
    container = world.containers.get(event.container_id)
    if container is None:
        return NO_ORIGIN
    cause = _loss_of_node(world, container, said) if type(event) is ContainerFailed else ""
    return (container.tenant, container.traceparent, cause or _latest_of_container(world, container, said))


def _loss_of_node(world: World, container: Container, said: Said) -> str:
    node, key = world.nodes.get(container.node_id), NODE + container.node_id
    is_lost = node is not None and node.status is NodeStatus.LOST and key not in said  # it has not returned just now
    return world.latest.get(key, "") if is_lost else ""


def _latest_of_container(world: World, container: Container, said: Said) -> str:
    key = CONTAINER + container.container_id
    known = said.get(key) or world.latest.get(key)
    if known:
        return known
    if container.is_ended:
        return str(container.ended)
    return container.generation or str(container.created)


def _cause_in_container(world: World, container_id: str, why: str, said: Said) -> str:
    """Return the event of its container that led to an event with the reason *why*, '' if none did."""
    container = world.containers.get(container_id)
    if container is None or not why.startswith(BY_CONTAINER):
        return ""
    return _latest_of_container(world, container, said)


def _of_service(world: World, event: Any, said: Said) -> Origin:
    service = world.services.get(event.service_id)
    if service is None:
        return NO_ORIGIN
    why = event.rule if type(event) is ServiceHealthChanged else event.reason
    key = SERVICE + event.service_id
    cause = _cause_in_container(world, service.container_id, why, said) or said.get(key) or world.latest.get(key)
    return (service.tenant, service.traceparent, cause or str(service.registered))


def _of_worker(world: World, event: Any, said: Said) -> Origin:
    worker = world.workers.get(event.worker_id)
    if worker is None:
        return NO_ORIGIN
    why = getattr(event, "reason", "")
    cause = _cause_in_container(world, worker.container_id, why, said) or _latest_of_worker(world, worker, said)
    return (worker.tenant, "", cause)


def _latest_of_worker(world: World, worker: WorkerState, said: Said) -> str:
    if worker.is_ended:
        return str(worker.ended)
    key = WORKER + worker.worker_id
    return said.get(key) or world.latest.get(key) or str(worker.registered)


def _of_node(world: World, event: Any, said: Said) -> Origin:
    node = world.nodes.get(event.node_id)
    if node is None:
        return NO_ORIGIN
    key = NODE + event.node_id
    return ("", "", said.get(key) or world.latest.get(key) or str(node.registered))


def _of_bound(world: World, event: SessionBound, said: Said) -> Origin:
    """A session that is bound with the creation of its container was bound because of it."""
    cause = said.get(CONTAINER + event.container_id)
    return NO_ORIGIN if cause is None else ("", "", cause)


def _of_closed(world: World, event: SessionClosed, said: Said) -> Origin:
    session = world.sessions.get(event.session_id)
    if session is None:
        return NO_ORIGIN
    container = world.containers.get(session.container_id)
    cause = said.get(CONTAINER + session.container_id)
    if cause is None and container is not None and container.is_ended:
        cause = str(container.ended)
    return (session.tenant, session.traceparent, cause or str(session.bound))


def _of_registered(world: World, event: ServiceRegistered | WorkerRegistered, said: Said) -> Origin:
    """What registers in a container does so because the container runs."""
    container = world.containers.get(event.container_id)
    return NO_ORIGIN if container is None else ("", "", _latest_of_container(world, container, said))


def _of_submitted(world: World, event: TaskSubmitted, said: Said) -> Origin:
    """The task of a slot belongs to the tenant of its schedule, whose last event led to it."""
    if event.occurrence is None:
        return NO_ORIGIN
    return _of_schedule(world, event.occurrence, said)


def _of_share(world: World, event: Any, _: Said) -> Origin:
    """What happens to a share, or to a request that waits, happens to the tenant that asked for it."""
    pool = world.pools.get(event.pool_id)
    known = None if pool is None else request_of(pool, event.request_id)
    return NO_ORIGIN if known is None else (known.tenant, "", "")


def _of_schedule(world: World, event: Any, said: Said) -> Origin:
    schedule = world.schedules.get(event.schedule_id)
    return NO_ORIGIN if schedule is None else (schedule.tenant, "", str(schedule.latest))


_OF_KIND: dict[type[Event], Callable[[World, Any, Said], Origin]] = {
    TaskEvent: _of_task,
    ContainerEvent: _of_container,
    ServiceEvent: _of_service,
    WorkerEvent: _of_worker,
    NodeEvent: _of_node,
    ScheduleEvent: _of_schedule,
}
_CREATE = (TaskSubmitted, ScheduleDefined, ContainerCreated, ServiceRegistered, WorkerRegistered, NodeRegistered)
ORIGINS: dict[type[Event], Callable[[World, Any, Said], Origin]] = {
    ServiceRegistered: _of_registered,
    WorkerRegistered: _of_registered,
    SessionBound: _of_bound,
    SessionClosed: _of_closed,
    CoordinatorPlacementRefused: _of_container,
    **{
        event: find
        for event in codec.EVENTS.values()
        if event not in _CREATE
        for base, find in _OF_KIND.items()
        if issubclass(event, base)
    },
    TaskSubmitted: _of_submitted,
    TaskAttemptFailed: _of_failed,
    TaskFailed: _of_failed,
    TaskPaused: _of_failed,
    TaskCancelled: _of_dependant,
    TaskUnblocked: _of_dependant,
    **dict.fromkeys((PoolAllocated, PoolBound, PoolMoved, PoolReleased, PoolPreempted, PoolWithdrawn), _of_share),
}
"""
Functions that return tenant, traceparent and causationid of an event that is decided but not folded; '' for none.

They take the state before the event, the event, and the ids of earlier events of the same command: the last of each
thing, by its key in `World.latest`. An event without such a function has none of the three.
"""
