"""
Reads the journal from JetStream, once or for ever, and proves that nothing is missing.

Records come through an ephemeral pull consumer that acknowledges nothing, by two pulls in flight into an inbox of our
own: five times as fast as fetching. A consumer is only a way to get bytes, never a memory: after a reconnect, a gap, or
silence, it is replaced by a new one behind the last record handed out. What a new consumer and the stream leader both
miss is `Corrupt`; a hole must never be skipped, and an outage must never be called damage.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog

from coordinator.errors import Corrupt, Unavailable
from coordinator.ids import TimeOrderedIds
from coordinator.jetstream import NANOSECONDS, NO_STREAM, ApiError
from coordinator.journal import NO_JOURNAL
from projections.source import Bounds, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.bus import Bus
    from coordinator.subscription import Message
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
PROBE_TIMEOUT_S = 2.0
GAP_PROOFS = 2
"""So many consumers in a row must miss the same record before the leader's word on it is final."""

_HEARTBEAT, _TIMED_OUT = 100, 408
_PULL_ENDED = ("Message Size Exceeds MaxBytes", "Batch Completed")
_V1_TOKENS = 9


class ReadLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much is read ahead, and how soon silence is noticed."""

    pull_messages: int = 5000
    pull_bytes: int = 4 * 1024 * 1024
    """Twice this, and twice `pull_messages`, wait in memory at most."""
    pull_s: float = 30.0
    heartbeat_s: float = 3.0
    """The server gives a sign this often; two and a half without one, and the consumer is replaced."""
    look_s: float = 10.0
    """When nothing came for so long, compare with what the stream says of itself."""
    answer_timeout_s: float = 2.0
    patience_s: float = 30.0
    """`read`, not `follow`, gives up after so long without a record."""


class _Interrupted(Exception):
    """This consumer is of no more use."""

    def __init__(self, reason: str, *, gap: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.gap = gap


class JournalReader:
    """Read and follow one journal; see `CommitSource`. *slot* reads one record from the stream leader."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        limits: ReadLimits,
        slot: Callable[[int], Awaitable[Record | None]],
        *,
        doubt_s: float,
    ) -> None:
        self.bus = bus
        self.subjects = subjects
        self.limits = limits
        self.slot = slot
        self.doubt_s = doubt_s

    async def bounds(self) -> Bounds:
        """Ask the stream leader for first and last sequence."""
        return (await self.look())[0]

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """Give the records behind *after* up to *until*; both must be there."""
        return _Reading(self, after, until).batches()

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """Give the records behind *after*, and new ones as they come; close the iterator to end it."""
        return _Reading(self, after, None).batches()

    async def look(self) -> tuple[Bounds, str]:
        """Ask the stream leader for first and last sequence, and for the moment the stream was created."""
        name = self.subjects.stream_journal
        try:
            info = await self.bus.js_request(f"STREAM.INFO.{name}", timeout_s=self.limits.answer_timeout_s)
        except ApiError as error:
            if error.err_code == NO_STREAM:
                msg = f"there is no stream {name}: a coordinator creates it when it first starts"
                raise Unavailable(msg, reason=NO_JOURNAL) from error
            raise Unavailable(error.message) from error
        state = info["state"]
        last = state["last_seq"]
        return Bounds(state["first_seq"] if state["messages"] else last + 1, last), info["created"]


