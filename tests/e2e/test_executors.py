"""
Executors of the execution domain contend for resources: real processes with the Python facades, and a real nats-server.

What was granted is read from the journal, event by event, without the code that is checked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.pool import GetPool
from coordinator.commands.task import GetTask
from coordinator.deciders.rules import Rules
from coordinator.guard import Child, spawn
from coordinator.scheduler import ResourceAllocator, TaskLimits, TaskScheduler
from events.codec import decode, seconds_of
from events.limit import LimitEvent
from events.pool import TASKS, PoolAllocated, PoolEvent, PoolPreempted, PoolReleased, PoolRequested
from events.task import TaskEvent, TaskStatus
from events.worker import WorkerLost
from tests.facades import logs_as_before
from tests.golden.release_journal import read_journal
from tests.simulation.kept_limits import KeptLimits
from tests.simulation.kept_pools import KeptPools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.e2e.conftest import Cluster

__all__ = ["logs_as_before"]

pytestmark = pytest.mark.e2e

PATIENCE_S = 60.0
EXECUTORS = 4
RULES = Rules(lease_s=1.5, worker_timeout_s=3.0, retry_backoff_s=0.05)

HANDLERS = """
import asyncio
from coordinator.scheduler import ResourceAllocator
from coordinator.worker import Context, task

allocator = ResourceAllocator()  # opens at its first call, where COORDINATOR_URL says

def seconds(payload, context):
    return payload["first_s"] if context.attempt == 1 else 0.05

@task("execute")
async def execute(context: Context, payload):
    "Use a share of the pool while it works; it ends with this executor, whatever becomes of that."
    request = f"{context.task_id}-{context.attempt}"
    granted = await allocator.request_resources(
        request, {"cpu": payload["cpu"]}, payload["priority"],
        wait=40.0, preempt=payload.get("preempt", False), owner=f"worker:{context.worker_id}",
    )
    assert granted, f"{request} got no share in 40 s"
    await asyncio.sleep(seconds(payload, context))
    await allocator.release_resources(request)

@task("named")
async def named(context: Context, payload):
    "Work in the share that the task named: it is there before the task begins."
    held = (await allocator.get_resource_status())["allocations"]
    assert held[payload["request"]]["owner"] == f"task:{context.task_id}"
    await asyncio.sleep(seconds(payload, context))
"""

LAUNCH = """
import asyncio, sys
from coordinator.worker import run_worker
module, url, name = sys.argv[1:4]
asyncio.run(run_worker(module, url=url, worker_id=name, slots=3, beat_s=0.3, drain_s=5.0))
"""


class Executors:
    """Starts executors, and asks the coordinator as a program does."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._url = cluster.url
        self.client = cluster.client
        (folder / "executor_handlers.py").write_text(HANDLERS)

    @asynccontextmanager
    async def process(self, name: str) -> AsyncIterator[Child]:
        path = os.pathsep.join(sys.path)
        env = {**os.environ, "PYTHONPATH": path, "COORDINATOR_URL": self._url, "COORDINATOR_HOME": str(self._folder)}
        with (self._folder / f"{name}.log").open("ab") as log:
            argv = [sys.executable, "-c", LAUNCH, str(self._folder / "executor_handlers.py"), self._url, name]
            child = await spawn(argv, env=env, stdout=log, stderr=log, grace_s=5.0)
        async with child:
            yield child

    async def ends(self, task_id: str) -> TaskStatus:
        async with asyncio.timeout(PATIENCE_S):
            while not (task := await self.client.execute(GetTask(task_id=task_id, wait_s=5.0))).is_ended:
                pass
        status: TaskStatus = task.status
        return status

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.05)

    async def holds(self, request_id: str) -> bool:
        return request_id in (await self.client.execute(GetPool(pool_id=TASKS))).allocations

    async def waits(self, request_id: str) -> bool:
        return request_id in (await self.client.execute(GetPool(pool_id=TASKS))).waiting


def work(cpu: int, priority: int = 0, first_s: float = 0.05, **others: Any) -> dict[str, Any]:
    return {"cpu": cpu, "priority": priority, "first_s": first_s, **others}


