"""
What an error of SQLite's says: the file is damaged, or SQLite was only kept from its work, as by a full disk.

It goes by the code alone and must never guess: an error of another sort is neither.
"""

from __future__ import annotations

import sqlite3

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PASSING = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
})  # fmt: skip
_PRIMARY_CODE = 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether the file does not hold what SQLite wrote."""
    return _code(error) in _DAMAGED


def is_passing(error: sqlite3.Error) -> bool:
    """Say whether SQLite was only kept from its work; what the file holds is not the cause."""
    return _code(error) in _PASSING


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
