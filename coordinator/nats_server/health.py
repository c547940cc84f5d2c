"""
What a nats-server on this machine says of itself, over HTTP, and whether its disk has room.

A nats-server that could not write keeps that error until it is restarted, also when there is room again: it answers
everything, and acknowledges nothing. Only `/healthz` tells. Nothing here may start, stop or change a server.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from coordinator.nats_server.ports import running_on

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
ROOM_BYTES = 4 * 1024 * 1024
"""A server is started and restarted only where this much can be written: a few of the largest commits."""

_ANSWER_TIMEOUT_S = 2.0
_ANSWER_BYTES = 65_536
_PROBE = "room.partial"
_STORES_NOTHING = ("write error", "not enabled")
"""What the error of a server that cannot write contains: that of a stream, or of a JetStream that is off."""


class _Health(msgspec.Struct, frozen=True, gc=False):
    error: str = ""


async def is_enabled(monitor_port: int) -> bool:
    """Return whether the server reports that JetStream is enabled."""
    try:
        return b" 200 " in (await _get(monitor_port, "js-enabled-only=true")).partition(b"\n")[0]
    except OSError:
        return False


async def write_error(store: Path) -> str:
    """Return the write error that the server on *store* keeps; '' if it has none, or does not answer."""
    running = running_on(store)
    if running is None:
        return ""
    with suppress(OSError, msgspec.DecodeError):
        body = (await _get(running.monitor_port)).partition(b"\r\n\r\n")[2]
        error = msgspec.json.decode(body, type=_Health).error
        return error if any(words in error for words in _STORES_NOTHING) else ""
    return ""


def room_error(folder: Path) -> str:
    """
    Return why `ROOM_BYTES` cannot be written in *folder*; '' if they can. Blocks for as long as the disk takes.

    A file is made of them: the figures of a file system know no quota, no broken disk, and not that it is read-only.
    """
    probe = folder / _PROBE
    try:
        with probe.open("wb") as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
                file.write(b"room")
            else:
                file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{ROOM_BYTES // 1024**2} MiB cannot be written in {folder}: {error.strerror}"
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


async def _get(monitor_port: int, query: str = "") -> bytes:
    """Return the head and the body of the answer; raises `OSError`, a time-out included."""
    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(HOST, monitor_port)
        try:
            writer.write(f"GET /healthz?{query} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read(_ANSWER_BYTES)
            while more := await reader.read(_ANSWER_BYTES):
                answer += more
        finally:
            # Not awaited here: an error of a broken connection would replace, and so swallow, a cancellation.
            writer.close()
        await writer.wait_closed()
    return answer
