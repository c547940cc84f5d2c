"""
The last outcomes of health checks, a hundred of each service, in a file of the follower.

The leading coordinator publishes each outcome that was reported to it, with its number; it keeps only the last one. So
the outcomes outlive it, and a number that is missing tells how many were lost: while no follower ran, or at its crash,
as the file is written every second. The file is not part of the read model, as no journal has these outcomes. A damaged
one begins anew; while one cannot be opened, as on a full disk, the outcomes of this run are kept in memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import aiosqlite
import msgspec
import structlog

from coordinator.commands.service import CheckOutcome
from coordinator.task_groups import task_group
from events import codec
from events.errors import Refused
from events.ids import checked
from events.service import ServiceHealthChanged, ServiceStatus
from projections.store.database import connect
from projections.store.sqlite_errors import is_passing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

KEPT = 100
ROWS_KEPT = 1_000_000
"""Of all services together: those of services that are gone leave the file by this."""
WRITE_EVERY_S = 1.0
WAITING_MAX = 50_000
"""Outcomes that wait to be written; further ones are lost, which their numbers tell."""
OUTCOME_BYTES_MAX = 16 * 1024
"""A larger one is left out."""

_SETUP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "CREATE TABLE IF NOT EXISTS outcomes (id INTEGER PRIMARY KEY, service_id TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS outcomes_of_service ON outcomes (service_id, id)",
)
_ADD = "INSERT INTO outcomes (service_id, body) VALUES (?, ?)"
_PRUNE = (
    "DELETE FROM outcomes WHERE service_id = ?1 AND id <= "
    "(SELECT id FROM outcomes WHERE service_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)"
)
_PRUNE_ALL = "DELETE FROM outcomes WHERE id <= (SELECT max(id) FROM outcomes) - ?"
_LAST = "SELECT body FROM outcomes WHERE service_id = ? ORDER BY id DESC LIMIT ?"
_decode = msgspec.json.Decoder(CheckOutcome).decode


class CheckHistory:
    """The outcomes that were heard; open it with `CheckHistory.open`."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._waiting: list[tuple[str, bytes]] = []
        self._writing = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, bus: Bus, subjects: Subjects) -> AsyncIterator[CheckHistory]:
        """Keep the outcomes that are published on *bus* in the file *path* while the block runs."""
        database = await _opened(path)
        try:
            history = cls(database)
            subscription = await bus.subscribe(subjects.notices_of("check"), history.take)
            async with task_group() as tasks:
                writing = tasks.create_task(history.keep_writing())
                try:
                    yield history
                finally:
                    writing.cancel()
            await subscription.unsubscribe()
            await history.write()
        finally:
            await database.close()

    def take(self, message: Message) -> None:
        """Keep one published outcome; what is not one is left out."""
        if len(self._waiting) >= WAITING_MAX or len(message.data) > OUTCOME_BYTES_MAX:
            return
        with suppress(msgspec.MsgspecError, Refused):
            service_id = checked(message.subject.rpartition(".")[2], "service_id")
            _decode(message.data)
            self._waiting.append((service_id, bytes(message.data)))

    async def keep_writing(self) -> None:
        """Write what was heard every second, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what was heard since the last time; if that fails, it is lost and logged."""
        async with self._writing:
            waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            try:
                await self._database.executemany(_ADD, waiting)
                pruned = [(service_id, KEPT) for service_id in dict.fromkeys(one for one, _ in waiting)]
                await self._database.executemany(_PRUNE, pruned)
                await self._database.execute(_PRUNE_ALL, (ROWS_KEPT,))
                await self._database.commit()
            except sqlite3.Error as error:
                log.warning("checks_write_failed", lost=len(waiting), reason=str(error))
                with suppress(sqlite3.Error):
                    await self._database.rollback()

    async def last(self, service_id: str, limit: int) -> list[CheckOutcome]:
        """Return the last outcomes of a service, newest first, each with how many before it are missing."""
        await self.write()
        async with self._database.execute(_LAST, (service_id, KEPT)) as rows:
            found = [_decode(body) async for (body,) in rows]
        if not found:
            return []
        # Those before the oldest one were removed as there are too many, or were never heard of.
        least = 0 if len(found) == KEPT else found[-1].number - 1
        lost = [*(_missing(after, before) for after, before in pairwise(found)), least]
        marked = [msgspec.structs.replace(one, lost=count) for one, count in zip(found, lost, strict=True)]
        return marked[:limit]


def changes_in(events: Iterable[bytes]) -> list[CheckOutcome]:
    """Return changes of health, events as they are in the journal, as entries of a history."""
    envelopes = codec.decode(codec.join(events))
    return [
        CheckOutcome(
            at=codec.seconds_of(one.time),
            ok=one.data.status is ServiceStatus.HEALTHY,
            check=one.data.rule,
            status=one.data.status,
            detail=one.data.detail,
            is_change=True,
        )
        for one in envelopes
        if isinstance(one.data, ServiceHealthChanged)
    ]


def _missing(after: CheckOutcome, before: CheckOutcome) -> int:
    """Return how many outcomes between two are missing; the end of a reign is not known."""
    return after.number - 1 - (before.number if after.reign == before.reign else 0)


def _make(path: Path) -> None:
    """Create the file before SQLite does, which would make it by the umask."""
    with suppress(OSError):  # SQLite meets it, too
        path.touch(mode=0o600)


async def _opened(path: Path) -> aiosqlite.Connection:
    _make(path)
    try:
        return await _connected(path)
    except sqlite3.DatabaseError as error:
        if is_passing(error):
            log.warning("checks_kept_in_memory", path=str(path), reason=str(error))
            return await _connected(":memory:")
        log.warning("checks_file_replaced", path=str(path), reason=str(error))
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        _make(path)
        return await _connected(path)


async def _connected(path: Path | str) -> aiosqlite.Connection:
    database = await connect(path)
    try:
        for statement in _SETUP:
            await database.execute(statement)
        await database.commit()
    except BaseException:
        await database.close()
        raise
    return database
