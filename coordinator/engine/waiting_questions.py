"""Questions that wait for an answer: for a task to end, a container to run."""

from __future__ import annotations

import asyncio
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

    from projections.world import World


class Waiting:
    """
    Questions that wait until a task has ended or a container has left a status; at most *most* of them.

    A question whose wait is over goes to *ask_again* instead of being answered here: the world may contain events of a
    turn that is not committed yet.
    """

    def __init__(self, world: World, *, most: int, wait_max_s: float, ask_again: Callable[[Asked], None]) -> None:
        self._world = world
        self._most = most
        self._wait_max_s = wait_max_s
        self._ask_again = ask_again
        self._asked: dict[str, list[tuple[Asked, asyncio.TimerHandle]]] = {}
        self._count = 0

    @staticmethod
    def must_wait(question: Command, value: Any) -> bool:
        """Whether the answer is not yet what the question waits for."""
        if isinstance(question, GetTask):
            return question.wait_s > 0 and not value.is_ended
        return isinstance(question, GetContainer) and question.wait_s > 0 and value.status in question.unless

    def add(self, asked: Asked) -> None:
        """Add a question to those that wait."""
        if self._count >= self._most:
            msg = f"{self._most} questions are waiting, the limit of engine.waiting_max: ask later or without wait_s"
            asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=1.0))
            return
        question: Any = asked.command
        loop = asyncio.get_running_loop()
        timer = loop.call_later(min(question.wait_s, self._wait_max_s), self._expire, asked)
        self._asked.setdefault(_subject(question), []).append((asked, timer))
        self._count += 1

    def __bool__(self) -> bool:
        return self._count > 0

    def touched(self, subject: str) -> bool:
        """Whether a question waits for this task or container."""
        return subject in self._asked

    def look(self, subjects: set[str]) -> None:
        """Answer the questions about changed tasks and containers whose wait is over."""
        for subject in subjects:
            for asked, timer in self._asked.pop(subject, []):
                self._count -= 1
                timer.cancel()
                value, error = self._now(asked)
                if error is None and self.must_wait(asked.command, value):
                    self._again(asked, timer)
                else:
                    asked.reply(value, error)

    def refuse_all(self, error: Unavailable) -> None:
        """Answer every waiting question with *error*."""
        for waiting in self._asked.values():
            for asked, timer in waiting:
                timer.cancel()
                asked.reply(None, error)
        self._asked.clear()
        self._count = 0

    def _again(self, asked: Asked, timer: asyncio.TimerHandle) -> None:
        loop = asyncio.get_running_loop()
        rest = loop.call_at(timer.when(), self._expire, asked)
        self._asked.setdefault(_subject(asked.command), []).append((asked, rest))
        self._count += 1

    def _expire(self, asked: Asked) -> None:
        """Ask the question again without a wait: its wait is over, so it is answered with the current state."""
        subject = _subject(asked.command)
        rest = [one for one in self._asked.get(subject, []) if one[0] is not asked]
        self._count -= 1
        if rest:
            self._asked[subject] = rest
        else:
            self._asked.pop(subject, None)
        impatient = msgspec.structs.replace(asked.command, wait_s=0.0)
        self._ask_again(Asked(impatient, asked.caller, asked.reply))

    def _now(self, asked: Asked) -> tuple[Any, CoordinationError | None]:
        question: Any = asked.command
        table = self._world.tasks if isinstance(question, GetTask) else self._world.containers
        try:
            return one_of(table, _subject(question), question.KIND), None
        except CoordinationError as error:
            return None, error


def _subject(question: Any) -> str:
    return str(question.task_id if isinstance(question, GetTask) else question.container_id)
