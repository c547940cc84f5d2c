"""The base of `ResourceManager` and `ResourceAllocator`: a facade over one named pool of resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.app.facade import Facade
from coordinator.commands.arguments import text, whole
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool, ReleasePool
from events.errors import CoordinationError, Refused
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from projections.pool import Allocation, Pool

PAGE = 500
"""Allocations in one answer, if all of them do not fit into one."""


class PoolFacade(Facade):
    """The resource pool named `POOL`. All processes of the cluster share it."""

    POOL = ""

    async def initialize(self, capacity: Mapping[str, Any] | None = None) -> None:
        """
        Set the capacity of the pool; without an argument, only open the connection and keep the capacity.

        Args:
            capacity: `cpu` in cores, `memory` in bytes, `gpu` as a count, such as
                `{"cpu": 8, "memory": 16 * 1024**3, "gpu": 2}`; quantities such as "500m" and "2Gi" are accepted.

        Raises:
            Refused: an amount is not a quantity.
            Unavailable: the coordinator cannot be reached.
        """
        if capacity is None:
            await self.opened()
            return
        try:
            await self.execute(DefinePool(pool_id=self.POOL, capacity=Resources.parse(capacity)))
        except CoordinationError as error:
            # It was carried out; the answer, the pool with all its allocations, had no room in a message.
            if error.code != CoordinationError.code or error.reason != "too_large":
                raise

    async def _pool(self) -> Pool:
        """Return the pool with all its allocations; in pages, one after the other, if a message has no room for it."""
        try:
            whole_pool: Pool = await self.execute(GetPool(pool_id=self.POOL))
        except Refused as error:
            if error.reason != "too_large":
                raise
        else:
            return whole_pool
        found: dict[str, Allocation] = {}
        after, page = "", PAGE
        while True:
            try:
                pool: Pool = await self.execute(GetPool(pool_id=self.POOL, limit=page, after=after))
            except Refused as error:
                if error.reason == "bad_cursor":  # the last one of the page before was released meanwhile
                    found, after = {}, ""
                elif error.reason == "too_large" and page > 1:
                    page //= 2
                else:
                    raise
                continue
            found |= pool.allocations
            if len(pool.allocations) < page:
                return msgspec.structs.replace(pool, allocations=found)
            after = next(reversed(pool.allocations))

    async def _allocate(self, request_id: str, resources: Resources, priority: int) -> bool:
        granted: bool = await self.execute(
            AllocatePool(
                pool_id=self.POOL,
                request_id=text("request_id", request_id),
                resources=resources,
                priority=whole("priority", priority),
            )
        )
        return granted

    async def release_resources(self, request_id: str) -> bool:
        """
        Release the resources that *request_id* holds; return False if it holds none.

        Raises:
            Forbidden: another source holds them, and this one is no administrator.
        """
        released: bool = await self.execute(ReleasePool(pool_id=self.POOL, request_id=text("request_id", request_id)))
        return released

    async def get_resource_status(self) -> dict[str, Any]:
        """
        Return the pool's capacity and its allocations.

        The keys `total`, `allocated`, `available` and `utilization` (0 to 1) each hold a dict with `cpu` (cores),
        `memory` (bytes) and `gpu` (count). `allocations` maps each request id to its amounts, its `priority`, and
        `since`, in seconds since 1970.

        Raises:
            NotFound: the pool was never initialized.
        """
        pool = await self._pool()
        total, held = amounts(pool.capacity), amounts(pool.held)
        return {
            "total": total,
            "allocated": held,
            "available": amounts(pool.free),
            "utilization": {name: held[name] / total[name] if total[name] else 0.0 for name in total},
            "allocations": {
                one.request_id: {**amounts(one.resources), "priority": one.priority, "since": one.allocated_at}
                for one in pool.allocations.values()
            },
        }


def amounts(resources: Resources) -> dict[str, float]:
    """Return resources as `cpu` in cores, `memory` in bytes and `gpu` as a count."""
    return {"cpu": resources.cpu_millis / 1000, "memory": resources.memory_bytes, "gpu": resources.gpus}
