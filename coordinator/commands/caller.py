"""Who sends a command."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The sender of a command; the door sets `actor` (from the NATS subject, the process), never the sender."""

    actor: str
    tenant: str = "default"
    command_id: str = ""
    traceparent: str = ""


COORDINATOR = Caller(actor="coordinator")
"""The actor of events that no command asked for: placements and due events."""
