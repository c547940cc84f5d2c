"""
An ephemeral pull consumer on one stream: it only transports bytes and keeps no state.

It acknowledges nothing and has two pulls in flight that deliver into an inbox of its own: five times as fast as
fetching. It ends at the first irregularity (a reconnect, a gap, no heartbeat); its reader then replaces it by another
that starts after the last record received. It must never return a message out of order, or one after a gap.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from coordinator.bus.jetstream import NANOSECONDS
from coordinator.ids import TimeOrderedIds
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message

Record = TypeVar("Record")

_HEARTBEAT, _TIMED_OUT = 100, 408
_PULL_ENDED = ("Message Size Exceeds MaxBytes", "Batch Completed")
_V1_TOKENS = 9


class PullLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much is read ahead, and how soon a missing heartbeat is noticed."""

    pull_messages: int = 5000
    pull_bytes: int = 4 * 1024 * 1024
    """At most twice this, and twice `pull_messages`, are held in memory."""
    pull_s: float = 30.0
    heartbeat_s: float = 3.0
    """Period of the server's heartbeats; after two and a half periods without one the consumer is replaced."""
    look_s: float = 10.0
    """After so long without a record the reader compares its position with the state of the stream."""
    answer_timeout_s: float = 2.0
    patience_s: float = 30.0
    """`read`, but not `follow`, fails after so long without a record."""


class Interrupted(Exception):
    """This consumer has ended and must be replaced."""

    def __init__(self, reason: str, *, gap: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.gap = gap


@asynccontextmanager
async def open_consumer(
    bus: Bus,
    stream: str,
    limits: PullLimits,
    make: Callable[[Message, int], Record],
    after: int,
    until: int | None = None,
) -> AsyncIterator[PullConsumer[Record]]:
    """Read *stream* after *after*, up to *until* or for ever; *make* makes a record of a message and its sequence."""
    consumer = PullConsumer(bus, stream, limits, make, after, until)
    bus.on_disconnect.append(consumer.broke)
    subscription = await bus.subscribe(f"{consumer.inbox}.*", consumer.receive)
    try:
        await consumer.create()
        yield consumer
    finally:
        bus.on_disconnect.remove(consumer.broke)
        await subscription.unsubscribe()
        await consumer.delete()


class PullConsumer(Generic[Record]):
    """One consumer and the records it delivered, until the first irregularity."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        limits: PullLimits,
        make: Callable[[Message, int], Record],
        after: int,
        until: int | None,
    ) -> None:
        self.inbox = bus.new_inbox()
        self._bus = bus
        self._stream = stream
        self._limits = limits
        self._make = make
        self._name = TimeOrderedIds().new("read")
        self._next = after + 1
        self._until = until
        self._remaining = None if until is None else until - after
        # A pull must have room for the largest possible message.
        self._pull_bytes = max(limits.pull_bytes, 2 * bus.max_payload_bytes)
        self._pulls = 0
        self._outstanding = 0
        """Messages that open pulls may still deliver, and those waiting in `_records`."""
        self._records: list[Record] = []
        self._news = asyncio.Event()
        self._stop: Interrupted | None = None
        self._heard_at = _now()
        self._stalled = False

    async def create(self) -> None:
        """Create the consumer on the server; it starts after the last record read."""
        config = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(2 * self._limits.pull_s * NANOSECONDS),
        }
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        api = f"CONSUMER.CREATE.{self._stream}.{self._name}"
        await self._bus.js_request(api, request, timeout_s=self._limits.answer_timeout_s)

    async def delete(self) -> None:
        """Delete the consumer; if that fails, the server deletes it after a minute without use."""
        with suppress(Unavailable):
            if self._bus.connected:
                await self._bus.js_send(f"CONSUMER.DELETE.{self._stream}.{self._name}", b"", f"{self.inbox}.end")

    async def take(self) -> list[Record]:
        """
        Return the records received so far, waiting up to `look_s` for the first; empty if there was none.

        Raises:
            Interrupted: the consumer has ended, sent no heartbeat for too long, or skipped a record.
        """
        entered = _now()
        silence_s = 2.5 * self._limits.heartbeat_s
        while True:
            batch, self._records = self._records, []
            self._outstanding -= len(batch)
            if batch:
                self._stalled = False
                if self._stop is None:
                    await self._pull()
                return batch
            if self._stop is not None:
                raise self._stop
            await self._pull()
            silent_at = max(entered, self._heard_at) + silence_s
            until = min(silent_at, entered + self._limits.look_s)
            if _now() >= until:
                if until == silent_at:
                    raise Interrupted(f"no heartbeat of the consumer for {silence_s} s")
                return []
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._news.wait()

    def has_stalled(self) -> bool:
        """Return whether this was called before, with no record since then."""
        before, self._stalled = self._stalled, True
        return before

    def broke(self) -> None:
        """End because the connection was lost: messages sent by the server in that time are lost."""
        self._interrupt("the connection was lost")

    def receive(self, message: Message) -> None:
        """Handle a record or a status; called from the read loop, once for every message of the stream."""
        if self._stop is not None:
            return
        tokens = message.reply.split(".")
        if len(tokens) < _V1_TOKENS:
            self._status(message)
            return
        # …ACK.<stream>.<consumer>.<delivered>.<stream seq>.…, or with <domain>.<account> before the stream.
        sequence = int(tokens[5] if len(tokens) == _V1_TOKENS else tokens[7])
        if sequence != self._next:
            self._interrupt(f"received record {sequence} instead of {self._next}", gap=sequence > self._next)
            return
        if self._until is not None and sequence > self._until:
            return  # a pull that reached the server twice; whoever reads up to a claim must not fold a later one
        self._next += 1
        self._records.append(self._make(message, sequence))
        self._news.set()

    def _status(self, message: Message) -> None:
        self._heard_at = _now()
        status = message.status
        if status == _HEARTBEAT:
            return
        unused = message.header(b"Nats-Pending-Messages")
        if unused is not None and (status == _TIMED_OUT or message.description in _PULL_ENDED):
            self._outstanding -= int(unused)
            if self._remaining is not None:
                self._remaining += int(unused)
            self._news.set()
        else:
            self._interrupt(f"the server ended the consumer: {status} {message.description}")

    def _interrupt(self, reason: str, *, gap: bool = False) -> None:
        if self._stop is None:
            self._stop = Interrupted(reason, gap=gap)
            self._news.set()

    async def _pull(self) -> None:
        """Keep two pulls open while the records are consumed."""
        most = self._limits.pull_messages
        while self._outstanding <= most and self._remaining != 0:
            count = most if self._remaining is None else min(most, self._remaining)
            request = {
                "batch": count,
                "max_bytes": self._pull_bytes,
                "expires": int(self._limits.pull_s * NANOSECONDS),
                "idle_heartbeat": int(self._limits.heartbeat_s * NANOSECONDS),
            }
            self._pulls += 1
            self._outstanding += count
            if self._remaining is not None:
                self._remaining -= count
            api = f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
            await self._bus.js_send(api, request, f"{self.inbox}.{self._pulls}")


def _now() -> float:
    return asyncio.get_running_loop().time()
