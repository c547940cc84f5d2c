"""Counts and logs the messages that a door dropped."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


SHOWN_CHARS = 200


class Dropped:
    """Counts dropped messages and logs the 1st, 2nd, 4th, 8th …: a flood at a door must not fill the log."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._count = 0

    def say(self, subject: str, why: str) -> None:
        self._count += 1
        if self._count & (self._count - 1) == 0:
            log.warning(self._event, subject=subject[:SHOWN_CHARS], why=why[:SHOWN_CHARS], count=self._count)
