"""The base of `ResourceManager` and `ResourceAllocator`: a facade over one named pool of resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.app.facade import Facade
from coordinator.commands.arguments import text, whole
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool, ReleasePool
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from projections.pool import Pool


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
        await self.execute(DefinePool(pool_id=self.POOL, capacity=Resources.parse(capacity)))

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
        """Release the resources that *request_id* holds; return False if it holds none."""
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
        pool: Pool = await self.execute(GetPool(pool_id=self.POOL))
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