@pytest.mark.parametrize("cluster", [RULES], indirect=True)
async def test_executors_contend_for_a_pool_and_for_keys(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    At no instant more is granted than there is, of the pool and of each key; all work is done in the end.

    One of them is killed while it holds a share, which is free when it is lost; one with a higher priority takes the
    share of a task, which returns to the queue and gets it again.
    """
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    monkeypatch.setenv("COORDINATOR_HOME", str(tmp_path))
    executors = Executors(tmp_path, cluster)
    async with TaskScheduler() as scheduler, ResourceAllocator() as allocator, AsyncExitStack() as several:
        await allocator.initialize({"cpu": 4})
        async with TaskLimits() as limits:
            await limits.define_limit("per_customer", by="attributes.customer", running=3)
        for number in range(EXECUTORS):
            await several.enter_async_context(executors.process(f"executor_{number}"))
        await _contend(executors, scheduler)
        doomed = await several.enter_async_context(executors.process("doomed"))
        await _killed_while_it_holds(executors, scheduler, allocator, doomed)
        await _preempted(executors, scheduler, allocator)
        await executors.until(lambda: _is_free(allocator))
    kinds = await _checked(cluster.url)
    assert min(kinds.get(kind, 0) for kind in (PoolRequested, PoolAllocated, PoolPreempted, PoolReleased)) > 0
    assert kinds[PoolRequested] >= 5, "they did not contend"


async def _contend(executors: Executors, scheduler: TaskScheduler) -> None:
    """Thirty tasks of three keys, for shares of 1 to 3 of 4 cores."""
    tasks = [
        await scheduler.submit_task(
            "execute",
            payload=work(1 + number % 3, priority=number % 4),
            attributes={"customer": f"c{number % 3}"},
            max_retries=0,
        )
        for number in range(30)
    ]
    for task_id in tasks:
        assert await executors.ends(task_id) is TaskStatus.COMPLETED


async def _killed_while_it_holds(
    executors: Executors, scheduler: TaskScheduler, allocator: ResourceAllocator, doomed: Child
) -> None:
    task_id = await scheduler.submit_task(
        "execute", payload=work(3, first_s=600.0), worker_filter='worker_id == "doomed"', task_id="doomed_task"
    )
    await executors.until(lambda: executors.holds(f"{task_id}-1"))
    waits = asyncio.create_task(allocator.request_resources("after", {"cpu": 4}, wait=40.0))
    await executors.until(lambda: executors.waits("after"))
    told = (await allocator.get_resource_status())["waiting"]["after"]
    assert (told["place"], told["code"], told["held_by"]) == (1, "room", [f"{task_id}-1"])
    os.kill(doomed.pid, signal.SIGKILL)
    assert await waits
    assert not await executors.holds(f"{task_id}-1")
    await scheduler.cancel_task(task_id)
    await allocator.release_resources("after")


async def _preempted(executors: Executors, scheduler: TaskScheduler, allocator: ResourceAllocator) -> None:
    assert await allocator.request_resources("low", {"cpu": 3}, 1)
    low = await scheduler.submit_task("named", payload={"request": "low", "first_s": 600.0}, request="low")
    await executors.until(lambda: _runs(scheduler, low))
    urgent = await scheduler.submit_task("execute", payload=work(3, priority=9, first_s=1.0, preempt=True))
    await executors.until(lambda: executors.waits("low"))
    assert (await scheduler.get_task(low)).status is TaskStatus.PENDING
    assert await executors.ends(urgent) is TaskStatus.COMPLETED
    assert await executors.ends(low) is TaskStatus.COMPLETED
    assert (await scheduler.get_task(low)).attempt == 2


async def _runs(scheduler: TaskScheduler, task_id: str) -> bool:
    return (await scheduler.get_task(task_id)).status is TaskStatus.RUNNING


async def _is_free(allocator: ResourceAllocator) -> bool:
    status = await allocator.get_resource_status()
    return not status["allocations"] and not status["waiting"]


async def _checked(url: str) -> dict[type, int]:
    """Check each event of the journal against those before it; return how many there were of each type."""
    pools, limits = KeptPools(), KeptLimits()
    kinds: dict[type, int] = {}
    for record in await read_journal(url):
        if record.kind != "commit":
            continue
        for envelope in decode(record.body):
            event, time = envelope.data, seconds_of(envelope.time)
            kinds[type(event)] = kinds.get(type(event), 0) + 1
            assert not (wrong := pools.take(event, envelope.actor, time, record.sequence)), wrong
            if isinstance(event, TaskEvent):
                assert not (wrong := limits.take(event, time)), wrong
            elif isinstance(event, LimitEvent):
                limits.change(event)
        assert not (wrong := pools.end(record.sequence)), wrong
    assert not pools.last()
    assert kinds.get(WorkerLost) == 1
    assert any(issubclass(kind, PoolEvent) for kind in kinds)
    return kinds
