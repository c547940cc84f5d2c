"""Questions that wait for an answer: for a task to end, a container to run."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.container import GetContainer
from coordinator.commands.task import GetTask
from coordinator.engine.intake import Asked
from coordinator.engine.questions import one_of
from events.errors import CoordinationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.engine.budget import Budget
    from projections.world import World

    Subject = tuple[str, str]

GIVE_UP_AT_ONCE = 200
"""Waits that end in one iteration of the event loop; many may end at the same moment."""
_SPARE_ENTRIES = 64


class Waiting:
    """
    Questions that wait until a task has ended or a container has left a status; at most *most* of them.

    A source may have half of the places that the others leave, so there is always one for another.

    A question whose wait is over goes to *ask_again* instead of being answered here: the world may contain events of a
    turn that is not committed yet. So do those for which the *budget* of the turn has nothing left.
    """

    def __init__(
        self, world: World, *, most: int, wait_max_s: float, ask_again: Callable[[Asked], None], budget: Budget
    ) -> None:
        self._world = world
        self._most = most
        self._wait_max_s = wait_max_s
        self._ask_again = ask_again
        self._budget = budget
        self._asked: dict[Subject, dict[Asked, None]] = {}
        self._of_source: dict[str, int] = {}
        self._count = 0
        # One timer for all of them. Entries of answered questions stay until their time has come, or there are many.
        self._ends: list[tuple[float, int, Asked]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def must_wait(question: Command, value: Any) -> bool:
        """Whether the answer is not yet what the question waits for."""
        if isinstance(question, GetTask):
            return question.wait_s > 0 and not value.is_ended
        return isinstance(question, GetContainer) and question.wait_s > 0 and value.status in question.unless

    def add(self, asked: Asked) -> None:
        """Add a question to those that wait."""
        source, left = asked.caller.actor, self._most - self._count
        its = self._of_source.get(source, 0)
        if its >= left:
            msg = (
                f"{its} questions of {source} are waiting, half of what others leave of engine.waiting_max"
                if left > 0
                else f"{self._most} questions are waiting, the limit of engine.waiting_max"
            )
            msg += ": ask later or without wait_s"
            asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=1.0))
            return
        self._of_source[source] = its + 1
        question: Any = asked.command
        end = asyncio.get_running_loop().time() + min(question.wait_s, self._wait_max_s)
        self._asked.setdefault(_subject(question), {})[asked] = None
        self._count += 1
        heapq.heappush(self._ends, (end, next(self._numbers), asked))
        self._watch()

    def __bool__(self) -> bool:
        return self._count > 0

    def touched(self, subject: str) -> bool:
        """Whether a question waits for this task or container."""
        return ("task", subject) in self._asked or ("container", subject) in self._asked

    def look(self, subjects: set[str]) -> None:
        """Answer the questions about changed tasks and containers whose wait is over."""
        for subject in subjects:
            for kind, table in (("task", self._world.tasks), ("container", self._world.containers)):
                waiting = self._asked.get((kind, subject))
                if waiting:
                    self._look_at(waiting, *_now(table, subject, kind))

    def refuse_all(self, error: Unavailable) -> None:
        """Answer every waiting question with *error*."""
        waiting = [asked for same in self._asked.values() for asked in same]
        self._asked.clear()
        self._ends.clear()
        self._of_source.clear()
        self._count = 0
        self._watch()
        for asked in waiting:
            asked.reply(None, error)

    def _look_at(self, waiting: dict[Asked, None], value: Any, error: CoordinationError | None) -> None:
        for asked in tuple(waiting):
            if error is None and self.must_wait(asked.command, value):
                if isinstance(asked.command, GetTask):
                    return  # all of them wait for the same
                continue
            self._remove(asked)
            if self._budget.is_spent:
                self._ask_again(_impatient(asked))
                continue
            began = self._budget.now()
            asked.reply(value, error)
            self._budget.note_time(self._budget.now() - began)
        self._watch()

    def _remove(self, asked: Asked) -> None:
        subject = _subject(asked.command)
        waiting = self._asked[subject]
        del waiting[asked]
        self._count -= 1
        source = asked.caller.actor
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]
        if not waiting:
            del self._asked[subject]

    def _waits(self, asked: Asked) -> bool:
        return asked in self._asked.get(_subject(asked.command), ())

    def _watch(self) -> None:
        """Set the timer to the end of the first wait."""
        ends = self._ends
        while ends and not self._waits(ends[0][2]):
            heapq.heappop(ends)
        if len(ends) > 2 * self._count + _SPARE_ENTRIES:
            ends[:] = [entry for entry in ends if self._waits(entry[2])]
            heapq.heapify(ends)
        if self._timer is not None and (not ends or self._timer.when() != ends[0][0]):
            self._timer.cancel()
            self._timer = None
        if ends and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(ends[0][0], self._give_up)

    def _give_up(self) -> None:
        """Ask questions whose wait is over again without a wait, so they are answered with the current state."""
        timer, self._timer = self._timer, None
        assert timer is not None
        for _ in range(GIVE_UP_AT_ONCE):
            if not self._ends or self._ends[0][0] > timer.when():
                break
            asked = heapq.heappop(self._ends)[2]
            if self._waits(asked):
                self._remove(asked)
                self._ask_again(_impatient(asked))
        self._watch()


def _impatient(asked: Asked) -> Asked:
    command = msgspec.structs.replace(asked.command, wait_s=0.0)
    return Asked(command, asked.caller, asked.reply, asked.room, asked.size)


def _now(table: dict[str, Any], subject: str, kind: str) -> tuple[Any, CoordinationError | None]:
    try:
        return one_of(table, subject, kind), None
    except CoordinationError as error:
        return None, error


def _subject(question: Any) -> tuple[str, str]:
    return ("task", question.task_id) if isinstance(question, GetTask) else ("container", question.container_id)
