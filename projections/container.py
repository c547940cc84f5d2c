"""
Containers: state, legal transitions, and the fold of their events. Pure.

`desired` is the requested state, `status` the state reported by the node; the node agent brings `status` to `desired`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.container import (
    AS_ALL,
    MOVED,
    NO_FAULT,
    RESTART,
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStatus,
    ContainerStopped,
    ContainerStopping,
    RestartPolicy,
    Secret,
)
from events.resources import NONE, Resources
from projections.stamp import Stamp, check_legal, check_status, existing, missing

if TYPE_CHECKING:
    MovingContainerEvent = (
        ContainerStarting | ContainerStarted | ContainerPaused | ContainerResumed | ContainerStopping | ContainerStopped
        | ContainerFailed | ContainerDestroyed
    )  # fmt: skip
    AnyContainerEvent = ContainerCreated | MovingContainerEvent | ContainerPausing | ContainerResuming


class Desired(Enum):
    """The requested state of a container."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


_S = ContainerStatus
LEGAL: dict[ContainerStatus, frozenset[ContainerStatus]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.DESTROYED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.ERROR, _S.STOPPED, _S.STOPPING}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.STOPPING, _S.STOPPED, _S.ERROR}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.STOPPING, _S.STOPPED, _S.ERROR}),
    _S.STOPPING: frozenset({_S.STOPPING, _S.STOPPED, _S.DESTROYED}),
    _S.STOPPED: frozenset({_S.STARTING, _S.DESTROYED}),
    _S.ERROR: frozenset({_S.STARTING, _S.STOPPED, _S.DESTROYED}),
    _S.DESTROYED: frozenset(),
}

HOLDING = frozenset({_S.CREATED, _S.STARTING, _S.RUNNING, _S.PAUSED, _S.STOPPING})
"""Statuses in which a container holds its resources on its node."""


