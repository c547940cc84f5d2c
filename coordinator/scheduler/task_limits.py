"""Limits of tasks: how many with something in common may run, start and wait, and what a busy key means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.app.facade import Facade
from coordinator.client.paging import listed
from coordinator.commands.arguments import flag, member, number, text, whole
from coordinator.commands.limit import DefineLimit, DeleteLimit, GetLimit, ListLimits
from events.limit import Terms, WhenBusy

if TYPE_CHECKING:
    from coordinator.commands.limit import LimitView
    from projections.limit import Limit

PAGE = 100


class TaskLimits(Facade):
    """The limits of the cluster. Where access is restricted, changing them needs the administrator's rights."""

    async def define_limit(
        self,
        limit: str,
        *,
        by: str = "all",
        where: str = "",
        running: int | None = None,
        starts: int | None = None,
        per: float = 0.0,
        pending: int | None = None,
        cooldown: float = 0.0,
        debounce: float = 0.0,
        debounce_most: float = 0.0,
        when_busy: WhenBusy | str = WhenBusy.QUEUE,
        parent: str = "",
        retries_only: bool = False,
        reason: str = "",
    ) -> Limit:
        """
        Create a limit, or replace its terms; tasks that wait or run already are counted by it, too.

        Args:
            limit: the name of the limit.
            by: what tasks of one key have in common: `all`, `tenant`, `queue`, `task_name`, `fairness_key` or
                `attributes.NAME`. A task without that attribute is not limited.
            where: a filter such as `queue == "reports"`: tasks that do not meet it are not limited.
            running: how many tasks of a key may run at a time.
            starts: how many attempts of a key may begin in any *per* seconds; at most 1,000.
            per: seconds, for *starts*.
            pending: how many tasks of a key may be pending; more are refused.
            cooldown: seconds after the end of a task in which none of its key starts.
            debounce: seconds that a submitted task waits; another one of its key takes its place meanwhile.
            debounce_most: seconds after the first in which the last of those that took places may start; 0: no limit.
            when_busy: what becomes of a task that is submitted while its key is busy, as a member or its value.
            parent: the name of a limit whose amounts this one must not exceed.
            retries_only: whether it limits only attempts after a failed one: a retry budget.
            reason: why, for the journal.

        Raises:
            Refused: the terms limit nothing, contradict each other, or exceed those of the parent or of the settings.
        """
        terms = Terms(
            by=text("by", by),
            where=text("where", where),
            running=None if running is None else whole("running", running),
            starts=None if starts is None else whole("starts", starts),
            per_s=number("per", per),
            pending=None if pending is None else whole("pending", pending),
            cooldown_s=number("cooldown", cooldown),
            debounce_s=number("debounce", debounce),
            debounce_most_s=number("debounce_most", debounce_most),
            when_busy=member("when_busy", when_busy, WhenBusy),
            parent=text("parent", parent),
            retries_only=flag("retries_only", retries_only),
        )
        command = DefineLimit(limit_id=text("limit", limit), terms=terms, reason=text("reason", reason))
        defined: Limit = await self.execute(command)
        return defined

    async def delete_limit(self, limit: str, reason: str = "") -> None:
        """
        Delete a limit; one that does not exist is already so.

        Raises:
            Refused: it is the parent of another one.
        """
        await self.execute(DeleteLimit(limit_id=text("limit", limit), reason=text("reason", reason)))

    async def get_limit(self, limit: str) -> LimitView:
        """
        Return a limit with its busiest keys.

        Raises:
            NotFound: the limit does not exist.
        """
        found: LimitView = await self.execute(GetLimit(limit_id=text("limit", limit)))
        return found

    async def list_limits(self) -> list[LimitView]:
        """Return all limits by name, without their keys."""
        found: list[LimitView] = []
        while True:
            after = found[-1].limit.limit_id if found else ""
            page: list[LimitView] = await listed(self, ListLimits(limit=PAGE, after=after))
            found += page
            if len(page) < PAGE:
                return found
