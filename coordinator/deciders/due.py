"""
What time now owes: lapsed leases, attempts that ran too long, the silent, and failed containers whose pause is over.

Pure. `now` (in the context) is commit time, for deadlines that stand in the journal; `heard_now` is the writer's
monotonic clock, for silence. Each event carries the evidence: for how long there was silence, against which limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.deciders.node import failed, observed, restart
from coordinator.deciders.silence import is_held, mass_silence, patience_s
from coordinator.deciders.task import failed_attempt, released
from events.container import ContainerStatus
from events.coordinator import Watched
from events.errors import Refused
from events.node import NodeLost, NodeRemoved
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.task import TaskStatus, TaskTimedOut
from events.worker import WorkerLost
from projections.container import Desired
from projections.node import NodeStatus
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import Context
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.container import Container
    from projections.service import Service
    from projections.world import World


def due(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    """Give everything that is due; each event is to be applied before the next is asked for."""
    yield from _attempts(world, signs, context, heard_now)
    yield from mass_silence(world, signs, context, heard_now)
    yield from _silent_workers(world, signs, context, heard_now)
    yield from _silent_services(world, signs, context, heard_now)
    yield from _silent_nodes(world, signs, context, heard_now)
    for container_id in tuple(world.containers):
        yield from _container(world, world.containers[container_id], context, heard_now - signs.since)


def _attempts(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    for task_id in dict.fromkeys(world.indexes.overdue(context.now)):
        task = world.tasks.get(task_id)
        if task is None or task.status is not TaskStatus.RUNNING or task.started_at is None or task.timeout_s is None:
            continue
        ran_for_s = context.now - task.started_at
        if ran_for_s >= task.timeout_s:
            yield TaskTimedOut(task_id=task_id, lease=task.lease, ran_for_s=ran_for_s, limit_s=task.timeout_s)
    limit_s = context.rules.lease_s
    for worker_id, held in tuple(world.indexes.held.items()):
        worker = world.workers.get(worker_id)
        has_left = worker is not None and worker.status is WorkerStatus.LEFT
        for task_id in tuple(held):
            task = world.tasks[task_id]
            if has_left:
                yield released(task, "the worker left", context)
                continue
            # Commit time never stands still, so no attempt of the present generation begins at that very moment.
            if task.started_at is not None and task.started_at <= world.restored_at:
                yield released(task, "the journal was restored from a backup", context)
                continue
            silent_for_s = signs.silent_for(signs.leases, task.lease, heard_now)
            if silent_for_s > limit_s:
                yield failed_attempt(
                    task,
                    task.lease,
                    f"worker {task.worker_id} did not renew its lease",
                    "lease_expired",
                    context.now,
                    context.rules,
                    silent_for_s=silent_for_s,
                    limit_s=limit_s,
                )


def _silent_workers(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    if is_held(world, Watched.WORKER):
        return
    limit_s = patience_s(Watched.WORKER, context.rules)
    for worker in tuple(world.workers.values()):
        if worker.is_ended:
            continue
        silent_for_s = signs.silent_for(signs.workers, worker.worker_id, heard_now)
        if silent_for_s > limit_s and not world.indexes.held.get(worker.worker_id):
            yield WorkerLost(worker_id=worker.worker_id, silent_for_s=silent_for_s, limit_s=limit_s)


def _silent_services(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    limit_s, is_spared = patience_s(Watched.SERVICE, context.rules), is_held(world, Watched.SERVICE)
    for service in tuple(world.services.values()):
        if service.is_ended:
            continue
        if service.status is ServiceStatus.OFFLINE:
            if context.now - service.changed_at > context.rules.deregister_after_s:
                yield ServiceDeregistered(service_id=service.service_id, reason="offline for too long")
            continue
        silent_for_s = signs.silent_for(signs.services, service.service_id, heard_now)
        if service.health_check_url:
            yield from _unchecked(service, context, silent_for_s)
            continue
        if silent_for_s > limit_s and not is_spared:
            yield ServiceHealthChanged(
                service_id=service.service_id,
                status=ServiceStatus.OFFLINE,
                previous=service.status,
                rule="heartbeat_timeout",
                silent_for_s=silent_for_s,
                limit_s=limit_s,
            )


def _unchecked(service: Service, context: Context, silent_for_s: float) -> Iterator[Event]:
    """Give what follows for a service whose checks speak for it, when they say nothing, or bad news for too long."""
    limit_s = context.rules.heartbeat_timeout_s
    if (
        service.status is ServiceStatus.UNHEALTHY
        and context.now - service.changed_at > context.rules.deregister_after_s
    ):
        yield ServiceDeregistered(service_id=service.service_id, reason="unhealthy for too long")
    elif silent_for_s > limit_s and service.status is not ServiceStatus.UNKNOWN:
        yield ServiceHealthChanged(
            service_id=service.service_id,
            status=ServiceStatus.UNKNOWN,
            previous=service.status,
            rule="not_checked",
            silent_for_s=silent_for_s,
            limit_s=limit_s,
        )


def _silent_nodes(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    limit_s, is_spared = patience_s(Watched.NODE, context.rules), is_held(world, Watched.NODE)
    for node in tuple(world.nodes.values()):
        if node.is_ended:
            continue
        if node.status is not NodeStatus.LOST:
            silent_for_s = signs.silent_for(signs.nodes, node.node_id, heard_now)
            if silent_for_s <= limit_s or is_spared:
                continue
            yield NodeLost(node_id=node.node_id, silent_for_s=silent_for_s, limit_s=limit_s)
        # Not only as it is lost: a commit holds so many events, and a writer may die between two of them.
        for container_id in tuple(world.indexes.containers_on.get(node.node_id, ())):
            yield from _cut_off(world, world.containers[container_id], context)
        lost = world.nodes[node.node_id]
        if (
            lost.status is NodeStatus.LOST
            and context.now - lost.lost_at > context.rules.deregister_after_s
            and not _holds(world, node.node_id)
        ):
            yield NodeRemoved(node_id=node.node_id, reason="lost for too long")


def _holds(world: World, node_id: str) -> bool:
    return any(world.containers[one].holds for one in world.indexes.containers_on.get(node_id, ()))


def _cut_off(world: World, container: Container, context: Context) -> Iterator[Event]:
    """Give what follows for a container whose node is lost: what was to stop has, by the node's own clock."""
    if container.status in (ContainerStatus.STARTING, ContainerStatus.RUNNING, ContainerStatus.PAUSED):
        yield failed(container, f"node {container.node_id} is lost", context)
    elif container.status is ContainerStatus.STOPPING:
        yield from observed(world, container, None, context)


def _container(world: World, container: Container, context: Context, led_for_s: float) -> Iterator[Event]:
    if container.status is ContainerStatus.STARTING and container.starting_at is not None:
        limit_s = context.rules.container_start_timeout_s
        # Its node must have had the time to tell this writer that it runs.
        if min(context.now - container.starting_at, led_for_s) > limit_s:
            yield failed(container, f"did not start within {limit_s:g} s", context)
    elif (
        container.status is ContainerStatus.ERROR
        and container.desired in (Desired.RUNNING, Desired.PAUSED)
        and container.restart_at is not None
        and container.restart_at <= context.now
    ):
        try:
            yield from restart(world, container, context)
        except Refused:
            return  # no room now; it stays due
