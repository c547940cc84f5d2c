"""
Measure the time to find a service among many, and until a watcher sees a change.

Uses the facades that programs use, so their caches are included.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.app.app import embedded
from coordinator.bench.bare import bare_figures
from coordinator.bench.loads import A_NAME, register_services, service_names
from coordinator.bench.measure import facades_at, machine, measured_cluster, spread, timed
from coordinator.client.client import Client
from coordinator.commands.service import DeregisterService, FindServices, RegisterService
from coordinator.registry import ServiceDiscovery, ServiceRegistry, ServiceStatus
from coordinator.settings.load import load
from coordinator.task_groups import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WATCHED = "watched_by_bench"
LOOK_S = 0.001
SEEN_TIMEOUT_S = 30.0
SPARE = 10
"""Room for more services: the watched one, and the agents of the cluster itself."""


async def run(*, services: int, discoveries: int, changes: int) -> dict[str, Any]:
    """
    Find services among *services*, ten for each name, and change one that is watched.

    Returns milliseconds: `in_process_ms` through the facade in the leading process, `discover_ms` through the facade in
    another process, `rpc_ms` for the question over NATS, `change_seen_ms` from the call that registers or deregisters a
    service until the facade in another process, polled every millisecond, returns the change.
    """
    async with measured_cluster(
        COORDINATOR_REGISTRY__HEARTBEAT_TIMEOUT="3600", COORDINATOR_REGISTRY__MAX_SERVICES=str(services + SPARE)
    ) as cluster:
        async with Client.open(cluster.url, source="bench") as client:
            await register_services(client, services)
            rpc_ms = await _rpc(client, services, discoveries)
            with facades_at(cluster.url):
                async with ServiceRegistry() as registry:
                    discover_ms = await _discover(registry, services, discoveries)
                    seen_ms = await _changes(client, registry, changes)
        alone = await bare_figures(cluster.url)
    return {
        "services": services,
        "in_process_ms": spread(await _in_process(services, discoveries)),
        "discover_ms": spread(discover_ms),
        "rpc_ms": spread(rpc_ms),
        "change_seen_ms": spread(seen_ms),
        **alone,
        "machine": await machine(),
    }


async def _rpc(client: Client, services: int, count: int) -> list[float]:
    """Query the healthy services of a name, a different name each time."""
    names = cycle(service_names(services))

    async def find() -> None:
        found = await client.execute(FindServices(service_name=next(names), status=ServiceStatus.HEALTHY))
        assert len(found) >= A_NAME

    return await _warm(find, count)


async def _discover(registry: ServiceRegistry, services: int, count: int) -> list[float]:
    """Discover a service, with a different name each time."""
    names, discovery = cycle(service_names(services)), ServiceDiscovery(registry)

    async def discover() -> None:
        assert await discovery.discover_service(next(names)) is not None

    return await _warm(discover, count)


async def _warm(call: Callable[[], Awaitable[None]], count: int) -> list[float]:
    """Time calls; the first tenth fills the caches and is not counted."""
    return (await timed(call, count + count // 10))[count // 10 :]


async def _changes(client: Client, registry: ServiceRegistry, count: int) -> list[float]:
    """Register and deregister a service in turns while polling for it; return the time until each change was seen."""
    discovery, took = ServiceDiscovery(registry), []
    for number in range(count):
        is_there = number % 2 == 0
        began = time.perf_counter()
        async with asyncio.timeout(SEEN_TIMEOUT_S), task_group() as tasks:
            tasks.create_task(client.execute(_change(number // 2, is_there=is_there)))
            while (await discovery.discover_service(WATCHED) is not None) is not is_there:  # noqa: ASYNC110  # asked over NATS
                await asyncio.sleep(LOOK_S)
            took.append((time.perf_counter() - began) * 1000)
    return took


def _change(number: int, *, is_there: bool) -> RegisterService | DeregisterService:
    service_id = f"{WATCHED}_{number}"
    if not is_there:
        return DeregisterService(service_id=service_id)
    return RegisterService(
        service_id=service_id, service_name=WATCHED, service_type="bench", host="127.0.0.1", port=8000
    )


async def _in_process(services: int, count: int) -> list[float]:
    """Discover services in the leading process."""
    settings = load()
    registry_settings = settings.registry.model_copy(update={"max_services": services + SPARE})
    with tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder:
        async with embedded(Path(folder), settings.model_copy(update={"registry": registry_settings})) as app:
            await register_services(app, services)
            return await _discover(ServiceRegistry(app), services, count)
