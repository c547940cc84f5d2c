"""
A container's output as Docker sends it: frames of standard output and error, in the order in which they were written.

A frame is eight bytes (stream, three zeros, length) and a line, or a part of a long one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from contextlib import aclosing
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

TAIL_BYTES = 16 * 1024 * 1024
_HEADER = 8
_STREAMS = {0, 1, 2}
_FRAME_BYTES_MAX = 1024 * 1024
_LATE_NANOS = 250_000_000
"""Docker writes a frame within this time after it got it; the two streams may overtake each other."""
_SECOND = 1_000_000_000
_read_place = re.compile(r"([0-9]{1,19})-([0-9a-f]{16})-([0-9]{1,9})").fullmatch
_TIME_BYTES = 31
_EQUAL_MOST = 1024
_GATHER_S = 0.1
"""How long an answer waits for more lines after the first one."""
_SEARCH_S = 2.0
"""A place that Docker has not sent by then is not there any more."""
_read_time = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z ").match


async def last_lines(chunks: AsyncIterator[bytes], lines: int, max_bytes: int = TAIL_BYTES) -> list[str]:
    """
    Return the last *lines* lines, oldest first, but only those within the last *max_bytes*.

    Raises:
        Unavailable: this is no output of a container.
    """
    tail = _Tail(lines, max_bytes)
    async for stream, content in frames(chunks):
        tail.add(stream, content)
    return tail.end()


async def read_lines(found: LinesAfter, chunks: AsyncIterator[bytes], wait_s: float | None) -> None:
    """
    Read frames until the end, or *found* is full.

    With *wait_s*, of an output that goes on: until that many seconds have passed, or a moment after the first line.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    until = None if wait_s is None else began + wait_s
    async with aclosing(frames(chunks)) as framed:
        try:
            while not found.is_full:
                async with asyncio.timeout_at(until):
                    frame = await anext(framed, None)
                if frame is None:
                    break
                had_lines = found.has_lines
                found.add(*frame)
                if until is not None and found.has_lines and not had_lines:
                    until = min(until, loop.time() + _GATHER_S)
        except TimeoutError:
            if not found.has_lines and loop.time() - began < _SEARCH_S:
                return
    found.end_search()


async def frames(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[int, bytes]]:
    """
    Yield the stream and the content of each frame.

    Raises:
        Unavailable: this is no output of a container.
    """
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        at = 0
        while len(rest) - at >= _HEADER:
            size = int.from_bytes(rest[at + 4 : at + _HEADER], "big")
            if rest[at] not in _STREAMS or size > _FRAME_BYTES_MAX:
                raise Unavailable("the output of a container cannot be read: Docker sent no frames")
            if len(rest) - at - _HEADER < size:
                break
            yield rest[at], bytes(rest[at + _HEADER : at + _HEADER + size])
            at += _HEADER + size
        del rest[:at]


class _Tail:
    """The newest lines; both streams are put together line by line."""

    def __init__(self, lines: int, max_bytes: int) -> None:
        self._kept: deque[bytes] = deque()
        self._lines = lines
        self._max_bytes = max_bytes
        self._bytes = 0
        self._parts: dict[int, bytearray] = {}

    def add(self, stream: int, content: bytes) -> None:
        part = self._parts.setdefault(stream, bytearray())
        part += content
        *whole, rest = part.split(b"\n")
        for line in whole:
            self._keep(bytes(line))
        # A line without end is cut into pieces rather than kept in memory.
        if len(rest) > self._max_bytes:
            self._keep(bytes(rest))
            rest = bytearray()
        self._parts[stream] = bytearray(rest)

    def end(self) -> list[str]:
        for part in self._parts.values():
            if part:
                self._keep(bytes(part))
        return [line.decode(errors="replace") for line in self._kept]

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._bytes += len(line)
        while len(self._kept) > self._lines or (self._bytes > self._max_bytes and len(self._kept) > 1):
            self._bytes -= len(self._kept.popleft())


