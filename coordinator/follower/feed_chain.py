"""
Appends messages to one stream so that each is stored only directly after the one before it.

The first message expects the stream's last sequence, every other one the message id of its predecessor. (Sequences
alone are not enough: after one foreign message, all messages but the one it displaced would be at their expected
sequence.) So the server stores a whole window or its beginning, never one with a gap, and the acknowledgement of the
last message covers all: one per thousand messages, since an acknowledgement costs more than a message. Two processes
that append the same events cannot interleave or duplicate them: one of them gets `OVERTAKEN`. Nothing is sent twice
here: to continue after an error, first find where the stream ends.
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
"""Reason of `Unavailable`: the stream has another end than expected: another process appends, or it was recreated."""

_NO_RESPONDERS = 503
_NOT_THE_LAST = (WRONG_LAST_SEQUENCE, WRONG_LAST_MESSAGE)


class ChainLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much may be in flight."""

    window_messages: int = 1000
    window_bytes: int = 512 * 1024
    """A window is closed when it has this many messages or bytes."""
    unacked_messages: int = 6000
    """A window that would exceed this waits. A stream of nats-server drops messages beyond 10,000 pending ones."""
    ack_timeout_s: float = 10.0


class _Window(NamedTuple):
    mark: int
    last: int
    messages: int
    ack: asyncio.Future[None]


class Chain:
    """Appends to *stream*, whose last sequence is *last*; `confirmed` is the mark of the last acknowledged window."""

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
        """Begin after sequence *last*; `watch` must run during the block."""
        chain = cls(bus, stream, last, limits)
        bus.on_disconnect.append(chain._on_disconnect)
        subscription = await bus.subscribe(f"{chain._inbox}.*", chain._answered)
        try:
            yield chain
        finally:
            bus.on_disconnect.remove(chain._on_disconnect)
            await subscription.unsubscribe()
            for window in chain._windows:
                if not window.ack.cancel() and not window.ack.cancelled():
                    window.ack.exception()  # retrieve it, or asyncio logs that it never was

    @property
    def is_full(self) -> bool:
        """Whether the window is full and should be sent."""
        return len(self._frames) >= self._limits.window_messages or self._bytes >= self._limits.window_bytes

    def add(self, subject: bytes, message_id: bytes, content_type: bytes, data: bytes) -> None:
        """Add a message to the window; subject, id and type must be valid on the wire."""
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
        Send the window, if it is not empty, as soon as there is room; `confirmed` becomes *mark* when it is stored.

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
        # Only the last message of the window requests an acknowledgement.
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
            Unavailable: reason `OVERTAKEN`, or the connection was lost, or the server does not store. Messages that
            were not confirmed may be stored, may not be, or may be stored later.
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
                error = self._ack_error(message, last)
                if error is None:
                    window.ack.set_result(None)
                else:
                    window.ack.set_exception(error)

    def _ack_error(self, message: Message, last: int) -> Unavailable | None:
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
            # Left by another journal that used the same ids; the server forgets them soon.
            msg = (
                f"stream {self._stream} rejects a message as a duplicate of message {ack.sequence}, stored in the last "
                "seconds"
            )
            return Unavailable(msg, reason="not_stored")
        if ack.stream != self._stream or ack.sequence != last:
            msg = (
                f"sequence {last} of stream {self._stream} was expected, but the message was stored as {ack.sequence} "
                f"of {ack.stream}"
            )
            return Unavailable(msg, reason=OVERTAKEN)
        return None

    def _on_disconnect(self) -> None:
        """Fail all windows: the connection was lost, and even acknowledged messages may be lost in a server crash."""
        msg = f"the connection was lost, so it is unknown where stream {self._stream} ends"
        error = Unavailable(msg, reason="disconnected")
        if not self._windows:
            self._windows.append(_Window(self.confirmed, self._last, 0, asyncio.get_running_loop().create_future()))
        for window in self._windows:
            if not window.ack.done():
                window.ack.set_exception(error)
        self._sent.set()
