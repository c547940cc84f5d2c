"""Deciders of the resource pool commands. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.validation import check_number, check_resources
from coordinator.deciders.rules import Decider, Teller
from events.errors import NotFound, Refused
from events.ids import checked
from events.pool import PoolAllocated, PoolDefined, PoolReleased
from events.resources import NONE

if TYPE_CHECKING:
    from coordinator.deciders.rules import DecisionContext, Events
    from projections.world import World


MOST_POOLS = 1000
MOST_ALLOCATIONS = 5000


def define(world: World, command: DefinePool, context: DecisionContext) -> Events:
    """Define a pool or change its capacity; existing allocations stay."""
    check_resources("capacity", command.capacity)
    known = world.pools.get(checked(command.pool_id, "pool_id"))
    if known is not None and known.capacity == command.capacity:
        return ()
    if known is None and len(world.pools) >= MOST_POOLS:
        msg = f"there are {len(world.pools)} pools, the maximum: use an existing pool"
        raise Refused(msg, reason="too_many")
    return (PoolDefined(pool_id=command.pool_id, capacity=command.capacity, owned=bool(context.actor)),)


def allocate(world: World, command: AllocatePool, context: DecisionContext) -> Events:
    """Allocate resources of a pool if they fit; return no event if they do not."""
    checked(command.request_id, "request_id")
    check_number("priority", command.priority, -1_000_000, 1_000_000)
    check_resources("resources", command.resources)
    pool = world.pools.get(checked(command.pool_id, "pool_id"))
    if pool is None:
        msg = f"pool {command.pool_id!r} not found: initialize it with its capacity first"
        raise NotFound(msg)
    held = pool.allocations.get(command.request_id)
    if held is not None:
        if held.resources == command.resources:
            return ()
        msg = f"request_id {command.request_id!r} already holds {held.resources}: release it first, or use a new id"
        raise Refused(msg, reason="id_taken")
    if len(pool.allocations) >= MOST_ALLOCATIONS:
        msg = f"pool {pool.pool_id!r} has {len(pool.allocations)} allocations, the maximum: release some"
        raise Refused(msg, reason="too_many")
    if not command.resources.fits_in(pool.capacity - world.indexes.pool_held.get(pool.pool_id, NONE)):
        return ()
    granted = PoolAllocated(
        pool_id=pool.pool_id,
        request_id=command.request_id,
        resources=command.resources,
        priority=command.priority,
        owned=bool(context.actor),
    )
    return (granted,)


def release(world: World, command: ReleasePool, context: DecisionContext) -> Events:
    """Release an allocation of a pool."""
    pool = world.pools.get(checked(command.pool_id, "pool_id"))
    if pool is None or checked(command.request_id, "request_id") not in pool.allocations:
        return ()
    return (PoolReleased(pool_id=pool.pool_id, request_id=command.request_id),)


DECIDERS: dict[type[Command], Decider] = {
    DefinePool: define,
    AllocatePool: allocate,
    ReleasePool: release,
}
TELLERS: dict[type[Command], Teller] = {
    DefinePool: lambda world, command, context, done: world.pools[command.pool_id],
    AllocatePool: lambda world, command, context, done: command.request_id in world.pools[command.pool_id].allocations,
    ReleasePool: lambda world, command, context, done: done,
}
