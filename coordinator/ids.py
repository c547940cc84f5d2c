"""The only place that makes identifiers: UUIDv7 in Crockford base 32 with a prefix, so that they sort by their time."""

from __future__ import annotations

import secrets
import time
from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]


class Ids(Protocol):
    """Makes identifiers that pass `events.ids`."""

    def new(self, prefix: str) -> str:
        """Give a new id such as `task_06f1…`."""
        ...


class TimeOrderedIds:
    """Ids of 130 bits: 48 of the time in milliseconds, 80 drawn at random."""

    def new(self, prefix: str) -> str:
        value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(secrets.token_bytes(10), "big")
        return f"{prefix}_{''.join(_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10))}"
