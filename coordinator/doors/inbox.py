"""
Reads the inboxes of other domains for the leader: each in order, from the place that the journal holds.

Every inbox has its own stream and its own reader; new inboxes are found by listing the streams. A reader hands over
what it read and waits until the writer has taken it, so the number of waiting messages is bounded. It stores nothing:
only the journal holds the place to continue from. Messages removed before they were read are reported as a gap, never
skipped silently. No content of a message stops the ones after it. What was read is removed by `room`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.bus.jetstream import NANOSECONDS, NO_MESSAGE, NO_STREAM, ApiError
from coordinator.bus.pull_consumer import Interrupted, PullLimits, open_consumer
from coordinator.bus.streams import ensure_stream, stored_message, stream_info, stream_names
from coordinator.commands.inbox import Item
from coordinator.doors.inbox_messages import Incoming, items_of
from coordinator.doors.room import KEEPS_UNREAD, InboxRoom, keep_unread
from coordinator.engine.inboxes import InboxPlace
from events.errors import Refused, Unavailable
from events.inbox import InboxGap

if TYPE_CHECKING:
    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from coordinator.engine.inboxes import InboxTurns
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
DOUBT_S = 5.0
"""How long a stream must end before the last message read until that counts as lost messages: a replica may lag."""

ROOM_EVERY_S = 2.0
MOST_STREAMS = 1000
DUPLICATE_WINDOW_S = 120
_PARSED_AT_ONCE = 100
"""How many messages are parsed before other tasks of the loop run."""


class InboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of an inbox's stream and of its reader; times in seconds; *kept_s* is after a message was read."""

    max_bytes: int = 1024**3
    kept_s: float = 120.0
    max_msg_size_bytes: int = 512 * 1024
    replicas: int = 1
    discover_s: float = 2.0
    read: PullLimits = msgspec.field(default_factory=lambda: PullLimits(pull_messages=2000, pull_bytes=1024 * 1024))


def inbox_stream(subjects: Subjects, domain: str, limits: InboxLimits) -> dict[str, Any]:
    """
    Return the configuration of the inbox stream of *domain*.

    It is bounded and refuses what does not fit; neither time nor a publisher removes or replaces messages.

    Raises:
        Refused: *domain* is not a valid name.
    """
    return {
        "name": subjects.stream_inbox(domain),
        "subjects": [subjects.inbox_all(domain)],
        "retention": "limits",
        "storage": "file",
        "num_replicas": limits.replicas,
        "max_bytes": limits.max_bytes,
        "max_msg_size": limits.max_msg_size_bytes,
        "duplicate_window": DUPLICATE_WINDOW_S * NANOSECONDS,
        **KEEPS_UNREAD,
    }


async def ensure_inbox(bus: Bus, subjects: Subjects, domain: str, limits: InboxLimits) -> None:
    """
    Create the inbox of *domain* unless it exists; one of an earlier release is set right.

    Raises:
        Refused: *domain* is not a valid name, or its stream has another configuration. Unavailable: as `ensure_stream`.
    """
    wanted = inbox_stream(subjects, domain, limits)
    with suppress(ApiError):  # it does not exist, or `ensure_stream` tells what differs
        info = await stream_info(bus, wanted["name"], timeout_s=ANSWER_TIMEOUT_S)
        if info["config"]["subjects"] == wanted["subjects"]:
            await keep_unread(bus, info["config"])
    await ensure_stream(bus, wanted)


async def find_inboxes(bus: Bus, subjects: Subjects) -> dict[str, str]:
    """
    Return the domains that have an inbox, with their streams; other streams on inbox subjects are ignored.

    Raises:
        Unavailable: JetStream did not answer.
        ApiError: JetStream refused the request.
    """
    found: dict[str, str] = {}
    offset = 0
    while offset < MOST_STREAMS:
        names, total = await stream_names(bus, subjects.inboxes_all, offset=offset, timeout_s=ANSWER_TIMEOUT_S)
        found |= {domain: name for name in names if (domain := subjects.parse_stream_inbox(name))}
        offset += len(names)
        if not names or offset >= total:
            break
    return found


