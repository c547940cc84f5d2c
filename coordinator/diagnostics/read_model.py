"""
Compares a read model with the journal: builds a second one up to the same position and compares them row by row.

The read model is copied first, so that a follower may keep writing to it. Both copies are temporary files on disk and
are deleted afterwards. The read model itself is never changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.diagnostics.findings import Finding, fail, ok, unknown
from coordinator.journal.witnesses import seen_by_store
from events.errors import Corrupt, Unavailable
from projections.projector import Projector, ProjectorLimits
from projections.store.port import KINDS, STORE_BUSY
from projections.store.retention import SWEPT, Removed
from projections.store.sqlite import SqliteStore
from projections.store.sqlite_errors import is_passing
from projections.upgrade import FOLD_VERSION, READABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from projections.source import Bounds, CommitSource, Record

CHECK = "read model"
BUILD_PATIENCE_S = 10.0
_DO = "stop its follower and delete it: the follower rebuilds it from the journal"
_ROOM = "free twice the read model's size in the temporary directory, or name another one with --folder"
_TABLES = ("events", "position", *(kind.table for kind in KINDS.values()))
_ATTACH = "ATTACH DATABASE ? AS other"
# A read model that an older release wrote is continued by this one: its rows must be the same.
_SAME_FOLD = f"UPDATE other.position SET fold_version = ? WHERE fold_version IN ({', '.join('?' * len(READABLE))})"  # noqa: S608
_ADDED = "CREATE TABLE IF NOT EXISTS other.schedules AS SELECT * FROM main.schedules WHERE false"
"""What this release adds to the schema, and one that an older release wrote may not have yet."""
_BOUNDED = "SELECT count(*) FROM other.sqlite_master WHERE name = 'removed'"
_INTACT = "PRAGMA integrity_check(1)"
# The names are constants of this module; a table's name cannot be a parameter.
_MISSING = {
    table: f"SELECT count(*) FROM (SELECT * FROM main.{table} EXCEPT SELECT * FROM other.{table})"  # noqa: S608
    for table in _TABLES
}
_EXTRA = {
    table: f"SELECT count(*) FROM (SELECT * FROM other.{table} EXCEPT SELECT * FROM main.{table})"  # noqa: S608
    for table in _TABLES
}


async def compare_store(store: Path | None, source: CommitSource, last: int, *, folder: Path | None = None) -> Finding:
    """
    Compare the read model in the file *store* with one built from *source*, which ends at *last*.

    Both copies are made in a temporary directory, below *folder* if given.
    """
    if store is None or not await asyncio.to_thread(store.is_file):
        return unknown(
            CHECK,
            f"{store} does not exist" if store else "none was named",
            "start a follower: it creates one",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="coordinator-verify-", dir=folder) as temporary:
            return await _compared(store, source, last, Path(temporary))
    except OSError as error:
        return unknown(CHECK, f"{store} cannot be copied: {error}", _ROOM)
    except sqlite3.Error as error:
        if is_passing(error):
            return unknown(CHECK, f"{store} could not be copied and compared: {error}", _ROOM)
        return fail(CHECK, f"{store} is damaged: {error}", _DO)


async def _compared(store: Path, source: CommitSource, last: int, folder: Path) -> Finding:
    copy, built = folder / "copy.db", folder / "built.db"
    await asyncio.to_thread(_copy, store, copy)
    seen = seen_by_store(copy)
    if seen is None:
        return ok(CHECK, f"{store} is still empty")
    if seen.sequence > last:
        return unknown(CHECK, f"{store} is at {seen.sequence}, but the journal ends at {last}: not compared")
    try:
        async with SqliteStore.open(built) as other:
            limits = ProjectorLimits(patience_s=BUILD_PATIENCE_S)
            await Projector(_Until(source, seen.sequence), other, limits=limits).run()
    except (Corrupt, Unavailable) as error:
        do = _ROOM if error.reason == STORE_BUSY else ""
        return unknown(CHECK, f"a second one could not be built to compare with: {error.message}", do)
    differs = await asyncio.to_thread(_differences, built, copy)
    if differs:
        return fail(CHECK, f"{store} at {seen.sequence} differs from the journal: {'; '.join(differs)}", _DO)
    return ok(CHECK, f"{store} at {seen.sequence} matches the journal row by row")


class _Until:
    """A source that ends at a given position."""

    def __init__(self, source: CommitSource, until: int) -> None:
        self._source = source
        self._until = until

    async def bounds(self) -> Bounds:
        return await self._source.bounds()

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        return self._source.read(after, min(until, self._until))

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        return self._source.read(after, self._until)


def _copy(store: Path, copy: Path) -> None:
    """Copy a read model, consistent at one moment."""
    live = sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
    try:
        kept = sqlite3.connect(copy)
        try:
            live.backup(kept)
        finally:
            kept.close()
    finally:
        live.close()


def _differences(built: Path, copy: Path) -> list[str]:
    connection = sqlite3.connect(built)
    try:
        connection.execute(_ATTACH, (str(copy),))
        connection.execute(_ADDED)
        connection.execute(_SAME_FOLD, (FOLD_VERSION, *sorted(READABLE)))
        if connection.execute(_BOUNDED).fetchone()[0]:
            _remove_old(connection)
        found = []
        [(intact,)] = connection.execute(_INTACT.replace("integrity", "other.integrity")).fetchall()
        if intact != "ok":
            found.append(str(intact))
        for table in _TABLES:
            [(missing,)] = connection.execute(_MISSING[table]).fetchall()
            [(extra,)] = connection.execute(_EXTRA[table]).fetchall()
            if missing or extra:
                found.append(f"{table}: {missing} rows missing or different, {extra} rows not from the journal")
        return found
    finally:
        connection.close()


def _remove_old(connection: sqlite3.Connection) -> None:
    """Remove from both copies what the read model, which is bounded, may have removed."""
    row = connection.execute("SELECT place, created, ended FROM other.removed").fetchone()
    removed = Removed(*row) if row is not None else Removed()
    for side in ("main", "other"):
        connection.execute(f"DELETE FROM {side}.events WHERE place < ?", (removed.place,))  # noqa: S608  # constants
        for table in SWEPT.values():
            old = f"DELETE FROM {side}.{table} WHERE created < ? AND ended_at < ?"  # noqa: S608  # constants
            connection.execute(old, (removed.created, removed.ended))
