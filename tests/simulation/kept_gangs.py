"""What a gang promises, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.task import Gang, TaskStarted, TaskSubmitted, TaskTimedOut

if TYPE_CHECKING:
    from events.task import TaskEvent

GANG_DEADLINE = "gang_deadline_s"


class KeptGangs:
    """Which tasks of gangs have not begun; `take` returns what is wrong with an event, or ''."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Gang, float]] = {}
        """The tasks that have not begun, with their gang and when it has to begin."""
        self._begins: dict[str, list[str]] = {}
        """The tasks of each gang that begin in this commit."""
        self._sizes: dict[str, int] = {}
        self.begun = 0

    def take(self, event: TaskEvent, time: float, ends: tuple[type[Any], ...]) -> str:
        """Apply an event about a task; return what is wrong with it."""
        task_id = event.task_id
        if isinstance(event, TaskSubmitted):
            if event.gang is not None:
                self._waiting[task_id] = event.gang, event.gang_until
                if not time < event.gang_until <= time + event.gang.deadline_s:
                    return f"{event} at {time}"
        elif isinstance(event, TaskStarted):
            gang, _ = self._waiting.pop(task_id, (None, 0.0))
            if gang is not None:
                self._begins.setdefault(gang.gang_id, []).append(task_id)
                self._sizes[gang.gang_id] = gang.size
        elif isinstance(event, TaskTimedOut) and event.exceeded == GANG_DEADLINE:
            gang, until = self._waiting.pop(task_id, (None, 0.0))
            if gang is None or time < until:
                return f"{event} at {time}, of {gang} until {until}"
        elif isinstance(event, ends):
            self._waiting.pop(task_id, None)
        return ""

    def end(self) -> str:
        """Return what is wrong after a commit."""
        begins, self._begins = self._begins, {}
        self.begun += len(begins)
        for gang_id, task_ids in begins.items():
            if len(task_ids) != self._sizes[gang_id]:
                return f"{task_ids} of gang {gang_id} began in one commit, of {self._sizes[gang_id]} tasks"
        return ""