class _Reading:
    """One call of `read` or `follow`: how far it is, and what it has seen of the stream."""

    def __init__(self, reader: JournalReader, after: int, until: int | None) -> None:
        self._reader = reader
        self._after = after
        self._until = until
        self._created: str | None = None
        self._pause_s = FIRST_PAUSE_S
        self._doubt_since: float | None = None
        self._gap_since: float | None = None
        self._gaps = 0
        self._progress_at = _now()

    async def batches(self) -> AsyncIterator[list[Record]]:
        """Give what there is, consumer after consumer."""
        reader = self._reader
        while not self._done():
            try:
                await self._check()
                async with _consumer(reader.bus, reader.subjects, reader.limits, self._after, self._until) as consumer:
                    while not self._done():
                        batch = await consumer.take()
                        if batch:
                            self._progress(batch[-1].sequence)
                            yield batch
                        elif await self._check() > self._after:
                            # Nothing comes either where all that should is missing, up to the end.
                            lost = await reader.slot(self._after + 1) is None
                            if lost or consumer.has_stalled():
                                raise _Interrupted("the stream holds more, and nothing came", gap=lost)
            except _Interrupted as stop:
                log.info("journal_reading_restarted", after=self._after, reason=stop.reason)
                if stop.gap:
                    await self._prove_gap()
                await self._pause(stop.reason)
            except (Unavailable, ApiError) as error:
                log.warning("journal_reading_waits", after=self._after, reason=error.message)
                await self._pause(error.message)

    def _done(self) -> bool:
        return self._until is not None and self._after >= self._until

    def _progress(self, after: int) -> None:
        self._after = after
        self._pause_s = FIRST_PAUSE_S
        self._gap_since = None
        self._gaps = 0
        self._progress_at = _now()

    async def _check(self) -> int:
        """Make sure that the stream is the one we read, and still holds what comes next; give its last sequence."""
        name = self._reader.subjects.stream_journal
        after, until = self._after, self._until
        try:
            (first, last), created = await self._reader.look()
        except Unavailable as error:
            if error.reason == NO_JOURNAL and (after or self._created):
                self._corrupt(f"stream {name} is gone; records up to {after} were read from it")
            raise
        if self._created not in (None, created):
            self._corrupt(f"stream {name} was created again at {created}; we read the one of {self._created}")
        if last < after:
            self._corrupt(f"stream {name} ends at {last}, but {after} was read: it went backwards or was recreated")
        if until is not None and last < until:
            self._corrupt(f"stream {name} ends at {last}, but {until} was there: it went backwards or was recreated")
        if first > after + 1:
            self._corrupt(f"stream {name} begins at {first}: records {after + 1} to {first - 1} are gone")
        self._created = created
        self._doubt_since = None
        return last

    def _corrupt(self, message: str) -> NoReturn:
        if self._doubt_since is None:
            self._doubt_since = _now()
        if _now() - self._doubt_since >= self._reader.doubt_s:
            raise Corrupt(message)
        raise _Interrupted(message)

    async def _prove_gap(self) -> None:
        """A consumer skipped the next record: ask the stream leader whether it is there."""
        missing = self._after + 1
        try:
            if await self._reader.slot(missing) is not None:
                return
        except Unavailable:
            return
        self._gaps += 1
        if self._gap_since is None:
            self._gap_since = _now()
        if self._gaps >= GAP_PROOFS and _now() - self._gap_since >= self._reader.doubt_s:
            name = self._reader.subjects.stream_journal
            msg = f"record {missing} is missing from {name}, which says that it holds later ones: they were lost"
            raise Corrupt(msg)

    async def _pause(self, reason: str) -> None:
        silent_s = _now() - self._progress_at
        if self._until is not None and silent_s > self._reader.limits.patience_s:
            msg = f"the journal could not be read for {silent_s:.0f} s: {reason}"
            raise Unavailable(msg)
        await asyncio.sleep(self._pause_s)
        # A connection that turned silent breaks by itself only after a minute.
        if not await self._reader.bus.probe(PROBE_TIMEOUT_S):
            await self._reader.bus.until_connected(LONGEST_PAUSE_S)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


@asynccontextmanager
async def _consumer(
    bus: Bus, subjects: Subjects, limits: ReadLimits, after: int, until: int | None
) -> AsyncIterator[_Consumer]:
    """Run an ephemeral consumer behind *after*, and remove it."""
    consumer = _Consumer(bus, subjects, limits, after, until)
    bus.on_disconnect.append(consumer.broke)
    subscription = await bus.subscribe(f"{consumer.inbox}.*", consumer.receive)
    try:
        await consumer.create()
        yield consumer
    finally:
        bus.on_disconnect.remove(consumer.broke)
        await subscription.unsubscribe()
        await consumer.delete()


