"""
A container's output on disk: `log`, which its processes append to, and `log.1`, the output before it.

The processes keep `log` open, so a full one is copied to `log.1` and truncated while they write. Output written between
copy and truncation is lost, so each copy ends with a line that says so. Never follows a link.

A position counts the bytes from the first one of the generation, the lines of rotations included; `log.1` and `log`
hold the last of them. `rotated` says where the two begin.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

from coordinator.runtime.process.directory import LOG
from coordinator.runtime.protocol import LogPart
from events.errors import Unavailable

_OLDER = "log.1"
_ROTATED = "rotated"
_TAIL_BYTES = 16 * 1024 * 1024
_FIRST_BYTES = 256 * 1024
_CHUNK_BYTES = 1024 * 1024
_LAST_WORDS = 3
_SAME_BYTES = 4096
_LOCKS = tuple(Lock() for _ in range(64))
"""A log is not rotated while it is read by position; several logs may share a lock."""


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
        with _lock_of(directory):
            _move(descriptor, directory, max(0, found.st_size - max_bytes), max_bytes)
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


def size(directory: Path) -> int:
    """Return the size of the log now, which changes with each output; 0 if it is missing."""
    try:
        return (directory / LOG).lstat().st_size
    except OSError:
        return 0


def after(directory: Path, position: int | None, *, lines: int, bytes_most: int, is_ended: bool) -> LogPart:
    """
    Return the whole lines after a position, at most *bytes_most* bytes of them; without one, the last *lines*.

    A first line whose beginning was cut off starts with `…`.

    Raises:
        Unavailable: the log cannot be read.
    """
    is_last = position is None
    with _lock_of(directory):
        try:
            places = _places(directory)
            end = places.newer + size(directory)
            if position is None:
                position = _begin_of_last(directory, places, end, lines)
            is_cut = not places.older <= position <= end
            begin = position if not is_cut else places.older if position < places.older else end
            is_inner = (is_last or is_cut) and not _begins_line(directory, places, begin)
            content = _read(directory, places, begin, min(bytes_most, end - begin))
        except OSError as error:
            raise Unavailable(f"the log in {directory} cannot be read: {error.strerror}") from error
    is_all = begin + len(content) >= end
    whole = content.rfind(b"\n") + 1
    if not whole and len(content) >= bytes_most:
        whole = _character_end(content)
    elif is_ended and is_all:
        whole = len(content)
    text = content[:whole].decode(errors="replace")
    if text and is_inner:
        text = f"…{text}"
    return LogPart(
        lines=tuple(text.removesuffix("\n").split("\n")) if text else (),
        position=str(begin + whole),
        is_cut=is_cut,
        is_end=is_ended and is_all and whole == len(content),
    )


class _Places(NamedTuple):
    """The positions of the first bytes of `log.1` and of `log`."""

    older: int
    newer: int


def _places(directory: Path) -> _Places:
    """Return where the files begin, of `rotated`; or by their sizes, if it does not fit to them or is missing."""
    try:
        older = (directory / _OLDER).lstat().st_size
    except FileNotFoundError:
        return _Places(0, 0)
    before = _read_places(directory)
    if before.newer - before.older == older:
        return before
    # Whoever rotated it last has died before it was written down, and maybe before the log was truncated.
    copied = _read_file(directory / _OLDER, 0, _SAME_BYTES)
    if copied == _read_file(directory / LOG, 0, len(copied)):
        return _Places(before.newer, before.newer)
    return _Places(before.newer, before.newer + older)


def _read_places(directory: Path) -> _Places:
    try:
        older, newer = map(int, _read_file(directory / _ROTATED, 0, 64).split())
    except (ValueError, OSError):
        return _Places(0, 0)
    return _Places(older, newer)


def _write_places(directory: Path, places: _Places) -> None:
    temporary = directory / f"{_ROTATED}.tmp"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"%d %d\n" % places)
    temporary.rename(directory / _ROTATED)


def _begin_of_last(directory: Path, places: _Places, end: int, lines: int) -> int:
    """Return where the last *lines* lines begin, of those within the last 16 MiB."""
    least = max(places.older, end - _TAIL_BYTES)
    begin, left = end, lines + 1
    while begin > least:
        start = max(least, begin - _FIRST_BYTES)
        piece = _read(directory, places, start, begin - start)
        found = len(piece)
        while left and (found := piece.rfind(b"\n", 0, found)) >= 0:
            left -= 1
        if not left:
            return start + found + 1
        begin = start
    return least


def _begins_line(directory: Path, places: _Places, position: int) -> bool:
    return not position or (position > places.older and _read(directory, places, position - 1, 1) == b"\n")


def _read(directory: Path, places: _Places, begin: int, count: int) -> bytes:
    """Return *count* bytes from a position on, of both files."""
    older = b""
    if begin < places.newer:
        older = _read_file(directory / _OLDER, begin - places.older, min(count, places.newer - begin))
        if len(older) < min(count, places.newer - begin):
            return older
    left = count - len(older)
    return older + (_read_file(directory / LOG, max(0, begin - places.newer), left) if left else b"")


def _read_file(path: Path, start: int, count: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, count, start)
    finally:
        os.close(descriptor)


def _character_end(content: bytes) -> int:
    """Return how much of *content* does not end within a character."""
    end = len(content)
    while len(content) - end < 3 and end > 1 and content[end - 1] & 0xC0 == 0x80:  # noqa: PLR2004  # of UTF-8
        end -= 1
    return end - 1 if content[end - 1] >= 0xC0 else len(content)  # noqa: PLR2004


def _lock_of(directory: Path) -> Lock:
    return _LOCKS[hash(directory) % len(_LOCKS)]


def _last(directory: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Return the last bytes of both files, and whether that is all."""
    newer, whole = _end(directory / LOG, max_bytes)
    if not whole:
        return newer, False
    older, whole = _end(directory / _OLDER, max_bytes - len(newer))
    return older + newer, whole


def _move(source: int, directory: Path, start: int, max_bytes: int) -> None:
    target = directory / _OLDER
    begin = _places(directory).newer + start
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
        mark = _mark(start, begins_line=begins_line)
        older.write(mark)
    _write_places(directory, _Places(begin, begin + end - start + len(mark)))


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
