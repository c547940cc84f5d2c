"""Resource pools: state, and the fold of their events. Pure. What is held is the sum of the allocations."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import Position
from events.pool import PoolAllocated, PoolDefined, PoolReleased
from events.resources import NONE, Resources
from projections.stamp import Stamp, existing, missing

if TYPE_CHECKING:
    AnyPoolEvent = PoolDefined | PoolAllocated | PoolReleased


class Allocation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The resources that one request holds of a pool."""

    request_id: str
    resources: Resources
    allocated_at: float
    priority: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One pool and its allocations, by request."""

    pool_id: str
    capacity: Resources
    defined: Position
    allocations: dict[str, Allocation] = {}

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
        allocations = pool.allocations if pool is not None else {}
        return Pool(pool_id=event.pool_id, capacity=event.capacity, defined=stamp.position, allocations=allocations)
    if pool is None:
        missing(event, stamp)
    match event:
        case PoolAllocated():
            if event.request_id in pool.allocations:
                existing(event, stamp)
            granted = Allocation(
                request_id=event.request_id,
                resources=event.resources,
                allocated_at=stamp.time,
                priority=event.priority,
            )
            return msgspec.structs.replace(pool, allocations={**pool.allocations, event.request_id: granted})
        case PoolReleased():
            if event.request_id not in pool.allocations:
                missing(event, stamp)
            rest = {key: one for key, one in pool.allocations.items() if key != event.request_id}
            return msgspec.structs.replace(pool, allocations=rest)
    assert_never(event)
