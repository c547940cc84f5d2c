"""Versions of workers: on which of them tasks begin, and which run no more tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.app.facade import Facade
from coordinator.client.paging import listed
from coordinator.commands.arguments import flag, number, text
from coordinator.commands.queue import RouteQueue
from coordinator.commands.version import ListVersions, ReinstateVersion, RetireVersion
from events.errors import Refused, shown
from events.queue import DEFAULT, Route

if TYPE_CHECKING:
    from coordinator.commands.version import VersionView
    from projections.queue import Queue

PAGE = 100


class TaskVersions(Facade):
    """
    The versions of the workers. Where access is restricted, changing them needs the administrator's rights.

    A worker says its version with `Worker(build_id=…)`. A task stays on the one that it began on.
    """

    async def route_queue(
        self,
        current: str | None,
        *,
        ramping: str = "",
        percent: float = 0.0,
        queue: str = DEFAULT,
        without_workers: bool = False,
        reason: str = "",
    ) -> Queue:
        """
        Begin the tasks of a queue on these versions from now on, those that wait already, too.

        Args:
            current: the build id of the workers that they begin on, '' for those without one; None: any worker, as
                without a route.
            ramping: the build id of the workers that get *percent* of them; without it there is no share.
            percent: how many of a hundred tasks begin on *ramping*. Which ones follows from their ids.
            queue: the queue.
            without_workers: whether to accept build ids that no registered worker has.
            reason: why, for the journal.

        Raises:
            Refused: a version is retired or has no workers, or the share is invalid.
            NotFound: the queue does not exist.
        """
        ramping, percent = text("ramping", ramping), number("percent", percent)
        route = None if current is None else Route(current=text("current", current), ramping=ramping, percent=percent)
        if route is None and ramping:
            msg = f"ramping {shown(ramping)} gets a share, and current is None: say where the other tasks begin"
            raise Refused(msg, reason="bad_version")
        command = RouteQueue(
            queue_id=text("queue", queue),
            route=route,
            without_workers=flag("without_workers", without_workers),
            reason=text("reason", reason),
        )
        routed: Queue = await self.execute(command)
        return routed

    async def retire_version(
        self, build_id: str, *, move_to: str = "", without_workers: bool = False, reason: str = ""
    ) -> None:
        """
        Start no more tasks at the workers with a build id; attempts that run go on.

        Args:
            build_id: the version.
            move_to: the build id of the workers at which the tasks go on that began on it; '': as tasks do that have
                not begun.
            without_workers: whether to accept a *move_to* that no registered worker has.
            reason: why, for the journal.

        Raises:
            Refused: a queue is routed to it, or *move_to* is retired or has no workers.
            NotFound: nothing is known of this build id.
        """
        command = RetireVersion(
            build_id=text("build_id", build_id),
            move_to=text("move_to", move_to),
            without_workers=flag("without_workers", without_workers),
            reason=text("reason", reason),
        )
        await self.execute(command)

    async def reinstate_version(self, build_id: str, reason: str = "") -> None:
        """Let the workers of a retired version have tasks again; one that is not retired is already so."""
        await self.execute(ReinstateVersion(build_id=text("build_id", build_id), reason=text("reason", reason)))

    async def list_versions(self) -> list[VersionView]:
        """Return all versions by build id, with their workers and tasks."""
        found: list[VersionView] = []
        while True:
            after = found[-1].build_id if found else ""
            page: list[VersionView] = await listed(self, ListVersions(limit=PAGE, after=after))
            found += page
            if len(page) < PAGE:
                return found
