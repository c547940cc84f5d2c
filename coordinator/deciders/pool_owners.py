"""The owner that a share of a pool, or a request for one, ends with: `<kind>:<id>`, such as a task. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.container import ContainerDestroyed
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.pool import TASKS, PoolBound
from events.service import ServiceDeregistered
from events.session import SessionClosed
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskTimedOut
from events.worker import WorkerLeft, WorkerLost
from projections.pool import OF_TASK, request_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events.base import Event
    from projections.task import Task
    from projections.world import World

KINDS = ("worker", "service", "session", "container")
"""What a request may name as its owner; a task names its request instead."""
_ENDS: dict[type[Event], str] = {
    **dict.fromkeys((TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut), "task"),
    **dict.fromkeys((WorkerLeft, WorkerLost), "worker"),
    ServiceDeregistered: "service",
    SessionClosed: "session",
    ContainerDestroyed: "container",
}


def check_owner(world: World, owner: str) -> None:
    """
    Accept an owner that lives.

    Raises:
        Refused: it is none. NotFound: it does not exist, or has ended.
    """
    kind, _, name = owner.partition(":")
    if kind not in KINDS:
        allowed = ", ".join(f"{one}:ID" for one in KINDS)
        msg = f"owner {shown(owner)} is not one: use {allowed}; a task names its request when it is submitted"
        raise Refused(msg, reason="bad_owner")
    checked(name, "owner")
    if has_ended(world, owner):
        msg = f"owner {shown(owner)} not found, or it has ended: name one that lives"
        raise NotFound(msg, reason="unknown_owner")


def has_ended(world: World, owner: str) -> bool:
    """Return whether an owner does not exist, or no longer."""
    kind, _, name = owner.partition(":")
    tables: dict[str, Any] = {
        "task": world.tasks,
        "worker": world.workers,
        "service": world.services,
        "session": world.sessions,
        "container": world.containers,
    }
    found = tables[kind].get(name)
    return found is None or bool(found.is_ended)


def ended(world: World, events: Iterable[Event]) -> list[str]:
    """Return the owners of shares or requests that these folded events ended."""
    owners = world.indexes.in_pools.owners
    found = []
    for event in events:
        kind = _ENDS.get(type(event))
        if kind is not None and (owner := f"{kind}:{event.subject}") in owners:
            found.append(owner)
    return found


def bound(world: World, request_id: str, task_id: str) -> PoolBound:
    """
    Return that a task names a request of the pool `tasks`, which ends with it.

    Raises:
        Refused: it has an owner already. NotFound: it neither holds a share nor waits for one.
    """
    pool = world.pools.get(TASKS)
    found = None if pool is None else request_of(pool, checked(request_id, "request"))
    if found is None:
        msg = f"request {shown(request_id)} neither holds a share of pool {TASKS!r} nor waits for one: request it first"
        raise NotFound(msg, reason="unknown_request")
    if found.owner:
        msg = f"request {shown(request_id)} belongs to {found.owner} already: request another share"
        raise Refused(msg, reason="request_bound")
    return PoolBound(pool_id=TASKS, request_id=request_id, owner=f"{OF_TASK}{task_id}")


def task_of(world: World, owner: str) -> Task | None:
    """Return the task that owns a share or a request and has not ended; None if it is no task's."""
    if not owner.startswith(OF_TASK):
        return None
    task = world.tasks.get(owner.removeprefix(OF_TASK))
    return None if task is None or task.is_ended else task
