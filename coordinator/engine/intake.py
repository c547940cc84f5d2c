"""
The queue of commands that wait for a turn: bounded; a full queue refuses with a time to retry.

Every door puts its commands here; the engine takes them turn by turn, in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coordinator.commands.caller import Caller
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from events.errors import CoordinationError


class Reply(Protocol):
    """Receives the outcome of one command, exactly once."""

    def __call__(self, value: Any, error: CoordinationError | None) -> None: ...


class Asked:
    """One command on its way, its caller, and the receiver of its outcome; without *reply* the outcome is dropped."""

    __slots__ = ("caller", "command", "reply", "wants_answer")

    def __init__(self, command: Command, caller: Caller, reply: Reply | None = None) -> None:
        self.command = command
        self.caller = caller
        self.reply: Reply = reply if reply is not None else _drop
        self.wants_answer = reply is not None


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
    """A queue of at most *most* commands; a full one refuses with `Unavailable` and a time to retry."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Asked] = deque()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, asked: Asked) -> None:
        """Queue a command, or refuse it at once."""
        if len(self._waiting) >= self._most:
            msg = f"{self._most} commands are waiting, the limit of engine.intake_max: try again shortly"
            asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=0.5))
            return
        self._waiting.append(asked)
        self._wake.set()

    def put_back(self, asked: Asked) -> None:
        """Put a command that did not fit into the turn back; it is the first of the next turn."""
        self._waiting.appendleft(asked)
        self._wake.set()

    def take(self) -> Asked | None:
        """Return and remove the oldest command; None when the queue is empty."""
        return self._waiting.popleft() if self._waiting else None

    def wake(self) -> None:
        """Make `wait` return although nothing was queued."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something was queued or `wake` was called."""
        if not self._waiting:
            await self._wake.wait()
        self._wake.clear()

    def refuse_all(self, error: Unavailable) -> None:
        """Answer every waiting command with *error*."""
        while self._waiting:
            self._waiting.popleft().reply(None, error)
