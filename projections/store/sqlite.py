"""
The read model in one SQLite file.

One connection writes whole batches, each in one transaction with the position; another one reads, and in WAL mode never
waits for the writer. All SQL is in `schema.sql` and in the constants below: no value of a caller becomes part of it. A
file that is damaged, or has another schema or fold version, is moved aside; the projector fills a new one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite
import msgspec
import structlog

from events.base import START, Position
from events.errors import Unavailable
from projections.store.database import connect
from projections.store.port import (
    ANOTHER_WRITER,
    KINDS,
    PAGE_BYTES,
    PLACE_MAX,
    STORE_BUSY,
    Batch,
    Counts,
    Mark,
    StoredEvent,
    StoredEvents,
    StoreUnfit,
    Thing,
    Things,
    Waits,
    checked_limit,
    kind_of,
    place_of,
    position_of,
    state_rows,
)
from projections.store.retention import COUNT as COUNT_EVENTS
from projections.store.retention import MAKE, Removed, Sweep, read_removed
from projections.store.sqlite_errors import is_damage, is_passing
from projections.upgrade import FOLD_VERSION, READABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from projections.store.retention import Retention

log = structlog.get_logger(__name__)

SCHEMA_VERSION = 1
ASIDE = ".aside"
FETCHED = 200
"""Rows fetched from the thread of the connection at once."""
BUSY_TIMEOUT_S = 5.0
CACHE_KIB = 16 * 1024
FILE_PAGE_BYTES, CHECKPOINT_PAGES = 8192, 2000
WAL_KEPT_BYTES = 64 * 1024 * 1024

# --- SQL --------------------------------------------------------------------------------------------------------------

SCHEMA = resources.files("projections.store").joinpath("schema.sql").read_text()
PRAGMAS = (
    f"PRAGMA page_size = {FILE_PAGE_BYTES}",  # of a new file; bulk writes take a sixth less time than with half of it
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # a power failure may lose the last whole transactions; the journal has them
    f"PRAGMA cache_size = -{CACHE_KIB}",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
)
ONLY_READ = "PRAGMA query_only = ON"
GET_VERSION = "PRAGMA user_version"
ADDED = """
CREATE TABLE IF NOT EXISTS schedules (
    created INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, tenant TEXT NOT NULL,
    name TEXT NOT NULL, ended_at REAL, state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS schedules_by_status ON schedules (status);
"""
"""What releases have added to the schema: an older one does not look at it, and a newer one makes it."""
COUNT_TABLES = "SELECT count(*) FROM sqlite_master"
CHECK = "PRAGMA integrity_check(20)"
LAST_PLACE = "SELECT coalesce(max(place), 0) FROM events"
BEGIN, COMMIT = "BEGIN IMMEDIATE", "COMMIT"
GET_MARK = "SELECT sequence, idx, chain, fold_version, generation, time, unfoldable FROM position"  # as in `Mark`
PUT_MARK = "INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?, ?, ?, ?, ?)"
ADD_EVENT = (
    "INSERT INTO events (place, type, kind, subject, time, tenant, actor, commandid, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
GET_EVENTS, IN_ORDER = "SELECT place, body FROM events WHERE place > ?", "ORDER BY place LIMIT ?"
FROM_END = "ORDER BY place DESC LIMIT ?"
OF_SUBJECT, OF_KIND, OF_TYPE = "AND subject = ?", "AND kind = ?", "AND substr(type, 1, ?) = ?"
WITH_STATUS, WITH_TENANT, WITH_NAME = "AND status = ?", "AND tenant = ?", "AND name = ?"
WITH_ERROR = (
    "AND (json_extract(state, '$.error_type') = ? OR substr(json_extract(state, '$.error_type'), -length(?)) = ?)"
)
ENDED_SINCE = "AND ended_at >= ?"
NEWEST_FIRST = "ORDER BY created DESC LIMIT ?"


def _for_each_kind(statement: str) -> dict[str, str]:
    return {kind: statement.replace("{table}", where.table) for kind, where in KINDS.items()}


GET_ONE = _for_each_kind("SELECT created, id, state FROM {table} WHERE id = ?")
LIST = _for_each_kind("SELECT created, id, state FROM {table} WHERE created < ?")
SUM = ", coalesce(sum(json_extract(state, '$.{field}')), 0)"  # a field that has its default is not in the state
COUNT = {
    kind: statement.replace("{sums}", "".join(SUM.replace("{field}", field) for field in KINDS[kind].summed))
    for kind, statement in _for_each_kind("SELECT status, count(*){sums} FROM {table} GROUP BY status").items()
}
PUT_ONE = _for_each_kind(
    "INSERT INTO {table} (created, id, status, tenant, name, ended_at, state) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET created = excluded.created, status = excluded.status, tenant = excluded.tenant,"
    " name = excluded.name, ended_at = excluded.ended_at, state = excluded.state"
)


class SqliteStore(Waits):
    """See `projections.store.port.Store`; made by `open`."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection, mark: Mark) -> None:
        super().__init__(mark)
        self.path = path
        self._writer = writer
        self._reader = reader
        self._file = _identity(path)
        self._is_open = True
        self._writing = asyncio.Lock()
        self._removed = Removed()
        self._events = -1

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[SqliteStore]:
        """
        Open the file at *path* or create it; an unusable file is moved aside first.

        Raises:
            Unavailable: the file cannot be opened, created or moved.
        """
        writer, mark = await _open_writer(path)
        try:
            async with _connection(path) as reader:
                await reader.execute_fetchall(ONLY_READ)
                await _read_mark(reader)  # opens the WAL too, so that reads still work when the file is deleted
                store = cls(path, writer, reader, mark)
                store._removed = await read_removed(reader)
                try:
                    yield store
                finally:
                    store._is_open = False
        finally:
            await writer.close()

    async def write(self, batch: Batch) -> None:
        """See `Store.write`."""
        with self._translated():
            self._check_in_place()
            async with self._transaction() as writer:
                if not await self._has(batch):
                    # One hop to the thread of the connection per statement, not per row.
                    await writer.executemany(ADD_EVENT, batch.events)
                    for kind, states in batch.states.items():
                        await writer.executemany(PUT_ONE[kind], state_rows(kind, states.values()))
                    await writer.execute_fetchall(PUT_MARK, _columns(batch.after))
        if self._events >= 0:
            self._events += len(batch.events)
        self.move(batch.after)

    def begins(self) -> Position:
        """See `Store.begins`."""
        return position_of(self._removed.place)

    async def sweep(self, keep: Retention) -> int:
        """
        Remove what is beyond the bounds of *keep*, in small transactions; return how many rows those were.

        Raises:
            Unavailable, StoreUnfit: as `write`.
        """
        if not keep.is_bounded:
            return 0
        with self._translated():
            self._check_in_place()
            async with _connection(self.path) as seeker:
                if keep.events and self._events < 0:
                    [(self._events,)] = await seeker.execute_fetchall(COUNT_EVENTS)
                sweep = Sweep(seeker, self._remove, keep, self.position().time)
                await sweep.run(self._events)
        return sweep.rows

    async def _remove(self, statements: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        async with self._transaction() as writer:
            await writer.execute_fetchall(MAKE)
            before = writer.total_changes
            for statement, rows in statements:
                await writer.executemany(statement, rows)
            removed = await read_removed(writer)
            gone = writer.total_changes - before - 1
        if self._events >= 0 and removed.place != self._removed.place:
            self._events -= gone
        self._removed = removed

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Run the block in one transaction; a batch and a removal never share one."""
        async with self._writing:
            writer = self._writer
            try:
                await writer.execute_fetchall(BEGIN)
                yield writer
                await writer.execute_fetchall(COMMIT)
            except BaseException:
                await writer.rollback()
                raise

    async def get(self, kind: str, entity_id: str) -> Thing | None:
        """See `Store.get`."""
        kind_of(kind)
        with self._translated():
            rows = list(await self._reader.execute_fetchall(GET_ONE[kind], (entity_id,)))
        return _thing(rows[0]) if rows else None

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
        wanted = ((WITH_STATUS, status), (WITH_TENANT, tenant), (WITH_NAME, name))
        asked = [_Part(LIST[kind], below), *(_Part(text, value) for text, value in wanted if value is not None)]
        if ended_since is not None:
            asked.append(_Part(ENDED_SINCE, ended_since))
        if error_type is not None:
            asked.append(_Part(WITH_ERROR, error_type, f".{error_type}", f".{error_type}"))
        with self._translated():
            rows, more = await _fetch(self._reader, [*asked, _Part(NEWEST_FIRST, checked_limit(limit))], limit_bytes)
        return Things([_thing(row) for row in rows], more)

    async def count(self, kind: str) -> Counts:
        """See `Store.count`."""
        summed = kind_of(kind).summed
        with self._translated():
            rows = list(await self._reader.execute_fetchall(COUNT[kind]))
        sums = {field: sum(int(row[2 + at]) for row in rows) for at, field in enumerate(summed)}
        return Counts({str(row[0]): int(row[1]) for row in rows}, sums)

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
        asked = [_Part(GET_EVENTS, place_of(after))]
        if subject is not None:
            asked.append(_Part(OF_SUBJECT, subject))
        if type_prefix:
            kind, dot, _ = type_prefix.partition(".")
            asked.append(_Part(OF_KIND, kind))
            if dot:
                asked.append(_Part(OF_TYPE, len(type_prefix), type_prefix))
        with self._translated():
            order = FROM_END if newest_first else IN_ORDER
            rows, more = await _fetch(self._reader, [*asked, _Part(order, checked_limit(limit))], limit_bytes)
        return StoredEvents([StoredEvent(position_of(place), body) for place, body in rows], more)

    async def check(self) -> tuple[str, ...]:
        """See `Store.check`."""
        with self._translated():
            self._check_in_place()
            # A separate connection: the check takes long and must not block readers.
            async with _connection(self.path) as connection:
                try:
                    found = [str(line) for (line,) in await connection.execute_fetchall(CHECK)]
                except sqlite3.DatabaseError as error:
                    return (str(error),)
                [(place,)] = await connection.execute_fetchall(LAST_PLACE)
                mark = await _read_mark(connection)
        if position_of(place) > mark.position:
            found.append(f"the store contains an event at {position_of(place)}, but its position is {mark.position}")
        return tuple(line for line in found if line != "ok")

    async def _has(self, batch: Batch) -> bool:
        """Check that the batch is the next one; return True if an earlier attempt has already written it."""
        at = (await _read_mark(self._writer)).position
        if at == batch.before:
            return False
        if at == batch.after.position:
            return True
        msg = f"{self.path} is at {at}, not at {batch.before}: another process writes it; use one home per process"
        raise Unavailable(msg, reason=ANOTHER_WRITER)

    def _check_in_place(self) -> None:
        if _identity(self.path) != self._file:
            msg = f"{self.path} was removed or replaced while it was open: it must be rebuilt"
            raise StoreUnfit(msg)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of SQLite into `CoordinationError`s, by their code."""
        if not self._is_open:
            raise _closed(self.path)
        try:
            with _sqlite_errors_translated(self.path):
                yield
        except (ValueError, sqlite3.ProgrammingError):
            # aiosqlite and sqlite3 raise these when the connection is closed during a read.
            if self._is_open:
                raise
            raise _closed(self.path) from None


def set_aside(path: Path, reason: str) -> None:
    """
    Move the store at *path* aside, so that the next `open` creates a new one; an earlier one moved aside is deleted.

    Raises:
        Unavailable: the file cannot be moved.
    """
    aside = path.with_name(path.name + ASIDE)
    try:
        # The WAL goes first: a file without its WAL is only older, but SQLite applies a WAL left behind to a new file.
        for suffix in ("-wal", "-shm", ""):
            Path(f"{aside}{suffix}").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    except OSError as error:
        msg = f"{path} cannot be moved aside ({error.strerror}): delete it, because {reason}"
        raise Unavailable(msg) from error
    log.warning("store_set_aside", path=str(path), moved_to=str(aside), reason=reason)


async def _open_writer(path: Path) -> tuple[aiosqlite.Connection, Mark]:
    try:
        return await _try_writer(path)
    except StoreUnfit as error:
        await asyncio.to_thread(set_aside, path, error.message)  # deleting a large file takes long
    return await _try_writer(path)


async def _try_writer(path: Path) -> tuple[aiosqlite.Connection, Mark]:
    _make(path)
    with _sqlite_errors_translated(path):
        writer = await connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        try:
            for pragma in PRAGMAS:
                await writer.execute_fetchall(pragma)
            await _prepare(path, writer)
            mark = await _read_mark(writer)
            if mark.fold_version not in READABLE:
                msg = f"{path} has fold version {mark.fold_version}, this release has {FOLD_VERSION}"
                raise StoreUnfit(msg)
        except BaseException:
            await writer.close()
            raise
    return writer, mark


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)  # only the owner may read it
        path.open("r+b").close()  # checked here, because aiosqlite leaves a thread behind when it cannot connect
    except OSError as error:
        msg = f"{path} cannot be opened: {error.strerror}; check the path and its permissions"
        raise Unavailable(msg, reason=STORE_BUSY) from error


async def _prepare(path: Path, writer: aiosqlite.Connection) -> None:
    [(version,)] = await writer.execute_fetchall(GET_VERSION)
    [(tables,)] = await writer.execute_fetchall(COUNT_TABLES)
    if version == 0 and tables == 0:
        await writer.executescript(SCHEMA)
    elif version != SCHEMA_VERSION:
        msg = f"{path} has schema version {version}, this release has {SCHEMA_VERSION}"
        raise StoreUnfit(msg)
    await writer.executescript(ADDED)


@asynccontextmanager
async def _connection(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    with _sqlite_errors_translated(path):
        connection = await connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def _sqlite_errors_translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            msg = f"{path} is damaged: {error}"
            raise StoreUnfit(msg) from error
        if is_passing(error):
            msg = f"{path} cannot be used now: {error}"
            raise Unavailable(msg, reason=STORE_BUSY) from error
        raise


class _Part:
    """A constant part of a statement, and the values for its parameters."""

    __slots__ = ("text", "values")

    def __init__(self, text: str, *values: float | str) -> None:
        self.text = text
        self.values = values


async def _fetch(reader: aiosqlite.Connection, parts: Sequence[_Part], limit_bytes: int) -> tuple[list[Any], bool]:
    """Return rows up to *limit_bytes*, and whether there may be more; the last value of the parts limits the rows."""
    statement = " ".join(part.text for part in parts)
    values = [value for part in parts for value in part.values]
    found: list[Any] = []
    size = 0
    async with reader.execute(statement, values) as cursor:
        while True:
            rows = list(await cursor.fetchmany(FETCHED))
            for row in rows:
                found.append(row)
                size += len(row[-1])
                if size >= limit_bytes:
                    return found, True
            if len(rows) < FETCHED:
                return found, len(found) >= int(values[-1])


async def _read_mark(connection: aiosqlite.Connection) -> Mark:
    rows = list(await connection.execute_fetchall(GET_MARK))
    if not rows:
        return Mark()
    sequence, index, *others = rows[0]
    return Mark(position=Position(sequence, index), **dict(zip(Mark.__struct_fields__[1:], others, strict=True)))


def _columns(mark: Mark) -> tuple[Any, ...]:
    position, *others = msgspec.structs.astuple(mark)
    return (*position, *others)


def _thing(row: Any) -> Thing:
    return Thing(position_of(row[0]), *row[1:])


def _closed(path: Path) -> Unavailable:
    return Unavailable(f"{path} is closed", reason="closed")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
