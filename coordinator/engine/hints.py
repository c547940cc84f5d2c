"""
The side effects of events: leases to watch, hints to workers and nodes, waiting questions to answer.

It gets each event when it is folded, and sends its hints after the commit. A hint may be lost: nothing here decides,
and a receiver that misses one learns the same at its next request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coordinator.commands.notices import LostLeases, ToCancel
from events.cancel_ladder import TaskCancelAsked
from events.container import (
    ContainerDestroyed,
    ContainerEvent,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarting,
    ContainerStopping,
)
from events.pool import PoolPreempted
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStarted,
    TaskTimedOut,
)
from events.task_pause import TaskPaused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from coordinator.commands.service import CheckOutcome
    from coordinator.deciders.signs import Signs
    from coordinator.engine.waiting_questions import Waiting
    from events.base import Event
    from projections.world import World

_CHANGES_NODE = (ContainerStarting, ContainerStopping, ContainerPausing, ContainerDestroyed)


class Notify(Protocol):
    """Sends a worker or node the hint that something changed for it; the hint may be lost."""

    def __call__(self, kind: str, entity_id: str, body: bytes) -> object: ...


class Hints:
    """The side effects of the events of one turn."""

    def __init__(self, world: World, signs: Signs, waiting: Waiting, notify: Notify) -> None:
        self._world = world
        self._signs = signs
        self._waiting = waiting
        self._notify = notify
        self._notices: dict[tuple[str, str], list[str]] = {}
        self._touched: set[str] = set()
        self._begun: list[str] = []
        self._to_cancel: list[str] = []
        self._checked: list[tuple[str, CheckOutcome]] = []
        self._followings: dict[type[Event], Callable[[Any, float], None]] = {
            TaskStarted: self._started,
            **dict.fromkeys((TaskCompleted, TaskFailed, TaskAttemptFailed, TaskPaused), self._lease_ended),
            TaskTimedOut: self._timed_out,
            TaskCancelled: self._cancelled,
            TaskCancelAsked: self._cancel_asked,
            PoolPreempted: self._preempted,
            **dict.fromkeys(_CHANGES_NODE, self._node_changed),
            ContainerResuming: self._resuming,
            ContainerResumed: self._resumed,
        }

    def note(self, events: Collection[Event], heard_now: float) -> None:
        """Update leases, notices and waiting questions for events that were just folded."""
        followings = self._followings
        for event in events:
            follow = followings.get(type(event))
            if follow is not None:
                follow(event, heard_now)
        if self._waiting:
            for event in events:
                if isinstance(event, (TaskEvent, ContainerEvent)):
                    self._touch(event.subject)

    def note_check(self, service_id: str, reign: str) -> None:
        """Pass the check that was just kept on to the followers, which keep the outcomes."""
        outcome = self._signs.newest_check(service_id)
        if outcome is not None:
            self._checked.append((service_id, msgspec.structs.replace(outcome, reign=reign)))

    def tell(self, heard_now: float) -> None:
        """After the commit, send the hints of this turn and answer the questions whose wait has ended."""
        leases = self._signs.leases
        reports = self._signs.reports
        for lease in self._begun:  # no worker could know its lease before
            if lease in leases:
                leases[lease] = heard_now
            if lease in reports:
                reports[lease] = heard_now
        self._begun.clear()
        for (kind, entity_id), lost in self._notices.items():
            self._notify(kind, entity_id, msgspec.json.encode(LostLeases(lost=lost)))
        self._notices.clear()
        if self._to_cancel:
            tell_to_cancel(self._world, self._to_cancel, self._world.time, self._notify)
            self._to_cancel.clear()
        for service_id, outcome in self._checked:
            self._notify("check", service_id, msgspec.json.encode(outcome))
        self._checked.clear()
        if self._touched:
            touched, self._touched = self._touched, set()
            self._waiting.look(touched)

    def _started(self, event: TaskStarted, heard_now: float) -> None:
        self._signs.leases[event.lease] = heard_now
        self._begun.append(event.lease)
        if self._world.tasks[event.task_id].time_limits is not None:
            self._signs.reports[event.lease] = heard_now

    def _lease_ended(
        self, event: TaskCompleted | TaskFailed | TaskAttemptFailed | TaskTimedOut | TaskPaused, _: float
    ) -> None:
        self._drop(event.lease)

    def _drop(self, lease: str) -> None:
        self._signs.leases.pop(lease, None)
        if self._signs.reports:
            self._signs.reports.pop(lease, None)

    def _timed_out(self, event: TaskTimedOut, heard_now: float) -> None:
        self._lease_ended(event, heard_now)
        if event.lease:
            self._lost(event.task_id, event.lease)

    def _cancelled(self, event: TaskCancelled, _: float) -> None:
        task = self._world.tasks[event.task_id]
        # A task that no worker holds still names the lease of its last attempt, which may belong to another task now.
        if task.worker_id:
            self._drop(task.lease)
            self._lost(event.task_id, task.lease)

    def _cancel_asked(self, event: TaskCancelAsked, _: float) -> None:
        self._to_cancel.append(event.task_id)

    def _preempted(self, event: PoolPreempted, _: float) -> None:
        """Tell the worker of an attempt whose share was taken: who took it begins now."""
        if event.lease:
            self._notices.setdefault(("worker", event.worker_id), []).append(event.lease)

    def _node_changed(self, event: Any, _: float) -> None:
        self._notices.setdefault(("node", self._world.containers[event.container_id].node_id), [])

    def _resuming(self, event: ContainerResuming, heard_now: float) -> None:
        self._node_changed(event, heard_now)
        self._heard_in(event.container_id, heard_now)

    def _resumed(self, event: ContainerResumed, heard_now: float) -> None:
        self._heard_in(event.container_id, heard_now)

    def _heard_in(self, container_id: str, heard_now: float) -> None:
        """After a pause, which silenced them, what is in a container has its whole time again to be heard."""
        indexes, signs = self._world.indexes, self._signs
        for service_id in indexes.services_in.get(container_id, ()):
            signs.services[service_id] = heard_now
        for worker_id in indexes.workers_in.get(container_id, ()):
            signs.workers[worker_id] = heard_now
            for task_id in indexes.held.get(worker_id, ()):
                lease = self._world.tasks[task_id].lease
                signs.leases[lease] = heard_now
                if lease in signs.reports:
                    signs.reports[lease] = heard_now

    def _touch(self, subject: str) -> None:
        if self._waiting.touched(subject):
            self._touched.add(subject)

    def _lost(self, task_id: str, lease: str) -> None:
        if worker_id := self._world.tasks[task_id].worker_id:
            self._notices.setdefault(("worker", worker_id), []).append(lease)


def tell_to_cancel(world: World, task_ids: Iterable[str], now: float, notify: Notify) -> None:
    """Tell the workers of tasks that are to be cancelled, at commit time *now*, how long each may still take."""
    by_worker: dict[str, list[ToCancel]] = {}
    for task_id in task_ids:
        task = world.tasks.get(task_id)
        if task is None or task.cancelling is None or task.is_ended:
            continue
        left_s = max(0.0, task.cancelling.until - now)
        asked = ToCancel(task_id, task.lease, round(left_s, 3), task.cancelling.reason)
        by_worker.setdefault(task.worker_id, []).append(asked)
    for worker_id, to_cancel in by_worker.items():
        notify("worker", worker_id, msgspec.json.encode(LostLeases(lost=[], cancel=to_cancel)))