class _Consumer:
    """One consumer and what it delivered, until the first irregularity."""

    def __init__(self, bus: Bus, subjects: Subjects, limits: ReadLimits, after: int, until: int | None) -> None:
        self.inbox = bus.new_inbox()
        self._bus = bus
        self._stream = subjects.stream_journal
        self._epoch = subjects.epoch
        self._limits = limits
        self._name = TimeOrderedIds().new("read")
        self._next = after + 1
        self._left = None if until is None else until - after
        # A pull must have room for the largest message there can be.
        self._pull_bytes = max(limits.pull_bytes, 2 * bus.max_payload_bytes)
        self._pulls = 0
        self._owed = 0
        """Messages that open pulls may still bring, and those waiting in `_records`."""
        self._records: list[Record] = []
        self._news = asyncio.Event()
        self._stop: _Interrupted | None = None
        self._sign_at = _now()
        self._stalled = False

    async def create(self) -> None:
        """Create it behind the last record read."""
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
        """Remove it; where that fails, the server does after a minute of silence."""
        with suppress(Unavailable):
            if self._bus.connected:
                await self._bus.js_send(f"CONSUMER.DELETE.{self._stream}.{self._name}", b"", f"{self.inbox}.end")

    async def take(self) -> list[Record]:
        """
        Give what has come; empty when nothing came for `look_s`.

        Raises:
            _Interrupted: it has ended, was silent for too long, or skipped a record.
        """
        entered = _now()
        silence_s = 2.5 * self._limits.heartbeat_s
        while True:
            batch, self._records = self._records, []
            self._owed -= len(batch)
            if batch:
                self._stalled = False
                if self._stop is None:
                    await self._pull()
                return batch
            if self._stop is not None:
                raise self._stop
            await self._pull()
            silent_at = max(entered, self._sign_at) + silence_s
            until = min(silent_at, entered + self._limits.look_s)
            if _now() >= until:
                if until == silent_at:
                    raise _Interrupted(f"no sign of the consumer for {silence_s} s")
                return []
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._news.wait()

    def has_stalled(self) -> bool:
        """Say whether it was asked this before, with no record since."""
        before, self._stalled = self._stalled, True
        return before

    def broke(self) -> None:
        """Take note that the connection broke: what the server sent meanwhile is lost."""
        self._interrupt("the connection broke")

    def receive(self, message: Message) -> None:
        """Take a record or a status; called from the read loop, once for every record of the journal."""
        if self._stop is not None:
            return
        tokens = message.reply.split(".")
        if len(tokens) < _V1_TOKENS:
            self._status(message)
            return
        # …ACK.<stream>.<consumer>.<delivered>.<stream seq>.…, or with <domain>.<account> before the stream.
        sequence = int(tokens[5] if len(tokens) == _V1_TOKENS else tokens[7])
        if sequence != self._next:
            self._interrupt(f"record {sequence} came where {self._next} was due", gap=sequence > self._next)
            return
        self._next += 1
        raw = message.raw_headers
        self._records.append(
            Record(
                sequence=sequence,
                kind="claim" if message.subject == self._epoch else "commit",
                body=message.data,
                chain=_header(raw, b"\r\nChain: "),
                message_id=_header(raw, b"\r\nNats-Msg-Id: "),
            )
        )
        self._news.set()

    def _status(self, message: Message) -> None:
        self._sign_at = _now()
        status = message.status
        if status == _HEARTBEAT:
            return
        unused = message.header(b"Nats-Pending-Messages")
        if unused is not None and (status == _TIMED_OUT or message.description in _PULL_ENDED):
            self._owed -= int(unused)
            if self._left is not None:
                self._left += int(unused)
            self._news.set()
        else:
            self._interrupt(f"the server ended it: {status} {message.description}")

    def _interrupt(self, reason: str, *, gap: bool = False) -> None:
        if self._stop is None:
            self._stop = _Interrupted(reason, gap=gap)
            self._news.set()

    async def _pull(self) -> None:
        """Keep two pulls open, as long as what they bring is taken."""
        most = self._limits.pull_messages
        while self._owed <= most and self._left != 0:
            count = most if self._left is None else min(most, self._left)
            request = {
                "batch": count,
                "max_bytes": self._pull_bytes,
                "expires": int(self._limits.pull_s * NANOSECONDS),
                "idle_heartbeat": int(self._limits.heartbeat_s * NANOSECONDS),
            }
            self._pulls += 1
            self._owed += count
            if self._left is not None:
                self._left -= count
            api = f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
            await self._bus.js_send(api, request, f"{self.inbox}.{self._pulls}")


def _header(raw: bytes, name: bytes) -> str | None:
    start = raw.find(name)
    if start < 0:
        return None
    start += len(name)
    return raw[start : raw.find(b"\r\n", start)].decode("ascii", "replace")


def _now() -> float:
    return asyncio.get_running_loop().time()