class LastExit(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """How a generation of a container ended: exit code, reason, `ExitCause`, and commit time in seconds."""

    generation: str
    at: float
    cause: str
    reason: str = ""
    exit_code: int | None = None


class Container(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One container; `generation` is the position of the event that last started it.

    `started_at` is the time when that generation was first reported as running, None before; `failed_at` is the time of
    the last failure, of any generation. `cause` is the `ExitCause` of that failure, until the next start; `last_exit`
    is how it last ended without being told to, and outlives the next start. `source` is who created it, '' if that is
    not recorded. `limits` is what it gets at most, if that is not what it holds as `resources`.
    `recent_failures` are those since `counted_from`, where `restart` counts them: without `restart_at`, a container in
    ERROR is not restarted any more.
    """

    container_id: str
    agent_id: str
    agent_type: str
    node_id: str
    status: ContainerStatus
    created: Position
    created_at: float
    tenant: str = ""
    traceparent: str = ""
    resources: Resources = NONE
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str | Secret] = {}
    session_id: str = ""
    when_cut_off: str = "stop"
    stop_grace_s: float = 10.0
    desired: Desired = Desired.STOPPED
    force: bool = False
    generation: str = ""
    restarts: int = 0
    restart_at: float | None = None
    starts: int = 0
    failures: int = 0
    exit_code: int | None = None
    reason: str = ""
    cause: str = ""
    pid: int = 0
    starting_at: float | None = None
    started_at: float | None = None
    failed_at: float | None = None
    ended_at: float | None = None
    ended: Position = START
    last_exit: LastExit | None = None
    source: str = ""
    limits: Resources = NONE
    restart: RestartPolicy = AS_ALL
    moves: bool = True
    node_filter: str = ""
    recent_failures: int = 0
    counted_from: float | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can happen to the container."""
        return self.status is ContainerStatus.DESTROYED

    @property
    def holds(self) -> bool:
        """Whether the container holds its resources on its node."""
        return self.status in HOLDING

    @property
    def is_moving(self) -> bool:
        """Whether the container stops, or has stopped, to be started on another node."""
        return self.status in (_S.STOPPING, _S.STOPPED) and self.desired in (Desired.RUNNING, Desired.PAUSED)


def evolve(container: Container | None, event: AnyContainerEvent, stamp: Stamp) -> Container:
    """Fold one event into the container it is about."""
    if isinstance(event, ContainerCreated):
        if container is not None:
            existing(event, stamp)
        return _created(event, stamp)
    if container is None:
        missing(event, stamp)
    if isinstance(event, ContainerPausing):
        check_status({_S.RUNNING}, container.status, event, stamp)
        return msgspec.structs.replace(container, desired=Desired.PAUSED)
    if isinstance(event, ContainerResuming):
        if not container.is_moving:
            check_status({_S.STARTING, _S.RUNNING, _S.PAUSED, _S.ERROR}, container.status, event, stamp)
        return msgspec.structs.replace(container, desired=Desired.RUNNING)
    after = _evolve(container, event, stamp)
    if container.is_moving and isinstance(event, ContainerStopped):  # it has stopped, and is not to start any more
        return after
    check_legal(LEGAL, container.status, after.status, event, stamp)
    return after


def _created(event: ContainerCreated, stamp: Stamp) -> Container:
    return Container(
        container_id=event.container_id,
        agent_id=event.agent_id,
        agent_type=event.agent_type,
        node_id=event.node_id,
        status=ContainerStatus.CREATED,
        created=stamp.position,
        created_at=stamp.time,
        tenant=stamp.tenant,
        traceparent=stamp.traceparent if event.traced else "",
        resources=event.resources,
        image=event.image,
        command=event.command,
        environment=event.environment,
        session_id=event.session_id,
        when_cut_off=event.when_cut_off,
        stop_grace_s=event.stop_grace_s,
        source=stamp.owner if event.owned else "",
        limits=event.limits,
        restart=event.restart,
        moves=event.moves,
        node_filter=event.node_filter,
    )


def _exit_of(event: ContainerFailed, stamp: Stamp) -> LastExit | None:
    """Return the exit that a failure was; None for a start that failed, and for events of releases without causes."""
    if not event.cause:
        return None
    return LastExit(
        generation=event.generation,
        at=stamp.time,
        cause=event.cause,
        reason=event.reason,
        exit_code=event.exit_code,
    )


def _evolve(container: Container, event: MovingContainerEvent, stamp: Stamp) -> Container:
    replace = msgspec.structs.replace
    match event:
        case ContainerStarting():
            return _starting(container, event, stamp)
        case ContainerStarted():
            check_status({_S.STARTING}, container.status, event, stamp)
            return replace(container, status=_S.RUNNING, pid=event.pid, started_at=stamp.time, reason="")
        case ContainerPaused():
            return replace(container, status=_S.PAUSED)
        case ContainerResumed():
            check_status({_S.PAUSED}, container.status, event, stamp)
            return replace(container, status=_S.RUNNING)
        case ContainerStopping():
            desired = Desired.DESTROYED if event.destroy else container.desired if event.move else Desired.STOPPED
            return replace(container, status=_S.STOPPING, desired=desired, force=event.force, reason=event.reason)
        case ContainerStopped():
            stopped = replace(container, status=_S.STOPPED, pid=0, exit_code=event.exit_code, restart_at=None)
            keeps = container.desired is Desired.DESTROYED or (container.status is _S.STOPPING and container.is_moving)
            return stopped if keeps else replace(stopped, desired=Desired.STOPPED)
        case ContainerFailed():
            return replace(
                container,
                status=_S.ERROR,
                pid=0,
                failures=container.failures + (event.cause not in NO_FAULT),
                exit_code=event.exit_code,
                reason=event.reason,
                cause=event.cause,
                restart_at=event.restart_at,
                recent_failures=event.failures,
                counted_from=event.counted_from,
                failed_at=stamp.time,
                last_exit=_exit_of(event, stamp) or container.last_exit,
            )
        case ContainerDestroyed():
            return replace(
                container,
                status=_S.DESTROYED,
                desired=Desired.DESTROYED,
                pid=0,
                restart_at=None,
                ended_at=stamp.time,
                ended=stamp.position,
            )
    assert_never(event)


def _starting(container: Container, event: ContainerStarting, stamp: Stamp) -> Container:
    goes_on = event.reason in (RESTART, MOVED)
    return msgspec.structs.replace(
        container,
        status=_S.STARTING,
        desired=_desired(container, event),
        node_id=event.node_id,
        generation=str(stamp.position),
        restarts=event.restarts,
        restart_at=None,
        recent_failures=container.recent_failures if goes_on else 0,
        counted_from=container.counted_from if goes_on else None,
        starts=container.starts + 1,
        starting_at=stamp.time,
        started_at=None,
        exit_code=None,
        force=False,
        reason=event.reason,
        cause="",
    )


def _desired(container: Container, event: ContainerStarting) -> Desired:
    """Return the desired state after a start: RUNNING, except after the restart or move of one that was paused."""
    if event.reason in (RESTART, MOVED) and container.desired is Desired.PAUSED:
        return Desired.PAUSED
    return Desired.RUNNING
