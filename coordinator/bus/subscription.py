"""
A message received on a subject, and the subscription that passes it to a callback.

An exception in a callback must never reach the read loop. Messages that a slow async callback cannot handle in time
must never be dropped silently.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.bus.nats_client import NatsClient

log = structlog.get_logger(__name__)

END_TIMEOUT_S = 2.0

_STATUS = slice(9, 12)


class Message(msgspec.Struct, frozen=True, gc=False):
    """A received message; headers are parsed on access. Arguments are positional: 100,000 are created per second."""

    subject: str
    reply: str
    data: bytes
    raw_headers: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes it has, headers included."""
        return len(self.data) + len(self.raw_headers)

    @property
    def status(self) -> int:
        """The inline status of a server message (100, 404, 408, 409, 503), else 0."""
        digits = self.raw_headers[_STATUS]
        return int(digits) if digits.isdigit() else 0

    @property
    def description(self) -> str:
        """The text after an inline status."""
        return self.raw_headers[_STATUS.stop :].partition(b"\r\n")[0].strip().decode("utf-8", "replace")

    @property
    def headers(self) -> dict[str, str]:
        """All headers; names are case-sensitive, and the last of several with one name counts."""
        lines = self.raw_headers.split(b"\r\n")[1:]
        pairs = (line.partition(b":") for line in lines if line)
        return {name.decode("utf-8", "replace"): value.strip().decode("utf-8", "replace") for name, _, value in pairs}

    def header(self, name: bytes) -> str | None:
        """Return one header without parsing the others; the first of several with this name counts."""
        raw = self.raw_headers
        start = raw.find(b"\r\n%b:" % name)
        if start < 0:
            return None
        start += len(name) + 3
        return raw[start : raw.find(b"\r\n", start)].strip().decode("utf-8", "replace")


class Subscription:
    """
    Interest in a subject until `unsubscribe`.

    `failures` counts exceptions of the callback, `dropped` messages dropped because the queue of an async one was full.
    """

    def __init__(
        self,
        callback: Callable[[Message], None] | Callable[[Message], Awaitable[None]],
        *,
        limit_messages: int,
        limit_bytes: int,
        on_overflow: Callable[[int], None] | None,
    ) -> None:
        self.subject = ""
        self.failures = 0
        self.dropped = 0
        self._callback = callback
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._on_overflow = on_overflow
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(limit_messages)
        self._worker: asyncio.Task[None] | None = None
        self._client: NatsClient | None = None
        self._sid = 0

    @property
    def active(self) -> bool:
        """Whether the subscription has not ended."""
        return self._client is not None

    async def start(self, client: NatsClient, tasks: asyncio.TaskGroup, subject: str, queue: str) -> None:
        """Subscribe; the bus calls this."""
        self.subject = subject
        self._client = client
        if _is_async(self._callback):
            self._worker = tasks.create_task(self._work(), name=f"subscription {subject}")
            self._sid = await client.listen(subject, queue, self._enqueue)
        else:
            self._sid = await client.listen(subject, queue, self._call)

    async def unsubscribe(self) -> None:
        """End it: the callback is not called again, waiting messages are dropped. Does nothing when ended."""
        client, self._client = self._client, None
        if client is not None:
            await client.unlisten(self._sid)
        worker, self._worker = self._worker, None
        if worker is not None and worker is not asyncio.current_task():
            worker.cancel()
            await asyncio.wait([worker], timeout=END_TIMEOUT_S)

    def _call(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        try:
            self._callback(Message(subject.decode(), reply.decode(), data, headers or b""))
        except Exception:  # raising here would end the read loop
            self.failures += 1
            log.exception("callback_failed", subject=self.subject, failures=self.failures)

    def _enqueue(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        message = Message(subject.decode(), reply.decode(), data, headers or b"")
        if self._waiting.full() or self._waiting_bytes + message.size > self._limit_bytes:
            self._drop()
            return
        self._waiting_bytes += message.size
        self._waiting.put_nowait(message)

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped.bit_count() == 1:  # 1, 2, 4, 8 …: a flood must not flood the log
            log.warning("messages_dropped", subject=self.subject, dropped=self.dropped, waiting=self._waiting.qsize())
        if self._on_overflow is not None:
            try:
                self._on_overflow(self.dropped)
            except Exception:  # as above
                log.exception("overflow_callback_failed", subject=self.subject)

    async def _work(self) -> None:
        call = cast("Callable[[Message], Awaitable[None]]", self._callback)
        while True:
            message = await self._waiting.get()
            self._waiting_bytes -= message.size
            try:
                await call(message)
            except Exception:  # one bad message must not end the subscription
                self.failures += 1
                log.exception("callback_failed", subject=self.subject, failures=self.failures)


def _is_async(callback: object) -> bool:
    while isinstance(callback, functools.partial):
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)
