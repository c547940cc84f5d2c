"""The only place that makes identifiers: UUIDv7 in Crockford base 32 with a prefix, so that they sort by time."""

from __future__ import annotations

import os
import time
from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_FIVE_BITS = (_ALPHABET * 8).encode()
"""A translation table: the lower five bits of each byte as a digit, in one call for all bytes."""


class Ids(Protocol):
    """Makes identifiers that pass `events.ids`."""

    def new(self, prefix: str) -> str:
        """Return a new id such as `task_06f1…`."""
        ...


class TimeOrderedIds:
    """Ids of 130 bits: 50 for the time in milliseconds, 80 random."""

    def __init__(self) -> None:
        self._last = (-1, "")

    def new(self, prefix: str) -> str:
        now_ms = time.time_ns() // 1_000_000
        before_ms, digits = self._last
        if now_ms != before_ms:
            digits = "".join(_ALPHABET[now_ms >> shift & 31] for shift in range(45, -1, -5))
            self._last = (now_ms, digits)
        return f"{prefix}_{digits}{os.urandom(16).translate(_FIVE_BITS).decode()}"
