"""
What the state of a container means for the services and the workers in it. Pure.

A container whose id is not known here, such as one of another system, means nothing for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.container import ContainerStatus
from events.errors import Refused
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.worker import WorkerDraining, WorkerLeft
from projections.container import Desired
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from events.base import Event
    from projections.container import Container
    from projections.service import Service
    from projections.worker import WorkerState
    from projections.world import World

_S = ContainerStatus

PAUSED = "container_paused"
RESUMED = "container_resumed"
"""Rules of the changes of health at the beginning and the end of a pause."""
CONTAINER_STOPPING, CONTAINER_STOPPED = "container_stopping", "container_stopped"
CONTAINER_FAILED, CONTAINER_DESTROYED = "container_failed", "container_destroyed"
_OVER = {
    _S.STOPPING: CONTAINER_STOPPING,
    _S.STOPPED: CONTAINER_STOPPED,
    _S.ERROR: CONTAINER_FAILED,
    _S.DESTROYED: CONTAINER_DESTROYED,
}
"""Why nothing in a container of such a status can be found or get tasks."""
SERVING = frozenset({"running", "unknown"})
"""What may be said of a container whose worker gets tasks."""


def said_of(world: World, container_id: str) -> str:
    """Return the status of a container, `pausing` or `draining` if it runs but is not to run on, or `unknown`."""
    container = world.containers.get(container_id)
    if container is None:
        return "unknown"
    if _is_pausing(container):
        return "pausing"
    node = world.nodes.get(container.node_id)
    is_draining = container.status is _S.RUNNING and node is not None and node.is_leaving
    return "draining" if is_draining else container.status.value


def is_frozen(world: World, container_id: str) -> bool:
    """Whether a container is paused, or is about to be."""
    container = world.containers.get(container_id)
    return container is not None and (container.status is _S.PAUSED or _is_pausing(container))


def _is_pausing(container: Container) -> bool:
    return container.status is _S.RUNNING and container.desired is Desired.PAUSED


def check_open(world: World, container_id: str) -> None:
    """
    Accept that something in the container registers or asks for tasks.

    Raises:
        Refused: its process is about to be stopped, or was.
    """
    container = world.containers.get(container_id)
    if container is not None and container.status in _OVER:
        msg = (
            f"container {container_id!r} is {container.status.value}: nothing in it can be found or get tasks; "
            "start the container first"
        )
        raise Refused(msg, reason="container_not_running")


def paused(service: Service) -> ServiceHealthChanged:
    """Return the event that takes a service out of discovery while its container is paused."""
    return ServiceHealthChanged(
        service_id=service.service_id, status=ServiceStatus.OFFLINE, previous=service.status, rule=PAUSED
    )


def resumed(service: Service) -> ServiceHealthChanged:
    """Return the event that brings a service back after a pause; a check decides where there is one."""
    status = ServiceStatus.UNKNOWN if service.health_check_url else ServiceStatus.HEALTHY
    return ServiceHealthChanged(service_id=service.service_id, status=status, previous=service.status, rule=RESUMED)


def due_for_service(world: World, service: Service) -> Event | None:
    """Return what the state of its container makes of a registered service, None if nothing."""
    container = world.containers.get(service.container_id)
    if container is None:
        return None
    if container.status in _OVER:
        return ServiceDeregistered(service_id=service.service_id, reason=_OVER[container.status])
    is_offline = service.status is ServiceStatus.OFFLINE
    if is_frozen(world, service.container_id):
        return None if is_offline else paused(service)
    return resumed(service) if is_offline and service.health_rule == PAUSED else None


def due_for_worker(world: World, worker: WorkerState) -> Event | None:
    """Return what the state of its container makes of a worker that has not ended, None if nothing."""
    container = world.containers.get(worker.container_id)
    if container is None or container.status not in _OVER:
        return None
    why = _OVER[container.status]
    if container.status is not _S.STOPPING:
        return WorkerLeft(worker_id=worker.worker_id, reason=why)
    if worker.status is WorkerStatus.ACTIVE:
        return WorkerDraining(worker_id=worker.worker_id, reason=why)
    return None
