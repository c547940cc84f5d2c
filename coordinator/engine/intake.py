"""
What was asked and not yet taken up: bounded, and refusing with a hint when full rather than growing.

Every door puts its commands here; the engine takes them turn by turn, in the order they came.
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
    """Takes the outcome of one command, exactly once."""

    def __call__(self, value: Any, error: CoordinationError | None) -> None: ...


class Asked:
    """One command on its way: who asked, and where the outcome goes; without *reply* nobody is told."""

    __slots__ = ("caller", "command", "reply", "wants_answer")

    def __init__(self, command: Command, caller: Caller, reply: Reply | None = None) -> None:
        self.command = command
        self.caller = caller
        self.reply: Reply = reply if reply is not None else _nobody
        self.wants_answer = reply is not None


def _nobody(value: Any, error: CoordinationError | None) -> None:  # as `Reply` has it
    """Tell nobody."""


def typed(command: Command) -> Command:
    """
    Give *command* with every field of the type it is declared with, as the wire would; for callers in this process.

    What is of another type could be written into the journal, but not read back.

    Raises:
        Refused: a field cannot be of its type.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(command), type(command))
    except (msgspec.ValidationError, TypeError) as error:
        msg = f"{type(command).__name__} is malformed: {error}"
        raise Refused(msg, reason="bad_request") from error


class Intake:
    """A queue of at most *most* commands; a full one refuses with `Unavailable` and when to try again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Asked] = deque()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, asked: Asked) -> None:
        """Queue a command, or refuse it at once."""
        if len(self._waiting) >= self._most:
            msg = f"{self._most} commands wait already, as many as engine.intake_max allows: try again shortly"
            asked.reply(None, Unavailable(msg, reason="overloaded", retry_after_s=0.5))
            return
        self._waiting.append(asked)
        self._wake.set()

    def put_back(self, asked: Asked) -> None:
        """Return a command that the turn could not take; it is first in the next."""
        self._waiting.appendleft(asked)
        self._wake.set()

    def take(self) -> Asked | None:
        """Take the oldest command, None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    def wake(self) -> None:
        """Let `wait` return even though nothing was queued."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait until something was queued or `wake` was called."""
        if not self._waiting:
            await self._wake.wait()
        self._wake.clear()

    def refuse_all(self, error: Unavailable) -> None:
        """Answer everything that waits with *error*."""
        while self._waiting:
            self._waiting.popleft().reply(None, error)
