"""Agent containers: create, start, stop and destroy them, and allocate their resources."""

from typing import TYPE_CHECKING

from coordinator.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from coordinator.client.follow_logs import LogLine
    from coordinator.container.agent_container import AgentContainer
    from coordinator.container.container_manager import ContainerConfig, ContainerManager
    from coordinator.container.resource_manager import ResourceLimits, ResourceManager
    from events.container import ContainerStatus

__all__ = [
    "AgentContainer",
    "ContainerConfig",
    "ContainerManager",
    "ContainerStatus",
    "LogLine",
    "ResourceLimits",
    "ResourceManager",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "AgentContainer": "coordinator.container.agent_container",
        "ContainerConfig": "coordinator.container.container_manager",
        "ContainerManager": "coordinator.container.container_manager",
        "ContainerStatus": "events.container",
        "LogLine": "coordinator.client.follow_logs",
        "ResourceLimits": "coordinator.container.resource_manager",
        "ResourceManager": "coordinator.container.resource_manager",
    },
)
