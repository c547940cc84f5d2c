"""
The queues of commands and of questions that wait for a turn: bounded; a full queue refuses with a time to retry.

Every door puts its commands here; the engine takes them turn by turn, some of each source in turn, those of one source
in order of arrival. A source gets at most half of the room that the others leave, so there is always some for another.
Questions have a queue of their own, so that no number of them refuses or delays a command. The order of one source's
commands and questions is kept while its questions do not have to wait for another turn. A giant request, or a
large one of a source that has much waiting, is queued or refused as it came: it is decoded when its turn comes, some of
them in each turn. While others ask, too, large commands have at most a quarter of the time.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coordinator.clock import SystemClock
from coordinator.commands.caller import COORDINATOR, Caller
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.clock import Clock
    from coordinator.commands.command import Command
    from events.errors import CoordinationError

QUESTION_BYTES_MOST = 16 * 1024 * 1024
COMMAND_BYTES_MOST = 32 * 1024 * 1024
"""The bytes of all questions and commands that wait, as they came in. The engine takes 20 to 50 MB a second."""

AT_ONCE_BYTES = 1024 * 1024
"""A large request of a source that has more waiting, with it, is not decoded as it comes in."""
GIANT_BYTES = 128 * 1024
"""A larger request is never decoded as it comes in: what others sent waits behind it, in the same connection."""
TURN_READ_BYTES = 64 * 1024
"""So much of what was not decoded is decoded in a turn, and one request more; a commit has room for about as much."""

LARGE_COMMAND_BYTES = 16 * 1024
"""Commands of more share the time with what others ask: a commit with them takes the disk tens of milliseconds."""
RESTS = 3.0
"""After a turn with such commands no waiting request is decoded for so many times as long as it took, …"""
OTHERS_ASK_S = 1.0
"""… if others have asked within so many seconds."""

COMMANDS_IN_A_ROW = 32
"""So many commands of one source are taken before it is another one's turn."""

BYTES_A_COMMAND = 1024
"""One that is larger counts as several: a commit has room for few of them, and others would wait for many commits."""