class FramePlace(NamedTuple):
    """
    A place between two frames, by the one before it: when Docker got it, in nanoseconds, and a digest of it.

    `number` tells which one of several that are equal.
    """

    nanos: int
    digest: str
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> FramePlace | None:
        """Return the place that *text* tells; None if it tells none."""
        match = _read_place(text)
        return None if match is None else cls(int(match[1]), match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.nanos}-{self.digest}-{self.number}"

    @property
    def since(self) -> str:
        """From when on to read, to find it."""
        nanos = max(0, self.nanos - _LATE_NANOS)
        return f"{nanos // _SECOND}.{nanos % _SECOND:09d}"


class LinesAfter:
    """
    The lines after a place, of frames with their times that begin before it; without a place, of all of them.

    With a place, what comes before it is left out; when the frame before it is not there any more, all is taken, and
    `is_cut` says so. About *bytes_most* bytes are taken at most.
    """

    def __init__(self, place: FramePlace | None, bytes_most: int) -> None:
        self.is_cut = False
        self._bytes_most = bytes_most
        self._sought = place
        self._kept: list[tuple[FramePlace, int, bytes]] = []
        """The first frames that may be after the place, as long as it is not found."""
        self._kept_bytes = 0
        self._equal: dict[tuple[int, str], int] = {}
        """How often each of the last frames was seen."""
        self._bytes = 0
        self._lines: list[str] = []
        self._open: dict[int, bytes] = {}
        self._place = place
        self._whole: tuple[int, FramePlace | None] = (0, place)
        """How many lines there are, and the place after them, where no line is open in either stream."""

    @property
    def is_full(self) -> bool:
        """Whether no more frames are taken."""
        return self._bytes >= self._bytes_most

    @property
    def has_lines(self) -> bool:
        """Whether there are lines to return."""
        return self._whole[0] > 0

    def add(self, stream: int, frame: bytes) -> None:
        """Take one frame, in the order in which Docker wrote them."""
        place = self._place_of(stream, frame)
        sought = self._sought
        if sought is None:
            self._take(place, stream, frame)
            return
        if place == sought:
            self._sought = None
            self._kept.clear()
            return
        if self._kept_bytes <= self._bytes_most:
            self._kept.append((place, stream, frame))
            self._kept_bytes += len(frame) - _TIME_BYTES
        if place.nanos > sought.nanos + _LATE_NANOS:
            self.end_search()

    def end_search(self) -> None:
        """Take all frames so far, if the place has not been found among them."""
        if self._sought is None:
            return
        self._sought = None
        self.is_cut = True
        # If there were more than it kept, these fill it: there is no gap.
        kept, self._kept = self._kept, []
        for one in kept:
            self._take(*one)

    def taken(self, *, is_end: bool) -> tuple[list[str], FramePlace | None]:
        """Return the lines and the place after them; at the end of the log those without an end as well."""
        if is_end or (self.is_full and not self.has_lines):
            self._lines += [part.decode(errors="replace") for part in self._open.values() if part]
            self._open.clear()
            self._whole = len(self._lines), self._place
        count, place = self._whole
        return self._lines[:count], place

    def _take(self, place: FramePlace, stream: int, frame: bytes) -> None:
        if self.is_full:
            return
        self._place = place
        self._bytes += len(frame) - _TIME_BYTES
        *whole, rest = (self._open.get(stream, b"") + frame[_TIME_BYTES:]).split(b"\n")
        self._lines += [line.decode(errors="replace") for line in whole]
        self._open[stream] = rest
        if not any(self._open.values()):
            self._whole = len(self._lines), self._place

    def _place_of(self, stream: int, frame: bytes) -> FramePlace:
        nanos = _nanos_of(frame)
        digest = hashlib.blake2b(frame, digest_size=8, salt=bytes([stream])).hexdigest()
        number = self._equal.pop((nanos, digest), 0) + 1
        while len(self._equal) >= _EQUAL_MOST:
            del self._equal[next(iter(self._equal))]
        self._equal[nanos, digest] = number
        return FramePlace(nanos, digest, number)


def _nanos_of(frame: bytes) -> int:
    """Return when Docker got a frame, in nanoseconds."""
    match = _read_time(frame)
    if match is None:
        raise Unavailable("the output of a container cannot be read: Docker sent a frame without its time")
    return _seconds_of(match[1]) * _SECOND + int(match[2])


@lru_cache(maxsize=64)
def _seconds_of(text: bytes) -> int:
    return int(datetime.fromisoformat(text.decode()).replace(tzinfo=UTC).timestamp())
