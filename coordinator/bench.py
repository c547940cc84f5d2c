"""
Measurements of the running system, each starting what it needs and stopping it; figures are medians of one run.

Timings of one machine are worth little alone, so the bare cost of the same thing is measured beside it, taking turns.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.client import Client
from coordinator.commands import SubmitTask
from coordinator.home import Home
from coordinator.ids import TimeOrderedIds
from coordinator.settings import load
from coordinator.up import run_cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BENCH_STREAM = "BENCH"
EVENT_BYTES = 400
BLOCK = 100

_ids = TimeOrderedIds()


async def latency(*, submits: int = 1000, starts: int = 5, discoveries: int = 2000) -> dict[str, Any]:
    """
    Measure what one caller waits for, alone and back to back, everything else idle.

    Gives milliseconds: `submit_ms` over RPC with fsync, beside `bare_publish_ms`, one acknowledged fsynced publish;
    `container_running_ms` and `agent_healthy_ms` from the call that starts a container; `discovery_ms` in one process.
    """
    with tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder:
        async with run_cluster(Home(Path(folder)), load(), quiet=True) as cluster:
            async with Client.open(cluster.url, source="bench") as client:
                submit_ms, bare_ms = await _submits(client, submits)
            os.environ["COORDINATOR_URL"] = cluster.url
            try:
                running_ms, healthy_ms = await _starts(starts)
            finally:
                del os.environ["COORDINATOR_URL"]
    return {
        "submit_ms": _spread(submit_ms),
        "bare_publish_ms": _spread(bare_ms),
        "submit_to_bare": round(median(submit_ms) / median(bare_ms), 2),
        "container_running_ms": _spread(running_ms),
        "agent_healthy_ms": _spread(healthy_ms),
        "discovery_ms": _spread(await _discoveries(discoveries)),
    }


async def _submits(client: Client, count: int) -> tuple[list[float], list[float]]:
    """Submit tasks one after the other, in turns with bare publishes of the same size."""
    await client.bus.js_request(
        f"STREAM.CREATE.{BENCH_STREAM}",
        {"name": BENCH_STREAM, "subjects": ["bench"], "storage": "file", "num_replicas": 1},
        timeout_s=5.0,
    )
    body = b"x" * EVENT_BYTES

    async def submit() -> None:
        await client.execute(SubmitTask(task_id=_ids.new("task"), task_name="nobody_runs_this"))

    async def publish() -> None:
        await client.bus.js_publish("bench", body, timeout_s=5.0)

    await _timed(submit, BLOCK)
    submits: list[float] = []
    publishes: list[float] = []
    for _ in range(max(1, count // BLOCK)):
        submits += await _timed(submit, BLOCK)
        publishes += await _timed(publish, BLOCK)
    return submits, publishes


async def _starts(count: int) -> tuple[list[float], list[float]]:
    """Start agents one after the other; measure until each runs, and until its service is healthy."""
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
    """Discover a service in the process that also leads."""
    from coordinator.app import embedded
    from coordinator.registry import ServiceDiscovery, ServiceRegistry

    with tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder:
        async with embedded(Path(folder), load()) as app:
            registry = ServiceRegistry(app)
            for number in range(10):
                await registry.register_service("bench", "agent", "localhost", 8000 + number)
            discovery = ServiceDiscovery(registry)

            async def discover() -> None:
                assert await discovery.discover_service("bench") is not None

            return await _timed(discover, count)


async def _timed(call: Callable[[], Awaitable[None]], count: int) -> list[float]:
    """Make calls one after the other; give the milliseconds of each."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _spread(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        "p50": round(median(ordered), 4),
        "p99": round(ordered[int(len(ordered) * 0.99)], 4),
        "n": len(ordered),
    }
