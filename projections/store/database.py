"""
Connections to SQLite whose threads are outside of it while this process forks.

SQLite has locks of its own for the whole process. A child that was forked while a thread of its parent held one of them
waits for it for ever, at its first use of SQLite, with whatever connection. So a fork waits until each thread of ours
has done what it was asked, and holds it there.
"""

from __future__ import annotations

import os
import time
from functools import partial
from threading import Event, current_thread
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiosqlite

if TYPE_CHECKING:
    from pathlib import Path

FORK_WAITS_S = 5.0
"""How long a fork waits for statements that run; after that it goes ahead, with the danger told above."""

_open: WeakSet[aiosqlite.Connection] = WeakSet()
_held: list[Event] = []


async def connect(path: Path | str, **options: Any) -> aiosqlite.Connection:
    """Return a connection to the database *path*; *options* are those of `aiosqlite.connect`."""
    connecting = aiosqlite.connect(path, **options)
    _open.add(connecting)
    return await connecting


def _before_fork() -> None:
    asked = []
    for connection in list(_open):
        # aiosqlite has no public name for its thread or for what that is asked.
        thread = connection._thread  # noqa: SLF001
        if thread.is_alive() and thread is not current_thread():
            there, released = Event(), Event()
            connection._tx.put_nowait((None, partial(_stay, there, released)))  # noqa: SLF001
            asked.append((thread, there))
            _held.append(released)
    until = time.monotonic() + FORK_WAITS_S
    for thread, there in asked:
        # A thread of a connection that is being closed ends instead.
        while not there.wait(0.01) and thread.is_alive() and time.monotonic() < until:
            pass


def _after_fork() -> None:
    for released in _held:
        released.set()
    _held.clear()


def _after_fork_in_child() -> None:
    _held.clear()
    _open.clear()


def _stay(there: Event, released: Event) -> None:
    there.set()
    released.wait()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
