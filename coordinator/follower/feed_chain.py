"""
Appends messages to one stream so that each is stored only directly behind the one before it.

The first message names the stream's last sequence, every other one the id of its predecessor. (Sequences alone would
not do: behind one foreign message, all but the one it displaced are where they were expected.) So the server stores a
window or the beginning of it, never one with a hole, and the acknowledgement of its last message is that of all: one
for a thousand, where each costs more than a message does. Two that append the same cannot interleave or repeat: one of
them is told `OVERTAKEN`. Nothing is ever sent twice here: to go on after an error, look first where the stream ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec

from coordinator.bus.jetstream import WRONG_LAST_MESSAGE, WRONG_LAST_SEQUENCE, ApiError, ack_of
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message

OVERTAKEN = "overtaken"
"""Reason of `Unavailable`: the stream does not end where it should; somebody else appends, or it was made anew."""

_NO_RESPONDERS = 503
_NOT_THE_LAST = (WRONG_LAST_SEQUENCE, WRONG_LAST_MESSAGE)


class ChainLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much is on its way at a time."""

    window_messages: int = 1000
    window_bytes: int = 512 * 1024
    """A window is closed when it has so many messages or bytes."""
    unacked_messages: int = 6000
    """A window that would lead above this waits. A stream of nats-server drops what exceeds 10,000 waiting messages."""
    ack_timeout_s: float = 10.0


class _Window(NamedTuple):
    mark: int
    last: int
    messages: int
    ack: asyncio.Future[None]


class Chain:
    """Appends to *stream*, whose last sequence is *last*; `confirmed` is the mark of what was acknowledged."""

    def __init__(self, bus: Bus, stream: str, last: int, limits: ChainLimits) -> None:
        self.confirmed = -1
        self._bus = bus
        self._stream = stream
        self._last = last
        self._expected = b"Sequence: %d" % last
        self._limits = limits
        self._inbox = bus.new_inbox()
        self._frames: list[bytes] = []
        self._bytes = 0
        self._insert_at = 0
        self._windows: deque[_Window] = deque()
        self._unacked = 0
        self._sent = asyncio.Event()
        self._room = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, bus: Bus, stream: str, last: int, limits: ChainLimits) -> AsyncIterator[Chain]:
        """Begin behind sequence *last*; `watch` has to run while the block does."""
        chain = cls(bus, stream, last, limits)
        bus.on_disconnect.append(chain._broke)
        subscription = await bus.subscribe(f"{chain._inbox}.*", chain._answered)
        try:
            yield chain
        finally:
            bus.on_disconnect.remove(chain._broke)
            await subscription.unsubscribe()
            for window in chain._windows:
                if not window.ack.cancel() and not window.ack.cancelled():
                    window.ack.exception()  # seen: asyncio would complain of it otherwise

    @property
    def is_full(self) -> bool:
        """Whether the window is large enough to be sent."""
        return len(self._frames) >= self._limits.window_messages or self._bytes >= self._limits.window_bytes

    def add(self, subject: bytes, message_id: bytes, content_type: bytes, data: bytes) -> None:
        """Put a message into the window; subject, id and type must be fit for the wire."""
        header = b"NATS/1.0\r\nNats-Msg-Id: %b\r\nContent-Type: %b\r\nNats-Expected-Last-%b\r\n\r\n" % (
            message_id,
            content_type,
            self._expected,
        )
        self._expected = b"Msg-Id: " + message_id
        self._last += 1
        size = len(header)
        frame = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, size, size + len(data), header, data)
        self._frames.append(frame)
        self._bytes += len(frame)
        self._insert_at = len(subject) + 6

    async def send(self, mark: int) -> None:
        """
        Send the window, if there is anything in it, as soon as there is room; *mark* is `confirmed` when it is stored.

        Raises:
            Unavailable: there is no connection.
        """
        if not self._frames:
            if not self._windows:
                self.confirmed = mark
            else:
                self._windows[-1] = self._windows[-1]._replace(mark=mark)
            return
        while self._unacked and self._unacked + len(self._frames) > self._limits.unacked_messages:
            self._room.clear()
            await self._room.wait()
        frames, self._frames, self._bytes = self._frames, [], 0
        # Only the last message of the window asks for an answer.
        last, at = frames[-1], self._insert_at
        frames[-1] = b"%b%b.%d %b" % (last[:at], self._inbox.encode(), self._last, last[at:])
        self._windows.append(_Window(mark, self._last, len(frames), asyncio.get_running_loop().create_future()))
        self._unacked += len(frames)
        await self._bus.publish_frames(frames)
        self._sent.set()

    async def watch(self) -> NoReturn:
        """
        Wait for acknowledgements until one fails.

        Raises:
            Unavailable: reason `OVERTAKEN`, or the connection broke, or the server does not store. What was not
            confirmed may be stored or not, or be yet.
        """
        while True:
            while not self._windows:
                self._sent.clear()
                await self._sent.wait()
            try:
                async with asyncio.timeout(self._limits.ack_timeout_s):
                    await self._windows[0].ack
            except TimeoutError:
                await self._bus.probe(self._limits.ack_timeout_s)
                msg = f"{self._stream} did not acknowledge within {self._limits.ack_timeout_s:g} s"
                raise Unavailable(msg, reason="timeout") from None
            window = self._windows.popleft()
            self.confirmed = window.mark
            self._unacked -= window.messages
            self._room.set()

    def _answered(self, message: Message) -> None:
        last = int(message.subject.rpartition(".")[2])
        for window in self._windows:
            if window.last == last and not window.ack.done():
                error = self._judged(message, last)
                if error is None:
                    window.ack.set_result(None)
                else:
                    window.ack.set_exception(error)

    def _judged(self, message: Message, last: int) -> Unavailable | None:
        if message.status == _NO_RESPONDERS:
            return Unavailable(f"there is no stream {self._stream}", reason="no_stream")
        try:
            ack = ack_of(self._stream, message.data)
        except ApiError as error:
            reason = OVERTAKEN if error.err_code in _NOT_THE_LAST else "not_stored"
            return Unavailable(f"{self._stream}: {error.message}", reason=reason)
        except Unavailable as error:
            return error
        if ack.duplicate:
            # Of another journal, whose ids are the same; the server forgets them soon.
            msg = f"{self._stream} takes a message for one that it has had in the last seconds, {ack.sequence}"
            return Unavailable(msg, reason="not_stored")
        if ack.stream != self._stream or ack.sequence != last:
            msg = f"{self._stream} was to store {last}, and {ack.stream} says {ack.sequence}"
            return Unavailable(msg, reason=OVERTAKEN)
        return None

    def _broke(self) -> None:
        """Take note that the connection broke: even what was acknowledged may be gone with the server's memory."""
        error = Unavailable(f"the connection broke; where {self._stream} ends is not known", reason="disconnected")
        if not self._windows:
            self._windows.append(_Window(self.confirmed, self._last, 0, asyncio.get_running_loop().create_future()))
        for window in self._windows:
            if not window.ack.done():
                window.ack.set_exception(error)
        self._sent.set()
