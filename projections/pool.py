"""Resource pools: state, and the fold of their events. Pure. What is held is the sum of the allocations."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from events.base import Position
from events.pool import (
    Placing,
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.resources import NONE, Resources
from projections.stamp import Stamp, existing, missing

if TYPE_CHECKING:
    AnyPoolEvent = (
        PoolDefined
        | PoolRequested
        | PoolAllocated
        | PoolBound
        | PoolMoved
        | PoolReleased
        | PoolPreempted
        | PoolWithdrawn
    )

OF_TASK = "task:"
"""So begins the owner of a share that a task named."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The resources that one request holds of a pool; `source` is whose they are, '' if that is not recorded.

    They lie in one `part` of the pool if it has some. `owner` is what they end with, such as `task:task_1`.
    """

    request_id: str
    resources: Resources
    allocated_at: float
    priority: int = 0
    source: str = ""
    tenant: str = ""
    part: str = ""
    owner: str = ""
    movable: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request that waits for a share, `until` a commit time in seconds; without an end if that is null."""

    request_id: str
    resources: Resources
    asked_at: float
    priority: int = 0
    source: str = ""
    tenant: str = ""
    owner: str = ""
    until: float | None = None
    preempts: bool = False
    movable: bool = False


class Pool(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One pool and its allocations, by request; `source` is who defined it first, '' if that is not recorded.

    `waiting` has the requests that wait, in the order in which they came.
    """

    pool_id: str
    capacity: Resources
    defined: Position
    allocations: dict[str, Allocation]
    """Without a default, as it is never omitted: earlier releases wrote it even where it is empty."""
    source: str = ""
    tenant: str = ""
    parts: dict[str, Resources] = {}
    placing: Placing = Placing.PACK
    quotas: dict[str, Resources] = {}
    waiting: dict[str, Request] = {}

    @property
    def held(self) -> Resources:
        """The resources that are allocated now."""
        return reduce(add, (one.resources for one in self.allocations.values()), NONE)

    @property
    def free(self) -> Resources:
        """The resources that can still be allocated."""
        return self.capacity - self.held


def evolve(pool: Pool | None, event: AnyPoolEvent, stamp: Stamp) -> Pool:
    """Fold one event into the pool it is about."""
    if isinstance(event, PoolDefined):
        return _defined(pool, event, stamp)
    if pool is None:
        missing(event, stamp)
    match event:
        case PoolAllocated():
            if event.request_id in pool.allocations:
                existing(event, stamp)
            granted = _granted(pool.waiting.get(event.request_id), event, stamp)
            return _with(pool, event.request_id, granted, None)
        case PoolRequested():
            if event.request_id in pool.allocations or event.request_id in pool.waiting:
                existing(event, stamp)
            return _with(pool, event.request_id, None, _asked(event, stamp))
        case PoolReleased():
            _held(pool, event, stamp)
            return _with(pool, event.request_id, None, None)
        case PoolPreempted():
            lost = _held(pool, event, stamp)
            return _with(pool, event.request_id, None, _again(lost) if event.waits else None)
        case PoolMoved():
            moved = msgspec.structs.replace(_held(pool, event, stamp), part=event.part)
            return _with(pool, event.request_id, moved, None)
        case PoolWithdrawn():
            _waits(pool, event, stamp)
            return _with(pool, event.request_id, None, None)
        case PoolBound():
            if event.request_id in pool.allocations:
                share = msgspec.structs.replace(pool.allocations[event.request_id], owner=event.owner)
                return _with(pool, event.request_id, share, None)
            request = msgspec.structs.replace(_waits(pool, event, stamp), owner=event.owner)
            return _with(pool, event.request_id, None, request)
    assert_never(event)


def _defined(pool: Pool | None, event: PoolDefined, stamp: Stamp) -> Pool:
    said: dict[str, Any] = {
        "capacity": event.capacity,
        "defined": stamp.position,
        "parts": event.parts,
        "placing": event.placing,
        "quotas": event.quotas,
    }
    if pool is not None:
        return msgspec.structs.replace(pool, **said)
    source, tenant = _whose(event, stamp)
    return Pool(pool_id=event.pool_id, allocations={}, source=source, tenant=tenant, **said)


def request_of(pool: Pool, request_id: str) -> Allocation | Request | None:
    """Return the share of a request, or the request that waits; None if there is neither."""
    return pool.allocations.get(request_id) or pool.waiting.get(request_id)


def _whose(event: PoolDefined | PoolAllocated | PoolRequested, stamp: Stamp) -> tuple[str, str]:
    """Return the source and the tenant that something new belongs to; older releases did not say so."""
    return (stamp.owner, stamp.tenant) if event.owned else ("", "")


def _held(pool: Pool, event: PoolReleased | PoolPreempted | PoolMoved, stamp: Stamp) -> Allocation:
    share = pool.allocations.get(event.request_id)
    return missing(event, stamp) if share is None else share


def _waits(pool: Pool, event: PoolWithdrawn | PoolBound, stamp: Stamp) -> Request:
    request = pool.waiting.get(event.request_id)
    return missing(event, stamp) if request is None else request


def _granted(waited: Request | None, event: PoolAllocated, stamp: Stamp) -> Allocation:
    if waited is not None:
        source, tenant = waited.source, waited.tenant
    else:
        source, tenant = _whose(event, stamp)
    return Allocation(
        request_id=event.request_id,
        resources=event.resources,
        allocated_at=stamp.time,
        priority=event.priority,
        source=source,
        tenant=tenant,
        part=event.part,
        owner=event.owner,
        movable=event.movable,
    )


def _asked(event: PoolRequested, stamp: Stamp) -> Request:
    source, tenant = _whose(event, stamp)
    return Request(
        request_id=event.request_id,
        resources=event.resources,
        asked_at=stamp.time,
        priority=event.priority,
        source=source,
        tenant=tenant,
        owner=event.owner,
        until=event.until,
        preempts=event.preempts,
        movable=event.movable,
    )


def _again(lost: Allocation) -> Request:
    """Return the request whose share was taken: it waits from when it got it on, and takes none of another."""
    return Request(
        request_id=lost.request_id,
        resources=lost.resources,
        asked_at=lost.allocated_at,
        priority=lost.priority,
        source=lost.source,
        tenant=lost.tenant,
        owner=lost.owner,
        movable=lost.movable,
    )


def _with(pool: Pool, request_id: str, share: Allocation | None, request: Request | None) -> Pool:
    """Return the pool with what a request has now; what is there already keeps its place."""
    allocations, waiting = pool.allocations, pool.waiting
    if share is not None:
        allocations = {**allocations, request_id: share}
    elif request_id in allocations:
        allocations = {key: one for key, one in allocations.items() if key != request_id}
    if request is not None:
        waiting = {**waiting, request_id: request}
    elif request_id in waiting:
        waiting = {key: one for key, one in waiting.items() if key != request_id}
    return msgspec.structs.replace(pool, allocations=allocations, waiting=waiting)
