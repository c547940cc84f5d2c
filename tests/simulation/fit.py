"""
Whether tasks start where they may, and wait for the workers that they prefer: said again from the events.

What a filter means is said here a second time, in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.resources import Resources
from events.task import (
    Prefer,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from tests.simulation.promises import Promise, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.task import Scalar, TaskEvent, TaskSubmitted
    from events.worker import WorkerRegistered

EU, LARGE = 'labels.zone == "eu"', "labels.size >= 2 && worker_id != 'worker0'"
MEANS: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    "": lambda worker_id, labels: True,  # noqa: ARG005  # as the others
    EU: lambda worker_id, labels: labels.get("zone") == "eu",  # noqa: ARG005
    LARGE: lambda worker_id, labels: labels.get("size", 0) >= 2 and worker_id != "worker0",
}
"""The filters of tasks, and who meets them."""
LABELS: tuple[dict[str, Scalar], ...] = ({"zone": "eu", "size": 2}, {"zone": "us", "size": 2}, {"zone": "eu"})
"""The labels of the workers, by their number."""
LICENCES = Resources(named={"licences": 2})
"""What each of them has, but no CPU and no memory."""
CLOCKS_S = 0.001
_END = (TaskCompleted, TaskFailed, TaskAttemptFailed, TaskTimedOut, TaskCancelled, TaskPaused)


def filter_of(number: int) -> str:
    """Return the filter of a task, by its number."""
    return {1: EU, 5: LARGE, 6: EU}.get(number % 8, "")


def needs_of(number: int) -> Resources:
    """Return what a task needs, by its number."""
    return Resources(named={"licences": 1 + number % 2}) if number % 4 > 1 else Resources()


def prefer_of(number: int, name: str) -> Prefer | None:
    """Return what a task of a client prefers, by its number."""
    if number % 8 == 3:
        return Prefer(filter=(EU, LARGE)[number % 3 % 2], for_s=2.0)
    return Prefer(sticky_to=f"{name}-{number - 1}", for_s=3.0) if number % 8 == 7 else None


class Fit:
    """What the events say of workers and tasks."""

    def __init__(self) -> None:
        self._ready_at: dict[str, float] = {}
        self._sticks: dict[str, str] = {}
        self._ran: dict[str, str] = {}
        self._stopping: set[str] = set()
        self._workers: dict[str, WorkerRegistered] = {}
        self._tasks: dict[str, TaskSubmitted] = {}
        self._on: dict[str, str] = {}
        self.checked = 0

    def registered(self, event: WorkerRegistered) -> None:
        """Take a registration: it replaces what the worker said before."""
        self._workers[event.worker_id] = event
        self._stopping.discard(event.worker_id)

    def stops(self, worker_id: str) -> None:
        """Take that a worker drains, has left or is lost."""
        self._stopping.add(worker_id)

    def submitted(self, event: TaskSubmitted, time: float) -> None:
        """Take what a task asks for."""
        self._tasks[event.task_id] = event
        self._ready_at[event.task_id] = max(time, event.not_before or 0.0)
        self._sticks[event.task_id] = event.prefers_worker
        self._ran.pop(event.task_id, None)

    def take(self, event: TaskEvent, time: float) -> None:
        """
        Take an event of a task.

        Raises:
            Violation: it starts where it may not, or does not prefer to.
        """
        task_id = event.task_id
        if isinstance(event, _END):
            self._on.pop(task_id, None)
        if isinstance(event, TaskAttemptFailed):
            self._ready_at[task_id] = event.retry_at
        elif isinstance(event, TaskUnblocked | TaskResumed):
            self._ready_at[task_id] = max(time, self._ready_at[task_id])
        if isinstance(event, TaskUnblocked) and event.prefers_worker:
            self._sticks[task_id] = event.prefers_worker
            sticky_to = getattr(self._tasks[task_id].prefer, "sticky_to", "")
            if event.prefers_worker != self._ran.get(sticky_to):
                raise Violation(Promise.PREFERS, f"{event}, but {self._ran.get(sticky_to)} ran {sticky_to} last")
        if isinstance(event, TaskStarted):
            self._started(event)
            self._check_preference(event, time)

    def _started(self, event: TaskStarted) -> None:
        task, worker = self._tasks[event.task_id], self._workers[event.worker_id]
        self._on[event.task_id] = self._ran[event.task_id] = event.worker_id
        self.checked += bool(task.worker_filter) + bool(task.resources.named)
        if not MEANS[task.worker_filter](event.worker_id, worker.labels):
            what = f"{event} does not meet {task.worker_filter}: its worker has the labels {worker.labels}"
            raise Violation(Promise.FIT, what)
        if worker.resources is None or not task.resources.named:
            return
        here = [self._tasks[one] for one, where in self._on.items() if where == event.worker_id]
        for name in task.resources.named:
            held = sum(one.resources.named.get(name, 0) for one in here)
            if held > worker.resources.named.get(name, 0):
                what = f"{event} makes {held} {name} of {worker.resources.named} that are used at {event.worker_id}"
                raise Violation(Promise.FIT, what)

    def _check_preference(self, event: TaskStarted, time: float) -> None:
        prefer, sticks = self._tasks[event.task_id].prefer, self._sticks[event.task_id]
        if prefer is None or not (prefer.filter or sticks):
            return

        def is_preferred(worker_id: str) -> bool:
            if sticks:
                return worker_id == sticks
            return MEANS[prefer.filter](worker_id, self._workers[worker_id].labels)

        waits_s = self._ready_at[event.task_id] + prefer.for_s - time
        others = [one for one in self._workers if one not in self._stopping and is_preferred(one)]
        self.checked += 1
        if waits_s > CLOCKS_S and others and not is_preferred(event.worker_id):
            raise Violation(Promise.PREFERS, f"{event} was to wait {waits_s:.3f} s more for one of {others}")
