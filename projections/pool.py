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
    """The resources that one request holds of a pool; `source` is whose they are, '' if that is not recorded."""

    request_id: str
    resources: Resources
    allocated_at: float
    priority: int = 0
    source: str = ""
    tenant: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One pool and its allocations, by request; `source` is who defined it first, '' if that is not recorded."""

    pool_id: str
    capacity: Resources
    defined: Position
    allocations: dict[str, Allocation]
    """Without a default, as it is never omitted: earlier releases wrote it even where it is empty."""
    source: str = ""
    tenant: str = ""

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
        if pool is not None:
            return msgspec.structs.replace(pool, capacity=event.capacity, defined=stamp.position)
        source, tenant = (stamp.owner, stamp.tenant) if event.owned else ("", "")
        return Pool(
            pool_id=event.pool_id,
            capacity=event.capacity,
            defined=stamp.position,
            allocations={},
            source=source,
            tenant=tenant,
        )
    if pool is None:
        missing(event, stamp)
    match event:
        case PoolAllocated():
            if event.request_id in pool.allocations:
                existing(event, stamp)
            source, tenant = (stamp.owner, stamp.tenant) if event.owned else ("", "")
            granted = Allocation(
                request_id=event.request_id,
                resources=event.resources,
                allocated_at=stamp.time,
                priority=event.priority,
                source=source,
                tenant=tenant,
            )
            return msgspec.structs.replace(pool, allocations={**pool.allocations, event.request_id: granted})
        case PoolReleased():
            if event.request_id not in pool.allocations:
                missing(event, stamp)
            rest = {key: one for key, one in pool.allocations.items() if key != event.request_id}
            return msgspec.structs.replace(pool, allocations=rest)
    assert_never(event)
