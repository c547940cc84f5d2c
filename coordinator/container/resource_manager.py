"""Allocate resources for containers from one pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.app.pool import PoolFacade
from coordinator.commands.arguments import wanted
from events.resources import Resources


@dataclass(frozen=True, kw_only=True)
class ResourceLimits:
    """
    The resources of a request.

    Args:
        cpu_limit: cores, or a quantity such as "500m".
        memory_limit: bytes, or a quantity such as "2Gi".
        gpu_limit: the number of GPUs.
    """

    cpu_limit: Any = 0
    memory_limit: Any = 0
    gpu_limit: Any = 0


class ResourceManager(PoolFacade):
    """The resource pool `containers`."""

    POOL = "containers"

    async def allocate_resources(self, request_id: str, limits: ResourceLimits) -> bool:
        """
        Allocate resources to *request_id*; return False when they do not fit into what is free.

        Repeating a granted request changes nothing and returns True.

        Raises:
            Refused: a limit is not a quantity, or *request_id* already holds other amounts.
            NotFound: the pool was never initialized.
        """
        wanted("limits", limits, ResourceLimits, "a ResourceLimits")
        asked = {"cpu": limits.cpu_limit, "memory": limits.memory_limit, "gpu": limits.gpu_limit}
        return await self._allocate(request_id, Resources.parse(asked), 0, 0.0)
