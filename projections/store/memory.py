"""The read model in memory, under the contract of the SQLite store, for tests and the simulation; it has no threads."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from events.base import START, Position
from events.errors import Unavailable
from events.retry import is_named
from projections.store.port import (
    ANOTHER_WRITER,
    KINDS,
    PAGE_BYTES,
    PLACE_MAX,
    Batch,
    Counts,
    EventRow,
    Mark,
    StateRow,
    StoredEvent,
    StoredEvents,
    Thing,
    Things,
    Waits,
    checked_limit,
    kind_of,
    place_of,
    position_of,
    state_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    AnyRow = TypeVar("AnyRow", EventRow, StateRow)


class MemoryStore(Waits):
    """See `projections.store.port.Store`."""

    def __init__(self) -> None:
        super().__init__(Mark())
        self._events: list[EventRow] = []
        self._rows: dict[str, dict[str, StateRow]] = {kind: {} for kind in KINDS}

    def begins(self) -> Position:
        """See `Store.begins`."""
        return START

    async def write(self, batch: Batch) -> None:
        """See `Store.write`."""
        at = self._mark.position
        if at == batch.after.position:
            return
        if at != batch.before:
            msg = (
                f"the store is at {at}, not at {batch.before}: another projector writes it; use one projector per store"
            )
            raise Unavailable(msg, reason=ANOTHER_WRITER)
        rows = {kind: state_rows(kind, states.values()) for kind, states in batch.states.items()}
        self._events += batch.events
        for kind, made in rows.items():
            self._rows[kind].update((row.id, row) for row in made)
        self.move(batch.after)

    async def get(self, kind: str, entity_id: str) -> Thing | None:
        """See `Store.get`."""
        kind_of(kind)
        row = self._rows[kind].get(entity_id)
        return None if row is None else _thing(row)

    async def list(
        self,
        kind: str,
        *,
        status: str | None = None,
        tenant: str | None = None,
        name: str | None = None,
        error_type: str | None = None,
        ended_since: float | None = None,
        limit: int = 100,
        before: Position | None = None,
        limit_bytes: int = PAGE_BYTES,
    ) -> Things:
        """See `Store.list`."""
        kind_of(kind)
        below = PLACE_MAX if before is None else place_of(before)
        newest = sorted(self._rows[kind].values(), key=attrgetter("created"), reverse=True)
        found = (
            row
            for row in newest
            if row.created < below
            and status in (None, row.status)
            and tenant in (None, row.tenant)
            and name in (None, row.name)
            and (ended_since is None or (row.ended_at is not None and row.ended_at >= ended_since))
            and (error_type is None or is_named(_error_type(row), (error_type,)))
        )
        rows, more = _cut(found, checked_limit(limit), limit_bytes)
        return Things([_thing(row) for row in rows], more)

    async def count(self, kind: str) -> Counts:
        """See `Store.count`."""
        summed = kind_of(kind).summed
        rows = self._rows[kind].values()
        states = [msgspec.json.decode(row.state) for row in rows]
        sums = {field: sum(state.get(field, 0) for state in states) for field in summed}
        return Counts(dict(Counter(row.status for row in rows)), sums)

    async def events(
        self,
        *,
        subject: str | None = None,
        type_prefix: str | None = None,
        after: Position = START,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
        newest_first: bool = False,
    ) -> StoredEvents:
        """See `Store.events`."""
        behind = place_of(after)
        kind, dot, _ = (type_prefix or "").partition(".")
        found = (
            row
            for row in (reversed(self._events) if newest_first else self._events)
            if row.place > behind
            and subject in (None, row.subject)
            and kind in ("", row.kind)
            and (not dot or row.type.startswith(type_prefix or ""))
        )
        rows, more = _cut(found, checked_limit(limit), limit_bytes)
        return StoredEvents([StoredEvent(position_of(row.place), row.body) for row in rows], more)

    async def check(self) -> tuple[str, ...]:
        """See `Store.check`."""
        return ()


def _cut(rows: Iterator[AnyRow], limit: int, limit_bytes: int) -> tuple[list[AnyRow], bool]:
    found: list[AnyRow] = []
    size = 0
    for row in islice(rows, limit):
        found.append(row)
        size += len(row[-1])
        if size >= limit_bytes:
            return found, True
    return found, len(found) >= limit


def _error_type(row: StateRow) -> str:
    found: str = msgspec.json.decode(row.state).get("error_type", "")
    return found


def _thing(row: StateRow) -> Thing:
    return Thing(position_of(row.created), row.id, row.state)
