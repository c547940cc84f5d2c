"""
What is held of each pool, by account, and what each owner has of them: kept up to date with the pools. Pure.

Every entry follows from the pools in the world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.resources import NONE, Resources
from projections.ledger import accounts
from projections.pool import OF_TASK, Allocation, request_of

if TYPE_CHECKING:
    from typing import TypeGuard

    from projections.pool import Pool, Request


class InPools:
    """The shares of all pools, and the requests that wait for some."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Resources]] = {}
        """What is held of each pool, by the accounts of `ledger`."""
        self.owners: dict[str, dict[tuple[str, str], None]] = {}
        """The shares and waiting requests of each owner that has some, by pool and request."""
        self.waited_for: dict[str, None] = {}
        """The pools that requests wait for."""
        self.waiting = 0
        """How many do."""

    def change(
        self, before: Pool | None, after: Pool, request_id: str
    ) -> tuple[Allocation | Request | None, Allocation | Request | None]:
        """Count what a request has of a pool; return what it had and has, a share or a place among those that wait."""
        pool_id = after.pool_id
        had = None if before is None else request_of(before, request_id)
        has = request_of(after, request_id)
        if had is not None:
            self._leave(pool_id, had)
        if has is not None:
            self._enter(pool_id, has)
        if before is not None and request_id in before.waiting:
            self.waiting -= 1
            if not after.waiting:
                del self.waited_for[pool_id]
        if request_id in after.waiting:
            self.waiting += 1
            self.waited_for[pool_id] = None
        return had, has

    def _enter(self, pool_id: str, one: Allocation | Request) -> None:
        if one.owner:
            self.owners.setdefault(one.owner, {})[pool_id, one.request_id] = None
        if _holds(one):
            held = self.held.setdefault(pool_id, {})
            for account in accounts(one, one.part):
                held[account] = held.get(account, NONE) + one.resources

    def _leave(self, pool_id: str, one: Allocation | Request) -> None:
        if one.owner:
            its = self.owners[one.owner]
            del its[pool_id, one.request_id]
            if not its:
                del self.owners[one.owner]
        if _holds(one):
            held = self.held[pool_id]
            for account in accounts(one, one.part):
                left = held[account] - one.resources
                if left == NONE:
                    del held[account]
                else:
                    held[account] = left
            if not held:
                del self.held[pool_id]


def task_waiting(pool: Pool | None, request_id: str) -> str:
    """Return the task that waits for the share of a request, '' if none does."""
    request = None if pool is None else pool.waiting.get(request_id)
    if request is None or not request.owner.startswith(OF_TASK):
        return ""
    return request.owner.removeprefix(OF_TASK)


def _holds(one: Allocation | Request) -> TypeGuard[Allocation]:
    return isinstance(one, Allocation) and one.resources != NONE
