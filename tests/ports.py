"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_FIRST, _BEFORE = 20_000, 32_000
"""Below those that systems give to connections: a free one of these may be taken before the server binds it."""


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1, which no connection of another test gets meanwhile."""
    chosen = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = chosen.randrange(_FIRST, _BEFORE)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
