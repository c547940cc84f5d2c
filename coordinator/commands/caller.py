"""Whose command it is."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whose command it is: `actor` comes from the door (the NATS subject, the process), never from the sender."""

    actor: str
    tenant: str = "default"
    command_id: str = ""
    traceparent: str = ""
