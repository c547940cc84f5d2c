"""
Subscribe to events: past events from any position on, then new ones; each once, in order, across reconnects.

    async with subscribe(["task.*", "service.health_changed"], since="1042.0") as events:
        async for envelope in events:
            print(envelope.id, envelope.type, envelope.data)

A subscription reads the journal, not the feed: events never age out of it, and positions are exact. It never writes.
Only events that match are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple, cast

from coordinator.app.app import acquire_app, release_app
from coordinator.bus.connection import Bus
from coordinator.commands.arguments import wanted
from coordinator.journal.search import first_since
from coordinator.journal.stream import NatsJournal
from coordinator.processes.credentials import credentials
from events import codec
from events.base import Envelope, Position
from events.codec import EVENTS, HEARTBEATS
from events.errors import Refused, shown
from events.subjects import Subjects
from projections.source import ChainCheck

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from projections.source import Bounds, CommitSource, Record

Since = Position | str | datetime | None
Found = tuple[Position, Envelope]

ALL = "*"
PATTERNS_MAX = 100
TYPES = frozenset(EVENTS) - HEARTBEATS
"""The event types in the journal that this release knows."""
_is_pattern = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*|\*)").fullmatch


class EventStream:
    """
    The events of a subscription, for one `async for`. `position` is the position of the last event returned.

    To continue later without gaps or duplicates, store `position` together with the result of the events, and pass it
    to `subscribe(…, since=position)`.
    """

    def __init__(self, found: AsyncGenerator[Found], position: Position) -> None:
        self.position = position
        self._found = found

    def __aiter__(self) -> AsyncIterator[Envelope]:
        return self

    async def __anext__(self) -> Envelope:
        """
        Wait for the next event, without a time limit, and return it.

        Raises:
            Corrupt: the journal is damaged, or was replaced by a new one.
        """
        self.position, envelope = await anext(self._found)
        return envelope


class Begin(NamedTuple):
    """Where reading begins: after a record. Events up to a position, or before a time, are skipped."""

    after: int
    past: Position
    time_s: float = 0.0


class EventFilter:
    """
    Selects the events that match any of *kinds*, one pattern or several. `kind.*` also matches unknown types of a kind.

    Raises:
        Refused: a pattern is malformed, or matches no event type of this release.
    """

    def __init__(self, kinds: str | Iterable[str] = ALL) -> None:
        wanted("kinds", kinds, (str, Iterable), "a pattern such as 'task.*', or several")
        patterns = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not 0 < len(patterns) <= PATTERNS_MAX:
            msg = f"{len(patterns)} patterns given: use 1 to {PATTERNS_MAX}, such as 'task.*', or '*' for all"
            raise Refused(msg, reason="bad_pattern")
        for pattern in patterns:
            _check(pattern)
        self.takes_all = ALL in patterns
        self._types = frozenset(patterns)
        self._kinds = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))

    def takes(self, event_type: str) -> bool:
        """Return whether an event of this type is wanted."""
        return self.takes_all or event_type in self._types or event_type.startswith(self._kinds)


@asynccontextmanager
async def subscribe(
    kinds: str | Iterable[str] = ALL, since: Since = None, *, url: str | None = None
) -> AsyncIterator[EventStream]:
    """
    Subscribe to the events that match *kinds*, while the block runs.

    Args:
        kinds: one pattern or up to 100: `task.*`, `task.failed`, or `*` for all events.
        since: the position of the last event already seen (`"0.0"` starts with the first event of the journal), a
            datetime with a zone to start at, or None for new events only.
        url: the NATS server to connect to; by default, the coordinator that the facades use.

    Raises:
        Refused: a pattern, the position or the time is invalid or not in the journal.
        Unavailable: the coordinator cannot be reached, or there is no journal yet. After the start, the subscription
            waits through outages.
    """
    wanted = EventFilter(kinds)
    async with _reach(url) as (bus, subjects):
        journal = NatsJournal(bus, subjects)
        begin = await begin_at(journal, since)
        async with aclosing(events_from(journal, wanted, begin)) as found:
            yield EventStream(found, begin.past)


async def begin_at(journal: NatsJournal, since: object) -> Begin:
    """
    Return where to begin reading the journal for *since*.

    Raises:
        Refused: *since* is not a position or time in the journal.
    """
    bounds = await journal.bounds()
    match since:
        case None:
            return Begin(bounds.last, await _end_of(journal, bounds.last))
        case datetime():
            return await _from_time(journal, since, bounds)
        case Position() | str():
            return _behind(Position.parse(str(since)), bounds)
        case _:
            msg = f"since {shown(since)} is invalid: use a position such as '1042.0', a datetime with a zone, or None"
            raise Refused(msg, reason="bad_position")


async def events_from(
    journal: CommitSource, wanted: EventFilter, begin: Begin, until: int | None = None
) -> AsyncGenerator[Found]:
    """Yield the wanted events from *begin* on with their positions, up to record *until*, or without end."""
    records = journal.follow(begin.after) if until is None else journal.read(begin.after, until)
    check = ChainCheck()
    async with aclosing(cast("AsyncGenerator[list[Record]]", records)) as batches:
        async for batch in batches:
            for record in batch:
                check.take(record)
                if record.kind == "commit":
                    for found in _wanted(record, wanted, begin):
                        yield found


def _wanted(commit: Record, wanted: EventFilter, begin: Begin) -> list[Found]:
    sequence = commit.sequence
    parts = codec.split(commit.body)
    taken = [index for index, (head, _) in enumerate(parts) if wanted.takes(head.type)]
    if sequence == begin.past.sequence:
        taken = [index for index in taken if index > begin.past.index]
    if (
        not taken
        or sequence < begin.past.sequence
        or (begin.time_s and codec.seconds_of(parts[0][0].time) < begin.time_s)
    ):
        return []
    whole = len(taken) == len(parts)
    body = commit.body if whole else codec.join(bytes(parts[index][1]) for index in taken)
    return [(Position(sequence, index), one) for index, one in zip(taken, codec.decode(body), strict=True)]


def _behind(position: Position, bounds: Bounds) -> Begin:
    first, last = bounds
    if position.sequence > last:
        msg = f"position {position} is not in the journal, which ends at {last}"
        raise Refused(msg, reason="bad_position")
    _check_begin(position.sequence + 1, first, f"position {position}")
    return Begin(max(position.sequence, first) - 1 if last else 0, position)


async def _from_time(journal: NatsJournal, since: datetime, bounds: Bounds) -> Begin:
    if since.tzinfo is None:
        msg = f"time {since.isoformat()} has no zone: use one such as datetime.now(UTC)"
        raise Refused(msg, reason="bad_time")
    begin = await first_since(journal, since.timestamp())
    if begin == bounds.first:
        _check_begin(1, bounds.first, f"time {since.isoformat()}")
    return Begin(begin - 1, await _end_of(journal, begin - 1), since.timestamp())


async def _end_of(journal: NatsJournal, sequence: int) -> Position:
    """Return the position of the last event in a record, so that reading after it repeats no event of the record."""
    record = await journal.slot(sequence) if sequence else None
    if record is None or record.kind != "commit":
        return Position(sequence, 0)
    return Position(sequence, len(codec.split(record.body)) - 1)


def _check_begin(needed: int, first: int, what: str) -> None:
    if needed < first:
        msg = f"the journal begins at {first}, after {what}: earlier events are in the archive; use '{first - 1}.0'"
        raise Refused(msg, reason="bad_position")


@asynccontextmanager
async def _reach(url: str | None) -> AsyncIterator[tuple[Bus, Subjects]]:
    if url is None:
        app = await acquire_app()
        try:
            yield app.client.bus, app.client.subjects
        finally:
            await release_app(app)
        return
    from coordinator.settings.load import load

    settings = load()
    timeout_s = settings.nats.connect_timeout_s
    async with Bus.open(url, name="subscriber", connect_timeout_s=timeout_s, **credentials(settings)) as bus:
        yield bus, Subjects(settings.namespace)


def _check(pattern: object) -> None:
    if isinstance(pattern, str) and (pattern == ALL or pattern in TYPES):
        return
    match = _is_pattern(pattern) if isinstance(pattern, str) else None
    if match is None:
        msg = f"{shown(pattern)} is not an event pattern: use 'task.*', 'task.failed', or '*' for all"
        raise Refused(msg, reason="bad_pattern")
    if match[0] in HEARTBEATS:
        msg = f"{shown(pattern)} is not in the journal: heartbeats are on the subjects ….heartbeat.<kind>.<id>"
        raise Refused(msg, reason="bad_pattern")
    families = {f"{event_type.partition('.')[0]}.*" for event_type in TYPES}
    if match[0] not in families:
        nearest = get_close_matches(match[0], sorted(TYPES | families), n=1, cutoff=0.0)[0]
        msg = f"{shown(pattern)} matches no event type of this release: the nearest is '{nearest}'"
        raise Refused(msg, reason="bad_pattern")
