"""Allocate resources for tasks from one pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.app.pool import PoolFacade
from coordinator.commands.container import GetContainer
from coordinator.commands.task import GetTask
from events.errors import Forbidden, NotFound
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.command import Question


class ResourceAllocator(PoolFacade):
    """The resource pool `tasks`."""

    POOL = "tasks"

    async def request_resources(self, request_id: str, resources: Mapping[str, Any], priority: int = 0) -> bool:
        """
        Allocate resources to *request_id*; return False when they do not fit into what is free.

        Repeating a granted request changes nothing and returns True.

        Args:
            request_id: the id to allocate to, such as a task id.
            resources: `cpu` in cores, `memory` in bytes, `gpu` as a count, or quantities such as "500m" and "2Gi".
            priority: recorded with the allocation and shown in the status. It decides nothing: a request is granted or
                not at once, and none waits.

        Raises:
            Refused: an amount is not a quantity, or *request_id* already holds other amounts.
            NotFound: the pool was never initialized.
        """
        return await self._allocate(request_id, Resources.parse(resources), priority)

    async def optimize_allocations(self) -> dict[str, Any]:
        """
        Release the allocations whose request id is that of a task or container that has ended. Call it periodically.

        Where there are users or rules, those of other sources stay: only their owner and an administrator release them.

        Returns `optimizations_applied`, the number of released allocations, and `actions`, a list of the request ids
        (`released`) and the reasons (`why`).

        Raises:
            NotFound: the pool was never initialized.
        """
        pool = await self._pool()
        actions = []
        for request_id in pool.allocations:
            why = await self._ended(request_id)
            if why and await self._release_own(request_id):
                actions.append({"released": request_id, "why": why})
        return {"optimizations_applied": len(actions), "actions": actions}

    async def _release_own(self, request_id: str) -> bool:
        try:
            return await self.release_resources(request_id)
        except Forbidden:
            return False

    async def _ended(self, request_id: str) -> str:
        """Return why the allocation is no longer needed; '' if its owner has not ended or is unknown."""
        questions: tuple[Question, ...] = (GetTask(task_id=request_id), GetContainer(container_id=request_id))
        for question in questions:
            try:
                owner = await self.execute(question)
            except NotFound:
                continue
            if owner.is_ended:
                return f"{question.KIND} {request_id} has ended as {owner.status.value}"
        return ""
