"""
The queues of commands and of questions that wait for a turn: bounded; a full queue refuses with a time to retry.

Every door puts its commands here; the engine takes them turn by turn, commands in order of arrival, questions one of
each source in turn. Questions have a queue of their own, so that no number of them refuses or delays a command. The
order of one source's commands and questions is kept while its questions do not have to wait for another turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coordinator.commands.caller import Caller
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from events.errors import CoordinationError


QUESTION_BYTES_MOST = 16 * 1024 * 1024
"""The bytes of all questions that wait, as they came in."""


class Reply(Protocol):
    """Receives the outcome of one command, exactly once."""

    def __call__(self, value: Any, error: CoordinationError | None) -> None: ...


class Room(Protocol):
    """The bytes that one answer may have when it leaves this process."""

    def left(self) -> int:
        """How many are left for it in the message that it shares with other answers."""
        ...

    def alone(self) -> int:
        """How many it may have in a message of its own."""
        ...


class Asked:
    """
    One command on its way, its caller, and the receiver of its outcome; without *reply* the outcome is dropped.

    With a *room* the value of a question is encoded for the wire as it is made, and made no longer than what fits.
    *size* is the length of the command in bytes, 0 if it came from this process. `number` is set when it is queued.
    """

    __slots__ = ("caller", "command", "number", "reply", "room", "size", "wants_answer")

    def __init__(
        self, command: Command, caller: Caller, reply: Reply | None = None, room: Room | None = None, size: int = 0
    ) -> None:
        self.command = command
        self.caller = caller
        self.reply: Reply = reply if reply is not None else _drop
        self.wants_answer = reply is not None
        self.room = room
        self.size = size
        self.number = 0


def _drop(value: Any, error: CoordinationError | None) -> None:  # the signature of `Reply`
    """Drop the outcome."""


def typed(command: Command) -> Command:
    """
    Return *command* with every field converted to its declared type, as the wire does; for callers in this process.

    A value of another type could be written into the journal, but not read back.

    Raises:
        Refused: a field cannot be converted to its type.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(command), type(command))
    except (msgspec.ValidationError, TypeError) as error:
        msg = f"{type(command).__name__} is malformed: {error}"
        raise Refused(msg, reason="bad_request") from error


class Intake:
    """A queue of at most *most* commands, and one of as many questions; a full one refuses with a time to retry."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Asked] = deque()
        self._questions = _Questions(most)
        self.by_source = self._questions.by_source
        """The waiting questions, by source."""
        self._numbers = count(1)
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._questions)

    def put(self, asked: Asked) -> None:
        """Queue a command or a question, or refuse it at once."""
        asked.number = next(self._numbers)
        if asked.command.IS_QUESTION:
            has_room = self._questions.add(asked)
        elif has_room := len(self._waiting) < self._most:
            self._waiting.append(asked)
        if has_room:
            self._wake.set()
            return
        what = "questions" if asked.command.IS_QUESTION else "commands"
        msg = f"{self._most} {what} are waiting, the limit of engine.intake_max: try again shortly"
        asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=0.5))

    def put_back(self, asked: Asked) -> None:
        """Put back what did not fit into the turn; it is the first of the next turn."""
        if asked.command.IS_QUESTION:
            self._questions.put_back(asked)
        else:
            self._waiting.appendleft(asked)
        self._wake.set()

    def take(self) -> Asked | None:
        """Return and remove the oldest command; None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    def take_question(self, *, is_ordered: bool = False) -> Asked | None:
        """
        Return and remove the next question: the oldest of the source whose turn it is; None when there is none.

        If *is_ordered*, only one that came before the oldest command.
        """
        if not self._questions:
            return None
        if is_ordered and (not self._waiting or self._questions.first_number > self._waiting[0].number):
            return None
        return self._questions.take()

    @property
    def has_questions(self) -> bool:
        """Whether a question waits."""
        return bool(self.by_source)

    def wake(self) -> None:
        """Make `wait` return although nothing was queued."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something was queued or `wake` was called."""
        if not self._waiting and not self._questions:
            await self._wake.wait()
        self._wake.clear()

    def refuse_all(self, error: Unavailable) -> None:
        """Answer everything that waits with *error*."""
        while self._waiting:
            self._waiting.popleft().reply(None, error)
        while self._questions:
            self._questions.take().reply(None, error)


class _Questions:
    """Questions by source. One source gets at most half of the room that the others leave, so there is always some."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.by_source: OrderedDict[str, deque[Asked]] = OrderedDict()
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, asked: Asked) -> bool:
        """Add a question; return whether there was room for it."""
        mine = self.by_source.get(asked.caller.actor)
        room, room_bytes = self._most - self._count, QUESTION_BYTES_MOST - self._bytes
        if (len(mine) if mine is not None else 0) >= room or asked.size > room_bytes:
            return False
        if mine is None:
            mine = self.by_source[asked.caller.actor] = deque()
        mine.append(asked)
        self._note(asked, 1)
        return True

    def put_back(self, asked: Asked) -> None:
        """Add a question as the next one."""
        source = asked.caller.actor
        self.by_source.setdefault(source, deque()).appendleft(asked)
        self.by_source.move_to_end(source, last=False)
        self._note(asked, 1)

    @property
    def first_number(self) -> int:
        """The number of the question that `take` returns."""
        return next(iter(self.by_source.values()))[0].number

    def take(self) -> Asked:
        """Return and remove a question of the source whose turn it is; there must be one."""
        source, mine = next(iter(self.by_source.items()))
        asked = mine.popleft()
        if mine:
            self.by_source.move_to_end(source)
        else:
            del self.by_source[source]
        self._note(asked, -1)
        return asked

    def _note(self, asked: Asked, by: int) -> None:
        self._count += by
        self._bytes += by * asked.size
