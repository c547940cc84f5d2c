"""What limits allow, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.limit import LimitDefined
from events.queue import DEFAULT
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    TaskSubmitted,
    TaskTimedOut,
)
from events.task_pause import TaskPaused

if TYPE_CHECKING:
    from events.limit import LimitEvent, Terms
    from events.task import TaskEvent

DIRECT = "direct"
ENDS = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)


class KeptLimits:
    """The limits, and what each task has in common with others; `take` returns what is wrong with a start, or ''."""

    def __init__(self) -> None:
        self._terms: dict[str, Terms] = {}
        self._values: dict[str, dict[str, str]] = {}
        self._running: set[str] = set()
        self._starts: dict[tuple[str, str], list[float]] = {}
        self._ends: dict[tuple[str, str], float] = {}
        self._began: set[str] = set()
        self._failed: set[str] = set()

    def change(self, event: LimitEvent) -> None:
        """Apply an event about a limit; what lies in the past counts from the change of a rate or cooldown on."""
        terms, before = event.terms if isinstance(event, LimitDefined) else None, self._terms.pop(event.limit_id, None)
        if terms is not None:
            self._terms[event.limit_id] = terms
        if terms is None or before is None or _of_the_past(before) != _of_the_past(terms):
            self._starts = {key: at for key, at in self._starts.items() if key[0] != event.limit_id}
            self._ends = {key: at for key, at in self._ends.items() if key[0] != event.limit_id}

    def take(self, event: TaskEvent, time: float) -> str:
        """Apply an event of a task; return what is wrong with it."""
        task_id = event.task_id
        if isinstance(event, TaskSubmitted):
            customer = event.attributes.get("customer")
            self._values[task_id] = {"all": "", "queue": event.queue or DEFAULT} | (
                {} if customer is None else {"attributes.customer": str(customer)}
            )
            self._began.discard(task_id)
            self._failed.discard(task_id)
        elif isinstance(event, TaskStarted):
            wrong = "" if event.claim_id == DIRECT else self._wrong(task_id, time)
            self._running.add(task_id)
            self._began.add(task_id)
            for key in self._keys(task_id):
                self._starts.setdefault(key, []).append(time)
            return wrong and f"{event} came at {time}, but {wrong}"
        elif isinstance(event, (*ENDS, TaskAttemptFailed)) or (isinstance(event, TaskPaused) and event.lease):
            self._running.discard(task_id)
            if isinstance(event, ENDS):
                if task_id in self._began:
                    self._ends |= dict.fromkeys(self._keys(task_id), time)
            elif event.reason != "released":
                self._failed.add(task_id)
        return ""

    def _keys(self, task_id: str) -> list[tuple[str, str]]:
        values = self._values[task_id]
        return [
            (limit_id, values[terms.by])
            for limit_id, terms in self._terms.items()
            if terms.by in values and (task_id in self._failed or not terms.retries_only)
        ]

    def _wrong(self, task_id: str, time: float) -> str:
        for key in self._keys(task_id):
            terms = self._terms[key[0]]
            running = [one for one in self._running if key in self._keys(one)]
            if terms.running is not None and len(running) >= terms.running:
                return f"{running} of {key} run, and only {terms.running} may"
            lately = [at for at in self._starts.get(key, ()) if at + terms.per_s > time]
            if terms.starts is not None and len(lately) >= terms.starts:
                return f"{key} had starts at {lately}, and only {terms.starts} may be in {terms.per_s} s"
            if terms.cooldown_s and time < self._ends.get(key, 0.0) + terms.cooldown_s:
                return f"{key} had an end at {self._ends[key]}, less than {terms.cooldown_s} s before"
        return ""


def _of_the_past(terms: Terms) -> tuple[str, bool, int | None, float, float]:
    return terms.by, terms.retries_only, terms.starts, terms.per_s, terms.cooldown_s
