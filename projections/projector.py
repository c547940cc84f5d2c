"""
Writes the journal into a store: folds every commit, and writes events, last states and position in batches.

It follows the journal from the start, because the state after an event needs the fold of all events before; records
that the store already has are folded but not written again. It decides nothing and changes no journal. A damaged
journal stops it with an error, after everything before the damage is written; a full disk only makes it wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import aclosing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import msgspec
import structlog

from events import codec
from events.base import START, Event, Position, UnknownEvent
from events.errors import CoordinationError, Corrupt, Unavailable
from projections.store.port import INDEX_BITS, KINDS, STORE_BUSY, Batch, EventRow, Mark, StoreUnfit
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from events.base import Envelope
    from projections.source import CommitSource, Record
    from projections.store.port import Store

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.05


class ProjectorLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When a batch is written, and how many records wait for listeners; a batch has at least one record."""

    batch_events: int = 5000
    batch_bytes: int = 4 * 1024 * 1024
    batch_s: float = 0.05
    """Folding blocks the event loop for about this long at most."""
    retry_max_s: float = 5.0
    patience_s: float = math.inf
    """About how long to retry while the store cannot be written."""
    listener_records: int = 1000
    """A listener with more waiting records than this is dropped."""


class Told(NamedTuple):
    """One record of the journal and its events; a claim has none."""

    record: Record
    envelopes: list[Envelope]


class Projector:
    """
    Brings *store* up to the end of *source* and keeps it there.

    A *snapshot* (of `World.snapshot`, from this journal) saves the fold up to its position, unless it is ahead of the
    store. *fold* folds each record into the world, and may look at both.
    """

    def __init__(
        self,
        source: CommitSource,
        store: Store,
        *,
        snapshot: bytes | None = None,
        limits: ProjectorLimits | None = None,
        fold: Callable[[World, Record], list[Envelope]] | None = None,
    ) -> None:
        self.source = source
        self.store = store
        self.limits = limits if limits is not None else ProjectorLimits()
        self.folded = 0
        """Number of events folded here, without those of a snapshot."""
        self._fold = fold
        self._stored = store.position()
        self._world = self._begin(snapshot)
        self._pending = _Pending(self._stored)
        self._listeners: set[Listener] = set()

    @property
    def world(self) -> World:
        """The world folded so far; it may be ahead of the store, and may change at every `await`."""
        return self._world

    async def run(self) -> None:
        """
        Follow the journal until cancelled.

        Raises:
            Corrupt: the journal is damaged, or ends before the position of the store.
            StoreUnfit: the store must be rebuilt: open another and run again.
            Unavailable: journal or store cannot be used now: run again later.
        """
        end: CoordinationError | None = None
        try:
            await self._check_journal()
            await self._follow()
        except CoordinationError as error:
            end = Unavailable(f"the journal is not followed any more: {error.message}", reason="stopped")
            raise
        finally:
            for listener in self._listeners:
                listener.end(end)

    @contextmanager
    def listen(self, most: int | None = None) -> Iterator[Listener]:
        """
        Iterate over each new record once it is in the store: `with projector.listen() as told: async for one in told`.

        The iteration ends with the projector. It raises `Unavailable`, reason `fell_behind`, when more than *most*
        records wait; the missed records are in the store.
        """
        listener = Listener(self.limits.listener_records if most is None else most)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _begin(self, snapshot: bytes | None) -> _TrackingWorld:
        if snapshot is not None:
            try:
                world = _TrackingWorld.restore(snapshot)
            except Corrupt as error:
                log.warning("snapshot_ignored", reason=error.message)
                return _TrackingWorld()
            if world.position <= self._stored.position:
                return cast("_TrackingWorld", world)
            log.info("snapshot_skipped", position=str(world.position), store=str(self._stored.position))
        return _TrackingWorld()

    async def _check_journal(self) -> None:
        """Stop when the journal ends before the store: it is another journal, was restored, or is damaged."""
        stored = self._stored.position.sequence
        if stored == START.sequence:
            return
        first, last = await self.source.bounds()
        if last >= stored:
            return
        world = World()
        if first <= 1 <= last:
            async for records in self.source.read(0, last):
                for record in records:
                    world.apply_record(record)
        self._mismatch(world, f"the journal ends at {last}, but the store contains record {stored}")

    def _mismatch(self, world: World, what: str) -> NoReturn:
        if world.generation > self._stored.generation:
            # A restore from a backup raises the generation: the journal is right, and the store must be rebuilt.
            msg = f"{what}: it was restored, now generation {world.generation}"
            raise StoreUnfit(msg)
        msg = (
            f"{what}: the journal went backwards, lost its tail, or belongs to another cluster. If the journal is "
            "right, delete the store and start again"
        )
        raise Corrupt(msg)

    async def _follow(self) -> None:
        batches = cast("AsyncGenerator[list[Record], None]", self.source.follow(self._world.position.sequence))
        loop = asyncio.get_running_loop()
        async with aclosing(batches):
            async for records in batches:
                began = loop.time()
                for record in records:
                    if record.sequence <= self._world.position.sequence:
                        continue  # a source may repeat a record, for instance after a reconnect
                    try:
                        self._take(record)
                    except Corrupt:
                        await self._write()
                        raise
                    if self._is_full() or loop.time() - began >= self.limits.batch_s:
                        await self._write()
                        await asyncio.sleep(0)  # `_write` does not wait while the store is ahead
                        began = loop.time()
                await self._write()

    def _take(self, record: Record) -> None:
        """Fold one record and add it to the pending batch."""
        world = self._world
        world.touched = {}
        envelopes = world.apply_record(record) if self._fold is None else self._fold(world, record)
        self.folded += len(envelopes)
        mark = Mark(
            position=world.position,
            chain=world.chain.hex(),
            generation=world.generation,
            time=world.time,
            unfoldable=world.unfoldable,
        )
        if record.sequence > self._stored.position.sequence:
            self._pending.add(record, envelopes, mark, world.touched, tell=bool(self._listeners))
        elif record.sequence == self._stored.position.sequence:
            self._check_store(mark)

    def _check_store(self, mark: Mark) -> None:
        """Check, when the fold reaches the position of the store, that the store was written from this journal."""
        stored = self._stored
        if mark.chain != stored.chain:
            self._mismatch(self._world, f"the store was not written from this journal up to {mark.position}")
        if mark.unfoldable != stored.unfoldable:
            msg = f"the store was written by a release that could not fold {stored.unfoldable or mark.unfoldable}"
            raise StoreUnfit(msg)

    def _is_full(self) -> bool:
        pending = self._pending
        return len(pending.events) >= self.limits.batch_events or pending.size >= self.limits.batch_bytes

    async def _write(self) -> None:
        pending = self._pending
        if pending.mark is pending.before:
            return
        await self._write_until_kept(pending.batch())
        self._pending = _Pending(pending.mark)
        for listener in self._listeners:
            listener.tell(pending.told)

    async def _write_until_kept(self, batch: Batch) -> None:
        pause_s, waited_s = FIRST_PAUSE_S, 0.0
        for attempt in count(1):
            try:
                await self.store.write(batch)
            except Unavailable as error:
                if error.reason != STORE_BUSY or waited_s >= self.limits.patience_s:
                    raise
                if attempt.bit_count() == 1:  # 1, 2, 4, 8 …: many log lines would not help a full disk
                    log.warning("store_write_failed", position=str(batch.before), attempt=attempt, reason=error.message)
                await asyncio.sleep(pause_s)
                waited_s += pause_s
                pause_s = min(2 * pause_s, self.limits.retry_max_s)
            else:
                return


