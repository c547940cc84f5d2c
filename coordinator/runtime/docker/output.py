"""
A container's output as Docker sends it: frames of standard output and error, in the order in which they were written.

A frame is eight bytes (stream, three zeros, length) and a line, or a part of a long one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TAIL_BYTES = 16 * 1024 * 1024
_HEADER = 8
_STREAMS = {0, 1, 2}
_FRAME_BYTES_MAX = 1024 * 1024


async def last_lines(chunks: AsyncIterator[bytes], lines: int, max_bytes: int = TAIL_BYTES) -> list[str]:
    """
    Return the last *lines* lines, oldest first, but only those within the last *max_bytes*.

    Raises:
        Unavailable: this is no output of a container.
    """
    tail = _Tail(lines, max_bytes)
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
            tail.add(rest[at], bytes(rest[at + _HEADER : at + _HEADER + size]))
            at += _HEADER + size
        del rest[:at]
    return tail.end()


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
