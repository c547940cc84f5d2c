"""Holds: keep tasks that meet a filter from the workers, and let them go again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.app.facade import Facade, new_id
from coordinator.client.paging import listed
from coordinator.commands.arguments import number, text
from coordinator.commands.hold import GetHold, HoldTasks, LiftHold, ListHolds

if TYPE_CHECKING:
    from coordinator.commands.hold import HoldView


class TaskHolds(Facade):
    """The holds of the cluster. Where access is restricted, changing them needs the administrator's rights."""

    async def place_hold(
        self,
        where: str,
        *,
        queue: str = "",
        reason: str = "",
        expires_in: float | None = None,
        hold_id: str | None = None,
    ) -> str:
        """
        Give no pending task that meets a filter to a worker, now or when it is submitted later; return the hold's id.

        Args:
            where: the filter, such as `'task_name == "report" && attributes.customer == "acme"'`.
            queue: only tasks of this queue.
            reason: why, for the journal and for `explain`.
            expires_in: seconds after which it ends by itself.
            hold_id: an id chosen by the caller; placing the same hold again changes nothing.

        Raises:
            Refused: the filter or another argument is invalid, or there are 100 holds.
        """
        command = HoldTasks(
            hold_id=text("hold_id", new_id("hold") if hold_id is None else hold_id),
            where=text("where", where),
            queue=text("queue", queue),
            reason=text("reason", reason),
            for_s=None if expires_in is None else number("expires_in", expires_in),
        )
        return str(await self.execute(command))

    async def lift_hold(self, hold_id: str, reason: str = "") -> None:
        """
        Lift a hold: its tasks that meet no other hold are given to workers again.

        Raises:
            NotFound: there is no such hold, or it has ended.
        """
        await self.execute(LiftHold(hold_id=text("hold_id", hold_id), reason=text("reason", reason)))

    async def get_hold(self, hold_id: str) -> HoldView:
        """
        Return a hold in force, and how many tasks it keeps.

        Raises:
            NotFound: there is no such hold, or it has ended.
        """
        found: HoldView = await self.execute(GetHold(hold_id=text("hold_id", hold_id)))
        return found

    async def list_holds(self) -> list[HoldView]:
        """Return all holds in force, by the order of placing."""
        return await listed(self, ListHolds())
