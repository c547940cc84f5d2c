"""Register instances of a service, choose one by several strategies, and fail over: `python examples/discovery.py`."""

from __future__ import annotations

import asyncio

from coordinator.registry import HealthChecker, LoadBalancingStrategy, ServiceDiscovery, ServiceInfo, ServiceRegistry


async def main() -> None:
    """Register three instances, and deregister them at the end, whatever happens."""
    async with ServiceRegistry() as registry, HealthChecker(registry) as checker:
        ids = [
            await registry.register_service("search", "http", "127.0.0.1", 8000 + number, weight=number)
            for number in (1, 2, 3)
        ]
        try:
            await show(ids, registry, checker)
        finally:
            for service_id in ids:
                await registry.deregister_service(service_id)


async def show(ids: list[str], registry: ServiceRegistry, checker: HealthChecker) -> None:
    """Show what each strategy chooses, and what a failure changes."""
    discovery = ServiceDiscovery(registry)

    async def chosen(strategy: LoadBalancingStrategy, times: int) -> list[int]:
        found = [await discovery.discover_service("search", strategy) for _ in range(times)]
        return [one.port for one in found if one is not None]

    print("round robin:", await chosen(LoadBalancingStrategy.ROUND_ROBIN, 4))
    print("weighted:", await chosen(LoadBalancingStrategy.WEIGHTED_ROUND_ROBIN, 6))
    for service_id, load in zip(ids, (0.9, 0.1, 0.5), strict=True):
        await registry.update_heartbeat(service_id, load=load)
    print("least loaded:", await chosen(LoadBalancingStrategy.LEAST_LOADED, 2))

    # Report the result of each request: failover then avoids instances that have just failed.
    discovery.report_result(ids[0], ok=False)
    service = await discovery.discover_service_with_failover("search", LoadBalancingStrategy.ROUND_ROBIN)
    print("failover avoids 8001:", service is not None and service.port != 8001)  # noqa: PLR2004

    # A custom health check runs in this process for every instance. Two failures in a row make it UNHEALTHY.
    async def answers(instance: ServiceInfo) -> bool:
        return instance.port != 8002  # noqa: PLR2004  # replace it with a real request to the instance

    await checker.register_custom_health_check("search", answers)
    await checker.check_service(ids[1])
    print("after checks:", {one.port: one.status.value for one in await registry.find_services("search")})


if __name__ == "__main__":
    asyncio.run(main())
