"""
Whether tasks start where they may: the labels of workers, and amounts with names, counted again from the events.

What a filter means is said here a second time, in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.resources import Resources
from events.task import TaskAttemptFailed, TaskCancelled, TaskCompleted, TaskFailed, TaskStarted, TaskTimedOut
from events.task_pause import TaskPaused

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
_END = (TaskCompleted, TaskFailed, TaskAttemptFailed, TaskTimedOut, TaskCancelled, TaskPaused)


def filter_of(number: int) -> str:
    """Return the filter of a task, by its number."""
    return {1: EU, 5: LARGE, 6: EU}.get(number % 8, "")


def needs_of(number: int) -> Resources:
    """Return what a task needs, by its number."""
    return Resources(named={"licences": 1 + number % 2}) if number % 4 > 1 else Resources()


class Fit:
    """What the events say of workers and tasks."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerRegistered] = {}
        self._tasks: dict[str, TaskSubmitted] = {}
        self._on: dict[str, str] = {}
        self.checked = 0

    def registered(self, event: WorkerRegistered) -> None:
        """Take a registration: it replaces what the worker said before."""
        self._workers[event.worker_id] = event

    def submitted(self, event: TaskSubmitted) -> None:
        """Take what a task asks for."""
        self._tasks[event.task_id] = event

    def take(self, event: TaskEvent) -> str:
        """Take an event of a task; return what is wrong with it, '' if nothing is."""
        if isinstance(event, _END):
            self._on.pop(event.task_id, None)
        return self._started(event) if isinstance(event, TaskStarted) else ""

    def _started(self, event: TaskStarted) -> str:
        task, worker = self._tasks[event.task_id], self._workers[event.worker_id]
        self._on[event.task_id] = event.worker_id
        self.checked += bool(task.worker_filter) + bool(task.resources.named)
        if not MEANS[task.worker_filter](event.worker_id, worker.labels):
            return f"{event} does not meet {task.worker_filter}: its worker has the labels {worker.labels}"
        if worker.resources is None or not task.resources.named:
            return ""
        here = [self._tasks[one] for one, where in self._on.items() if where == event.worker_id]
        for name in task.resources.named:
            held = sum(one.resources.named.get(name, 0) for one in here)
            if held > worker.resources.named.get(name, 0):
                return f"{event} makes {held} {name} of {worker.resources.named} that are used at {event.worker_id}"
        return ""
