"""Resources through the two facades over pools."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.container import ResourceLimits, ResourceManager
from coordinator.scheduler import ResourceAllocator, TaskScheduler
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


async def test_waiting_for_a_share(app: App) -> None:
    """It is granted when there is room, in the order of priority, while the caller waits."""
    allocator = ResourceAllocator(app)
    await allocator.initialize({"cpu": 2})
    assert await allocator.request_resources("a", {"cpu": 2})
    low = asyncio.create_task(allocator.request_resources("low", {"cpu": 1}, 1, wait=30.0))
    await until(lambda: has_waiting(allocator, "low"))
    high = asyncio.create_task(allocator.request_resources("high", {"cpu": 2}, 5, wait=30.0))
    await until(lambda: has_waiting(allocator, "high"))
    told = (await allocator.get_resource_status())["waiting"]
    assert [(name, one["place"], one["code"], one["held_by"]) for name, one in told.items()] == [
        ("high", 1, "room", ["a"]),
        ("low", 2, "room", ["a"]),
    ]
    assert told["high"]["why"] == "the pool has too little: cpu: asked 2000m, free 0m"
    assert told["low"]["times_out_at"] <= told["high"]["times_out_at"]
    await allocator.release_resources("a")
    assert await high
    assert not low.done()
    await allocator.release_resources("high")
    assert await low


async def test_who_gives_up_waits_no_more(app: App) -> None:
    """When the time is over, and when the caller is cancelled: nothing is granted to it later."""
    allocator = ResourceAllocator(app)
    await allocator.initialize({"cpu": 2})
    assert await allocator.request_resources("a", {"cpu": 2})
    assert not await allocator.request_resources("b", {"cpu": 1}, wait=0.1)
    waits = asyncio.create_task(allocator.request_resources("c", {"cpu": 1}, wait=30.0))
    await until(lambda: has_waiting(allocator, "c"))
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    await allocator.release_resources("a")
    status = await allocator.get_resource_status()
    assert not status["waiting"]
    assert not status["allocations"]


async def test_a_task_uses_the_share_that_it_names(app: App) -> None:
    """It is free when the task has ended; while it waits for the share, no worker gets the task."""
    allocator, scheduler = ResourceAllocator(app), TaskScheduler(app)
    await allocator.initialize({"cpu": 2})
    await allocator.request_resources("a", {"cpu": 2})
    first = await scheduler.submit_task("n", request="a")
    waits = asyncio.create_task(allocator.request_resources("b", {"cpu": 2}, wait=30.0))
    await until(lambda: has_waiting(allocator, "b"))
    second = await scheduler.submit_task("n", request="b")
    task = await scheduler.get_next_task("w")
    assert task is not None
    assert task.task_id == first
    assert await scheduler.get_next_task("w") is None
    await scheduler.complete_task(first)
    assert await waits
    assert list((await allocator.get_resource_status())["allocations"]) == ["b"]
    task = await scheduler.get_next_task("w")
    assert task is not None
    assert task.task_id == second
    await scheduler.complete_task(second)
    await until(lambda: is_free(allocator))


async def test_parts_quotas_and_moves(app: App) -> None:
    """A pool of two nodes: moves are told, and made when that is asked for."""
    allocator = ResourceAllocator(app)
    nodes = {"n1": {"cpu": 4, "gpu": 1}, "n2": {"cpu": 4}}
    await allocator.initialize(parts=nodes, placing="spread", quotas={"source:nobody": {"gpu": 1}})
    for name in ("a", "b"):
        assert await allocator.request_resources(name, {"cpu": 2}, movable=True)
    status = await allocator.get_resource_status()
    assert {name: one["part"] for name, one in status["allocations"].items()} == {"a": "n1", "b": "n2"}
    assert status["parts"]["n1"] == {
        "total": {"cpu": 4.0, "memory": 0, "gpu": 1},
        "allocated": {"cpu": 2.0, "memory": 0, "gpu": 0},
    }
    waits = asyncio.create_task(allocator.request_resources("c", {"cpu": 4}, wait=30.0))
    await until(lambda: has_waiting(allocator, "c"))
    plan = await allocator.optimize_allocations()
    assert plan["optimizations_applied"] == 0
    (move,) = plan["actions"]
    assert (move["move"], move["from"], move["to"], move["applied"]) == ("a", "n1", "n2", False)
    assert (move["gain"], move["cost"]) == (0.5, 0.25)
    assert (await allocator.optimize_allocations(apply=True))["optimizations_applied"] == 1
    assert await waits
    with pytest.raises(Refused, match="give the capacity"):
        await allocator.initialize(placing="spread")


async def test_preempting(app: App) -> None:
    """A higher priority takes the share of a lower one if it says so."""
    allocator = ResourceAllocator(app)
    await allocator.initialize({"cpu": 2})
    assert await allocator.request_resources("a", {"cpu": 2}, 1)
    assert not await allocator.request_resources("b", {"cpu": 1}, 5)
    assert await allocator.request_resources("b", {"cpu": 1}, 5, preempt=True)
    assert list((await allocator.get_resource_status())["allocations"]) == ["b"]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so, at most ten seconds."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def has_waiting(allocator: ResourceAllocator, request_id: str) -> bool:
    return request_id in (await allocator.get_resource_status())["waiting"]


async def is_free(allocator: ResourceAllocator) -> bool:
    return not (await allocator.get_resource_status())["allocations"]


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