QUESTION_WAITS_S = 5.0
"""A question that waited for longer is refused; our clients ask again after two seconds."""
REFUSED_AT_ONCE = 100


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
    *size* is the length of the command in bytes, 0 if it came from this process. `number` is set when it is queued, and
    `since`, a time of the clock, for a question.
    """

    __slots__ = ("caller", "command", "is_question", "number", "reply", "room", "since", "size", "wants_answer")

    def __init__(
        self, command: Command, caller: Caller, reply: Reply | None = None, room: Room | None = None, size: int = 0
    ) -> None:
        self.command = command
        self.is_question = command.IS_QUESTION
        self.caller = caller
        self.reply: Reply = reply if reply is not None else _drop
        self.wants_answer = reply is not None
        self.room = room
        self.size = size
        self.number = 0
        self.since = 0.0


class Unread:
    """
    A request that was not decoded, of *size* bytes; the other fields are those of `Asked`.

    *read* decodes it and returns its commands, without those that are answered with that: all are questions, or none
    is. *reply* answers the request as a whole instead; one of both is called, once.
    """

    __slots__ = ("caller", "is_question", "number", "read", "reply", "since", "size")

    def __init__(
        self, caller: Caller, reply: Reply, size: int, *, is_question: bool, read: Callable[[], list[Asked]]
    ) -> None:
        self.caller = caller
        self.reply = reply
        self.size = size
        self.is_question = is_question
        self.read = read
        self.number = 0
        self.since = 0.0


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

    def __init__(self, most: int, clock: Clock | None = None) -> None:
        self._most = most
        self._now = (clock if clock is not None else SystemClock()).heard
        self._commands = _BySource(most, COMMAND_BYTES_MOST, in_a_row=COMMANDS_IN_A_ROW)
        self._questions = _BySource(most, QUESTION_BYTES_MOST, in_a_row=1)
        self._queues = (self._commands, self._questions)
        self.by_source = self._questions.lines
        """The waiting questions, by source."""
        self.arrivals = 0
        """How many have come, those that were refused among them."""
        self._read_left = TURN_READ_BYTES
        self._read_of = ""
        """The source whose large commands were decoded last."""
        self._has_read = False
        """Whether some were in this turn."""
        self._others_asked = -math.inf
        self._rests_until = -math.inf
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._commands) + len(self._questions)

    def refill(self) -> None:
        """Begin a turn: some requests may be decoded again."""
        self._read_left = TURN_READ_BYTES
        self._has_read = False

    def note_turn(self, took_s: float) -> None:
        """End a turn that took *took_s* seconds with its commit."""
        if self._has_read and (now := self._now()) - self._others_asked < OTHERS_ASK_S:
            self._rests_until = now + RESTS * took_s

    def put_off(self, unread: Unread) -> bool:
        """Queue a large request, or refuse it at once; return False if it is to be decoded now, and put then."""
        queue = self._questions if unread.is_question else self._commands
        if unread.size <= GIANT_BYTES and queue.is_little(unread):
            return False
        self.put(unread)
        return True

    def put(self, asked: Asked | Unread) -> None:
        """Queue a command, a question or a request, or refuse it at once."""
        self.arrivals = asked.number = self.arrivals + 1
        if self._read_of and asked.caller.actor != self._read_of:
            self._others_asked = self._now()
        if asked.is_question:
            asked.since = self._now()
            queue = self._questions
        else:
            queue = self._commands
        if queue.add(asked):
            self._wake.set()
            return
        what = "questions" if asked.is_question else "commands"
        msg = (
            f"too many {what} are waiting; one source may have half of what the others leave of {self._most}, "
            f"the limit of engine.intake_max, and of {queue.most_bytes} bytes: try again shortly"
        )
        asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=0.5))

    def put_back(self, asked: Asked) -> None:
        """Put back what did not fit into the turn, or has ended its wait; it is the first of the next turn."""
        asked.since = self._now()
        (self._questions if asked.is_question else self._commands).put_back(asked)
        self._wake.set()

    def take(self) -> Asked | None:
        """Return and remove the oldest command of the source whose turn it is; None when this turn has no more."""
        commands, passed = self._commands, 0
        while len(commands.lines) > passed:
            asked = commands.take()
            if isinstance(asked, Asked):
                return asked
            if not self._open(commands, asked):
                commands.put_back(asked, is_next=False)
                passed += 1
        return None

    def take_question(self, *, is_ordered: bool = False) -> Asked | None:
        """
        Return and remove the next question: the oldest of the source whose turn it is; None when this turn has no more.

        If *is_ordered*, only one that came before the commands of its source. Those that have waited for too long are
        refused: whoever asked has asked again since, or has gone.
        """
        oldest, passed = self._now() - QUESTION_WAITS_S, 0
        for _ in range(REFUSED_AT_ONCE):
            if len(self._questions.lines) <= passed:
                return None
            if is_ordered and (not self._commands or self._commands.has_before(self._questions.first)):
                return None
            asked = self._questions.take()
            if asked.since >= oldest:
                if not isinstance(asked, Unread):
                    return asked
                if not self._open(self._questions, asked):
                    self._questions.put_back(asked, is_next=False)
                    passed += 1
                continue
            whose = asked.caller.actor
            msg = f"the questions of {whose} wait for longer than {QUESTION_WAITS_S:g} s: ask fewer at a time"
            asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=1.0))
        return None

    def _open(self, queue: _BySource, unread: Unread) -> bool:
        """Put the commands of a request in its place; return False, without a change, if enough was decoded for now."""
        if self._read_left <= 0 or self._rests():
            return False
        self._read_left -= unread.size
        commands = unread.read()
        if unread.size > LARGE_COMMAND_BYTES * max(1, len(commands)):
            self._has_read, self._read_of = True, unread.caller.actor
        for asked in reversed(commands):
            asked.number, asked.since = unread.number, unread.since
            queue.put_back(asked)
        return True

    @property
    def has_commands(self) -> bool:
        """Whether a command waits."""
        return bool(self._commands.lines)

    @property
    def has_questions(self) -> bool:
        """Whether a question waits."""
        return bool(self.by_source)

    def wake(self) -> None:
        """Make `wait` return although nothing was queued."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something was queued, and may be taken, or `wake` was called."""
        if not self._commands.lines and not self._questions.lines:
            await self._wake.wait()
        elif self._rests() and all(_is_unread(line) for queue in self._queues for line in queue.lines.values()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._rests_until - self._now())
        self._wake.clear()

    def _rests(self) -> bool:
        return self._rests_until > self._now()

    def refuse_all(self, error: Unavailable) -> None:
        """Answer everything that waits with *error*."""
        for queue in self._queues:
            while queue:
                queue.take().reply(None, error)


