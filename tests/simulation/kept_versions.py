"""Where tasks may start by the versions of workers, derived from the journal without the code that is checked."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from events.queue import DEFAULT, QueueRouted
from events.task import TaskStarted, TaskSubmitted
from events.task_pause import TaskResumed
from events.version import VersionRetired
from tests.simulation.promises import Promise, Violation

if TYPE_CHECKING:
    from events.queue import QueueEvent, Route
    from events.task import TaskEvent
    from events.version import VersionEvent
    from events.worker import WorkerRegistered

BUILDS = ("b1", "b2", "")
"""The build ids of the workers, by their number."""
DIRECT = "direct"


class KeptVersions:
    """The builds of workers, the routes of queues, what is retired, and where each task began."""

    def __init__(self) -> None:
        self._builds: dict[str, str] = {}
        self._routes: dict[str, Route] = {}
        self._moves: dict[str, str] = {}
        self._tasks: dict[str, TaskSubmitted] = {}
        self._began: dict[str, str] = {}
        self.checked = 0

    def registered(self, event: WorkerRegistered) -> None:
        """Take the version that a worker says."""
        self._builds[event.worker_id] = event.build_id

    def routed(self, event: QueueEvent) -> None:
        """Take a route of a queue, or that the queue exists no more."""
        self._routes.pop(event.queue_id, None)
        if isinstance(event, QueueRouted) and event.route is not None:
            self._routes[event.queue_id] = event.route

    def changed(self, event: VersionEvent) -> None:
        """Take that a version is retired or reinstated."""
        self._moves.pop(event.build_id, None)
        if isinstance(event, VersionRetired):
            self._moves[event.build_id] = event.move_to

    def take(self, event: TaskEvent) -> None:
        """
        Take an event of a task.

        Raises:
            Violation: it starts at another version than it may.
        """
        task_id = event.task_id
        if isinstance(event, TaskSubmitted):
            self._tasks[task_id] = event
            self._began.pop(task_id, None)
        if isinstance(event, TaskResumed) and event.move_to is not None:
            self._began[task_id] = event.move_to
        if not isinstance(event, TaskStarted):
            return
        build_id = "" if event.claim_id == DIRECT else self._builds[event.worker_id]
        if event.build_id != build_id:
            raise Violation(Promise.VERSION, f"{event}, but its worker has registered with {build_id!r}")
        if event.claim_id != DIRECT:
            self._check(event, build_id)
        if event.attempt == 1 and self._tasks[task_id].pin_version:
            self._began[task_id] = build_id

    def _check(self, event: TaskStarted, build_id: str) -> None:
        if build_id in self._moves:
            raise Violation(Promise.VERSION, f"{event}, but {build_id} is retired")
        began = goes_on = self._began.get(event.task_id, "")
        while goes_on in self._moves:
            goes_on = self._moves[goes_on]
        if goes_on:
            self.checked += 1
            if build_id != goes_on:
                raise Violation(Promise.VERSION, f"{event}, but it began on {began}, and goes on at {goes_on}")
            return
        route = self._routes.get(self._tasks[event.task_id].queue or DEFAULT)
        if route is None:
            return
        self.checked += 1
        digest = int(blake2b(event.task_id.encode(), digest_size=8).hexdigest(), 16)
        side = route.ramping if digest * 100 < route.percent * 2**64 else route.current
        if build_id != side:
            raise Violation(Promise.RAMP, f"{event}, but by {route} it begins on {side!r}")
