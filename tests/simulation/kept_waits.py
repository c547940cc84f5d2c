"""What tasks waited for, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from events.hold import HoldPlaced
from events.queue import DEFAULT, QueueBlocked, QueueDeleted, QueuePaused, QueueResumed
from events.task import TaskStarted, TaskSubmitted
from projections.blockage import UNCLAIMED, name_in, shape_id
from projections.keyed import all_keys_of
from projections.ready import shape_of
from projections.waits import not_begun, waited

if TYPE_CHECKING:
    from events.base import Event
    from projections.world import World


class KeptWaits:
    """The causes that were recorded of each shape, and when queues were paused."""

    def __init__(self) -> None:
        self._causes: dict[str, list[tuple[float, str]]] = {}
        self._pauses: dict[str, list[tuple[float, float]]] = {}
        self._ready: dict[str, float] = {}
        self._started: list[str] = []
        self._has_holds = False

    def take(self, event: Event, time: float) -> None:
        """Apply one event."""
        match event:
            case QueueBlocked():
                known = self._causes.setdefault(name_in(event.queue_id, event.shape), [])
                since = min(time, max(event.since, known[-1][0] if known else 0.0))
                if not known or known[-1][1] != event.cause:
                    known.append((since, event.cause))
            case QueuePaused():
                self._resume(event.queue_id, time)
                self._pauses.setdefault(event.queue_id, []).append((time, math.inf))
            case QueueResumed() | QueueDeleted():
                self._resume(event.queue_id, time)
            case TaskSubmitted():
                until = 0.0 if event.debounce is None else event.debounce.until
                self._ready[event.task_id] = max(time, event.not_before or 0.0, until)
            case TaskStarted():
                if event.attempt == 1:
                    self._started.append(event.task_id)
            case HoldPlaced():
                self._has_holds = True
            case _:
                pass

    def _resume(self, queue_id: str, time: float) -> None:
        pauses = self._pauses.get(queue_id)
        if pauses and pauses[-1][1] == math.inf:
            pauses[-1] = (pauses[-1][0], time)

    def wrong(self, world: World) -> str:
        """Return what is wrong with what the tasks of the last commit waited for that now began, '' if nothing is."""
        started, self._started = self._started, []
        for task_id in started:
            task = world.tasks.get(task_id)
            if (
                task is None
                or task.started_at is None
                or task.after is not None
                or task.resumes
                or task.request
                or self._has_holds
            ):
                continue
            found, began = waited(world, task), task.started_at
            ready = min(self._ready[task_id], began)
            queue_id = task.queue or DEFAULT
            before = not_begun(task)
            shape = shape_of(before, all_keys_of(before, world.limits, world.budgets), world.indexes.builds.of(before))
            name = name_in(queue_id, shape_id(shape))
            wanted, at = dict[str, float](), ready
            for since, until in self._pauses.get(queue_id, ()):
                cut, end = min(max(since, at), began), min(max(until, at), began)
                for cause, seconds in (*self._parts(name, at, cut).items(), ("queue_paused", end - cut)):
                    wanted[cause] = wanted.get(cause, 0.0) + seconds
                at = end
            for cause, seconds in self._parts(name, at, began).items():
                wanted[cause] = wanted.get(cause, 0.0) + seconds
            if ready > task.submitted_at:
                wanted["not_before"] = ready - task.submitted_at
            if any(abs(found.get(one, 0.0) - wanted.get(one, 0.0)) > 1e-6 for one in {*found, *wanted}):
                return f"{task_id} waited for {found}, but the events say {wanted}"
        return ""

    def _parts(self, name: str, begin: float, end: float) -> dict[str, float]:
        parts: dict[str, float] = {}
        causes = [(-math.inf, ""), *self._causes.get(name, ())]
        for number, (since, cause) in enumerate(causes):
            until = causes[number + 1][0] if number + 1 < len(causes) else math.inf
            seconds = min(until, end) - max(since, begin)
            if seconds > 0:
                parts[cause or UNCLAIMED] = parts.get(cause or UNCLAIMED, 0.0) + seconds
        return parts
