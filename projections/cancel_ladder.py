"""The index of the running tasks that shall be cancelled: when the next step of each is due. Pure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from projections.ready import prune, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.cancelling import Cancelling
    from projections.ready import Key
    from projections.task import Task


class CancelLadder:
    """The running tasks that shall be cancelled, the one whose next step is due first of all."""

    __slots__ = ("_dues", "_steps", "untold")

    def __init__(self) -> None:
        self._steps: list[Key] = []
        self._dues: dict[str, Key] = {}
        self.untold: dict[str, dict[str, None]] = {}
        """The tasks of each worker that it has not said to have told."""

    def __len__(self) -> int:
        return len(self._dues)

    def add(self, task: Task, cancelling: Cancelling) -> None:
        """Keep a running task that is being cancelled; one that is there already has changed."""
        due: Key = (cancelling.next_step_at, task.task_id)
        if self._dues.get(task.task_id) != due:
            self._dues[task.task_id] = due
            heapq.heappush(self._steps, due)
            prune(self._steps, self._is_live, len(self._dues))
        if cancelling.told_at is None:
            self.untold.setdefault(task.worker_id, {})[task.task_id] = None
        else:
            self._told(task)

    def remove(self, task: Task) -> None:
        """Drop a task that does not run any more, with its value while it ran."""
        del self._dues[task.task_id]
        prune(self._steps, self._is_live, len(self._dues))
        self._told(task)

    def is_due(self, now: float) -> bool:
        """Return whether there may be a task whose next step is due."""
        return bool(self._dues) and float(self._steps[0][0]) <= now

    def due(self, now: float) -> Iterator[str]:
        """Yield the tasks whose next step is due; nothing may be added or removed meanwhile."""
        for due in walk(self._steps):
            if float(due[0]) > now:
                return
            if self._is_live(due):
                yield str(due[-1])

    def _is_live(self, due: Key) -> bool:
        return self._dues.get(str(due[-1])) is due

    def _told(self, task: Task) -> None:
        untold = self.untold.get(task.worker_id)
        if untold is not None:
            untold.pop(task.task_id, None)
            if not untold:
                del self.untold[task.worker_id]
