"""
How long tasks of each name ran lately, read now and then from the tasks that have ended. Pure.

Events are not followed, so a start or an end costs nothing here; when many tasks end between two looks, the newest are
read. Nothing of it is recorded: who begins to lead reads what the world still has.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.task import Task
    from projections.world import World

    Runs = tuple[float, ...]
    """Seconds, the shortest first."""

RUNS_KEPT, NAMES_KEPT = 64, 256
"""So many run times of one name are kept, and of so many names, those of which a task ended last."""
LOOKED_AT_FIRST, LOOKED_AT = 2000, 200
"""So many of the tasks that ended last are read by the first look, and by each later one."""
ENDS = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TIMEOUT)


class RunTimes:
    """The last run times of tasks, by name."""

    def __init__(self) -> None:
        self._of: dict[str, deque[float]] = {}
        self._any: deque[float] = deque(maxlen=RUNS_KEPT)
        self._sorted: dict[str, Runs] = {}
        self._last: dict[TaskStatus, Task] = {}

    def __bool__(self) -> bool:
        return bool(self._any)

    def of(self, task_name: str) -> Runs:
        """Return the run times of a name; those of any if there are none of it."""
        name = task_name if task_name in self._of else ""
        found = self._sorted.get(name)
        if found is None:
            found = self._sorted[name] = tuple(sorted(self._of.get(name, self._any)))
        return found

    def look(self, world: World) -> None:
        """Read what has ended since the last look."""
        for status in ENDS:
            new = list(self._since(world, status))
            if new:
                self._last[status] = new[0]
                self._sorted.clear()
            for task in reversed(new):
                self._note(task)

    def _since(self, world: World, status: TaskStatus) -> Iterator[Task]:
        """Yield the newest tasks that ended so and ran, the last one first, down to the one that was read last."""
        last = self._last.get(status)
        most = LOOKED_AT_FIRST if last is None else LOOKED_AT
        for task_id in islice(reversed(world.indexes.tasks[status]), most):
            task = world.tasks[task_id]
            if last is not None and (task_id == last.task_id or _ended(task) < _ended(last)):
                return
            if task.started_at is not None:
                yield task

    def _note(self, task: Task) -> None:
        ran_s = max(0.0, _ended(task) - (task.started_at or 0.0))
        kept = self._of.pop(task.task_name, None)
        if kept is None:
            kept = deque(maxlen=RUNS_KEPT)
            if len(self._of) >= NAMES_KEPT:
                del self._of[next(iter(self._of))]
        kept.append(ran_s)
        self._of[task.task_name] = kept
        self._any.append(ran_s)


def _ended(task: Task) -> float:
    return task.ended_at or 0.0
