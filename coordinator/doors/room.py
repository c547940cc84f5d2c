"""
Keeps room in one inbox: what was read is removed after a while; what is not read stays.

The stream refuses what does not fit (`discard: new`), so its publisher hears it and keeps the event. Removed is only
what stands as read in an acknowledged commit. It must never remove a message that no commit accounts for.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.bus.streams import purge_stream, stream_info, update_stream
from events.errors import CoordinationError

if TYPE_CHECKING:
    from coordinator.bus.connection import Bus
    from coordinator.engine.inboxes import InboxTurns

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 2.0
KEEPS_UNREAD = {"discard": "new", "max_age": 0}
"""The fields of a stream's configuration by which it never lets go of a message by itself."""

_MARKS = 32
"""How finely is remembered when messages were read."""
_EMPTY_FROM = 0.5
"""The part of its bytes from which on a stream is emptied of what was read at once."""
_FULL_FROM = 0.8
"""The part of its bytes from which on unread messages are a warning."""


class InboxRoom:
    """The room in the stream of one inbox; *kept_s* is how long a message is kept after it was read, at least."""

    def __init__(self, turns: InboxTurns, bus: Bus, subject: str, domain: str, kept_s: float) -> None:
        self._turns = turns
        self._bus = bus
        self._subject = subject
        self._domain = domain
        self._kept_s = kept_s
        self._created = ""
        self._marks: deque[tuple[float, int]] = deque()
        """When the inbox was read up to where, oldest first."""
        self._below = 0
        self._is_full = False
        self._why = ""

    async def make(self, stream: str) -> None:
        """Remove from *stream* what may go, and set one of an earlier release right; what fails is tried again."""
        try:
            info = await stream_info(self._bus, stream, timeout_s=ANSWER_TIMEOUT_S)
            if info["config"]["subjects"] == [self._subject]:
                await self._make(info)
        except CoordinationError as error:
            if error.message != self._why:
                log.warning("inbox_room_failed", domain=self._domain, why=error.message)
            self._why = error.message

    async def _make(self, info: dict[str, Any]) -> None:
        if any(info["config"].get(field) != value for field, value in KEEPS_UNREAD.items()):
            await keep_unread(self._bus, info["config"])
        created, sequence = self._turns.settled(self._domain)
        state = info["state"]
        self._tell_if_full(info, sequence if created == info["created"] else 0)
        # A stream that ends before what was read was put back from a copy: what it has next is not read yet.
        if created != info["created"] or state["last_seq"] < sequence:
            return
        self._mark(created, sequence)
        below = self._below
        if 0 < info["config"]["max_bytes"] * _EMPTY_FROM < state["bytes"]:
            below = sequence + 1
        if state["messages"] and state["first_seq"] < below:
            name = info["config"]["name"]
            await purge_stream(self._bus, name, self._subject, below=below, timeout_s=ANSWER_TIMEOUT_S)

    def _mark(self, created: str, sequence: int) -> None:
        now = asyncio.get_running_loop().time()
        if created != self._created:
            self._created, self._below = created, 0
            self._marks.clear()
        last_at, last = self._marks[-1] if self._marks else (-math.inf, 0)
        if sequence != last and now - last_at >= self._kept_s / _MARKS:
            self._marks.append((now, sequence))
        while self._marks and now - self._marks[0][0] >= self._kept_s:
            self._below = self._marks.popleft()[1] + 1

    def _tell_if_full(self, info: dict[str, Any], sequence: int) -> None:
        used, bound = info["state"]["bytes"], info["config"]["max_bytes"]
        is_full = 0 < bound * _FULL_FROM < used and info["state"]["last_seq"] > sequence
        if is_full and not self._is_full:
            log.warning("inbox_nearly_full", domain=self._domain, bytes=used, max_bytes=bound, read=sequence)
        self._is_full = is_full


async def keep_unread(bus: Bus, config: dict[str, Any]) -> None:
    """
    Change an inbox's stream, whose configuration is *config*, so that it never lets go of a message by itself.

    Raises:
        Unavailable: JetStream did not answer. ApiError, Refused: it does not let the caller do so.
    """
    await update_stream(bus, config | KEEPS_UNREAD, timeout_s=ANSWER_TIMEOUT_S)
    log.info("inbox_keeps_unread", stream=config["name"], max_age_before_s=config.get("max_age", 0) / 1e9)
