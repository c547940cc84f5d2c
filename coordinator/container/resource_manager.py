"""Allocate the resources that containers ask for, from one pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.app.facade import wanted
from coordinator.app.pool import PoolFacade
from events.resources import Resources


@dataclass(frozen=True, kw_only=True)
class ResourceLimits:
    """What a request may use: cores, bytes, GPUs; quantities such as `"500m"` and `"2Gi"` are read too."""

    cpu_limit: Any = 0
    memory_limit: Any = 0
    gpu_limit: Any = 0


class ResourceManager(PoolFacade):
    """The pool `containers`."""

    POOL = "containers"

    async def allocate_resources(self, request_id: str, limits: ResourceLimits) -> bool:
        """
        Hold resources under *request_id*; False when they do not fit. The same request again is already so.

        Raises:
            Refused: a limit is no quantity, or the id already holds something else.
            NotFound: the pool was never initialized.
        """
        wanted("limits", limits, ResourceLimits, "a ResourceLimits")
        asked = {"cpu": limits.cpu_limit, "memory": limits.memory_limit, "gpu": limits.gpu_limit}
        return await self._allocate(request_id, Resources.parse(asked), 0)
