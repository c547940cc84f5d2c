"""
Versions of workers: those that are retired, and the build that a task must go to. Pure.

A version is the code that workers run, named by their build id. A task that began on one stays there: it is *pinned*.
One that has not begun goes where the route of its queue says.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from events.base import Position
from events.version import VersionReinstated, VersionRetired
from projections.stamp import Stamp, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.queue import Route
    from projections.task import Task

    AnyVersionEvent = VersionRetired | VersionReinstated

_WHOLE = 2**64


class Version(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A version that is retired: no task starts at its workers. `retired_at` is a commit time in seconds.

    The tasks that began on it go on at workers with the build id `move_to`; if that is '', as those that have not
    begun.
    """

    build_id: str
    retired: Position
    retired_at: float
    move_to: str = ""
    retired_by: str = ""
    reason: str = ""


def evolve(version: Version | None, event: AnyVersionEvent, stamp: Stamp) -> Version | None:
    """Fold one event into the version it is about; None means that it is not retired."""
    if isinstance(event, VersionRetired):
        return Version(
            build_id=event.build_id,
            retired=stamp.position,
            retired_at=stamp.time,
            move_to=event.move_to,
            retired_by=stamp.actor,
            reason=event.reason,
        )
    if version is None:
        missing(event, stamp)
    return None


def place_of(task_id: str) -> float:
    """Return where a task is among all, from 0 up to 100: the same for the same id, and evenly spread over ids."""
    return int.from_bytes(blake2b(task_id.encode(), digest_size=8).digest()) / _WHOLE * 100


def begins_on(route: Route, task_id: str) -> str:
    """Return the build on which a task begins by a route."""
    return route.ramping if route.percent and place_of(task_id) < route.percent else route.current


class Builds:
    """
    The build that each task must go to.

    `routes` are those of the queues, by the name that tasks call them. `retired` are the versions of the world. Without
    workers that have a build id, and without routes, nothing is kept.
    """

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.retired: Mapping[str, Version] = {}
        self.pinned: dict[str, int] = {}
        """How many pending tasks began on each build."""

    def pinned_to(self, build_id: str) -> str:
        """Return where the tasks go on that began on a build, '' if as tasks that have not begun."""
        while build_id and (gone := self.retired.get(build_id)) is not None:
            build_id = gone.move_to
        return build_id

    def of(self, task: Task) -> str | None:
        """Return the build id of the workers that may run a task, '' for those without one; None for any worker."""
        if task.build_id and (pinned := self.pinned_to(task.build_id)):
            return pinned
        route = self.routes.get(task.queue)
        return None if route is None else begins_on(route, task.task_id)
