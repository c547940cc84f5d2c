"""
The high-water mark: how far an instance has seen the journal, kept outside NATS to detect a journal that got shorter.

A nats-server that finds a damaged block when it starts truncates the stream there and reports nothing; an older copy of
its store looks like any other. Only a process that remembers the end can tell. So each instance keeps a mark in its
home, written at each commit (no fsync: it survives the end of the process) and synced every second (it survives a crash
of the machine). The mark must never be written before the journal has acknowledged, and never decrease within one
generation.

`<home>/journal.seen` has two places, 4 KiB apart, written in turn: a torn write leaves the previous mark intact.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog

from coordinator.journal.witnesses import Seen
from events.errors import Corrupt, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = structlog.get_logger(__name__)

FILE = "journal.seen"
SYNC_S = 1.0
_PLACE_BYTES = 4096
_SUM_BYTES = 16


class _Written(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    number: int
    seen: Seen


class HighWater:
    """The mark of one instance: `seen` is the highest, None before the first. Without a file it is kept in memory."""

    def __init__(self, fd: int | None = None, number: int = 0, seen: Seen | None = None) -> None:
        self.seen = seen
        self._fd = fd
        self._number = number
        self._is_synced = True
        self._has_failed = False

    @classmethod
    @contextmanager
    def open(cls, path: Path | None) -> Iterator[HighWater]:
        """
        Read the mark from the file *path* and keep it up to date there while the block runs.

        Raises:
            Corrupt: the file is damaged.
            Refused: the file cannot be opened.
        """
        if path is None:
            yield cls()
            return
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"{path} cannot be opened: {error.strerror}; make it writable for the user that runs the coordinator"
            raise Refused(msg, reason="bad_home") from error
        try:
            written = _read(fd, path)
            high_water = cls(fd, written.number, written.seen) if written is not None else cls(fd)
            try:
                yield high_water
            finally:
                high_water.sync()
        finally:
            os.close(fd)

    def note(self, seen: Seen) -> None:
        """Set the mark to *seen* and write it before returning; a write error is logged once and not raised."""
        self.seen = seen
        if self._fd is None:
            return
        self._number += 1
        self._is_synced = False
        try:
            os.pwrite(self._fd, _written(_Written(number=self._number, seen=seen)), self._number % 2 * _PLACE_BYTES)
        except OSError as error:
            self._log_once(error)

    def sync(self) -> None:
        """Sync the mark to disk; blocks for as long as the disk takes."""
        if self._is_synced or self._fd is None:
            return
        self._is_synced = True
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._log_once(error)

    async def keep_synced(self) -> NoReturn:
        """Sync every second, in a thread outside the event loop."""
        while True:
            await asyncio.sleep(SYNC_S)
            if not self._is_synced:
                await asyncio.to_thread(self.sync)

    def _log_once(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("high_water_mark_write_failed", reason=error.strerror)


def _written(written: _Written) -> bytes:
    body = msgspec.json.encode(written)
    return sha256(body).hexdigest()[:_SUM_BYTES].encode() + body + b"\n"


def _read(fd: int, path: Path) -> _Written | None:
    places = [os.pread(fd, _PLACE_BYTES, at).rstrip(b"\0") for at in (0, _PLACE_BYTES)]
    found = [one for place in places if (one := _parsed(place)) is not None]
    if not found and any(places):
        msg = (
            f"{path} is damaged, so it is unknown whether the journal lost records: check the journal with "
            "'coordinator verify', and delete the file if the journal is sound"
        )
        raise Corrupt(msg, reason="mark_damaged")
    return max(found, key=lambda one: one.number, default=None)


def _parsed(place: bytes) -> _Written | None:
    line, end, _ = place.partition(b"\n")
    body = line[_SUM_BYTES:]
    if not end or sha256(body).hexdigest()[:_SUM_BYTES].encode() != line[:_SUM_BYTES]:
        return None
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(body, type=_Written)
    return None
