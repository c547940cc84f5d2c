"""
The feed: every event of the journal as a single message on the subject of its type, for subscribers.

    <ns>.events.<kind>.<event>     Nats-Msg-Id: <generation>.<sequence>.<index>     the CloudEvent, byte for byte

It continues after the event named by the stream's last message, and each message is stored only directly after the one
before it (see `feed_chain`): no gap and no duplicate, whichever follower feeds and whatever crashes. A follower that
another one has overtaken goes to standby. The feed decides nothing and never writes to the journal. The stream may be
deleted at any time; it is created again with the events that it would hold by then.
"""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, cast
from zlib import crc32

import msgspec
import structlog

from coordinator.bus.jetstream import NANOSECONDS, NO_MESSAGE, ApiError
from coordinator.bus.streams import ensure_stream, stored_message, stream_info, update_stream
from coordinator.bus.subscription import Message
from coordinator.clock import SystemClock
from coordinator.follower.feed_chain import OVERTAKEN, Chain, ChainLimits
from coordinator.ids import TimeOrderedIds
from coordinator.journal.search import first_commit, first_since, generation_of
from coordinator.task_groups import task_group
from events import codec
from events.base import Position
from events.errors import CoordinationError, Refused, Unavailable
from projections.source import ChainCheck

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from coordinator.bus.connection import Bus
    from coordinator.journal.stream import NatsJournal
    from events.subjects import Subjects
    from projections.source import Record

log = structlog.get_logger(__name__)

CONTENT_TYPE = b"application/cloudevents+json"
UNNAMED = "unknown.unnamed"
"""The type in the subject of events whose own type cannot be part of a subject."""
TYPES_KEPT = 1000
_TYPE = b'{"type":"'
_TYPE_AT = len(_TYPE)
LOOK_BACK = 100
"""How many of the stream's last messages may be foreign or deleted; if more are, the feed starts over."""

_message_id = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,9})").fullmatch

State = Literal["starting", "feeding", "standing_by", "waiting"]


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits of the feed; times in seconds."""

    max_age_s: float = 86_400.0
    max_bytes: int = 2 * 1024**3
    duplicate_window_s: float = 1.0
    """How long the server remembers message ids: costly, and not needed since each message names its predecessor."""
    replicas: int = 1
    chain: ChainLimits = ChainLimits()
    stand_by_s: float = 2.0
    """About how often a follower on standby checks whether the feed still advances."""
    answer_timeout_s: float = 5.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0
    """Pauses between attempts while NATS or the journal cannot be used."""


class FeedPlace(NamedTuple):
    """Where to continue: the stream's last sequence, and the journal position of the last event in it."""

    last: int
    after: Position
    rest: Record | None = None
    """The commit that is only partly in the feed."""


def feed_stream(subjects: Subjects, limits: FeedLimits) -> dict[str, Any]:
    """Return the configuration of the feed's stream: bounded; no publisher can remove or replace a message."""
    return {
        "name": subjects.stream_events,
        "subjects": [subjects.events_all],
        "storage": "file",
        # Messages lost in a crash are fed again, so no message has to wait for the disk.
        **({"persist_mode": "async"} if limits.replicas == 1 else {}),
        "num_replicas": limits.replicas,
        "discard": "old",
        "max_age": int(limits.max_age_s * NANOSECONDS),
        "max_bytes": limits.max_bytes,
        "duplicate_window": int(min(limits.duplicate_window_s, limits.max_age_s) * NANOSECONDS),
        "allow_direct": True,
    }