class InboxReaders:
    """All inbox readers of one reign."""

    def __init__(self, turns: InboxTurns, bus: Bus, subjects: Subjects, limits: InboxLimits) -> None:
        self._turns = turns
        self._bus = bus
        self._subjects = subjects
        self._limits = limits
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._rooms: dict[str, tuple[str, InboxRoom]] = {}

    async def run(self) -> None:
        """Read all inboxes, also those created later, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._make_room())
            while True:
                try:
                    found = await find_inboxes(self._bus, self._subjects)
                except (Unavailable, ApiError) as error:
                    log.warning("inbox_listing_failed", why=error.message)
                else:
                    for domain, stream in found.items():
                        if domain not in self._rooms:
                            subject = self._subjects.inbox_all(domain)
                            room = InboxRoom(self._turns, self._bus, subject, domain, self._limits.kept_s)
                            self._rooms[domain] = stream, room
                        if domain not in self._reading or self._reading[domain].done():
                            reader = InboxReader(self._turns, self._bus, self._subjects, self._limits, domain, stream)
                            self._reading[domain] = tasks.create_task(reader.run())
                await asyncio.sleep(self._limits.discover_s)

    async def _make_room(self) -> None:
        while True:
            for stream, room in tuple(self._rooms.values()):
                await room.make(stream)
            await asyncio.sleep(min(self._limits.discover_s, ROOM_EVERY_S))


class InboxReader:
    """Reads the inbox of one domain while its stream exists."""

    def __init__(
        self, turns: InboxTurns, bus: Bus, subjects: Subjects, limits: InboxLimits, domain: str, stream: str
    ) -> None:
        self._turns = turns
        self._bus = bus
        self._subjects = subjects
        self._limits = limits
        self._domain = domain
        self._stream = stream
        self._place = turns.reached(domain)
        """The place after the last message handed over, which may not be in the journal yet."""
        self._pause_s = FIRST_PAUSE_S
        self._behind_since: float | None = None

    async def run(self) -> None:
        """Read until cancelled, or until the stream is deleted."""
        log.info("inbox_reading_started", domain=self._domain, after=self._place.sequence)
        while True:
            try:
                await self._check()
                await self._read()
            except Interrupted as stop:
                log.info("inbox_reading_restarted", domain=self._domain, after=self._place.sequence, why=stop.reason)
                if stop.gap:
                    await self._report_hole()
            except ApiError as error:
                if error.err_code == NO_STREAM:
                    log.warning("inbox_deleted", domain=self._domain, after=self._place.sequence)
                    return
                log.warning("inbox_reading_paused", domain=self._domain, why=error.message)
            except (Unavailable, Refused) as error:
                log.warning("inbox_reading_paused", domain=self._domain, why=error.message)
            except Exception:  # a defect here must not end the reign
                log.exception("inbox_reading_failed", domain=self._domain)
            await asyncio.sleep(self._pause_s)
            await self._bus.until_connected(LONGEST_PAUSE_S)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _read(self) -> None:
        async with open_consumer(
            self._bus, self._stream, self._limits.read, self._incoming, self._place.sequence
        ) as consumer:
            while True:
                batch = await consumer.take()
                if batch:
                    await self._hand_over(batch)
                elif await self._check() > self._place.sequence and consumer.has_stalled():
                    raise Interrupted("the stream has more messages, but none were delivered")

    def _incoming(self, message: Message, sequence: int) -> Incoming:
        domain, kind, event = self._subjects.parse_inbox(message.subject)
        return Incoming(
            domain=domain,
            kind=kind,
            event=event,
            sequence=sequence,
            body=message.data,
            stream_created=self._place.stream_created,
            headers=message.headers if message.raw_headers else {},
        )

    async def _hand_over(self, batch: list[Incoming]) -> None:
        for number, message in enumerate(batch, 1):
            await self._turns.room(self._domain)
            created, _, taken = self._place
            # Some items of the first message may already be in the journal.
            self._turns.put(self._domain, created, items_of(message)[taken:])
            self._place = InboxPlace(created, message.sequence, 0)
            if number % _PARSED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._pause_s = FIRST_PAUSE_S

    async def _check(self) -> int:
        """Compare the stream with the place read so far, report missing messages, and return its last sequence."""
        info = await stream_info(self._bus, self._stream, timeout_s=ANSWER_TIMEOUT_S)
        if info["config"]["subjects"] != [self._subjects.inbox_all(self._domain)]:
            msg = (
                f"stream {self._stream} is not an inbox: its subjects are {info['config']['subjects']!r}, but must be "
                f"{[self._subjects.inbox_all(self._domain)]!r}"
            )
            raise Refused(msg, reason="stream_drift")
        state, created = info["state"], info["created"]
        last: int = state["last_seq"]
        first: int = state["first_seq"] if state["messages"] else last + 1
        place = self._place
        if place.stream_created and place.stream_created != created:
            self._gap(created, 1, first - 1, "recreated")
        elif place.sequence > last:
            self._doubt(last)
            self._gap(created, last + 1, last, "went_backwards")
        elif first > place.sequence + 1:
            self._gap(created, place.sequence + 1, first - 1, "removed")
        elif not place.stream_created:
            self._place = InboxPlace(created, place.sequence, place.index)
        self._behind_since = None
        return last

    def _doubt(self, last: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since < DOUBT_S:
            msg = (
                f"stream {self._stream} ends at {last}, but message {self._place.sequence} was already read: a replica "
                "lags, or messages were lost"
            )
            raise Unavailable(msg)

    async def _report_hole(self) -> None:
        """Ask the stream leader whether the message that was skipped exists; if not, report the gap up to the next."""
        missing = self._place.sequence + 1
        try:
            await stored_message(self._bus, self._stream, {"seq": missing}, timeout_s=ANSWER_TIMEOUT_S)
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                return
        except Unavailable:
            return
        else:
            return
        question = {"seq": missing, "next_by_subj": self._subjects.inbox_all(self._domain)}
        try:
            found = await stored_message(self._bus, self._stream, question, timeout_s=ANSWER_TIMEOUT_S)
        except (ApiError, Unavailable):
            return
        self._gap(self._place.stream_created, missing, found["seq"] - 1, "removed")

    def _gap(self, created: str, first: int, last: int, why: str) -> None:
        log.warning("inbox_gap", domain=self._domain, first=first, last=last, why=why)
        event = InboxGap(domain=self._domain, stream_created=created, from_sequence=first, to_sequence=last, why=why)
        self._turns.put(self._domain, created, [Item(sequence=last, event=event)])
        self._place = InboxPlace(created, last, 0)
