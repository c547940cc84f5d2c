"""
The calls of one command that share requests: one request is in flight while the next one fills.

The first call is sent at once; calls that arrive while it is in flight share the next request. So load makes requests
larger, and a single call waits for nothing. Calls whose answers had no room in a message are sent again, the same
bytes, and the next requests of the lane are smaller. A call must never wait past its own deadline, whatever else shares
its request; one timer, set to the earliest deadline, fails the calls that are late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from coordinator.commands.wire import ASK_AGAIN
from events.errors import CoordinationError, Unavailable

if TYPE_CHECKING:
    from coordinator.commands.wire import Answer

MOST_TOGETHER = 250
"""Commands in one request. More are allowed, but with fewer the coordinator can start on the first ones sooner."""
MOST_UNDER_WAY = 4
"""Requests of one lane in flight. Their commands reach the coordinator in order, because they use one connection."""
ENOUGH = 100
"""Waiting calls from which a further request is sent while one is in flight."""
REQUEST_BYTES = 400_000
"""Bytes of commands in one request; a single command larger than this is sent alone."""
LOOK_AGAIN_S = 0.05
"""How late a call may learn that its deadline has passed."""


class Send(Protocol):
    """Sends encoded commands until they are answered or the deadline (loop time) passes; returns one answer each."""

    async def __call__(self, subject: str, encoded: list[bytes], deadline: float, /) -> list[Answer]: ...


class _Call:
    """One call: its encoded command, its deadline (loop time), and the future of its answer."""

    __slots__ = ("answer", "deadline", "encoded")

    def __init__(self, encoded: bytes, deadline: float, answer: asyncio.Future[Answer]) -> None:
        self.encoded = encoded
        self.deadline = deadline
        self.answer = answer

    def fail(self, error: Exception) -> None:
        """Raise a copy of *error* in the caller if it still waits. A copy, because raising extends the traceback."""
        if not self.answer.done():
            self.answer.set_exception(copy(error))
            self.answer.exception()  # mark it as retrieved: a cancelled caller never does


class Lane:
    """All calls to *subject*; *send* sends their requests, in *tasks*."""

    def __init__(self, subject: str, send: Send, tasks: asyncio.TaskGroup) -> None:
        self.subject = subject
        self._send = send
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Call] = deque()
        self._in_flight: dict[asyncio.Task[None] | None, list[_Call]] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._late: asyncio.TimerHandle | None = None
        self._most_together = MOST_TOGETHER

    def ride(self, encoded: bytes, deadline: float) -> asyncio.Future[Answer]:
        """
        Add a command to the next request; return the future of its answer.

        The future raises `Unavailable` at *deadline* (loop time), or when the client is closed.
        """
        call = _Call(encoded, deadline, self._loop.create_future())
        self._waiting.append(call)
        # With enough calls, a further request is sent while the first is in flight, so that client and coordinator
        # work in parallel.
        if not self._senders or (len(self._waiting) >= ENOUGH and len(self._senders) < MOST_UNDER_WAY):
            self._senders.add(self._tasks.create_task(self._send_requests()))
        if self._late is None or deadline < self._late.when():
            self._watch(deadline)
        return call.answer

    def close(self) -> None:
        """Fail the calls that wait and those in flight."""
        for sender in self._senders:
            sender.cancel()
        self._fail_waiting()

    def _watch(self, deadline: float) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self._loop.call_at(deadline, self._fail_late)

    def _fail_late(self) -> None:
        """Fail the calls whose deadline has passed, and set the timer to the next deadline."""
        self._late = None
        now = self._loop.time()
        left = [call for call in (*chain(*self._in_flight.values()), *self._waiting) if not call.answer.done()]
        for call in left:
            if call.deadline <= now:
                call.fail(too_late(self.subject))
        deadlines = [call.deadline for call in left if call.deadline > now]
        if deadlines:  # with a pause: calls whose deadlines follow each other closely are looked through together
            self._watch(max(min(deadlines), now + LOOK_AGAIN_S))

    async def _send_requests(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            while taken := self._take_batch():
                self._in_flight[me] = taken
                await self._send_batch(taken)
        finally:
            self._in_flight.pop(me, None)
            self._senders.discard(me)
            if not self._senders:
                self._fail_waiting()

    def _fail_waiting(self) -> None:
        while self._waiting:
            self._waiting.popleft().fail(closed())
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _take_batch(self) -> list[_Call]:
        """Take the calls of the next request, up to the limits of count and bytes; skip calls that were cancelled."""
        taken: list[_Call] = []
        size = 0
        while self._waiting and len(taken) < self._most_together:
            size += len(self._waiting[0].encoded) + 1
            if taken and size > REQUEST_BYTES:
                break
            call = self._waiting.popleft()
            if call.answer.done():
                size -= len(call.encoded) + 1
            else:
                taken.append(call)
        return taken

    async def _send_batch(self, taken: list[_Call]) -> None:
        failure: Exception = closed()
        untold = taken
        try:
            answers = await self._send(
                self.subject, [call.encoded for call in taken], max(call.deadline for call in taken)
            )
            self._tell(taken, answers)
            untold = []
        except CoordinationError as error:
            failure = error
        finally:
            for call in untold:
                call.fail(failure)

    def _tell(self, taken: list[_Call], answers: list[Answer]) -> None:
        """Return the answers to the callers; a call whose answer had no room goes into the next, smaller request."""
        again: list[_Call] = []
        for call, answer in zip(taken, answers, strict=True):
            if len(taken) > 1 and answer.error is not None and answer.error.reason == ASK_AGAIN:
                again.append(call)
            elif not call.answer.done():
                call.answer.set_result(answer)
        if again:
            self._most_together = max(1, len(taken) - len(again))
            self._waiting.extendleft(reversed(again))
        else:
            self._most_together = min(MOST_TOGETHER, self._most_together + 1 + self._most_together // 4)


def too_late(subject: str) -> Unavailable:
    """Return the error of a call whose deadline has passed."""
    msg = f"no answer on {subject} in time; the command may have been received: repeat it with the same ids"
    return Unavailable(msg, reason="timeout")


def closed() -> Unavailable:
    """Return the error of a call whose client was closed."""
    return Unavailable("the client was closed before an answer came", reason="closed")
