"""Resources through the two facades over pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.container import ResourceLimits, ResourceManager
from coordinator.scheduler import ResourceAllocator, TaskScheduler
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from coordinator.app.app import App

GIB = 1024**3


async def test_two_pools(app: App) -> None:
    """The two facades use separate pools; facades of the same class share one pool."""
    manager, allocator = ResourceManager(app), ResourceAllocator(app)
    await manager.initialize({"cpu": 8, "memory": 16 * GIB, "gpu": 2})
    await allocator.initialize({"cpu": 16, "memory": "32Gi", "gpu": 4})
    assert await manager.allocate_resources("same-name", ResourceLimits(cpu_limit=2.0, memory_limit=4 * GIB))
    assert await allocator.request_resources("same-name", {"cpu": 4, "memory": 8 * GIB}, priority=10)
    held = await ResourceManager(app).get_resource_status()
    assert held["total"] == {"cpu": 8.0, "memory": 16 * GIB, "gpu": 2}
    assert held["allocated"] == {"cpu": 2.0, "memory": 4 * GIB, "gpu": 0}
    assert held["available"] == {"cpu": 6.0, "memory": 12 * GIB, "gpu": 2}
    assert held["utilization"] == {"cpu": 0.25, "memory": 0.25, "gpu": 0.0}
    other = await allocator.get_resource_status()
    assert other["allocated"] == {"cpu": 4.0, "memory": 8 * GIB, "gpu": 0}
    assert other["allocations"]["same-name"]["priority"] == 10


async def test_what_does_not_fit(app: App) -> None:
    """Asking for more than is free returns False and allocates nothing; released resources are free again."""
    allocator = ResourceAllocator(app)
    await allocator.initialize({"cpu": 2})
    assert await allocator.request_resources("a", {"cpu": "1500m"})
    assert not await allocator.request_resources("b", {"cpu": 1})
    assert not await allocator.request_resources("c", {"gpu": 1})
    assert (await allocator.get_resource_status())["allocations"].keys() == {"a"}
    assert await allocator.release_resources("a")
    assert not await allocator.release_resources("a")
    assert await allocator.request_resources("b", {"cpu": 1})


async def test_the_same_request_again(app: App) -> None:
    """Repeating a request changes nothing; the same id with other amounts is refused."""
    allocator = ResourceAllocator(app)
    await allocator.initialize({"cpu": 4})
    assert await allocator.request_resources("a", {"cpu": 3})
    assert await allocator.request_resources("a", {"cpu": 3})
    with pytest.raises(Refused, match="'a'"):
        await allocator.request_resources("a", {"cpu": 1})


async def test_a_pool_never_initialized(app: App) -> None:
    """A pool without a capacity is not found; initializing without one neither creates a pool nor changes it."""
    allocator = ResourceAllocator(app)
    await allocator.initialize()
    with pytest.raises(NotFound):
        await allocator.get_resource_status()
    with pytest.raises(NotFound):
        await allocator.request_resources("a", {"cpu": 1})
    await allocator.initialize({"cpu": 4})
    await ResourceAllocator(app).initialize()
    assert (await allocator.get_resource_status())["total"]["cpu"] == 4.0


async def test_optimizing(app: App) -> None:
    """Allocations named after an ended task are released; others, and those of tasks that have not ended, stay."""
    allocator, scheduler = ResourceAllocator(app), TaskScheduler(app)
    await allocator.initialize({"cpu": 10})
    ended, living = [await scheduler.submit_task("a") for _ in range(2)]
    for request_id in (ended, living, "something-else"):
        await allocator.request_resources(request_id, {"cpu": 1})
    assert await allocator.optimize_allocations() == {"optimizations_applied": 0, "actions": []}
    await scheduler.complete_task(ended)
    done = await allocator.optimize_allocations()
    assert done["optimizations_applied"] == 1
    assert done["actions"] == [{"released": ended, "why": f"task {ended} has ended as completed"}]
    assert (await allocator.get_resource_status())["allocations"].keys() == {living, "something-else"}
