"""How much of everything the engine takes, and for how long it keeps what has ended."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the engine; times in seconds."""

    turn_commands: int = 2000
    turn_bytes: int = 512 * 1024
    intake_max: int = 20_000
    inbox_max: int = 4000
    waiting_max: int = 10_000
    wait_max_s: float = 60.0
    tick_s: float = 0.5
    blind_after_s: float = 2.0
    retention_s: float = 3600.0
    ended_kept: int = 10_000
