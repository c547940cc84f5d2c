"""
What follows from events beside the world: leases to watch, workers and nodes to nudge, waiting questions to look at.

Told of each event when it is folded, and says what it has to say when the commit is kept. A hint may be lost: nothing
here decides, and whoever misses one finds out by asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coordinator.commands.notices import LostLeases
from events.container import (
    ContainerDestroyed,
    ContainerEvent,
    ContainerPausing,
    ContainerResuming,
    ContainerStarting,
    ContainerStopping,
)
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStarted,
    TaskTimedOut,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.deciders.signs import Signs
    from coordinator.engine.waiting_questions import Waiting
    from events.base import Event
    from projections.world import World

_ENDS_LEASE = frozenset({TaskCompleted, TaskFailed, TaskAttemptFailed, TaskTimedOut})
_CHANGES_NODE = frozenset(
    {ContainerStarting, ContainerStopping, ContainerPausing, ContainerResuming, ContainerDestroyed}
)


class Notify(Protocol):
    """Tells a worker or node that something changed for it: a hint, which may be lost."""

    def __call__(self, kind: str, entity_id: str, body: bytes) -> object: ...


class Hints:
    """What the events of a turn make due beside the commit."""

    def __init__(self, world: World, signs: Signs, waiting: Waiting, notify: Notify) -> None:
        self._world = world
        self._signs = signs
        self._waiting = waiting
        self._notify = notify
        self._notices: dict[tuple[str, str], list[str]] = {}
        self._touched: set[str] = set()
        self._begun: list[str] = []

    def note(self, events: Iterable[Event], heard_now: float) -> None:
        """Keep leases, notices and waiting questions up with what was just folded."""
        leases = self._signs.leases
        for event in events:
            kind: Any = type(event)
            about: Any = event
            if kind is TaskStarted:
                leases[about.lease] = heard_now
                self._begun.append(about.lease)
            elif kind in _ENDS_LEASE:
                leases.pop(about.lease, None)
                if kind is TaskTimedOut:
                    self._lost(about.task_id, about.lease)
            elif kind is TaskCancelled:
                task = self._world.tasks[about.task_id]
                # One that nobody held names the lease of its last attempt, which may be that of another task by now.
                if task.worker_id:
                    leases.pop(task.lease, None)
                    self._lost(about.task_id, task.lease)
            elif kind in _CHANGES_NODE:
                self._notices.setdefault(("node", self._world.containers[about.container_id].node_id), [])
            if self._waiting and isinstance(event, (TaskEvent, ContainerEvent)):
                self._touch(event.subject)

    def tell(self, heard_now: float) -> None:
        """Send the hints of this turn and answer the questions whose wait it has ended, now that it is kept."""
        leases = self._signs.leases
        for lease in self._begun:  # nobody could know of it before
            if lease in leases:
                leases[lease] = heard_now
        self._begun.clear()
        for (kind, entity_id), lost in self._notices.items():
            self._notify(kind, entity_id, msgspec.json.encode(LostLeases(lost=lost)))
        self._notices.clear()
        if self._touched:
            touched, self._touched = self._touched, set()
            self._waiting.look(touched)

    def _touch(self, subject: str) -> None:
        if self._waiting.touched(subject):
            self._touched.add(subject)

    def _lost(self, task_id: str, lease: str) -> None:
        if worker_id := self._world.tasks[task_id].worker_id:
            self._notices.setdefault(("worker", worker_id), []).append(lease)
