"""The base of `ResourceManager` and `ResourceAllocator`: a facade over one named pool of resources."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.app.facade import Facade
from coordinator.commands.arguments import member, number, text, wanted, whole
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool, ReleasePool
from events.errors import CoordinationError, Refused
from events.pool import Placing
from events.resources import NONE, Resources
from projections.ledger import held_in, waits_of

if TYPE_CHECKING:
    from projections.ledger import ShareWait
    from projections.pool import Allocation, Pool, Request

FIRST_PAUSE_S, PAUSE_S = 0.02, 0.25
"""Between two questions whether a request that waits was granted: at first, and at most."""
PAGE = 500
"""Allocations in one answer, if all of them do not fit into one."""


class PoolFacade(Facade):
    """The resource pool named `POOL`. All processes of the cluster share it."""

    POOL = ""

    async def initialize(
        self,
        capacity: Mapping[str, Any] | None = None,
        *,
        parts: Mapping[str, Mapping[str, Any]] | None = None,
        placing: Placing | str = Placing.PACK,
        quotas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Set the capacity of the pool; without an argument, only open the connection and keep the capacity.

        Args:
            capacity: `cpu` in cores, `memory` in bytes, `gpu` as a count, such as
                `{"cpu": 8, "memory": 16 * 1024**3, "gpu": 2}`; quantities such as "500m" and "2Gi" are accepted.
            parts: the parts of the pool, such as nodes, each with its capacity; together they are that of the pool. A
                share lies in one of them.
            placing: to which part a share goes: "pack" to the fullest that has room, "spread" to the emptiest.
            quotas: the most that a tenant or a source may hold, by `tenant:NAME`, `source:NAME`, `tenant:*` or
                `source:*`, such as `{"tenant:*": {"gpu": 1}}`. What is not named is not limited.

        Raises:
            Refused: an amount is not a quantity, the capacity is not the sum of the parts, or a quota is nobody's.
            Unavailable: the coordinator cannot be reached.
        """
        if capacity is None and parts is None:
            if quotas is not None or placing != Placing.PACK:
                msg = "initialize was given quotas or placing alone: give the capacity or the parts, too"
                raise Refused(msg, reason="bad_request")
            await self.opened()
            return
        of_parts = _each("parts", parts)
        total = reduce(add, of_parts.values(), NONE) if capacity is None else Resources.parse(capacity)
        command = DefinePool(
            pool_id=self.POOL,
            capacity=total,
            parts=of_parts,
            placing=member("placing", placing, Placing),
            quotas=_each("quotas", quotas),
        )
        try:
            await self.execute(command)
        except CoordinationError as error:
            # It was carried out; the answer, the pool with all its allocations, had no room in a message.
            if error.code != CoordinationError.code or error.reason != "too_large":
                raise

    async def _pool(self) -> Pool:
        """Return the pool with all its allocations; in pages, one after the other, if a message has no room for it."""
        try:
            whole_pool: Pool = await self.execute(GetPool(pool_id=self.POOL))
        except Refused as error:
            if error.reason != "too_large":
                raise
        else:
            return whole_pool
        found: dict[str, Allocation] = {}
        waiting: dict[str, Request] = {}
        after, page = "", PAGE
        while True:
            try:
                pool: Pool = await self.execute(GetPool(pool_id=self.POOL, limit=page, after=after))
            except Refused as error:
                if error.reason == "bad_cursor":  # the last one of the page before was released meanwhile
                    found, after = {}, ""
                elif error.reason == "too_large" and page > 1:
                    page //= 2
                else:
                    raise
                continue
            found |= pool.allocations
            waiting = waiting if after else pool.waiting
            if len(pool.allocations) < page:
                return msgspec.structs.replace(pool, allocations=found, waiting=waiting)
            after = next(reversed(pool.allocations))

    async def _allocate(self, request_id: str, resources: Resources, priority: int, wait_s: float, **how: Any) -> bool:
        """Ask for a share, and again until it is granted or the time is over; who gives up asks for none any more."""
        loop = asyncio.get_running_loop()
        command = AllocatePool(
            pool_id=self.POOL,
            request_id=text("request_id", request_id),
            resources=resources,
            priority=whole("priority", priority),
            wait_s=number("wait", wait_s),
            **how,
        )
        granted: bool = await self.execute(command)
        if granted or not command.wait_s:
            return granted
        ends, again, pause_s = loop.time() + command.wait_s, msgspec.structs.replace(command, wait_s=0.0), FIRST_PAUSE_S
        try:
            while not granted and (left_s := ends - loop.time()) > 0.0:
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, PAUSE_S)
                granted = await self.execute(again)
        finally:
            if not granted:
                with suppress(CoordinationError):
                    await self.release_resources(request_id)
        return granted

    async def release_resources(self, request_id: str) -> bool:
        """
        Release the resources that *request_id* holds or waits for; return False if there are none.

        Raises:
            Forbidden: another source holds them, and this one is no administrator.
            Refused: a task that has not ended named the request: they end with it.
        """
        released: bool = await self.execute(ReleasePool(pool_id=self.POOL, request_id=text("request_id", request_id)))
        return released

    async def get_resource_status(self) -> dict[str, Any]:
        """
        Return the pool's capacity and its allocations.

        The keys `total`, `allocated`, `available` and `utilization` (0 to 1) each hold a dict with `cpu` (cores),
        `memory` (bytes) and `gpu` (count). `allocations` maps each request id to its amounts, its `priority`, and
        `since`, in seconds since 1970. `waiting` maps the id of each request that waits to its amounts, its `priority`,
        its `place` in the order, a `code` and a text that say why (`why`), who holds what it lacks or is before it
        (`held_by`), and when it times out (`times_out_at`, in seconds since 1970, None for never). `parts` maps each
        part of the pool to its `total` and `allocated` amounts.

        Raises:
            NotFound: the pool was never initialized.
        """
        pool = await self._pool()
        total, held = amounts(pool.capacity), amounts(pool.held)
        by_account = held_in(pool.allocations.values())
        return {
            "total": total,
            "allocated": held,
            "available": amounts(pool.free),
            "utilization": {name: held[name] / total[name] if total[name] else 0.0 for name in total},
            "allocations": {
                one.request_id: {
                    **amounts(one.resources),
                    "priority": one.priority,
                    "since": one.allocated_at,
                    "part": one.part,
                    "owner": one.owner,
                }
                for one in pool.allocations.values()
            },
            "waiting": {wait.request_id: _waiting(pool.waiting[wait.request_id], wait) for wait in waits_of(pool)},
            "parts": {
                part: {"total": amounts(whole), "allocated": amounts(by_account.get(f"part:{part}", NONE))}
                for part, whole in pool.parts.items()
            },
        }


def _waiting(request: Request, wait: ShareWait) -> dict[str, Any]:
    return {
        **amounts(request.resources),
        "priority": request.priority,
        "place": wait.place,
        "code": wait.code,
        "why": wait.text,
        "held_by": list(wait.held_by),
        "times_out_at": wait.until,
    }


def _each(name: str, given: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Resources]:
    """Return resources by name."""
    if given is None:
        return {}
    found = {}
    for one, some in dict(wanted(name, given, Mapping, "a mapping of names to resources")).items():
        key = text(f"{name}: a name", one)
        try:
            found[key] = Resources.parse(some)
        except Refused as error:
            raise Refused(f"{name}: {error.message}", reason=error.reason) from None
    return found


def amounts(resources: Resources) -> dict[str, float]:
    """Return resources as `cpu` in cores, `memory` in bytes and `gpu` as a count."""
    return {"cpu": resources.cpu_millis / 1000, "memory": resources.memory_bytes, "gpu": resources.gpus}
