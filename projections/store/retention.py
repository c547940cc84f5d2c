"""
What leaves a read model in SQLite, if it is bounded: the oldest events, and what ended before them.

A sweep finds the cut with a connection of its own and removes a few hundred rows per transaction, so that neither
questions nor the projector wait for it. Age counts back from the last commit, not from a clock: one that is wrong must
not empty the read model. Kinds whose counts are promised for ever (`Kind.summed`) keep their rows. Nothing is removed
from the journal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from events.codec import seconds_of
from projections.store.port import KINDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiosqlite

ROWS = 500
"""Rows that one transaction removes at most."""
PAUSE_S = 0.005
SWEPT_AT_ONCE = 100_000
"""Events that one sweep removes at most by their number."""

# Made with the first removal: a read model that is not bounded can be used by releases that do not know it.
MAKE = (
    "CREATE TABLE IF NOT EXISTS removed"
    " (one INTEGER PRIMARY KEY CHECK (one = 1), place INTEGER NOT NULL, created INTEGER NOT NULL, ended REAL NOT NULL)"
)
HAS = "SELECT count(*) FROM sqlite_master WHERE name = 'removed'"
GET = "SELECT place, created, ended FROM removed"
PUT = "INSERT OR REPLACE INTO removed VALUES (1, ?, ?, ?)"
BEGIN, COMMIT = "BEGIN IMMEDIATE", "COMMIT"
COUNT = "SELECT count(*) FROM events"
ENDS = "SELECT coalesce(min(place), 0), coalesce(max(place), 0) FROM events"
NEXT = "SELECT place, time FROM events WHERE place >= ? ORDER BY place LIMIT 1"
NTH = "SELECT place, time FROM events ORDER BY place LIMIT 1 OFFSET ?"
SOME = "SELECT max(place), count(*) FROM (SELECT place FROM events WHERE place < ? ORDER BY place LIMIT ?)"
REMOVE = "DELETE FROM events WHERE place <= ?"
SWEPT = {kind: where.table for kind, where in KINDS.items() if not where.summed}
"""The kinds whose ended entities are removed, with their tables."""
# The tables are constants; a table's name cannot be a parameter.
OLD = {
    kind: f"SELECT created, ended_at FROM {table} WHERE created > ? AND created < ? ORDER BY created LIMIT ?"  # noqa: S608
    for kind, table in SWEPT.items()
}
REMOVE_ONE = {kind: f"DELETE FROM {table} WHERE created = ? AND ended_at < ?" for kind, table in SWEPT.items()}  # noqa: S608


class Retention(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How long, in seconds, and how many events a read model keeps; 0 means without a bound."""

    keep_s: float = 0.0
    events: int = 0

    @property
    def is_bounded(self) -> bool:
        """Return whether anything is ever removed."""
        return bool(self.keep_s or self.events)


class Removed(NamedTuple):
    """No event before `place` is kept, nor what was created before `created` and ended before `ended` (seconds)."""

    place: int = 0
    created: int = 0
    ended: float = 0.0


class _Cut(NamedTuple):
    place: int
    time_s: float


async def read_removed(connection: aiosqlite.Connection) -> Removed:
    """Return what was removed from a read model so far."""
    [(has,)] = await connection.execute_fetchall(HAS)
    rows = list(await connection.execute_fetchall(GET)) if has else []
    return Removed(*rows[0]) if rows else Removed()


class Sweep:
    """One sweep: looks with *seeker*, and calls *remove* with the statements of each small transaction."""

    def __init__(
        self,
        seeker: aiosqlite.Connection,
        remove: Callable[[list[tuple[str, list[tuple[Any, ...]]]]], Awaitable[None]],
        keep: Retention,
        last_s: float,
    ) -> None:
        self.removed = Removed()
        self.rows = 0
        self._seeker = seeker
        self._remove = remove
        self._keep = keep
        self._last_s = last_s

    async def run(self, count: int) -> None:
        """Remove what is beyond the bounds; *count* is how many events there are."""
        self.removed = await read_removed(self._seeker)
        cut = max(await self._by_age(), await self._by_number(count))
        if not cut.place:
            return
        await self._remove_events(cut)
        for kind in SWEPT:
            await self._remove_ended(kind, cut)

    async def _by_age(self) -> _Cut:
        """Find the first event that is young enough by bisection: places are in the order of time."""
        if not self._keep.keep_s:
            return _Cut(0, 0.0)
        bound = self._last_s - self._keep.keep_s
        [(low, high)] = await self._seeker.execute_fetchall(ENDS)
        first = await self._event(NEXT, low)
        if first is None or first.time_s >= bound:
            return _Cut(0, 0.0)
        while low < high:
            middle = (low + high) // 2
            found = await self._event(NEXT, middle)
            if found is not None and found.time_s < bound:
                low = max(middle, found.place) + 1
            else:
                high = middle
        return _Cut(low, bound)

    async def _by_number(self, count: int) -> _Cut:
        excess = min(count - self._keep.events, SWEPT_AT_ONCE) if self._keep.events else 0
        return (await self._event(NTH, excess) or _Cut(0, 0.0)) if excess > 0 else _Cut(0, 0.0)

    async def _event(self, statement: str, value: int) -> _Cut | None:
        rows = list(await self._seeker.execute_fetchall(statement, (value,)))
        return _Cut(rows[0][0], seconds_of(rows[0][1])) if rows else None

    async def _remove_events(self, cut: _Cut) -> None:
        while True:
            [(last, found)] = await self._seeker.execute_fetchall(SOME, (cut.place, ROWS))
            if not found:
                return
            self.removed = self.removed._replace(place=last + 1)
            await self._remove([(REMOVE, [(last,)]), (PUT, [self.removed])])
            self.rows += found
            await asyncio.sleep(PAUSE_S)

    async def _remove_ended(self, kind: str, cut: _Cut) -> None:
        self.removed = self.removed._replace(
            created=max(cut.place, self.removed.created), ended=max(cut.time_s, self.removed.ended)
        )
        after, created, ended = 0, self.removed.created, self.removed.ended
        while rows := list(await self._seeker.execute_fetchall(OLD[kind], (after, created, ROWS))):
            after = rows[-1][0]
            old = [(place, ended) for place, ended_at in rows if ended_at is not None and ended_at < ended]
            if old:
                await self._remove([(REMOVE_ONE[kind], old), (PUT, [self.removed])])
                self.rows += len(old)
            await asyncio.sleep(PAUSE_S)
