"""Services: register them, find them, choose an instance, check their health."""

from typing import TYPE_CHECKING

from coordinator.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from coordinator.registry.discovery import LoadBalancingStrategy, ServiceDiscovery
    from coordinator.registry.health_checker import HealthChecker
    from coordinator.registry.service_registry import ServiceInfo, ServiceRegistry
    from events.service import ServiceStatus

__all__ = [
    "HealthChecker",
    "LoadBalancingStrategy",
    "ServiceDiscovery",
    "ServiceInfo",
    "ServiceRegistry",
    "ServiceStatus",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "HealthChecker": "coordinator.registry.health_checker",
        "LoadBalancingStrategy": "coordinator.registry.discovery",
        "ServiceDiscovery": "coordinator.registry.discovery",
        "ServiceInfo": "coordinator.registry.service_registry",
        "ServiceRegistry": "coordinator.registry.service_registry",
        "ServiceStatus": "events.service",
    },
)