class Feed:
    """
    Writes the feed while `run` runs.

    `through` is the journal sequence up to which every event is in the feed, as far as this follower knows.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        journal: NatsJournal,
        limits: FeedLimits | None = None,
        *,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.state: State = "starting"
        self.reason = ""
        self._bus = bus
        self._subjects = subjects
        self._journal = journal
        self._limits = limits if limits is not None else FeedLimits()
        self._now = now if now is not None else SystemClock().wall
        self._through = 0
        # Two followers on standby must not resume at the same moment: each has its own pace.
        self._pace = 0.75 + crc32(TimeOrderedIds().new("feed").encode()) / 2**33
        self._chain: Chain | None = None
        self._subject_of: dict[bytes, bytes] = {}

    @property
    def through(self) -> int:
        """The journal sequence up to which every event is in the feed."""
        return self._through if self._chain is None else max(self._through, self._chain.confirmed)

    async def run(self) -> NoReturn:
        """Feed without end; errors are logged and retried."""
        pause_s = self._limits.first_pause_s
        while True:
            fed = self.through
            try:
                await self._feed(await self._find())
            except CoordinationError as error:
                if error.reason == OVERTAKEN:
                    await self._stand_by()
                    continue
                self._wait(error, error.message)
            except Exception as error:  # a defect in the feed must not stop the read model
                log.exception("feed_failed", through=self.through)
                self._wait(error, f"unexpected error: {error!r}")
            if self.through > fed:
                pause_s = self._limits.first_pause_s
            await asyncio.sleep(pause_s)
            await self._bus.until_connected(self._limits.longest_pause_s)
            pause_s = min(2 * pause_s, self._limits.longest_pause_s)

    def _wait(self, error: Exception, reason: str) -> None:
        write = log.warning if isinstance(error, Unavailable) else log.error
        if (self.state, self.reason) != ("waiting", reason):
            write("feed_paused", through=self.through, reason=reason)
        self.state, self.reason = "waiting", reason

    async def _feed(self, place: FeedPlace) -> NoReturn:
        stream = self._subjects.stream_events
        log.info("feed_started", after=str(place.after), stream=stream, last=place.last)
        async with Chain.open(self._bus, stream, place.last, self._limits.chain) as chain, task_group() as tasks:
            self._through = place.after.sequence - (place.rest is not None)
            self._chain = chain
            self.state, self.reason = "feeding", ""
            watching = tasks.create_task(chain.watch())
            try:
                await self._pour(chain, place)
            finally:
                self._through, self._chain = self.through, None
                watching.cancel()
        raise AssertionError

    async def _pour(self, chain: Chain, place: FeedPlace) -> NoReturn:
        if place.rest is not None:
            self._add(chain, place.rest, place.after.index + 1)
            await chain.send(place.rest.sequence)
        following = cast("AsyncGenerator[list[Record]]", self._journal.follow(place.after.sequence))
        check = ChainCheck()
        async with aclosing(following) as batches:
            async for records in batches:
                for record in records:
                    check.take(record)
                    if record.kind == "commit":
                        self._add(chain, record, 0)
                    if chain.is_full:
                        await chain.send(record.sequence)
                await chain.send(records[-1].sequence)
        raise AssertionError

    def _add(self, chain: Chain, commit: Record, begin: int) -> None:
        subject_of, add = self._subject_of, chain.add
        place = b"%d.%d." % (generation_of(commit), commit.sequence)
        for index, raw in enumerate(codec.parts(commit.body)):
            if index >= begin:
                data = bytes(raw)
                # What we write begins with the type: to decode more takes longer than all else that is done here.
                begins = data[: data.find(b'"', _TYPE_AT)]
                subject = subject_of.get(begins) or self._subject(data, begins)
                add(subject, b"%b%d" % (place, index), CONTENT_TYPE, data)

    def _subject(self, data: bytes, begins: bytes) -> bytes:
        ((head, _),) = codec.split(b"[%b]" % data)
        event_type = head.type
        try:
            subject = self._subjects.event(event_type)
        except Refused:
            log.warning("event_type_replaced", type=event_type[:80], subject=UNNAMED)
            subject = self._subjects.event(UNNAMED)
        if len(self._subject_of) < TYPES_KEPT and begins == _TYPE + event_type.encode():
            self._subject_of[begins] = subject.encode()
        return subject.encode()

    # --- where to continue --------------------------------------------------------------------------------------------

    async def _find(self) -> FeedPlace:
        """Find the end of the stream and its place in the journal."""
        info = await self._stream()
        last, count = info["state"]["last_seq"], info["state"]["messages"]
        for sequence in range(last, max(0, last - min(count, LOOK_BACK)), -1):
            found = await self._message(sequence)
            match = _message_id(found.header(b"Nats-Msg-Id") or "") if found is not None else None
            if match is not None and found is not None:
                generation, position = int(match[1]), Position(int(match[2]), int(match[3]))
                return await self._behind(last, generation, position, found.data)
            log.warning("feed_message_foreign", stream=self._subjects.stream_events, sequence=sequence)
        return await self._start_over(last)

    async def _stream(self) -> dict[str, Any]:
        """Create the stream or update it to the settings: unlike the journal, it may be changed while in use."""
        wanted, timeout_s = feed_stream(self._subjects, self._limits), self._limits.answer_timeout_s
        try:
            return await ensure_stream(self._bus, wanted, timeout_s=timeout_s)
        except Refused as drift:
            if drift.reason != "stream_drift":
                raise
            try:
                await update_stream(self._bus, wanted, timeout_s=timeout_s)
            except ApiError as error:
                drift.add_note(error.message)
                raise drift from None
            log.warning("feed_stream_changed", reason=drift.message)
        return await ensure_stream(self._bus, wanted, timeout_s=timeout_s)

    async def _behind(self, last: int, generation: int, position: Position, data: bytes) -> FeedPlace:
        """Find the place after the feed's last event in the journal."""
        bounds = await self._journal.bounds()
        if position.sequence < bounds.first - 1:
            # The next events were archived before they were fed, or the feed is of another journal: they are skipped.
            log.warning("feed_gap", after=str(position), journal_begins=bounds.first)
            return self._place_after(last, bounds.first - 1)
        if position.sequence == bounds.first - 1:
            return self._place_after(last, position.sequence)
        record = await self._journal.slot(position.sequence) if position.sequence <= bounds.last else None
        if record is not None and record.kind == "commit" and generation_of(record) == generation:
            parts = codec.split(record.body)
            if position.index < len(parts) and bytes(parts[position.index][1]) == data:
                return FeedPlace(last, position, record if position.index + 1 < len(parts) else None)
        # The journal was restored from a backup: the feed has events after it that the restored journal lacks.
        begin = await first_commit(self._journal, lambda commit: generation_of(commit) > generation)
        if begin <= bounds.last:
            log.warning("feed_branched", ends=str(position), generation=generation, goes_on_at=begin)
            return self._place_after(last, begin - 1)
        if record is None:
            # A replica cut off from the others may show an older journal for some seconds.
            msg = (
                f"the journal ends at {bounds.last}, before event {position}, the last one in the feed: a replica "
                "lags, or the feed is of another or a newer journal"
            )
            raise Unavailable(msg, reason="journal_behind")
        log.warning("feed_of_another_journal", ends=str(position), generation=generation)
        return await self._start_over(last)

    async def _start_over(self, last: int) -> FeedPlace:
        """Begin with the oldest event that is within the maximum age of the feed."""
        begin = await first_since(self._journal, self._now() - self._limits.max_age_s)
        return self._place_after(last, begin - 1)

    def _place_after(self, last: int, sequence: int) -> FeedPlace:
        return FeedPlace(last, Position(sequence, 0))

    async def _message(self, sequence: int) -> Message | None:
        """Read one message of the feed from the stream leader; None if it was deleted."""
        name = self._subjects.stream_events
        try:
            stored = await stored_message(self._bus, name, {"seq": sequence}, timeout_s=self._limits.answer_timeout_s)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"{name}: {error.message}") from error
        data, headers = base64.b64decode(stored.get("data", "")), base64.b64decode(stored.get("hdrs", ""))
        return Message(stored["subject"], "", data, headers)

    # --- standby ------------------------------------------------------------------------------------------------------

    async def _stand_by(self) -> None:
        """Leave the feed to the other follower until the feed is behind the journal and does not advance any more."""
        log.info("feed_overtaken", through=self.through)
        self.state, self.reason = "standing_by", ""
        seen = -1
        while True:
            await asyncio.sleep(self._limits.stand_by_s * self._pace)
            try:
                last, through = await self._look()
                behind = (await self._journal.bounds()).last > through
            except CoordinationError as error:
                log.debug("feed_check_failed", reason=error.message)
                return
            self._through = max(self._through, through)
            if last == seen and behind:
                return
            seen = last

    async def _look(self) -> tuple[int, int]:
        """Return the feed's last sequence, and the journal sequence of the event there."""
        name = self._subjects.stream_events
        try:
            info = await stream_info(self._bus, name, timeout_s=self._limits.answer_timeout_s)
        except ApiError as error:
            raise Unavailable(f"{name}: {error.message}") from error
        last = info["state"]["last_seq"]
        found = await self._message(last) if info["state"]["messages"] else None
        match = _message_id(found.header(b"Nats-Msg-Id") or "") if found is not None else None
        return last, int(match[2]) if match is not None else 0
