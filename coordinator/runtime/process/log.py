"""
A container's output on disk: `log`, which its processes append to, and `log.1`, the output before it.

The processes keep `log` open, so a full one is copied to `log.1` and truncated while they write. Output written between
copy and truncation is lost, so each copy ends with a line that says so. Never follows a link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from coordinator.runtime.process.directory import LOG
from events.errors import Unavailable

_OLDER = "log.1"
_TAIL_BYTES = 16 * 1024 * 1024
_FIRST_BYTES = 256 * 1024
_CHUNK_BYTES = 1024 * 1024
_LAST_WORDS = 3


def create_log(directory: Path) -> int:
    """Create the log and return its descriptor, open for appending; the caller closes it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(directory / LOG, flags, 0o600)


def rotate(directory: Path, max_bytes: int) -> bool:
    """
    Rotate the log when it has more than half of *max_bytes*; return whether it was rotated.

    `log.1` then holds the newest *max_bytes*, and at most as much again that was written during the copy. Both together
    have at most two and a half times *max_bytes*, plus what is written between two calls.

    Raises:
        OSError: it cannot be written, or the log is a link.
    """
    descriptor = os.open(directory / LOG, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size <= max_bytes // 2:
            return False
        _move(descriptor, directory / _OLDER, max(0, found.st_size - max_bytes), max_bytes)
    finally:
        os.close(descriptor)
    return True


def tail(directory: Path, lines: int) -> list[str]:
    """
    Return the last *lines* lines, oldest first, but only those within the last 16 MiB.

    A first line whose beginning was cut off starts with `…`.

    Raises:
        Unavailable: the log cannot be read.
    """
    read = _FIRST_BYTES
    while True:
        text, whole = _last(directory, read)
        if whole or read >= _TAIL_BYTES or text.count(b"\n", 0, -1) >= lines:
            break
        read *= 4
    found = text.decode(errors="replace").removesuffix("\n").split("\n") if text else []
    if not whole:
        found[0] = f"…{found[0]}"
    return found[-lines:]


def last_words(directory: Path) -> str:
    """Return the last lines in one, for a message."""
    return " ".join(tail(directory, _LAST_WORDS)) or "its log is empty"


def _last(directory: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Return the last bytes of both files, and whether that is all."""
    newer, whole = _end(directory / LOG, max_bytes)
    if not whole:
        return newer, False
    older, whole = _end(directory / _OLDER, max_bytes - len(newer))
    return older + newer, whole


def _move(source: int, target: Path, start: int, max_bytes: int) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as older:
        end = _copy(source, older, start, max_bytes)
        temporary.rename(target)
        # Copy what was written during the first copy, then truncate at once: what is written in between is lost.
        end = _copy(source, older, end, max_bytes)
        begins_line = os.pread(source, 1, end - 1) == b"\n"
        os.ftruncate(source, 0)
        # Not into the log itself: there its position would depend on who writes first after the truncation.
        older.write(_mark(start, begins_line=begins_line))


def _copy(source: int, target: BinaryIO, start: int, max_bytes: int) -> int:
    """Copy from *start* on, at most *max_bytes*; return where the copy ended."""
    limit = start + max_bytes
    while start < limit and (chunk := os.pread(source, min(limit - start, _CHUNK_BYTES), start)):
        target.write(chunk)
        start += len(chunk)
    target.flush()
    return start


def _mark(dropped: int, *, begins_line: bool) -> bytes:
    lost = f"{dropped} bytes were dropped before, and " if dropped else ""
    line = f"[log rotated here: {lost}output written at this moment may be missing]\n"
    return line.encode() if begins_line else f"\n{line}".encode()


def _end(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Return the last bytes of a file, and whether that is the whole file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            start = max(0, size - max_bytes)
            return os.pread(descriptor, min(size, max_bytes), start), start == 0
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return b"", True
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
