"""
Deciders of the resource pool commands, and what is due for pools: requests that time out, owners that have ended. Pure.

Whatever changes a pool is decided together with the shares that waiting requests get by it: after each decision, no
request waits for what is free. In which order they get it is in `projections/ledger.py`.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.pool import AllocatePool, DefinePool, MoveShare, ReleasePool
from coordinator.commands.validation import check_number, check_resources
from coordinator.deciders.pool_owners import check_owner, has_ended, task_of
from coordinator.deciders.rules import Decider, Teller
from coordinator.deciders.task import released
from events.base import START
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.pool import (
    PoolAllocated,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.resources import NONE
from events.task import TaskCancelled, TaskStatus
from projections.ledger import Ledger, covers
from projections.pool import Request, evolve, request_of
from projections.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events
    from events.base import Event
    from projections.pool import Allocation, AnyPoolEvent, Pool
    from projections.world import World


MOST_POOLS = 1000
MOST_ALLOCATIONS = 5000
"""Shares and waiting requests of one pool."""
MOST_WAITING = 1000
"""Requests that wait, in all pools."""
MOST_PARTS = 1000
MOST_QUOTAS = 1000
WAIT_MOST_S = 30 * 86_400.0
PRIORITY_MOST = 1_000_000


def define(world: World, command: DefinePool, context: DecisionContext) -> Events:
    """Define a pool or change what it has and allows; existing allocations stay."""
    _check_definition(command)
    known = world.pools.get(checked(command.pool_id, "pool_id"))
    if known is not None and all(getattr(known, name) == getattr(command, name) for name in _SAID):
        return ()
    if known is None and len(world.pools) >= MOST_POOLS:
        msg = f"there are {len(world.pools)} pools, the maximum: use an existing pool"
        raise Refused(msg, reason="too_many")
    defined = PoolDefined(
        pool_id=command.pool_id,
        capacity=command.capacity,
        owned=bool(context.actor),
        parts=command.parts,
        placing=command.placing,
        quotas=command.quotas,
    )
    return (defined,) if known is None else _Draft(world, known, context).after(defined)


_SAID = ("capacity", "parts", "placing", "quotas")


def _check_definition(command: DefinePool) -> None:
    """
    Accept what a pool is to have and to allow.

    Raises:
        Refused: an amount is out of range, the parts are not the capacity, or a quota is nobody's.
    """
    check_resources("capacity", command.capacity)
    for what, given, most in (("parts", command.parts, MOST_PARTS), ("quotas", command.quotas, MOST_QUOTAS)):
        if len(given) > most:
            raise Refused(f"{what} has {len(given)} entries: use at most {most}", reason="too_many")
    for part, has in command.parts.items():
        check_resources(f"parts.{checked(part, 'parts')}", has)
    total = reduce(add, command.parts.values(), NONE)
    if command.parts and total != command.capacity:
        msg = f"capacity {shown(str(command.capacity))} is not the sum of the parts, {total}: give that"
        raise Refused(msg, reason="bad_resources")
    for holder, most_held in command.quotas.items():
        whose, colon, name = holder.partition(":")
        if whose not in {"tenant", "source"} or not colon or not 1 <= len(name) <= MOST_NAME or not name.isprintable():
            msg = f"quotas: {shown(holder)} is nobody: use tenant:NAME, source:NAME, tenant:* or source:*"
            raise Refused(msg, reason="bad_quota")
        check_resources("quotas", most_held)
        if most_held == NONE:
            msg = f"the quota of {shown(holder)} limits nothing: give cpu, memory or gpu; an amount of 0 is not limited"
            raise Refused(msg, reason="bad_quota")


MOST_NAME = 128


def allocate(world: World, command: AllocatePool, context: DecisionContext) -> Events:
    """Allocate resources of a pool if they fit; else wait for them, or return no event."""
    checked(command.request_id, "request_id")
    check_number("priority", command.priority, -PRIORITY_MOST, PRIORITY_MOST)
    check_number("wait_s", command.wait_s, 0.0, WAIT_MOST_S)
    check_resources("resources", command.resources)
    pool = _pool(world, command.pool_id)
    known = request_of(pool, command.request_id)
    if known is not None:
        if known.resources == command.resources:
            return ()
        has = "already holds" if command.request_id in pool.allocations else "already waits for"
        msg = f"request_id {command.request_id!r} {has} {known.resources}: release it first, or use a new id"
        raise Refused(msg, reason="id_taken")
    if command.owner:
        check_owner(world, command.owner)
    if (count := len(pool.allocations) + len(pool.waiting)) >= MOST_ALLOCATIONS:
        msg = f"pool {pool.pool_id!r} has {count} allocations, the maximum: release some"
        raise Refused(msg, reason="too_many")
    return _asked(world, pool, command, context)


def _asked(world: World, pool: Pool, command: AllocatePool, context: DecisionContext) -> Events:
    owned = bool(context.actor)
    request = Request(
        request_id=command.request_id,
        resources=command.resources,
        asked_at=context.now,
        priority=command.priority,
        source=context.actor if owned else "",
        tenant=context.tenant if owned else "",
        owner=command.owner,
        preempts=command.preempts,
        movable=command.movable,
    )
    draft = _Draft(world, pool, context)
    if events := draft.at_once(request, owned=owned):
        return events
    if not command.wait_s:
        return ()
    if world.indexes.in_pools.waiting >= MOST_WAITING:
        msg = f"{world.indexes.in_pools.waiting} requests wait for shares of pools, the maximum: ask again without wait"
        raise Refused(msg, reason="too_many")
    if not draft.is_possible(request):
        return ()  # it would wait for what there is not
    return (
        PoolRequested(
            pool_id=pool.pool_id,
            request_id=command.request_id,
            resources=command.resources,
            priority=command.priority,
            owned=owned,
            owner=command.owner,
            until=context.now + command.wait_s,
            preempts=command.preempts,
            movable=command.movable,
        ),
    )


def release(world: World, command: ReleasePool, context: DecisionContext) -> Events:
    """Release an allocation of a pool, or withdraw a request."""
    pool = world.pools.get(checked(command.pool_id, "pool_id"))
    known = None if pool is None else request_of(pool, checked(command.request_id, "request_id"))
    if pool is None or known is None:
        return ()
    task = task_of(world, known.owner)
    if task is not None:
        msg = f"request {command.request_id!r} ends with task {task.task_id}, which names it: cancel the task"
        raise Refused(msg, reason="request_bound")
    return _Draft(world, pool, context).after(_end_of(pool, command.request_id, reason="requested"))


def _end_of(pool: Pool, request_id: str, *, reason: str) -> PoolReleased | PoolWithdrawn:
    kind = PoolReleased if request_id in pool.allocations else PoolWithdrawn
    return kind(pool_id=pool.pool_id, request_id=request_id, reason=reason)


def move(world: World, command: MoveShare, context: DecisionContext) -> Events:
    """Put a share into another part of its pool."""
    pool = _pool(world, command.pool_id)
    share = pool.allocations.get(checked(command.request_id, "request_id"))
    if share is None or command.part not in pool.parts:
        what = f"request {command.request_id!r}" if share is None else f"part {shown(command.part)}"
        raise NotFound(f"{what} not found in pool {pool.pool_id!r}: `coordinator pool get` shows what there is")
    if share.part == command.part:
        return ()
    if not share.movable:
        msg = f"the share of request {command.request_id!r} is not movable: it was not requested so"
        raise Refused(msg, reason="not_movable")
    held = world.indexes.in_pools.held.get(pool.pool_id, {})
    room = pool.parts[command.part] - held.get(f"part:{command.part}", NONE)
    if not covers(room, share.resources):
        msg = f"part {command.part!r} has no room for request {command.request_id!r}: {share.resources.lacking(room)}"
        raise Refused(msg, reason="part_full")
    moved = PoolMoved(pool_id=pool.pool_id, request_id=command.request_id, part=command.part)
    return _Draft(world, pool, context).after(moved)


def _pool(world: World, pool_id: str) -> Pool:
    pool = world.pools.get(checked(pool_id, "pool_id"))
    if pool is None:
        msg = f"pool {pool_id!r} not found: initialize it with its capacity first"
        raise NotFound(msg)
    return pool


def due(world: World, context: DecisionContext, owners: dict[str, None], pools: dict[str, None]) -> Iterator[Event]:
    """
    Yield what ends with the *owners* that have ended, the requests that time out, and who gets what they leave.

    An owner is looked at once, and so are the *pools* that have changed: a full turn may have had no room for all that
    follows. They are not forgotten if the caller takes no more events.
    """
    for owner in tuple(owners):
        if has_ended(world, owner):
            for pool_id, request_id in tuple(world.indexes.in_pools.owners.get(owner, ())):
                pool = world.pools[pool_id]
                yield from _Draft(world, pool, context).after(_end_of(pool, request_id, reason="owner_ended"))
        del owners[owner]
    for pool_id in tuple(world.indexes.in_pools.waited_for):
        while (request := _over(world.pools[pool_id], context.now)) is not None:
            yield from _timed_out(world, world.pools[pool_id], request, context)
    for pool_id in tuple(pools):
        yield from _Draft(world, world.pools[pool_id], context).settled()
        del pools[pool_id]


def _over(pool: Pool, now: float) -> Request | None:
    """Return a request that has waited as long as it may."""
    return next((one for one in pool.waiting.values() if one.until is not None and one.until <= now), None)


def _timed_out(world: World, pool: Pool, request: Request, context: DecisionContext) -> Iterator[Event]:
    task = task_of(world, request.owner)
    yield from _Draft(world, pool, context).after(
        PoolWithdrawn(pool_id=pool.pool_id, request_id=request.request_id, reason="timed_out")
    )
    if task is not None and task.status is TaskStatus.PENDING:
        why = f"its request {request.request_id} for a share of pool {pool.pool_id} timed out"
        yield TaskCancelled(task_id=task.task_id, reason=why)


class _Draft:
    """The events of one decision about a pool, and the pool as it is after each."""

    def __init__(self, world: World, pool: Pool, context: DecisionContext) -> None:
        self._world, self._pool, self._context = world, pool, context
        self._ledger = Ledger(pool, world.indexes.in_pools.held.get(pool.pool_id, {}))
        self._events: list[Event] = []

    def after(self, first: AnyPoolEvent) -> Events:
        """Return an event and who gets shares by it."""
        self._add(first)
        self._grant()
        return tuple(self._events)

    def settled(self) -> Events:
        """Return who gets shares as the pool is."""
        self._grant()
        return tuple(self._events)

    def at_once(self, request: Request, *, owned: bool) -> Events:
        """Return the share of a new request, if it gets one before those that wait; no event if it has to wait."""
        for one, part in self._ledger.settle((*self._pool.waiting.values(), request)):
            if one is request:
                return (self._share(request, part, owned=owned),)
        taking = self._ledger.takers((*self._pool.waiting.values(), request))
        if any(one is request for one in taking) and self._preempt(request, owned=owned):
            self._grant()
        return tuple(self._events)

    def is_possible(self, request: Request) -> bool:
        """Return whether a request could get a share if nobody else held one."""
        return self._ledger.is_possible(request)

    def _grant(self) -> None:
        """Give shares to those that get one, and to those that take them from others, until nobody gets one."""
        while self._pool.waiting:
            for request, part in self._ledger.settle(self._pool.waiting.values()):
                self._events.append(event := self._share(request, part))
                self._pool = evolve(self._pool, event, self._stamp())
            if not any(map(self._preempt, self._ledger.takers(self._pool.waiting.values()))):
                return

    def _preempt(self, request: Request, *, owned: bool = False) -> bool:
        """Take the shares that a request needs for it; return whether that is possible."""
        found = self._ledger.victims(request, self._pool.allocations.values())
        if found is None:
            return False
        part, victims = found
        for share in victims:
            self._take(share, request.request_id)
        self._add(self._share(request, part, owned=owned))
        return True

    def _take(self, share: Allocation, by: str) -> None:
        task = task_of(self._world, share.owner)
        runs = task is not None and task.status is TaskStatus.RUNNING
        is_to_end = task is not None and task.cancelling is not None
        self._add(
            PoolPreempted(
                pool_id=self._pool.pool_id,
                request_id=share.request_id,
                by=by,
                waits=task is not None and not is_to_end,
                worker_id=task.worker_id if task is not None and runs else "",
                lease=task.lease if task is not None and runs else "",
            )
        )
        if task is not None and runs:
            why = f"request {by} took the share of its request {share.request_id}"
            self._events.append(released(task, why, self._context))

    def _share(self, request: Request, part: str, *, owned: bool = False) -> PoolAllocated:
        return PoolAllocated(
            pool_id=self._pool.pool_id,
            request_id=request.request_id,
            resources=request.resources,
            priority=request.priority,
            owned=owned,
            part=part,
            owner=request.owner,
            movable=request.movable,
        )

    def _add(self, event: AnyPoolEvent) -> None:
        self._events.append(event)
        before, self._pool = self._pool, evolve(self._pool, event, self._stamp())
        self._ledger.pool = self._pool
        match event:
            case PoolReleased() | PoolPreempted():
                self._ledger.give_back(before.allocations[event.request_id])
            case PoolMoved():
                self._ledger.give_back(before.allocations[event.request_id])
                self._ledger.take(self._pool.allocations[event.request_id], event.part)
            case PoolAllocated():
                self._ledger.take(self._pool.allocations[event.request_id], event.part)
            case _:
                pass

    def _stamp(self) -> Stamp:
        return Stamp(START, self._context.now, self._context.tenant, self._context.actor)


DECIDERS: dict[type[Command], Decider] = {
    DefinePool: define,
    AllocatePool: allocate,
    MoveShare: move,
    ReleasePool: release,
}
TELLERS: dict[type[Command], Teller] = {
    DefinePool: lambda world, command, context, done: world.pools[command.pool_id],
    AllocatePool: lambda world, command, context, done: command.request_id in world.pools[command.pool_id].allocations,
    ReleasePool: lambda world, command, context, done: done,
}
