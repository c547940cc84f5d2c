"""Measure latency for one caller on an idle cluster: submit, task start, claim, container start, discovery."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.bench.bare import Bare
from coordinator.bench.loads import PAYLOAD, submit_all, worker_process
from coordinator.bench.measure import facades_at, machine, measured_cluster, resident_bytes, spread, timed
from coordinator.client.client import Client
from coordinator.commands.payloads import value_of
from coordinator.commands.task import ClaimTasks, CompleteTask, GetTask, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.ids import TimeOrderedIds
from coordinator.settings.load import load

if TYPE_CHECKING:
    from coordinator.processes.up import Cluster

BLOCK = 100
EVERY_S = 0.02
"""Interval between submits when task start is measured; the cluster is idle otherwise."""
FEW_PENDING = 100
TASK_TIMEOUT_S = 30.0

_ids = TimeOrderedIds()


async def run(*, submits: int, tasks: int, claims: int, pending: int, starts: int, discoveries: int) -> dict[str, Any]:
    """
    Measure latency for one caller that makes calls back to back on an idle cluster.

    Returns milliseconds: `submit_ms` over RPC with fsync, and `submit_to_bare`, its median divided by that of bare
    publishes made in turns with it; `submit_to_start_ms` until the handler begins in a worker process; `claim_ms` with
    few and with *pending* pending tasks, and `claim_ratio` of the medians; `container_running_ms` and
    `agent_healthy_ms` from the call that starts a container; `discovery_ms` in one process. Also returns the memory
    growth of the coordinator in bytes per pending task.
    """
    async with measured_cluster() as cluster:
        async with Client.open(cluster.url, source="bench") as client, Bare.open(cluster.url) as bare:
            submit_ms, bare_ms = await _submits(client, bare, submits)
            async with worker_process(client, cluster.url, "worker_of_bench"):
                start_ms = await _task_starts(client, tasks)
            alone = await bare.figures()
            claim_ms, grown = await _claims(client, claims, (FEW_PENDING, pending), cluster)
        with facades_at(cluster.url):
            running_ms, healthy_ms = await _starts(starts)
    few_ms, many_ms = claim_ms.values()
    return {
        "submit_ms": spread(submit_ms),
        "submit_to_bare": round(median(submit_ms) / median(bare_ms), 2),
        "submit_to_start_ms": spread(start_ms),
        "claim_ms": {f"{count}_pending": spread(took) for count, took in claim_ms.items()},
        "claim_ratio": round(median(many_ms) / median(few_ms), 2),
        "coordinator_bytes_per_pending_task": round(grown / (pending - FEW_PENDING)),
        "container_running_ms": spread(running_ms),
        "agent_healthy_ms": spread(healthy_ms),
        "discovery_ms": spread(await _discoveries(discoveries)),
        **alone,
        "bare_publish_ms": spread(bare_ms),
        "machine": await machine(),
    }


async def _submits(client: Client, bare: Bare, count: int) -> tuple[list[float], list[float]]:
    """Submit tasks one after the other, alternating with bare publishes of the same size."""

    async def submit() -> None:
        await client.execute(SubmitTask(task_id=_ids.new("task"), task_name="nobody_runs_this"))

    await timed(submit, BLOCK)
    submits: list[float] = []
    publishes: list[float] = []
    for _ in range(max(1, count // BLOCK)):
        submits += await timed(submit, BLOCK)
        publishes += await timed(bare.publish, BLOCK)
    return submits, publishes


async def _task_starts(client: Client, count: int) -> list[float]:
    """Submit a task every 20 ms; measure from the call until its handler begins in another process."""
    began: dict[str, float] = {}
    for number in range(count):
        task_id = f"start_{number}"
        began[task_id] = time.monotonic()
        await client.execute(SubmitTask(task_id=task_id, task_name="bench_stamp"))
        await asyncio.sleep(EVERY_S - (time.monotonic() - began[task_id]))
    took = []
    for task_id, at in began.items():
        task = await client.execute(GetTask(task_id=task_id, wait_s=TASK_TIMEOUT_S))
        took.append((float(value_of(task.result)) - at) * 1000)
    return took


async def _claims(
    client: Client, count: int, levels: tuple[int, int], cluster: Cluster
) -> tuple[dict[int, list[float]], int]:
    """
    Claim one task at a time while a level of tasks is pending; completing it and submitting another is not timed.

    Returns the milliseconds by level, and the growth of the coordinator in bytes while the last level was submitted.
    """
    pid = cluster.programs["coordinator"].pid or 0
    worker_id, task_name = "claimer_of_bench", "bench_claimed"
    await client.execute(RegisterWorker(worker_id=worker_id, handles=(task_name,)))
    took: dict[int, list[float]] = {}
    waiting = grown = 0
    for level in levels:
        before = resident_bytes(pid)
        await submit_all(client, task_name, level - waiting, prefix=f"level_{level}")
        waiting, grown = level, resident_bytes(pid) - before
        took[level] = []
        for number in range(count + BLOCK):
            claim = ClaimTasks(claim_id=f"claim_{level}_{number}", worker_id=worker_id)
            began = time.perf_counter()
            (claimed,) = await client.execute(claim)
            took[level].append((time.perf_counter() - began) * 1000)
            await client.execute(CompleteTask(task_id=claimed.task_id, lease=claimed.lease, worker_id=worker_id))
            await client.execute(SubmitTask(task_id=f"next_{level}_{number}", task_name=task_name, payload=PAYLOAD))
        del took[level][:BLOCK]
    return took, grown


async def _starts(count: int) -> tuple[list[float], list[float]]:
    """Start agents one after the other; measure until each is running and until its service is healthy."""
    from coordinator.container import ContainerConfig, ContainerManager
    from coordinator.registry import ServiceRegistry, ServiceStatus

    running_ms, healthy_ms = [], []
    async with ContainerManager() as manager, ServiceRegistry() as registry:
        for number in range(count):
            config = ContainerConfig(agent_id=f"agent_{number}", agent_type="task_agent", resources={"cpu": "100m"})
            container_id = await manager.create_container(config)
            began = time.perf_counter()
            assert await manager.start_container(container_id)
            running_ms.append((time.perf_counter() - began) * 1000)
            while not await registry.find_services("task_agent", ServiceStatus.HEALTHY):  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.005)
            healthy_ms.append((time.perf_counter() - began) * 1000)
            assert await manager.destroy_container(container_id)
    return running_ms, healthy_ms


async def _discoveries(count: int) -> list[float]:
    """Discover a service in the leading process."""
    from coordinator.app.app import embedded
    from coordinator.registry import ServiceDiscovery, ServiceRegistry

    with tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder:
        async with embedded(Path(folder), load()) as app:
            registry = ServiceRegistry(app)
            for number in range(10):
                await registry.register_service("bench", "agent", "localhost", 8000 + number)
            discovery = ServiceDiscovery(registry)

            async def discover() -> None:
                assert await discovery.discover_service("bench") is not None

            return await timed(discover, count)
