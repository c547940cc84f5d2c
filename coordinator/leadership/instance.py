"""
One coordinator instance: it stands by, leads when it may, and stands by again when deposed.

    fold all along → win the lease → claim `….epoch` → catch up to the claim → lead

The lease only says who should try; the claim is what the server checks at each commit. Everything after the claim was
folded before anything is decided, so a new writer continues exactly where the last one was cut off.
"""

from __future__ import annotations

import msgspec
import structlog

from coordinator.deciders.rules import Limits, Rules
from coordinator.doors.inbox import InboxLimits
from coordinator.leadership.lease import FRESH_S, RENEW_S, TTL_S
from coordinator.security.authorization import AccessRules

log = structlog.get_logger(__name__)


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance reaches NATS and what it goes by."""

    url: str
    name: str
    version: str
    namespace: str = "coordination"
    creds: str | None = None
    tls_ca: str | None = None
    replicas: int = 1
    rules: Rules = msgspec.field(default_factory=Rules)
    limits: Limits = msgspec.field(default_factory=Limits)
    inbox: InboxLimits = msgspec.field(default_factory=InboxLimits)
    access: AccessRules | None = None
    lease_ttl_s: int = TTL_S
    lease_renew_s: float = RENEW_S
    lease_fresh_s: float = FRESH_S
    lease_stop_s: float | None = None
    """0.8 of `lease_ttl_s` where None."""
    seen_file: str = ""
    """Where it keeps how far it has seen the journal; nowhere when empty."""
    store_file: str = ""
    """A read model that has seen the journal too."""
