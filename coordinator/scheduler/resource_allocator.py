"""Allocate resources for tasks from one pool: that of the Executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.app.pool import PoolFacade
from coordinator.commands.arguments import flag, text
from coordinator.commands.container import GetContainer
from coordinator.commands.pool import MoveShare
from coordinator.commands.task import GetTask
from events.errors import Forbidden, NotFound, Refused
from events.pool import TASKS
from events.resources import Resources
from projections.moves import planned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.command import Question


class ResourceAllocator(PoolFacade):
    """The resource pool `tasks`."""

    POOL = TASKS

    async def request_resources(
        self,
        request_id: str,
        resources: Mapping[str, Any],
        priority: int = 0,
        *,
        wait: float = 0.0,
        preempt: bool = False,
        owner: str = "",
        movable: bool = False,
    ) -> bool:
        """
        Allocate resources to *request_id*; return False when they do not fit into what is free.

        Repeating a granted request changes nothing and returns True. A task uses them that names the request when it is
        submitted, `submit_task(…, request="req_001")`: they end with that task.

        Args:
            request_id: the id to allocate to, such as a task id.
            resources: `cpu` in cores, `memory` in bytes, `gpu` as a count, or quantities such as "500m" and "2Gi".
            priority: the higher one is granted first; a request that has waited 60 s longer counts as one higher.
            wait: wait so many seconds in the order of priority if they do not fit; then the request is withdrawn.
            preempt: take the shares of requests with a lower priority, the lowest first, and none that is not needed.
            owner: what the allocation ends with: `worker:ID`, `service:ID`, `session:ID` or `container:ID`.
            movable: whether `optimize_allocations` may put the share into another part of the pool.

        Raises:
            Refused: an amount is not a quantity, or *request_id* already holds or waits for other amounts.
            NotFound: the pool was never initialized, or the owner does not exist.
        """
        asked = Resources.parse(resources)
        how = {
            "preempts": flag("preempt", preempt),
            "owner": text("owner", owner),
            "movable": flag("movable", movable),
        }
        return await self._allocate(request_id, asked, priority, wait, **how)

    async def optimize_allocations(self, *, apply: bool = False) -> dict[str, Any]:
        """
        Release the allocations whose request id is that of a task or container that has ended; plan moves of others.

        Call it periodically. A move puts a movable share into another part of the pool: to make room for the first
        request that waits, or as the pool packs or spreads. With *apply* the moves are made, else only told. Where
        there are users or rules, allocations of other sources stay, and only an administrator makes moves.

        Returns `optimizations_applied`, the number of released and moved allocations, and `actions`, a list of what was
        released (`released`, a request id, and `why`), and of the moves: `move` is the request id, `from` and `to` are
        parts, `gain` and `cost` portions of the pool, `why` a text; `applied` says whether it was made.

        Raises:
            NotFound: the pool was never initialized.
            Forbidden: with *apply*, this source may not move shares.
        """
        is_to_apply = flag("apply", apply)
        pool = await self._pool()
        actions: list[dict[str, Any]] = []
        released = set()
        for request_id in pool.allocations:
            why = await self._ended(request_id)
            if why and await self._release_own(request_id):
                actions.append({"released": request_id, "why": why})
                released.add(request_id)
        left = {one: share for one, share in pool.allocations.items() if one not in released}
        applied = len(released)
        for move in planned(msgspec.structs.replace(pool, allocations=left)):
            is_made = is_to_apply and await self._move(move.request_id, move.to_part)
            applied += is_made
            told = {"move": move.request_id, "from": move.from_part, "to": move.to_part, "gain": move.gain}
            actions.append({**told, "cost": move.cost, "why": move.why, "applied": is_made})
        return {"optimizations_applied": applied, "actions": actions}

    async def _move(self, request_id: str, part: str) -> bool:
        try:
            await self.execute(MoveShare(pool_id=self.POOL, request_id=request_id, part=part))
        except (NotFound, Refused):  # the pool has changed since
            return False
        return True

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
