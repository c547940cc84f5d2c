"""
The calls of one kind that share requests: one request under way, the next one filling.

The first call goes at once, what comes while it is under way rides in the next: load makes requests larger, and a lone
call waits for nothing. A call must never wait longer than its own time, whatever else shares its request; one timer, at
the earliest of their deadlines, sees to all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from events.errors import CoordinationError, Unavailable

if TYPE_CHECKING:
    from coordinator.commands.wire import Answer

MOST_TOGETHER = 250
"""Commands in one request; fewer than a request may have, for whoever answers can begin with the first meanwhile."""
MOST_UNDER_WAY = 4
"""Requests of one lane; their commands reach the coordinator in order, as one connection carries them."""
ENOUGH = 100
"""So many calls wait before another request sets out beside the one under way."""
REQUEST_BYTES = 400_000
"""Commands ride together up to so many bytes; a single larger one travels alone."""


class Send(Protocol):
    """Sends written commands until they are answered or the deadline (loop time) is over; one answer each."""

    async def __call__(self, subject: str, orders: list[bytes], deadline: float, /) -> list[Answer]: ...


class _Call:
    """One call: its written command, until when it waits, and where its answer goes."""

    __slots__ = ("answer", "deadline", "order")

    def __init__(self, order: bytes, deadline: float, answer: asyncio.Future[Answer]) -> None:
        self.order = order
        self.deadline = deadline
        self.answer = answer

    def fail(self, error: Exception) -> None:
        """Raise *error* to whoever waits still; each gets one of its own, for a traceback grows where it is raised."""
        if not self.answer.done():
            self.answer.set_exception(copy(error))
            self.answer.exception()  # whoever was cancelled meanwhile does not look


class Lane:
    """All calls that go to *subject*; its requests run in *tasks*."""

    def __init__(self, subject: str, send: Send, tasks: asyncio.TaskGroup) -> None:
        self.subject = subject
        self._send = send
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Call] = deque()
        self._under_way: dict[asyncio.Task[None] | None, list[_Call]] = {}
        self._moving: set[asyncio.Task[None]] = set()
        self._late: asyncio.TimerHandle | None = None

    def ride(self, order: bytes, deadline: float) -> asyncio.Future[Answer]:
        """
        Let a command go with the next request; the future gives its answer.

        It raises `Unavailable` at *deadline* (loop time), or when the client is closed.
        """
        call = _Call(order, deadline, self._loop.create_future())
        self._waiting.append(call)
        # A second request sets out while the first is under way only once it is worth one: both ends work meanwhile.
        if not self._moving or (len(self._waiting) >= ENOUGH and len(self._moving) < MOST_UNDER_WAY):
            self._moving.add(self._tasks.create_task(self._move()))
        if self._late is None or deadline < self._late.when():
            self._watch(deadline)
        return call.answer

    def close(self) -> None:
        """Give up what is under way and what waits."""
        for moving in self._moving:
            moving.cancel()
        self._give_up()

    def _watch(self, deadline: float) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self._loop.call_at(deadline, self._fail_late)

    def _fail_late(self) -> None:
        """Fail the calls whose time is over, and see to the next one."""
        self._late = None
        now = self._loop.time()
        left = [call for call in (*chain(*self._under_way.values()), *self._waiting) if not call.answer.done()]
        for call in left:
            if call.deadline <= now:
                call.fail(too_late(self.subject))
        deadlines = [call.deadline for call in left if call.deadline > now]
        if deadlines:
            self._watch(min(deadlines))

    async def _move(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            while taken := self._load():
                self._under_way[me] = taken
                await self._go(taken)
        finally:
            self._under_way.pop(me, None)
            self._moving.discard(me)
            if not self._moving:
                self._give_up()

    def _give_up(self) -> None:
        while self._waiting:
            self._waiting.popleft().fail(closed())
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _load(self) -> list[_Call]:
        """Take what goes together: many, up to a limit of count and bytes; what nobody waits for any more stays."""
        taken: list[_Call] = []
        size = 0
        while self._waiting and len(taken) < MOST_TOGETHER:
            size += len(self._waiting[0].order) + 1
            if taken and size > REQUEST_BYTES:
                break
            call = self._waiting.popleft()
            if call.answer.done():
                size -= len(call.order) + 1
            else:
                taken.append(call)
        return taken

    async def _go(self, taken: list[_Call]) -> None:
        failure: Exception = closed()
        try:
            answers = await self._send(
                self.subject, [call.order for call in taken], max(call.deadline for call in taken)
            )
            for call, answer in zip(taken, answers, strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)
        except CoordinationError as error:
            failure = error
        finally:
            for call in taken:
                call.fail(failure)


def too_late(subject: str) -> Unavailable:
    """Make the error of a call whose time is over."""
    msg = f"no answer on {subject} in time; it may have been received: repeat it with the same ids"
    return Unavailable(msg, reason="timeout")


def closed() -> Unavailable:
    """Make the error of a call whose client was closed."""
    return Unavailable("the client was closed before an answer came", reason="closed")