class _Line(deque[Asked | Unread]):
    """What one source has waiting, and its bytes."""

    __slots__ = ("size", "source")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.size = 0


def _is_unread(line: _Line) -> bool:
    return isinstance(line[0], Unread)


class _BySource:
    """Lines by source, the one whose turn it is first."""

    def __init__(self, most: int, most_bytes: int, *, in_a_row: int) -> None:
        self.lines: OrderedDict[str, _Line] = OrderedDict()
        self._room = self._most = most
        self._room_bytes = self.most_bytes = most_bytes
        self._in_a_row = self._left = in_a_row
        self._first: _Line | None = None
        """The line whose turn it is, None if it must be looked up."""

    def __len__(self) -> int:
        return self._most - self._room

    def is_little(self, unread: Unread) -> bool:
        """Whether there is room for a request, and its source has not much waiting."""
        line = self.lines.get(unread.caller.actor)
        if line is None:
            return self._room >= 1 and unread.size <= self._room_bytes
        return len(line) < self._room and line.size + unread.size <= min(AT_ONCE_BYTES, self._room_bytes)

    def add(self, asked: Asked | Unread) -> bool:
        """Add one; return whether there was room for it."""
        source, size, room = asked.caller.actor, asked.size, self._room
        line = self.lines.get(source)
        if line is None:
            if room < 1 or size > self._room_bytes:
                return False
            line = self.lines[source] = _Line(source)
        elif len(line) >= room or line.size + size > self._room_bytes:
            return False
        line.append(asked)
        line.size += size
        self._room = room - 1
        self._room_bytes -= size
        return True

    def put_back(self, asked: Asked | Unread, *, is_next: bool = True) -> None:
        """Add one as the first of its source, whose turn is next, or last."""
        source = asked.caller.actor
        line = self.lines.get(source)
        if line is None:
            line = self.lines[source] = _Line(source)
        line.appendleft(asked)
        line.size += asked.size
        self.lines.move_to_end(source, last=not is_next)
        self._first = None
        self._room -= 1
        self._room_bytes -= asked.size

    @property
    def first(self) -> Asked | Unread:
        """The one that `take` returns; there must be one."""
        return next(iter(self.lines.values()))[0]

    def has_before(self, asked: Asked | Unread) -> bool:
        """Whether something of the same source, or of the coordinator itself, came before *asked*."""
        found = (self.lines.get(source) for source in (asked.caller.actor, COORDINATOR.actor))
        return any(line is not None and line[0].number < asked.number for line in found)

    def take(self) -> Asked | Unread:
        """Return and remove the first of the source whose turn it is; there must be one."""
        line = self._first
        if line is None:
            line = self._first = next(iter(self.lines.values()))
        asked = line.popleft()
        size = asked.size
        line.size -= size
        self._room += 1
        self._room_bytes += size
        self._left -= 1 if size < BYTES_A_COMMAND else 1 + size // BYTES_A_COMMAND
        if line and self._left > 0:
            return asked
        self._first = None
        self._left = self._in_a_row
        if line:
            self.lines.move_to_end(line.source)
        else:
            del self.lines[line.source]
        return asked
