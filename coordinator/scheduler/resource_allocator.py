"""Allocate the resources that tasks ask for, from a pool of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.app.pool import PoolFacade
from coordinator.commands.container import GetContainer
from coordinator.commands.pool import GetPool, ReleasePool
from coordinator.commands.task import GetTask
from events.errors import NotFound
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.command import Question
    from projections.pool import Pool


class ResourceAllocator(PoolFacade):
    """The pool `tasks`."""

    POOL = "tasks"

    async def request_resources(self, request_id: str, resources: Mapping[str, Any], priority: int = 0) -> bool:
        """
        Hold resources under *request_id*; False when they do not fit. The same request again is already so.

        Raises:
            Refused: an amount is no quantity, or the id already holds something else.
            NotFound: the pool was never initialized.
        """
        return await self._allocate(request_id, Resources.parse(resources), priority)

    async def optimize_allocations(self) -> dict[str, Any]:
        """
        Release what is held for nothing: allocations named after a task or container that has ended.

        Gives `optimizations_applied`, how many were released, and `actions`, which and why. Call it periodically.
        """
        pool: Pool = await self.execute(GetPool(pool_id=self.POOL))
        actions = []
        for request_id in pool.allocations:
            why = await self._ended(request_id)
            if why and await self.execute(ReleasePool(pool_id=self.POOL, request_id=request_id)):
                actions.append({"released": request_id, "why": why})
        return {"optimizations_applied": len(actions), "actions": actions}

    async def _ended(self, request_id: str) -> str:
        """Say why whoever asked no longer needs it; empty when that is not known."""
        questions: tuple[Question, ...] = (GetTask(task_id=request_id), GetContainer(container_id=request_id))
        for question in questions:
            try:
                owner = await self.execute(question)
            except NotFound:
                continue
            if owner.is_ended:
                return f"{question.KIND} {request_id} has ended as {owner.status.value}"
        return ""
