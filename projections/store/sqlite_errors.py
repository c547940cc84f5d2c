"""
Classifies SQLite errors: the file is damaged, or SQLite could not work for a while, for instance on a full disk.

Only the error code decides; an error with any other code is neither.
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
    """Return whether the file is damaged."""
    return _code(error) in _DAMAGED


def is_passing(error: sqlite3.Error) -> bool:
    """Return whether the error is temporary and has another cause than the content of the file."""
    return _code(error) in _PASSING


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