class Listener:
    """The iterator of `Told` that `Projector.listen` returns."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._told: deque[Told] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: CoordinationError | None = None

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Told:
        while not self._told:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._told.popleft()

    def tell(self, told: list[Told]) -> None:
        """Queue the written records; the projector calls this."""
        if self._ended:
            return
        self._told.extend(told[: self._most - len(self._told)])
        if len(told) > 0 and self._told[-1] is not told[-1]:
            msg = f"more than {self._most} records wait for this listener: read the missed ones from the store"
            self.end(Unavailable(msg, reason="fell_behind"))
        self._news.set()

    def end(self, error: CoordinationError | None) -> None:
        """End the iteration after the queued records, with *error* if there is one; the projector calls this."""
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()


class _TrackingWorld(World):
    """A world that keeps the state after each event: an entity may end and be evicted in the same commit."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: dict[str, dict[str, Any]] = {}
        self._tables = {kind: getattr(self, where.table) for kind, where in KINDS.items()}

    def apply(self, envelope: Envelope, position: Position, time: float) -> None:
        super().apply(envelope, position, time)
        event = envelope.data
        kind, key = _SUBJECTS[type(event)]
        if key:
            entity_id = getattr(event, key)
            self.touched.setdefault(kind, {})[entity_id] = self._tables[kind][entity_id]

    def _take_rounds(self, worker_id: str, rounds: float, position: Position) -> None:
        super()._take_rounds(worker_id, rounds, position)  # the one event that changes what it is not about
        self.touched.setdefault("worker", {})[worker_id] = self.workers[worker_id]


class _Pending:
    """The batch that is being collected, after the mark *before*."""

    def __init__(self, before: Mark) -> None:
        self.before = self.mark = before
        self.events: list[EventRow] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.told: list[Told] = []
        self.size = 0

    def add(
        self, record: Record, envelopes: list[Envelope], mark: Mark, touched: dict[str, dict[str, Any]], *, tell: bool
    ) -> None:
        if envelopes:
            self.events += _event_rows(record, envelopes)
        for kind, states in touched.items():
            self.states.setdefault(kind, {}).update(states)
        if tell:
            self.told.append(Told(record, envelopes))
        self.size += len(record.body)
        self.mark = mark

    def batch(self) -> Batch:
        return Batch(before=self.before.position, after=self.mark, events=self.events, states=self.states)


def _event_rows(record: Record, envelopes: list[Envelope]) -> list[EventRow]:
    """Return the rows of a commit; written for speed, because it runs for every event of the journal."""
    place = record.sequence << INDEX_BITS
    rows = []
    for one, body in zip(envelopes, _parts(record.body), strict=True):
        name, kind = _NAMES.get(type(one.data)) or _names_of(one.type)
        columns = (place, name, kind, one.subject, one.time, one.tenant, one.actor, one.commandid, bytes(body))
        rows.append(tuple.__new__(EventRow, columns))  # takes half the time of the constructor
        place += 1
    return rows


def _names_of(name: str) -> tuple[str, str]:
    return name, name.partition(".")[0]


_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NAMES: dict[type[Event], tuple[str, str]] = {event: _names_of(name) for name, event in codec.EVENTS.items()}
"""Type and kind of each event, as on the wire."""


def _subject(event: type[Event], kind: str) -> tuple[str, str]:
    return (kind, event.SUBJECT) if kind in KINDS else (kind, "")


_SUBJECTS: dict[type[Event], tuple[str, str]] = {
    **{event: _subject(event, kind) for event, (_, kind) in _NAMES.items()},
    UnknownEvent: ("", ""),
}
"""Kind of the entity of each event type, and the field with its id; "" where the event has no such entity."""
